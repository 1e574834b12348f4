"""What a response answers when its end is made anew: where the answer begins, what is said."""

from __future__ import annotations

from engine.answers import answer_text
from engine.errors import UserError
from engine.spans import find_spans
from engine.subjects import Span, Trace


def spans_of(trace: Trace) -> tuple[Span, list[int]]:
    """The answer, and the positions of the reasoning before it that can be hidden.

    Raises:
        UserError: One of them is missing, or the reasoning does not come before the answer.
    """
    found = {**find_spans(trace), **trace.spans}
    answer, reasoning = found.get("answer"), found.get("reasoning")
    for name, span in (("answer", answer), ("reasoning", reasoning)):
        if span is None or not len(span):
            raise UserError(f"No {name} was found in this text: mark it in the strip.")
    assert answer is not None
    assert reasoning is not None
    hidden = {*trace.special, *trace.added}
    places = range(reasoning.start, min(reasoning.end, answer.start))
    inside = [p for p in places if p not in hidden]
    if not inside:
        raise UserError(
            f"The reasoning ({reasoning.start} to {reasoning.end - 1}) does not come before the "
            f"answer (from {answer.start}): mark reasoning that leads to it."
        )
    return answer, inside


def words_before(trace: Trace, end: int) -> bytes:
    """The response's bytes before a position, special tokens left out."""
    hidden = {*trace.special, *trace.added}
    places = range(trace.response_start, end)
    return b"".join(trace.pieces[p] for p in places if p not in hidden)


def decoded(before: bytes, text: bytes) -> str:
    """Two parts of a response as text; a character may lie across them."""
    return (before + text).decode("utf-8", "replace")


def answer_said(before: bytes, text: bytes) -> str:
    """What a response answers that was continued with ``text``.

    By the format, if what it names is new; else the first line of what was said.
    """
    whole = decoded(before, text)
    said = answer_text(whole)
    if said is not None and said != answer_text(decoded(before, b"")):
        return said
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[0].strip() if lines else ""
