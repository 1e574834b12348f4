"""A trace: one sequence of tokens with everything known about it, and the base of all subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)

from engine.keys import digest as digest_of
from engine.tokenization import show

SCHEMA_VERSION: Literal[1] = 1

Role = Literal["system", "user", "thinking", "assistant", "tool", "text"]
Segment = Literal["prompt", "response", "answer"]
IdsOrigin = Literal["logged", "generated", "encoded"]


class Frozen(BaseModel):
    """Base of all subjects: immutable, unknown fields refused, NaN refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def evolve(self, **changes: Any) -> Self:
        """A validated copy with some fields changed (``model_copy`` would keep stale caches)."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, **changes})


def _read_piece(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8")
    if isinstance(value, Mapping) and set(value) == {"hex"} and isinstance(value["hex"], str):
        return bytes.fromhex(value["hex"])
    raise ValueError('a token is a string, or {"hex": "f09f"} when it is no valid UTF-8')


def _write_piece(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"hex": value.hex()}


PieceBytes = Annotated[
    bytes, PlainValidator(_read_piece), PlainSerializer(_write_piece, when_used="json")
]


class Span(Frozen):
    """Token positions ``start`` to ``end`` (exclusive)."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)

    @model_validator(mode="after")
    def _order(self) -> Span:
        if self.end < self.start:
            raise ValueError(f"a span ends ({self.end}) before it starts ({self.start})")
        return self

    def __contains__(self, position: int) -> bool:
        return self.start <= position < self.end

    def __len__(self) -> int:
        return self.end - self.start


class Turn(Span):
    """A stretch of tokens one speaker is responsible for."""

    role: Role


class Sampling(Frozen):
    """How a response was drawn. ``logprobs`` are of the plain model (temperature 1), nats."""

    model: str | None = None
    fingerprint: str | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0
    index: int = 0
    max_new_tokens: int = 0
    finish: Literal["stop", "length"] | None = None
    logprobs: tuple[float | None, ...] | None = None


class Candidate(Frozen):
    """One of the tokens an engine reported for a position, with its log-probability in nats."""

    piece: PieceBytes
    logprob: float = Field(le=0)
    id: int | None = None


class Parent(Frozen):
    """The trace this one branched from, and the first position where they differ."""

    digest: str
    position: int = Field(ge=0)


class Base(Frozen):
    schema_version: Literal[1] = SCHEMA_VERSION

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content as JSON, without the title and without what is at its default.

        A field added later therefore changes the digest only of subjects that use it.
        """
        fields = self.model_dump(mode="json", exclude={"title"}, exclude_defaults=True)
        return {"schema_version": self.schema_version, **fields}

    def _identity(self) -> Any:
        return self.record

    @cached_property
    def digest(self) -> str:
        """64 hex characters; equal digests mean equal content (the title does not count)."""
        return digest_of([type(self).__name__, self._identity()])


class Trace(Base):
    """One sequence of tokens with everything known about it.

    Attributes:
        ids: token ids, special tokens and prompt included; −1 where a log gave none (only
            without a tokenizer).
        pieces: bytes of each token; never text, since a token may end inside a character.
        tokenizer: digest of the tokenizer that owns the ids, None when it is unknown.
        ids_origin: ids were ``logged`` by an engine, ``generated`` here, or ``encoded`` from text.
        response_start: first position of the response; everything before is prompt.
        turns: who speaks; in order, without gaps, covering all positions.
        spans: named stretches: ``question``, ``reasoning``, ``answer``.
        special: positions of special tokens.
        added: positions the tokenizer inserted itself: they stand for no byte of the text.
        trainable: loss mask, None when unknown.
        exact: the pieces join to the given text byte for byte.
        joint_encoding: False when encoding prompt and response together would cut differently;
            None when nobody looked.
        sampling, parent: how it was made.
        signals: per-token values a log brought along, each as long as ``ids``.
        candidates: per token the alternatives a log brought along, best first; empty where it
            gave none, None when it gave none at all.
    """

    kind: Literal["trace"] = "trace"
    ids: tuple[int, ...]
    pieces: tuple[PieceBytes, ...]
    tokenizer: str | None = None
    ids_origin: IdsOrigin
    response_start: int = Field(ge=0)
    turns: tuple[Turn, ...]
    spans: dict[str, Span] = Field(default_factory=dict)
    special: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    trainable: tuple[bool, ...] | None = None
    exact: bool = True
    joint_encoding: bool | None = None
    sampling: Sampling | None = None
    parent: Parent | None = None
    signals: dict[str, tuple[float | None, ...]] = Field(default_factory=dict)
    candidates: tuple[tuple[Candidate, ...], ...] | None = None
    title: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Trace:
        n = len(self.ids)
        if len(self.pieces) != n:
            raise ValueError(f"{n} ids but {len(self.pieces)} tokens")
        if self.response_start > n:
            raise ValueError(f"the response starts at {self.response_start}, after {n} tokens")
        if self.trainable is not None and len(self.trainable) != n:
            raise ValueError(f"{n} ids but {len(self.trainable)} trainable marks")
        if n and min(self.ids) < (-1 if self.tokenizer is None else 0):
            raise ValueError("token ids are not negative")
        if self.candidates is not None and len(self.candidates) != n:
            raise ValueError(f"candidates for {len(self.candidates)} of {n} tokens")
        end = 0
        for turn in self.turns:
            if turn.start != end:
                raise ValueError(f"turns must follow each other without gaps (position {end})")
            end = turn.end
        if end != n:
            raise ValueError(f"turns cover {end} of {n} tokens")
        for name, span in self.spans.items():
            if span.end > n:
                raise ValueError(f"span {name} ends at {span.end}, after {n} tokens")
        for name, positions in (("special", self.special), ("added", self.added)):
            if any(not 0 <= p < n for p in positions):
                raise ValueError(f"{name} names a position outside the {n} tokens")
        for name, values in self.signals.items():
            if len(values) != n:
                raise ValueError(f"signal {name} has {len(values)} values for {n} tokens")
        return self

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_ids(self) -> bool:
        """Whether every token's id is known, as a model needs it."""
        return not self.ids or min(self.ids) >= 0

    @cached_property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """Byte span of each token in ``text_bytes``; added tokens have width 0."""
        added = set(self.added)
        result: list[tuple[int, int]] = []
        at = 0
        for position, piece in enumerate(self.pieces):
            end = at if position in added else at + len(piece)
            result.append((at, end))
            at = end
        return tuple(result)

    @cached_property
    def text_bytes(self) -> bytes:
        """The text the tokens stand for, without tokens the tokenizer added."""
        return self._join(0, len(self.ids))

    @cached_property
    def spelled(self) -> bytes:
        """The bytes of the tokens that stand for text: neither added nor special ones."""
        silent = {*self.added, *self.special}
        return b"".join(p for position, p in enumerate(self.pieces) if position not in silent)

    def _join(self, start: int, end: int) -> bytes:
        added = set(self.added)
        return b"".join(self.pieces[p] for p in range(start, end) if p not in added)

    @property
    def text(self) -> str:
        r"""``text_bytes`` for reading: bytes that are no UTF-8 appear as ``\xNN``."""
        return show(self.text_bytes)

    @property
    def prompt_text(self) -> str:
        """The prompt for reading."""
        return show(self._join(0, self.response_start))

    @property
    def response_text(self) -> str:
        """The response for reading."""
        return show(self._join(self.response_start, len(self.ids)))

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        """Role of each token."""
        return tuple(turn.role for turn in self.turns for _ in range(len(turn)))

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Segment of each token: prompt, response, or answer (the named span)."""
        answer = self.spans.get("answer", Span(start=0, end=0))
        return tuple(
            "answer" if p in answer else "response" if p >= self.response_start else "prompt"
            for p in range(len(self.ids))
        )

    def positions_of(self, start_byte: int, end_byte: int) -> Span:
        """The tokens that hold any of the bytes ``start_byte`` to ``end_byte`` of the text."""
        inside = [
            p for p, (a, b) in enumerate(self.offsets) if a < end_byte and b > start_byte and a < b
        ]
        if not inside:
            return Span(start=len(self.ids), end=len(self.ids))
        return Span(start=inside[0], end=inside[-1] + 1)


def simple_turns(
    length: int, response_start: int, *, prompt: Role = "user", response: Role = "assistant"
) -> tuple[Turn, ...]:
    """Turns of a prompt and its response; empty ones are left out."""
    cuts: Sequence[tuple[Role, int, int]] = (
        (prompt, 0, response_start),
        (response, response_start, length),
    )
    return tuple(Turn(role=r, start=a, end=b) for r, a, b in cuts if b > a)
