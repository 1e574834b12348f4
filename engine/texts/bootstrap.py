"""95 % intervals of means by resampling: over traces where there are several, else over tokens.

Tokens of one trace are not independent of each other; whole traces are drawn instead (the cluster
bootstrap: Cameron, Gelbach and Miller 2008, Bootstrap-Based Improvements for Inference with
Clustered Errors; percentile intervals: Efron and Tibshirani 1993, An Introduction to the Bootstrap,
chapter 13). With few traces such an interval is too narrow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEVELS = (0.025, 0.975)
_CELLS = 4_000_000
"""Numbers held at once in one step."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def over_traces(
    values: Floats, group: Ints, trace: Ints, groups: int, *, resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Interval of each group's mean when the traces are drawn anew, with replacement.

    Args:
        values: one per token, [N].
        group: of each token, 0 to ``groups`` − 1, [N].
        trace: of each token, from 0, [N].
        groups: how many groups there are.
        resamples: how often the traces are drawn.
        seed: the same seed gives the same interval.

    Returns:
        Lower and upper ends, [groups]; NaN for a group found in fewer than two traces. Draws
        without any token of a group do not count for it.
    """
    traces = int(trace.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(traces, np.full(traces, 1 / traces), size=resamples).astype(float)
    low, high = np.full(groups, np.nan), np.full(groups, np.nan)
    order = np.argsort(group, kind="stable")
    values, group, trace = values[order], group[order], trace[order]
    step = max(1, _CELLS // max(traces, resamples))
    for start in range(0, groups, step):
        width = min(step, groups - start)
        part = slice(*np.searchsorted(group, (start, start + width)))
        cell = trace[part] * width + (group[part] - start)
        shape = (traces, width)
        sums = np.bincount(cell, values[part], traces * width).reshape(shape)
        counts = np.bincount(cell, minlength=traces * width).reshape(shape)
        number = drawn @ counts
        with np.errstate(invalid="ignore"):
            means = np.where(number > 0, (drawn @ sums) / number, np.nan)
        enough = (counts > 0).sum(axis=0) >= 2
        if enough.any():
            ends = np.nanquantile(means[:, enough], LEVELS, axis=0)
            low[start : start + width][enough] = ends[0]
            high[start : start + width][enough] = ends[1]
    return low, high


def over_tokens(
    values: Floats, group: Ints, groups: int, *, resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Interval of each group's mean as if its tokens were independent draws.

    Returns:
        Lower and upper ends, [groups]; NaN for a group of fewer than two tokens.
    """
    low, high = np.full(groups, np.nan), np.full(groups, np.nan)
    order = np.lexsort((values, group))
    values, group = values[order], group[order]
    cuts = np.searchsorted(group, np.arange(groups + 1))
    for one in range(groups):
        inside = values[cuts[one] : cuts[one + 1]]
        if inside.size < 2:
            continue
        # A stream of its own for each group: none depends on which others there are.
        rng = np.random.default_rng([seed, one])
        step = max(1, _CELLS // inside.size)
        means = [
            inside[rng.integers(0, inside.size, (min(step, resamples - done), inside.size))].mean(1)
            for done in range(0, resamples, step)
        ]
        low[one], high[one] = np.quantile(np.concatenate(means), LEVELS)
    return low, high
