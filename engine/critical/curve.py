"""Pure parts of value curves: points, exact intervals, the scan, the order of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
"""Of the intervals."""

HOPE = 3 / 64
"""A share of right continuations above which the scan takes a candidate back."""


@dataclass(frozen=True, slots=True)
class Point:
    """What is known after one prefix; ``samples`` 0 means that the value is certain."""

    samples: int
    correct: int
    cut: int
    value: float
    low: float
    high: float

    @classmethod
    def counted(cls, samples: int, correct: int, cut: int, *, exact: bool = False) -> Point:
        """The share of right continuations with its interval; ``exact`` when one says it all."""
        share = correct / samples
        low, high = (share, share) if exact else map(float, clopper_pearson(correct, samples))
        return cls(samples, correct, cut, share, low, high)

    @classmethod
    def certain(cls, right: bool) -> Point:
        """After the end of the response nothing is left to chance."""
        return cls(0, 0, 0, float(right), float(right), float(right))


def clopper_pearson(
    correct: int | npt.ArrayLike, samples: int | npt.ArrayLike, level: float = LEVEL
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Exact interval of a share, valid for any number of samples.

    Args:
        correct: successes, c.
        samples: of how many, n ≥ 1.
        level: that the interval holds the truth at least as often as this.

    Returns:
        Low and high ends: quantiles of Beta(c, n − c + 1) and Beta(c + 1, n − c); 0 where c = 0,
        1 where c = n.
    """
    from scipy.special import betaincinv

    c, n = np.asarray(correct, float), np.asarray(samples, float)
    tail = (1 - level) / 2
    low = np.where(c > 0, betaincinv(np.maximum(c, 1), n - c + 1, tail), 0.0)
    high = np.where(c < n, betaincinv(c + 1, np.maximum(n - c, 1), 1 - tail), 1.0)
    return low, high


def critical_position(values: Mapping[int, float]) -> int | None:
    """The source's scan over values by position; None when every candidate was taken back."""
    candidate: int | None = None
    for position in sorted(values):
        if candidate is None:
            candidate = position if values[position] == 0 else None
        elif values[position] > HOPE:
            candidate = None
    return candidate


def places(first: int, end: int, every: int) -> list[int]:
    """Every k-th position from ``first`` on, and the last before ``end``.

    The last prefix is what the response came to: it is never left out.
    """
    found = list(range(first, end, every))
    return found if not found or found[-1] == end - 1 else [*found, end - 1]


def coarse_to_fine(places: Sequence[int]) -> list[int]:
    """The places in an order in which half the work already shows the whole curve."""
    stride = 1 << max(len(places) - 1, 0).bit_length()
    order: dict[int, None] = {}
    while stride:
        order.update(dict.fromkeys(places[::stride]))
        stride //= 2
    return list(order)
