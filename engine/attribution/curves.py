"""Insertion and deletion curves of scores: orders, the texts along them, areas, top shares.

Petsiuk, Das and Saenko 2018, RISE, arXiv 1806.07421, §4 (insertion and deletion); DeYoung et al.
2020, ERASER, §4 (sufficiency and comprehensiveness over the top 1, 5, 10, 20 and 50 % of tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Top shares of ERASER; at least one source is in each."""


def area(values: Floats, shares: Floats | None = None) -> float:
    """Area under a curve by trapezoids, over shares from 0 to 1 (evenly spaced by default)."""
    places = np.linspace(0, 1, len(values)) if shares is None else shares
    return float(np.trapezoid(values, places))


def ranking(scores: Floats, ties: Floats) -> Ints:
    """Sources by falling score; equal scores in the order of ``ties``, so that no place gains.

    Args:
        scores: [S]; missing ones (NaN) count as 0.
        ties: [S] random numbers.
    """
    return np.lexsort((ties, -np.nan_to_num(scores)))


@dataclass(frozen=True)
class Grid:
    """Numbers of sources at which curves are read, for S of them.

    Attributes:
        counts: all of them, ascending, from 0 to S.
        steps: where in ``counts`` the points of the curves are.
        tops: where in ``counts`` ERASER's top shares are.
    """

    counts: Ints
    steps: Ints
    tops: Ints

    @classmethod
    def of(cls, sources: int, steps: int) -> Grid:
        """At most ``steps`` + 1 points, evenly spaced, and the top shares."""
        even = np.unique(np.round(np.linspace(0, sources, min(steps, sources) + 1)).astype(int))
        # Rounded first: 0.1 · 30 is a little more than 3.
        tops = [max(1, int(np.ceil(round(share * sources, 9)))) for share in SHARES]
        counts = np.union1d(even, tops)
        return cls(counts, np.searchsorted(counts, even), np.searchsorted(counts, tops))

    @property
    def shares(self) -> Floats:
        """Of the points of the curves: shares of the sources."""
        found: Floats = self.counts[self.steps] / self.counts[-1]
        return found

    def top(self, order: Ints) -> Bools:
        """Sets [points, S] of the first sources of an order."""
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        found: Bools = place[None] < self.counts[:, None]
        return found


@dataclass(frozen=True)
class Curves:
    """Values along one order: ``kept`` with only its first sources, ``without`` with the others.

    Both [points] of the grid; ``kept[-1]`` is the text as it is, ``without[-1]`` the empty one.
    """

    grid: Grid
    kept: Floats
    without: Floats

    @property
    def insertion(self) -> float:
        """Area under the values when sources come in, highest score first."""
        return area(self.kept[self.grid.steps], self.grid.shares)

    @property
    def deletion(self) -> float:
        """Area under the values when sources are taken out, highest score first."""
        return area(self.without[self.grid.steps], self.grid.shares)

    @property
    def sufficiency(self) -> float:
        """Mean over the top shares of value − value with only them; low is good."""
        return float(np.mean(self.kept[-1] - self.kept[self.grid.tops]))

    @property
    def comprehensiveness(self) -> float:
        """Mean over the top shares of value − value without them; high is good."""
        return float(np.mean(self.kept[-1] - self.without[self.grid.tops]))
