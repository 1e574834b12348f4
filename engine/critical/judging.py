"""Is what a continuation comes to right? One rule for every analysis that samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.answers import answer_text
from engine.checkers import judge
from engine.errors import UserError
from engine.subjects import Trace

if TYPE_CHECKING:
    from engine.sampling.generation import Continuation
    from engine.tokenization import Tokenizer


def expected_answer(analysis: str, answer: str | None) -> str:
    """The right answer a person gave.

    Raises:
        UserError: when there is none; without one nothing can be counted.
    """
    expected = (answer or "").strip()
    if not expected:
        raise UserError(
            f"{analysis} needs the right answer: give it as answer, for example answer=42."
        )
    return expected


class Judging:
    """Judges continuations of a trace's prefixes, and the trace itself.

    A response is its words: special tokens are left out, bytes that are no UTF-8 become U+FFFD.
    A continuation that was cut off at the limit has not answered yet and counts as wrong.

    Args:
        tokenizer: the one the ids belong to.
        trace: whose response is continued.
        name: of the checker.
        expected: what is right.

    Raises:
        UserError: for an unknown checker, or one that cannot read what is expected.
    """

    def __init__(self, tokenizer: Tokenizer, trace: Trace, name: str, expected: str) -> None:
        self._tokenizer = tokenizer
        self._trace = trace
        self._judge = judge(name, expected)
        self._said: list[bytes] = [b""]
        hidden = {*trace.special, *trace.added}
        for position in range(trace.response_start, len(trace)):
            piece = b"" if position in hidden else trace.pieces[position]
            self._said.append(self._said[-1] + piece)

    def words(self, end: int) -> bytes:
        """The response's bytes before position ``end``, without special tokens."""
        return self._said[max(0, end - self._trace.response_start)]

    def right(self, end: int, continuation: Continuation) -> bool:
        """Whether ``continuation`` of the tokens before position ``end`` comes out right."""
        if continuation.finish == "length":
            return False
        return self.says(self.words(end), continuation.ids)

    def says(self, before: bytes, ids: Sequence[int]) -> bool:
        """Whether a response of some words and then some tokens is right."""
        shown = [i for i in ids if not self._tokenizer.is_special(i)]
        text = (before + b"".join(self._tokenizer.pieces(shown))).decode("utf-8", "replace")
        return self._judge(text) is True

    def so_far(self, end: int) -> bool:
        """Whether the response is right when it ends before position ``end``."""
        return self._judge(self.words(end).decode("utf-8", "replace")) is True

    @property
    def verdict(self) -> bool | None:
        """Whether the trace's own response is right; None where there is nothing to judge."""
        return self._judge(self._trace)

    @property
    def answer(self) -> str | None:
        """What the trace's own response gives as its answer."""
        return answer_text(self._trace)


def end_of(trace: Trace, stops: Sequence[int]) -> int:
    """Position of the first stop token of the response, the trace's length if there is none."""
    ids = set(stops)
    places = (p for p in range(trace.response_start, len(trace)) if trace.ids[p] in ids)
    return next(places, len(trace))
