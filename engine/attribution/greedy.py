"""EAGLE's greedy orders: which sources, put in one by one, bring the target forth soonest.

Chen et al. 2025, arXiv 2509.22496, §3: of a set S of sources the value is
``F(S) = λ₁ p(y | S) + λ₂ (1 − p(y | V∖S))``, what it brings alone (insight) and what is missed
without it (necessity).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ask = Generator[Bools, Floats, list[int]]
"""Yields sets [m, S], is sent their values F [m], and returns an order of the sources."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much of the exact search the fast one does; the names of the released code in brackets.

    Attributes:
        scope: candidates looked at in a step (``search_scope``).
        renew: every so many steps all candidates are looked at and sorted anew
            (``update_step``).
        pending: candidates at the end of that order among which the least needed one is looked
            for in the same step (``pending_samples``).
    """

    scope: int = 10
    renew: int = 5
    pending: int = 8


def exact(count: int) -> Ask:
    """Always put in the source that raises F most; of equal ones the first.

    Looks at ½ S² + ½ S sets.
    """
    inside = np.zeros(count, bool)
    order: list[int] = []
    while len(order) < count:
        left = np.flatnonzero(~inside)
        best = int(left[np.argmax((yield _with(inside, left)))])
        inside[best] = True
        order.append(best)
    return order


def fast(count: int, pace: Pace) -> Ask:
    """The released code's search from both ends of a sorted list of candidates."""
    inside = np.zeros(count, bool)
    outside = np.zeros(count, bool)
    first: list[int] = []
    last: list[int] = []
    queue = list(range(count))
    step = 0
    while queue:
        whole = step % pace.renew == 0
        looked = np.array(queue if whole else queue[: pace.scope])
        values = yield _with(inside, looked)
        if whole:
            queue = [int(s) for s in looked[np.argsort(-values, kind="stable")]]
            best = queue[0]
        else:
            best = int(looked[np.argmax(values)])
        queue.remove(best)
        inside[best] = True
        first.append(best)
        step += 1
        if not last:
            worst = queue[-1:]
        elif len(queue) > pace.pending:
            tail = np.array(queue[-pace.pending :])
            # What is kept when one more is left out at the end.
            values = yield ~_with(outside, tail)
            worst = [int(tail[np.argmax(values)])]
        else:
            worst = []
        for source in worst:
            queue.remove(source)
            outside[source] = True
            last.append(source)
    return first + last[::-1]


def _with(chosen: Bools, more: npt.NDArray[np.int64]) -> Bools:
    """The set with each of ``more`` in turn, [m, S]."""
    sets = np.repeat(chosen[None], len(more), 0)
    sets[np.arange(len(more)), more] = True
    return sets


def subsets(count: int) -> Bools:
    """All 2^S subsets, [2^S, S]."""
    found: Bools = ((np.arange(2**count)[:, None] >> np.arange(count)) & 1).astype(bool)
    return found


def best_by_size(sets: Bools, values: Floats) -> Floats:
    """The largest value among the sets of each size, 0 … S."""
    sizes = sets.sum(1)
    return np.array([values[sizes == size].max() for size in range(sets.shape[1] + 1)])
