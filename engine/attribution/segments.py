"""What is scored as one source: tokens, words, sentences, or spans of one's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.errors import UserError
from engine.subjects import Span, Trace
from engine.tokenization import show

Granularity = Literal["token", "word", "sentence", "spans"]

# Space in front belongs to the word behind it; a sign that is no letter stands alone.
_WORD = re.compile(r"\s*(?:\w+(?:['’]\w+)*|[^\w\s])|\s+\Z")
_SENTENCE = re.compile(r"\S.*?(?:[.!?;:]+(?=\s|\Z)|\n|\Z)\s*", re.DOTALL)
_SPAN = re.compile(r"\s*(\d+)\s*(?:[:–-]\s*(\d+)\s*)?\Z")


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens ``start`` to ``end`` (exclusive) that are scored, and taken away, together.

    ``fixed`` ones are never taken away: special tokens, unless asked for.
    """

    start: int
    end: int
    fixed: bool = False


def segments(
    trace: Trace,
    end: int,
    granularity: Granularity,
    spans: str | None = None,
    *,
    special: bool = False,
    cuts: Collection[int] = (),
) -> list[Segment]:
    """The sources before position ``end``, in order, covering every token of it.

    Args:
        trace: the text.
        end: sources are tokens before this position.
        granularity: what one source is.
        spans: for ``spans``: ``3:7, 9:12`` in token positions; what none of them covers is fixed.
        special: whether special tokens are sources too.
        cuts: positions that no segment may cross, for example where a target begins.

    Raises:
        UserError: spans that are malformed, overlap, or lie outside the text.
    """
    if granularity == "spans":
        return list(_own(trace, end, spans))
    own = {
        "token": lambda: set(range(end)),
        "word": lambda: _cuts(trace, end, _WORD),
        "sentence": lambda: _cuts(trace, end, _SENTENCE),
    }[granularity]()
    fixed = set() if special else set(trace.special)
    edges = {0, trace.response_start, *cuts} | own
    edges |= {p for s in trace.special for p in (s, s + 1)}
    places = sorted(p for p in edges if p < end)
    return [
        Segment(a, b, a in fixed) for a, b in zip(places, [*places[1:], end], strict=True) if a < b
    ]


def _cuts(trace: Trace, end: int, rule: re.Pattern[str]) -> set[int]:
    """Tokens that begin where a match of the rule begins; a token over a border cuts nowhere."""
    text = b"".join(trace.pieces[:end]).decode("utf-8", "surrogateescape")
    starts, at, before = {0}, 0, 0
    for match in rule.finditer(text):
        at += len(text[before : match.start()].encode("utf-8", "surrogateescape"))
        before = match.start()
        starts.add(at)
    found, place = set(), 0
    for position in range(end):
        if place in starts:
            found.add(position)
        place += len(trace.pieces[position])
    return found


def _own(trace: Trace, end: int, spans: str | None) -> Iterator[Segment]:
    chosen = sorted(read_spans(spans or "", len(trace)), key=lambda s: s.start)
    if not chosen:
        raise UserError("Give the spans that are scored, for example spans=3:7,9:12.")
    at = 0
    for span in chosen:
        if span.start < at:
            raise UserError(f"The spans overlap at token {span.start}: give each token once.")
        if span.end > end:
            raise UserError(
                f"The span {span.start}:{span.end} reaches beyond what comes before the target, "
                f"token {end}: end it there at the latest."
            )
        if span.start > at:
            yield Segment(at, span.start, True)
        yield Segment(span.start, span.end)
        at = span.end
    if at < end:
        yield Segment(at, end, True)


def read_spans(text: str, length: int) -> list[Span]:
    """``3:7, 9`` as spans of token positions (the end is exclusive; one number is one token).

    Raises:
        UserError: what is no such list, empty spans, and positions outside the text.
    """
    found = []
    for part in filter(str.strip, text.split(",")):
        match = _SPAN.match(part)
        if match is None or len(part) > 40:
            raise UserError(
                f"{show(part.encode('utf-8', 'replace'))[:40]} is no span: write positions like "
                "3:7 (from 3 up to, not including, 7) or 3."
            )
        start = int(match[1])
        end = start + 1 if match[2] is None else int(match[2])
        if end <= start:
            raise UserError(f"The span {part.strip()} holds no token: its end must be greater.")
        if end > length:
            raise UserError(
                f"The span {part.strip()} lies outside the text, whose {length:,} tokens are "
                f"numbered 0 to {length - 1:,}: choose positions in it."
            )
        found.append(Span(start=start, end=end))
    return found


def texts(trace: Trace, parts: Sequence[Segment]) -> list[str]:
    """Readable text of each segment."""
    return [show(b"".join(trace.pieces[s.start : s.end])) for s in parts]
