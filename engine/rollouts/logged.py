"""One rollout as a training log holds it, before it becomes a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.trace import Role, Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rollout stands.

    Attributes:
        file: path of the file, relative to what was opened.
        line: number of the line, from 1; of the row, for Parquet.
        offset: first byte of the line; number of the row group, for Parquet.
        size: bytes of the line; 0 for Parquet.
        part: number within the line, for lines that hold several rollouts.
    """

    file: str
    line: int
    offset: int = 0
    size: int = 0
    part: int = 0

    def __str__(self) -> str:
        return f"{self.file}, line {self.line:,}" if self.file else f"line {self.line:,}"


@dataclass(frozen=True, slots=True)
class Said:
    """What one speaker said, as text."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class LoggedRollout:
    """What a log says of one rollout.

    Per-token values stand for the tokens of ``prompt_ids`` (none when they are None), then those
    of the response; a value describes the prediction of its own token; NaN where there is none.

    Attributes:
        format: name of the log's format.
        place: where it stands.
        prompt, response: as text.
        messages: the prompt as a chat, instead of ``prompt``.
        said: the response as turns, tool outputs included, instead of ``response``.
        prompt_ids, response_ids: token ids.
        tokens: the response's tokens as the tokenizer's own strings, where the log has no ids.
        loss_mask: tokens the trainer learns from; None when unknown.
        step: training step.
        name: the log's own name for the prompt.
        reward: the one the trainer used, as far as the log says.
        rewards: all that are named.
        advantage: of the whole rollout; the mean over its tokens when it differs between them.
        expected: the right answer.
        finish: why the response ended.
        signals: per-token values that the index needs.
        more: further per-token values as they were read, checked when they are asked for.
        trace: the trace itself, for formats that hold one.
        remarks: what a person must know, in sentences without a full stop.
    """

    format: str
    place: Place
    prompt: str | None = None
    messages: tuple[Said, ...] | None = None
    response: str | None = None
    said: tuple[Said, ...] | None = None
    prompt_ids: Ints | None = None
    response_ids: Ints | None = None
    tokens: tuple[str, ...] | None = None
    loss_mask: Flags | None = None
    step: int | None = None
    name: str | None = None
    reward: float | None = None
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    advantage: float | None = None
    expected: str | None = None
    finish: str | None = None
    signals: Mapping[str, Floats] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    trace: Trace | None = None
    remarks: tuple[str, ...] = ()

    @property
    def has_ids(self) -> bool:
        """Whether the log gives the ids of the response."""
        if self.trace is not None:
            return self.trace.has_ids and self.trace.ids_origin != "encoded"
        return self.response_ids is not None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt that per-token values count."""
        if self.trace is not None:
            return self.trace.response_start
        return 0 if self.prompt_ids is None else len(self.prompt_ids)

    @property
    def response_tokens(self) -> int | None:
        """Tokens of the response, None when the log holds only text."""
        if self.trace is not None:
            return len(self.trace) - self.trace.response_start
        known: Sequence[Any] | Ints | None = self.response_ids
        if known is None:
            known = self.tokens
        return None if known is None else len(known)

    @property
    def response_text(self) -> str | None:
        """The response as text, where the log has it."""
        if self.trace is not None:
            return self.trace.response_text
        if self.said is not None:
            return "".join(turn.text for turn in self.said)
        return self.response
