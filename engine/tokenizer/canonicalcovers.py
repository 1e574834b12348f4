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
import numpy.typing as npt

from engine.schema import Progress
from engine.tokenizer.canonical import canonical
from engine.tokenizer.covering import MOST_LISTED, Found, finish
from engine.tokenizer.outcomes import END, Outcomes, Reals, Row
from engine.tokenizer.tails import Tail, Tails
from engine.tokenizer.windows import Window, completions, missing, window


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
        scale: probability of the beginning, relative to the most probable one.
    """

    place: int
    ids: Tail
    inside: tuple[int, ...]
    span: tuple[int, int]
    weight: float = 0.0
    row: Row | None = None
    p: Reals = field(default_factory=lambda: np.zeros(0))
    scale: float = 0.0


def canonical_next(
    tails_of: Callable[[Tail], Tails],
    outcomes: Outcomes,
    run: Tail,
    locked: int,
    threshold: float,
    own: Row,
) -> Generator[Progress, None, tuple[Found, bool]]:
    """The next byte over canonical covers.

    Args:
        tails_of: makes a reader from the first tokens of the run that all covers share.
        outcomes: what may come.
        run: the text's tokens, specials left out.
        locked: how many of them are taken as given.
        threshold: covers with a smaller share are not encoded to see whether they are canonical.
        own: the prediction after the run itself.

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
    result = _weigh(outcomes, starts, data, found, threshold, len(shared))
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
) -> Found:
    # Sums are made in proportion to the likeliest beginning, not in logarithms: V is large.
    top = max(start.weight for start in starts)
    for start in starts:
        assert start.row is not None
        start.p = np.exp(outcomes.logs(start.row, start.span))
        start.scale = math.exp(start.weight - top)
    possible = _sum(starts)
    unseen = _check(outcomes, starts, data, found, threshold * possible)
    kept = _sum(starts)
    masses = np.zeros(outcomes.size)
    covers: list[tuple[float, Tail, bytes]] = []
    count = 0
    for start in starts:
        assert start.row is not None
        skip, tail = len(data) - start.place, start.ids[shared:]
        own = outcomes.byte_masses(start.p, start.span, skip)
        masses[:END] += start.scale * own
        if skip == 0:
            zero = outcomes.zero_masses(start.row)
            masses[END:] += start.scale * zero
            covers.append((start.weight + math.log(own.sum() + zero.sum()), tail, b""))
            count += 1
            continue
        count += int(np.count_nonzero(start.p))
        for at in _largest(start.p).tolist():
            token = int(outcomes.order[start.span[0] + at])
            leftover = outcomes.spec.pieces[token].data[skip:]
            weight = start.weight + math.log(start.p[at])
            covers.append((weight, (*tail, token), leftover))
    total = float(masses.sum())
    with np.errstate(divide="ignore"):
        logs = top + np.log(masses)
    result = finish(logs, 0, sorted(covers, reverse=True)[:MOST_LISTED], count, -math.inf)
    return replace(
        result,
        unchecked=unseen / total,
        excluded=(possible - kept) / (total + possible - kept),
    )


def _sum(starts: Sequence[_Start]) -> float:
    return sum(start.scale * float(start.p.sum(dtype=np.float64)) for start in starts)


def _largest(p: Reals) -> npt.NDArray[np.int64]:
    """Places of the largest values above zero, at most ``MOST_LISTED``."""
    if len(p) > MOST_LISTED:
        places = np.argpartition(p, -MOST_LISTED)[-MOST_LISTED:]
    else:
        places = np.arange(len(p))
    return places[p[places] > 0]


def _check(
    outcomes: Outcomes,
    starts: list[_Start],
    data: bytes,
    found: Window | None,
    least: float,
) -> float:
    """Encode every cover of at least so much weight; those not canonical lose it.

    Returns:
        The weight of those that were not encoded.
    """
    if found is None:
        return _sum(starts)
    unseen = 0.0
    asked: list[tuple[_Start, int, int]] = []
    texts: list[bytes] = []
    for start in starts:
        before = data[found.start : start.place]
        large = start.p >= least / max(start.scale, 1e-300)
        unseen += start.scale * float(start.p[~large].sum(dtype=np.float64))
        places = np.flatnonzero(large & (start.p > 0))
        tokens = outcomes.order[start.span[0] + places]
        for at, token in zip(places.tolist(), tokens.tolist(), strict=True):
            ways = completions(before + outcomes.spec.pieces[token].data)
            asked.append((start, at, len(ways)))
            texts += ways
    encoded = iter(found.encode(texts))
    for start, at, tried in asked:
        wanted = [*start.inside, int(outcomes.order[start.span[0] + at])]
        hits = [next(encoded)[: len(wanted)] == wanted for _ in range(tried)]
        if not any(hits):
            start.p[at] = 0
    return unseen
