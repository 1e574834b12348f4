"""The covers a tokenizer itself would give: which they are, and what they say comes next.

A canonical cover is one that encoding its own bytes gives back (Phan et al. 2024, "valid
encodings"). Its tokens but the last are the encoding of a beginning of the text, so there is one
candidate beginning for each byte at which a last token may start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from engine.schema import Progress
from engine.tokenizer.canonical import canonical
from engine.tokenizer.covering import MOST_LISTED, Found, finish
from engine.tokenizer.following import follower_of
from engine.tokenizer.outcomes import END, Outcomes, Reals, Row
from engine.tokenizer.tails import Tail, Tails
from engine.tokenizer.windows import Window, completions, missing, window

FEW = 4096
"""So many covers are looked through at once for the most probable ones."""

SMALLEST = 1e-45
"""The smallest number above zero there is in float32."""


@dataclass(slots=True)
class _Start:
    """A beginning and the tokens that may follow it, the last of a cover.

    Attributes:
        place: the byte of the text at which the last token starts.
        ids: the beginning's tokens, from the text's first on.
        inside: those of them that lie in the window.
        span: the last tokens, in the order of the outcomes.
        weight: log-probability of the beginning, nats.
        row: the prediction after it.
        p: probability of each of the last tokens after it; 0 for what is no canonical cover.
        total: sum of them before any was found to be none.
        scale: probability of the beginning, relative to the most probable one.
    """

    place: int
    ids: Tail
    inside: tuple[int, ...]
    span: tuple[int, int]
    weight: float = 0.0
    row: Row | None = None
    p: Reals = field(default_factory=lambda: np.zeros(0))
    total: float = 0.0
    scale: float = 0.0


def canonical_next(
    tails_of: Callable[[Tail], Tails],
    outcomes: Outcomes,
    run: Tail,
    locked: int,
    threshold: float,
    own: Row,
    listed: int = MOST_LISTED,
) -> Generator[Progress, None, tuple[Found, bool]]:
    """The next byte over canonical covers.

    Args:
        tails_of: makes a reader from the first tokens of the run that all covers share.
        outcomes: what may come.
        run: the text's tokens, specials left out.
        locked: how many of them are taken as given.
        threshold: covers with a smaller share are not encoded to see whether they are canonical.
        own: the prediction after the run itself.
        listed: how many covers are named.

    Returns:
        What was found, and whether the run is canonical as it stands.
    """
    spec = outcomes.spec
    data = b"".join(spec.pieces[i].data for i in run)
    given = run
    whole = canonical(spec, run).ids
    same = b"".join(spec.pieces[i].data for i in whole) == data
    if same and whole[:locked] == run[:locked]:
        run = whole
    fixed = sum(len(spec.pieces[i].data) for i in run[:locked])
    first = max(fixed, len(data) - spec.trie.longest + 1)
    places = [p for p in range(first, len(data)) if _some(outcomes.longer(data[p:]))]
    found = window(spec, run, data, min(places, default=len(data))) if same else None
    starts = list(_starts(outcomes, run, data, places, found))
    shared = _shared([start.ids for start in starts])
    tails = tails_of(shared)
    yield Progress(None, "Reading the covers")
    for batch in tails.read([start.ids[len(shared) :] for start in starts]):
        for at, weight, row in batch:
            start = starts[at]
            start.weight, start.row = weight, row
            # The same prediction as the token view's, to the last bit.
            if start.ids == given:
                start.row = own
        yield Progress(None, "Reading the covers")
    result = _weigh(outcomes, starts, data, found, threshold, len(shared), listed)
    return replace(result, base=len(tails.base)), run == given


def _starts(
    outcomes: Outcomes, run: Tail, data: bytes, places: Sequence[int], found: Window | None
) -> Iterator[_Start]:
    """Every byte at which the last token of a canonical cover may start, the text's end last."""
    first = found.token if found is not None else len(run)
    if found is not None:
        made = _beginnings(found, run, data, places)
        for place, inside in made.items():
            yield _Start(place, run[:first] + inside, inside, outcomes.longer(data[place:]))
    yield _Start(len(data), run, run[first:], (0, len(outcomes.order)))


def _some(span: tuple[int, int]) -> bool:
    return span[1] > span[0]


def _beginnings(
    found: Window, run: Tail, data: bytes, places: Sequence[int]
) -> dict[int, tuple[int, ...]]:
    """Tokens in the window of the beginnings that end at the given bytes, where there are any."""
    spec = found.spec
    made: dict[int, tuple[int, ...]] = {}
    whole = [p for p in places if p >= found.start and not missing(data[found.start : p])]
    rows = found.encode([data[found.start : p] for p in whole])
    for place, row in zip(whole, rows, strict=True):
        if b"".join(spec.pieces[i].data for i in row) == data[found.start : place]:
            made[place] = tuple(row)
    # Inside a character: where an encoding of more has a boundary there.
    for more in [*map(tuple, rows), run[found.token :]]:
        at = found.start
        for n, i in enumerate(more):
            if at in places and missing(data[found.start : at]):
                made.setdefault(at, more[:n])
            at += len(spec.pieces[i].data)
    return dict(sorted(made.items()))


def _shared(rows: Sequence[Tail]) -> Tail:
    first, last = min(rows), max(rows)
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return first[:n]


def _weigh(
    outcomes: Outcomes,
    starts: list[_Start],
    data: bytes,
    found: Window | None,
    threshold: float,
    shared: int,
    listed: int,
) -> Found:
    # Sums are made in proportion to the likeliest beginning, not in logarithms: V is large.
    top = max(start.weight for start in starts)
    possible = 0.0
    for start in starts:
        assert start.row is not None
        start.p = outcomes.logs(start.row, start.span)
        np.exp(start.p, out=start.p)
        start.total = _total(start.p)
        start.scale = math.exp(start.weight - top)
        possible += start.scale * start.total
    least = threshold * possible
    unseen, lost = _check(outcomes, starts, data, found, least)
    masses = np.zeros(outcomes.size)
    count = 0
    for start in starts:
        assert start.row is not None
        skip = len(data) - start.place
        masses[:END] += start.scale * outcomes.byte_masses(start.p, start.span, skip)
        if skip == 0:
            masses[END:] += start.scale * outcomes.zero_masses(start.row)
            count += 1
        else:
            count += int(np.count_nonzero(start.p))
    total = float(masses.sum())
    with np.errstate(divide="ignore"):
        logs = top + np.log(masses)
    covers = _listed(outcomes, starts, len(data), shared, max(least, 1e-4 * possible), listed)
    result = finish(logs, 0, covers, count, -math.inf)
    return replace(result, unchecked=unseen / total, excluded=lost / (total + lost))


def _total(p: Reals) -> float:
    return float(p.sum(dtype=np.float64))


def _least(start: _Start, weight: float) -> float:
    """The probability after a beginning that gives a cover some weight; above zero, below two."""
    return min(2.0, max(weight / max(start.scale, 1e-300), SMALLEST))


def _listed(
    outcomes: Outcomes, starts: Sequence[_Start], end: int, shared: int, cut: float, most: int
) -> list[tuple[float, Tail, bytes]]:
    """The most probable covers: weight, tokens after the shared ones, bytes beyond the text.

    Args:
        outcomes: what may come.
        starts: the beginnings; the last one is the whole text, a cover by itself.
        end: bytes of the text.
        shared: tokens that are left out.
        cut: a weight that is lowered until there are enough covers above it.
        most: how many; one more when the text itself is not among them.
    """
    inner = [start for start in starts if start.place < end]
    cut = cut if sum(len(start.p) for start in inner) > FEW else 0.0
    places = [np.flatnonzero(start.p >= _least(start, cut)) for start in inner]
    while cut > 0 and sum(map(len, places)) < most:
        cut *= 0.1
        places = [np.flatnonzero(start.p >= _least(start, cut)) for start in inner]
    weights = [
        start.weight + np.log(start.p[ats], dtype=np.float64)
        for start, ats in zip(inner, places, strict=True)
    ]
    flat = np.concatenate([np.zeros(0), *weights])
    whose = np.repeat(np.arange(len(inner)), list(map(len, places)))
    best = np.argpartition(flat, -most)[-most:] if len(flat) > most else np.arange(len(flat))
    at = np.concatenate([np.zeros(0, np.int64), *places])[best]
    covers: list[tuple[float, Tail, bytes]] = []
    rows = zip(flat[best].tolist(), whose[best].tolist(), at.tolist(), strict=True)
    for weight, number, place in rows:
        start = inner[number]
        token = int(outcomes.order[start.span[0] + place])
        leftover = outcomes.spec.pieces[token].data[end - start.place :]
        covers.append((weight, (*start.ids[shared:], token), leftover))
    for start in starts[len(inner) :]:
        assert start.row is not None
        mass = _total(start.p) + float(outcomes.zero_masses(start.row).sum())
        covers.append((start.weight + math.log(mass), start.ids[shared:], b""))
    return covers


def _check(
    outcomes: Outcomes,
    starts: list[_Start],
    data: bytes,
    found: Window | None,
    least: float,
) -> tuple[float, float]:
    """Find out which covers of at least so much weight are canonical; the others lose it.

    Returns:
        The weight of those that were not looked at, and what was lost.
    """
    if found is None:
        return sum(start.scale * start.total for start in starts), 0.0
    unseen = lost = 0.0
    follower = follower_of(outcomes.spec)
    asked: list[tuple[_Start, int, int]] = []
    for start in starts:
        places = np.flatnonzero(start.p >= _least(start, least))
        if least > 0:
            unseen += start.scale * max(0.0, start.total - _total(start.p[places]))
        tokens = outcomes.order[start.span[0] + places].tolist()
        before = data[found.start : start.place]
        told: list[bool | None] = [None] * len(tokens)
        if follower is not None and not found.bare:
            told = follower.follow(before, start.inside, tokens)
        refused = [
            at for at, follows in zip(places.tolist(), told, strict=True) if follows is False
        ]
        lost += _remove(start, refused)
        rows = zip(places.tolist(), tokens, told, strict=True)
        asked += [(start, at, token) for at, token, follows in rows if follows is None]
    for start, at in _refused(found, outcomes, asked, data):
        lost += _remove(start, [at])
    return unseen, lost


def _remove(start: _Start, places: list[int]) -> float:
    """Take covers out; the weight they had."""
    weight = start.scale * _total(start.p[places])
    start.p[places] = 0
    return weight


def _refused(
    found: Window, outcomes: Outcomes, asked: Sequence[tuple[_Start, int, int]], data: bytes
) -> Iterator[tuple[_Start, int]]:
    """Those that are not canonical, by encoding them.

    What ends inside a character may be canonical with some of its completions only: all others are
    tried where the first is not.
    """
    pieces = outcomes.spec.pieces
    left: list[tuple[int, Iterator[bytes], bytes]] = []
    for n, (start, _, token) in enumerate(asked):
        ways = completions(data[found.start : start.place] + pieces[token].data)
        first = next(ways, None)
        if first is None:
            yield asked[n][:2]
        else:
            left.append((n, ways, first))
    hits = _hits(found, asked, [(n, first) for n, _, first in left])
    left = [row for row in left if row[0] not in hits]
    hits = _hits(found, asked, [(n, way) for n, ways, _ in left for way in ways])
    yield from (asked[n][:2] for n, _, _ in left if n not in hits)


def _hits(
    found: Window, asked: Sequence[tuple[_Start, int, int]], ways: Sequence[tuple[int, bytes]]
) -> set[int]:
    """Which of the covers asked about some text begins with."""
    hits: set[int] = set()
    for (n, _), ids in zip(ways, found.encode([text for _, text in ways]), strict=True):
        start, _, token = asked[n]
        if tuple(ids[: len(start.inside) + 1]) == (*start.inside, token):
            hits.add(n)
    return hits
