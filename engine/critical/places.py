"""Which prefixes are continued: all, every k-th, where a score points, sentence ends, a search."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil

from engine.subjects import Span, Trace

_SENTENCE = re.compile(rb"[.!?][\"')\]]*(?=\s)|\n")


def every(first: int, end: int, step: int) -> list[int]:
    """Every k-th position from ``first`` on, and the last before ``end``.

    The last prefix is what the response came to: it is never left out.
    """
    found = list(range(first, end, step))
    return found if not found or found[-1] == end - 1 else [*found, end - 1]


def around(scores: Mapping[int, float], first: int, end: int, share: float) -> list[int]:
    """Both sides of the tokens with the highest scores, and both ends of the response.

    Args:
        scores: by position, higher is more suspect; positions outside are left out.
        first: the last prompt token, or 0.
        end: where the response ends.
        share: of the scored tokens, rounded up; of equal ones the first goes first.
    """
    inside = [p for p in scores if first < p < end]
    ranked = sorted(inside, key=lambda p: (-scores[p], p))
    chosen = ranked[: ceil(share * len(ranked))]
    found = {first, end - 1, *chosen, *(p - 1 for p in chosen)}
    return sorted(p for p in found if first <= p < end)


def sentences(trace: Trace, end: int) -> list[Span]:
    """The sentences of a response, as token positions; a token that holds an end closes one.

    A sentence ends at ``.``, ``!`` or ``?`` before white space, and at a line's end.

    Args:
        trace: whose response.
        end: where the response ends.
    """
    start = trace.response_start
    if start >= end:
        return []
    offsets = trace.offsets
    base = offsets[start][0]
    text = trace.text_bytes[base : offsets[end - 1][1]]
    ends = {base + match.end() for match in _SENTENCE.finditer(text)}
    found: list[Span] = []
    begun = start
    for position in range(start, end):
        a, b = offsets[position]
        closes = any(a < e <= b for e in ends) or position == end - 1
        if closes and text[offsets[begun][0] - base : b - base].strip():
            found.append(Span(start=begun, end=position + 1))
            begun = position + 1
    if begun < end and found:  # nothing but white space is left
        found[-1] = Span(start=found[-1].start, end=end)
    return found or [Span(start=start, end=end)]


def coarse_to_fine(places: Sequence[int]) -> list[int]:
    """The places in an order in which half the work already shows the whole curve."""
    stride = 1 << max(len(places) - 1, 0).bit_length()
    order: dict[int, None] = {}
    while stride:
        order.update(dict.fromkeys(places[::stride]))
        stride //= 2
    return list(order)


class Search:
    """Subdivision: a stretch over which the value changes is halved until it is one token.

    The search of pivotal tokens (Phi-4 technical report, section 4.3.1; repository codelion/pts).
    It finds tokens whose change is not undone within the same stretch; what falls and rises again
    between two places of equal value stays unseen.

    Args:
        first: the last prompt token, or 0.
        end: where the response ends.
        least: a change smaller than this is not looked into.
    """

    def __init__(self, first: int, end: int, least: float) -> None:
        self._least = least
        self._open = [(first, end - 1)] if end - first > 1 else []
        self._wanted = sorted({first, end - 1}) if end > first else []

    def wanted(self, values: Mapping[int, float]) -> list[int]:
        """Positions to continue next; empty when the search has ended.

        Args:
            values: by position, of everything wanted so far.
        """
        if not all(position in values for position in self._wanted):
            return [p for p in self._wanted if p not in values]
        halves: list[tuple[int, int]] = []
        middles: list[int] = []
        for a, b in self._open:
            if b - a < 2 or abs(values[a] - values[b]) < self._least:
                continue
            middle = (a + b) // 2
            middles.append(middle)
            halves += [(a, middle), (middle, b)]
        self._open, self._wanted = halves, middles
        if middles and all(p in values for p in middles):
            return self.wanted(values)
        return [p for p in middles if p not in values]
