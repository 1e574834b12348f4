"""Hubs and aggregation checkpoints: what stands out between question and answer (our terms)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.flow.recurrences import Floats, Ints

Ranks = npt.NDArray[np.int64]
GATHERED = 3
"""Backbone edges that must enter a checkpoint."""


def hubs(throughput: Floats, start: int, end: int) -> Ranks:
    """Rank of every hub among tokens ``start`` to ``end``, 1 the largest; 0 for others.

    A hub's throughput is above both neighbours' and above the mean of these tokens.
    """
    ranks = np.zeros(len(throughput), np.int64)
    inside = throughput[start:end]
    if not len(inside):
        return ranks
    beside = np.concatenate(([-np.inf], inside, [-np.inf]))
    peak = (inside > beside[:-2]) & (inside > beside[2:]) & (inside > inside.mean())
    found = start + np.flatnonzero(peak)
    ranks[found[np.argsort(-throughput[found], kind="stable")]] = np.arange(1, len(found) + 1)
    return ranks


def checkpoints(entering: Ints, leaving: Ints, inflow: Floats, start: int, end: int) -> Ranks:
    """Rank of every aggregation checkpoint among tokens ``start`` to ``end``; 0 for others.

    A checkpoint gathers: at least ``GATHERED`` backbone edges enter it, and more than leave it.
    Most entering edges first, then the larger inflow.
    """
    ranks = np.zeros(len(inflow), np.int64)
    gathers = (entering >= GATHERED) & (entering > leaving)
    gathers[:start] = False
    gathers[end:] = False
    found = np.flatnonzero(gathers)
    order = np.lexsort((found, -inflow[found], -entering[found]))
    ranks[found[order]] = np.arange(1, len(found) + 1)
    return ranks
