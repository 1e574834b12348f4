"""``attribution.shapley_sampling``: mean contribution over random orders of the sources."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial

import numpy as np
from pydantic import Field

from engine.attribution.sampled import (
    NOTHING_LEFT,
    SAMPLED_TABLES,
    SampledParams,
    all_subsets,
    emptied,
    lively,
    note_undefined,
    order,
    spread,
    staged,
)
from engine.attribution.work import MODELS, Bools, Floats, Ints, Work
from engine.context import Context
from engine.limits.caps import READS
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

ROUND = 2048
"""Texts asked for at a time, about; whole orders."""

NO_ERROR = "A standard error needs two independent draws: raise permutations."


class ShapleyParams(SampledParams):
    """Also: how many orders are drawn."""

    permutations: int = Field(
        24,
        ge=1,
        le=100_000,
        title="orders",
        description=(
            "Random orders in which the sources come (ours; Captum draws 25). Each reads as many "
            "texts as there are sources; all subsets when those are no more."
        ),
        json_schema_extra=READS,
    )
    antithetic: bool = Field(
        True, title="in pairs", description="Every second order is the one before, reversed."
    )


@analysis(
    "attribution.shapley_sampling",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=ShapleyParams,
    tables=SAMPLED_TABLES,
    title="What is each one's fair share, over the orders in which they could come?",
    cite=(
        "Shapley 1953, A Value for n-Person Games",
        "Castro, Gómez & Tejada 2009, Polynomial Calculation of the Shapley Value, §3",
        "Mitchell et al. 2022, Sampling Permutations for Shapley Value Estimation, §4.1 (pairs)",
    ),
    caveats=(
        "Drawn at random: differences below a few standard errors mean nothing.",
        "Most of the texts read have about half of the sources taken away, which no one wrote.",
    ),
)
def shapley_sampling(ctx: Context) -> Iterator[Progress | Tables]:
    """Shapley values by sampling orders: what a source adds when it comes, on average.

    In each order the sources come one by one to a text with none of them; the contributions add up
    to value − baseline, so the residual is 0 whatever is drawn. A random order of all sources is a
    random order of those before a target, so one forward of each text serves all targets. Where
    all subsets are no more texts than the orders would be, all are read and the scores are exact.

    Standard errors are over the orders, or over the pairs.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    empty = yield from lively(emptied(work))
    count = len(work.sources)
    if count < 20 and 2**count <= ctx.params.permutations * max(1, count - 1) + 2:
        values = yield from lively(work.kept(all_subsets(count), "Taking all subsets away"))
        scores = np.stack([exact(v, p) for v, p in zip(values.T, work.applies, strict=True)])
        errors = 0 * scores
    else:
        scores, errors = yield from lively(_sampled(work, empty))
    note_undefined(work, empty[:, None] + 0 * scores, NOTHING_LEFT, "baseline")
    note_undefined(work, scores, NOTHING_LEFT)
    if not np.isnan(scores[work.applies]).any():
        note_undefined(work, errors, NO_ERROR, "standard_error")
    yield _tables(work, empty, scores, errors)


def _tables(work: Work, empty: Floats, scores: Floats, errors: Floats) -> Tables:
    return work.tables(scores, empty, spread=spread(work, scores, errors))


def exact(values: Floats, players: Bools) -> Floats:
    """Shapley values [S] of a game of the players, from the values [2^S] of all subsets.

    Values are in the order of ``all_subsets``; sources that are no players have NaN.
    """
    from scipy.special import gammaln

    count, own = len(players), int(players.sum())
    found = np.full(count, np.nan)
    bits = 1 << np.flatnonzero(players)
    inside = np.flatnonzero((np.arange(2**count) & ~int(bits.sum())) == 0)
    sizes = np.array([int(i).bit_count() for i in inside])
    for place in np.flatnonzero(players):
        without = (inside & (1 << place)) == 0
        size = sizes[without]
        weight = np.exp(gammaln(size + 1) + gammaln(own - size) - gammaln(own + 1))
        subsets = inside[without]
        found[place] = weight @ (values[subsets | (1 << place)] - values[subsets])
    return found


def orders(seed: int, count: int, first: int, last: int, *, antithetic: bool) -> Ints:
    """Orders number ``first`` to ``last`` − 1, [last − first, count]."""
    rows = []
    for number in range(first, last):
        drawn = order(seed, "shapley_sampling", number // 2 if antithetic else number, count)
        rows.append(drawn[::-1] if antithetic and number % 2 else drawn)
    return np.stack(rows)


def _sampled(work: Work, empty: Floats) -> Generator[Progress, None, tuple[Floats, Floats]]:
    """Scores and standard errors [n, S]."""
    params, count = work.ctx.params, len(work.sources)
    paired = params.antithetic
    total = params.permutations + (params.permutations % 2 if paired else 0)
    at_once = max(2, ROUND // max(1, count) // 2 * 2)
    # Sums over independent draws: of contributions, and of their squares.
    sums = np.zeros((2, *work.applies.shape))
    draws = 0
    for first in range(0, total, at_once):
        last = min(first + at_once, total)
        chosen = orders(params.seed, count, first, last, antithetic=paired)
        reading = work.kept(_prefixes(chosen), "Taking sources away in random orders")
        values = yield from staged(reading, first / total, (last - first) / total)
        found = _contributions(work, chosen, values.reshape(last - first, count - 1, -1), empty)
        if paired:
            found = found.reshape(-1, 2, *work.applies.shape).mean(1)
        sums += found.sum(0), (found**2).sum(0)
        draws += len(found)
        so_far = partial(_so_far, work, empty, sums.copy(), draws)
        yield Progress(last / total, f"{last:,} of {total:,} orders", so_far=so_far)
    return _moments(sums, draws)


def _so_far(work: Work, empty: Floats, sums: Floats, draws: int) -> Tables:
    return _tables(work, empty, *_moments(sums, draws))


def _moments(sums: Floats, draws: int) -> tuple[Floats, Floats]:
    mean = sums[0] / draws
    if draws < 2:
        return mean, np.full_like(mean, np.nan)
    spread_of = np.maximum(sums[1] / draws - mean**2, 0) / (draws - 1)
    return mean, np.sqrt(spread_of)


def _prefixes(chosen: Ints) -> Bools:
    """Coalitions of the first 1 … S − 1 sources of each order, [orders · (S − 1), S]."""
    rank = np.argsort(chosen, axis=1)
    steps = np.arange(1, chosen.shape[1])
    found: Bools = rank[:, None, :] < steps[None, :, None]
    return found.reshape(-1, chosen.shape[1])


def _contributions(work: Work, chosen: Ints, values: Floats, empty: Floats) -> Floats:
    """What each source added in each order, [orders, n, S]; values [orders, S − 1, n]."""
    some, _, n = values.shape
    first = np.broadcast_to(empty, (some, 1, n))
    last = np.broadcast_to(work.base, (some, 1, n))
    steps = np.diff(np.concatenate([first, values, last], 1), axis=1)
    found = np.empty((some, n, chosen.shape[1]))
    np.put_along_axis(found, np.repeat(chosen[:, None], n, 1), steps.transpose(0, 2, 1), 2)
    return found
