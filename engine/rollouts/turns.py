"""Who speaks, from the marks that chat templates leave in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from engine.rollouts.values import role_of
from engine.trace import Role, Trace, Turn

_MARKS = re.compile(
    rb"<\|im_start\|>(?P<chatml>\w{1,20})"
    rb"|<\|start_header_id\|>(?P<llama>\w{1,20})<\|end_header_id\|>"
    rb"|<start_of_turn>(?P<gemma>\w{1,20})"
    rb"|(?P<think><think>)|(?P<thought></think>)"
    rb"|(?P<tool><tool_response>)|(?P<told></tool_response>)"
)


def find_turns(trace: Trace, loss_mask: Sequence[bool] | None = None) -> tuple[Turn, ...]:
    """The turns of a trace.

    Marks of ChatML, Llama 3 and Gemma templates name the speaker; ``<think>`` is thinking,
    ``<tool_response>`` a tool. A response without such marks is the assistant's where the loss
    mask lets it learn, and a tool's where it does not, up to the last token that is trained.

    Args:
        trace: with pieces.
        loss_mask: as long as the trace.
    """
    cuts = list(_cuts(trace.text_bytes))
    start = trace.response_start
    asked: list[Role] = ["user"] * start
    answered: list[Role] = ["assistant"] * (len(trace) - start)
    roles = asked + answered
    ends = [byte for byte, _ in cuts[1:]] + [len(trace.text_bytes)]
    for number, (byte, role) in enumerate(cuts):
        for position in _starting(trace, byte, ends[number]):
            roles[position] = role
    first = 0 if start >= len(trace) else trace.offsets[start][0]
    if loss_mask is not None and not any(byte >= first for byte, _ in cuts):
        trained = [p for p in range(start, len(trace)) if loss_mask[p]]
        for position in range(start, trained[-1] if trained else start):
            if not loss_mask[position]:
                roles[position] = "tool"
    return tuple(joined(roles))


def joined(roles: Sequence[Role]) -> Iterator[Turn]:
    """Turns of tokens that follow each other with one role."""
    start = 0
    for position in range(1, len(roles) + 1):
        if position == len(roles) or roles[position] != roles[start]:
            yield Turn(role=roles[start], start=start, end=position)
            start = position


def _cuts(text: bytes) -> Iterator[tuple[int, Role]]:
    """Bytes where the speaker changes."""
    speaker: Role = "text"
    known = False
    for mark in _MARKS.finditer(text):
        kind = mark.lastgroup
        if kind in ("chatml", "llama", "gemma"):
            speaker, known = role_of(mark.group(kind).decode()), True
            yield mark.start(), speaker
        elif kind == "think":
            yield mark.start(), "thinking"
        elif kind == "tool":
            yield mark.start(), "tool"
        else:
            yield mark.end(), speaker if known else "assistant"


def _starting(trace: Trace, start: int, end: int) -> Iterator[int]:
    """Positions of the tokens whose first byte is one of ``start`` to ``end``."""
    from bisect import bisect_left

    offsets = trace.offsets
    position = bisect_left(offsets, start, key=lambda pair: pair[0])
    while position < len(offsets) and offsets[position][0] < end:
        yield position
        position += 1
