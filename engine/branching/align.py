"""Two traces side by side, token by token: what is the same, what differs, where they meet again.

Tokens are compared by their exact bytes, never by id, so traces of different tokenizers can be
compared too: they are cut at the places where both have a token boundary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isqrt
from typing import Literal

from engine.trace import Trace

Kind = Literal["same", "recut", "changed", "only_a", "only_b"]

_MIRROR: dict[Kind, Kind] = {"only_a": "only_b", "only_b": "only_a"}
_DIGITS = frozenset(b"0123456789")
_LETTERS = frozenset(
    [*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1), *range(128, 256)]
)

Knot = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of the one trace beside tokens of the other.

    Attributes:
        kind: ``same`` tokens; ``recut``: the same bytes in other tokens; ``changed``: other bytes;
            ``only_a``, ``only_b``: nothing stands beside them.
        a: positions in the first trace, the end exclusive; empty for ``only_b``.
        b: positions in the second trace; as long as ``a`` for ``same``.
    """

    kind: Kind
    a: tuple[int, int]
    b: tuple[int, int]


def align(a: Trace, b: Trace) -> tuple[Row, ...]:
    """Lay two traces side by side.

    A longest common subsequence of tokens (of words, when the tokenizers differ) stays in place;
    what stands between is changed, or on one side only. Together the rows hold every token of
    both, in order. ``align(b, a)`` is the same with sides exchanged.
    """
    if (a.pieces, a.special) > (b.pieces, b.special):  # of several best answers always the same one
        return tuple(Row(_MIRROR.get(r.kind, r.kind), r.b, r.a) for r in align(b, a))
    codes: dict[bytes, int] = {}
    left, right = _symbols(a, codes), _symbols(b, codes)
    if a.tokenizer == b.tokenizer:
        runs = _runs(left, right)
    else:
        runs = _runs(_words(left), _words(right))
    return tuple(_merged(_rows(left, right, runs)))


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """How many elements two sequences share at their beginning."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


Units = list[tuple[int, ...]]


def _symbols(trace: Trace, codes: dict[bytes, int]) -> Units:
    """Each token as its bytes; a special or empty token is one symbol above 255."""
    special = set(trace.special)
    return [
        (256 + codes.setdefault(piece, len(codes)),)
        if not piece or position in special
        else tuple(piece)
        for position, piece in enumerate(trace.pieces)
    ]


def _words(tokens: Units) -> Units:
    """The same symbols cut into words with their space in front, digits and single signs."""
    words: list[list[int]] = []
    before = -1
    for token in tokens:
        for symbol in token:
            letter = symbol in _LETTERS
            if words and letter and (before in _LETTERS or before == 32):
                words[-1].append(symbol)
            else:
                words.append([symbol])
            before = symbol
    return [tuple(word) for word in words]


def _runs(a: Units, b: Units) -> list[tuple[int, int, int]]:
    """Stretches that stay in place: start in each side's symbols, and length."""
    names: dict[tuple[int, ...], int] = {}
    left = [names.setdefault(unit, len(names)) for unit in a]
    right = [names.setdefault(unit, len(names)) for unit in b]
    head = common_prefix(left, right)
    tail = common_prefix(left[head:][::-1], right[head:][::-1])
    inner = _lcs(left[head : len(left) - tail], right[head : len(right) - tail])
    pairs = [
        *((i, i) for i in range(head)),
        *((head + i, head + j) for i, j in inner),
        *((len(left) - k, len(right) - k) for k in range(tail, 0, -1)),
    ]
    starts_a, starts_b = _starts(a), _starts(b)
    runs: list[tuple[int, int, int]] = []
    for i, j in pairs:
        x, y, length = starts_a[i], starts_b[j], len(a[i])
        if runs and runs[-1][0] + runs[-1][2] == x and runs[-1][1] + runs[-1][2] == y:
            runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + length)
        else:
            runs.append((x, y, length))
    return runs


def _starts(units: Units) -> list[int]:
    starts = [0]
    for unit in units:
        starts.append(starts[-1] + len(unit))
    return starts


def _rows(a: Units, b: Units, runs: list[tuple[int, int, int]]) -> Iterator[Row]:
    """Rows between the knots: places inside a run where both sides have a token boundary."""
    starts_a, starts_b = _starts(a), _starts(b)
    at_a = {symbol: i for i, symbol in enumerate(starts_a)}
    at_b = {symbol: j for j, symbol in enumerate(starts_b)}
    i, j = 0, 0
    for x, y, length in runs:
        inside = False
        for knot in _knots(at_a, at_b, starts_a, x, y, length):
            yield from _between(a, b, (i, j), knot, inside)
            (i, j), inside = knot, True
    yield from _between(a, b, (i, j), (len(a), len(b)), False)


def _knots(
    at_a: dict[int, int], at_b: dict[int, int], starts_a: list[int], x: int, y: int, length: int
) -> Iterator[Knot]:
    # The first token boundary at or after the run's beginning.
    first = next(s for s in range(x, x + length + 1) if s in at_a or s == x + length)
    i = at_a.get(first)
    while i is not None and i < len(starts_a) and starts_a[i] <= x + length:
        j = at_b.get(starts_a[i] - x + y)
        if j is not None:
            yield i, j
        i += 1


def _between(a: Units, b: Units, start: Knot, end: Knot, inside: bool) -> Iterator[Row]:
    (i, j), (k, m) = start, end
    if i == k and j == m:
        return
    kind: Kind
    if j == m:
        kind = "only_a"
    elif i == k:
        kind = "only_b"
    elif k - i == 1 and m - j == 1 and a[i] == b[j]:
        kind = "same"
    elif inside or [*chain(*a[i:k])] == [*chain(*b[j:m])]:
        kind = "recut"
    else:
        kind = "changed"
    yield Row(kind, (i, k), (j, m))


def _merged(rows: Iterator[Row]) -> Iterator[Row]:
    """Neighbouring tokens that are the same, as one row."""
    held: Row | None = None
    for row in rows:
        if held is not None and held.kind == row.kind == "same":
            held = Row("same", (held.a[0], row.a[1]), (held.b[0], row.b[1]))
            continue
        if held is not None:
            yield held
        held = row
    if held is not None:
        yield held


def _lcs(a: Sequence[int], b: Sequence[int]) -> list[Knot]:
    """Pairs of places of one longest common subsequence.

    Bit-parallel over a row of the usual table (Hyyrö 2004): bit i of a row is 0 where the length
    grows from column i to i + 1. Only every √n-th row is kept; the others are made again on the
    way back.
    """
    masks: dict[int, int] = {}
    for i, x in enumerate(a):
        masks[x] = masks.get(x, 0) | 1 << i
    full = (1 << len(a)) - 1
    block = isqrt(len(b)) + 1

    def rows(start: int, row: int) -> Iterator[int]:
        for y in b[start : start + block]:
            taken = row & masks.get(y, 0)
            row = ((row + taken) | (row - taken)) & full
            yield row

    saved = [full]
    for start in range(0, len(b), block):
        saved.append([*rows(start, saved[-1])][-1])

    pairs: list[Knot] = []
    i, j = len(a), len(b)
    for number in range(len(saved) - 2, -1, -1):
        start = number * block
        table = [saved[number], *rows(start, saved[number])]
        while i and j > start:
            if table[j - start] >> (i - 1) & 1:
                i -= 1
                continue
            j -= 1
            if table[j - start] >> (i - 1) & 1:
                i -= 1
                pairs.append((i, j))
    return pairs[::-1]
