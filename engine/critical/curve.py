"""Pure parts of value curves: points, exact intervals, early stop, differences, the scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

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
    second: float | None = None

    @classmethod
    def counted(
        cls,
        samples: int,
        correct: int,
        cut: int,
        *,
        exact: bool = False,
        stopped: bool = False,
        second: float | None = None,
    ) -> Point:
        """The share of right continuations with its interval.

        Args:
            samples: how many were looked at.
            correct: of them, right.
            cut: of them, cut off.
            exact: one says it all.
            stopped: sampling ended with the last of ``correct`` ≥ 2 right ones, not by number.
                The unbiased value is then (c − 1) / (n − 1) (Girshick, Mosteller and Savage 1946);
                the interval of c among n holds all the same.
            second: share that a second checker accepts.
        """
        share = (correct - 1) / (samples - 1) if stopped else correct / samples
        low, high = (share, share) if exact else map(float, clopper_pearson(correct, samples))
        return cls(samples, correct, cut, share, low, high, second)

    @classmethod
    def certain(cls, right: bool, second: bool | None = None) -> Point:
        """After the end of the response nothing is left to chance."""
        value = float(right)
        return cls(0, 0, 0, value, value, value, None if second is None else float(second))


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


def difference(before: Point, after: Point) -> tuple[float, float]:
    """Interval of ``before.value − after.value``, from the two intervals.

    Square-and-add of the distances to the limits (Newcombe 1998, method 10, with exact limits in
    place of Wilson's, which makes it wider).
    """
    fall = before.value - after.value
    down = sqrt((before.value - before.low) ** 2 + (after.high - after.value) ** 2)
    up = sqrt((before.high - before.value) ** 2 + (after.value - after.low) ** 2)
    return max(-1.0, fall - down), min(1.0, fall + up)


def stopping_index(right: Sequence[bool], stop: int) -> int | None:
    """How many samples, in the order of their numbers, hold the first ``stop`` right ones."""
    seen = 0
    for number, verdict in enumerate(right, start=1):
        seen += verdict
        if seen == stop:
            return number
    return None


def decides(stop: int | None, n: int) -> bool:
    """Whether the scan's verdicts with early stop are those of all ``n`` samples."""
    return stop is None or stop > HOPE * n


def hopeful(point: Point, n: int) -> bool:
    """Whether the scan takes a candidate back at this prefix.

    Counts decide, not the value: with early stop the value of a few right ones is an estimate.
    """
    return point.value > HOPE if point.samples == 0 else point.correct > HOPE * n


def critical_position(curve: Mapping[int, Point], n: int) -> int | None:
    """The source's scan; None when every candidate was taken back.

    From left to right the first prefix that no continuation saves is the candidate, and it is
    taken back at a later prefix with more than 3 right ones of 64.

    Args:
        curve: points by position.
        n: samples of a prefix that was not stopped early.
    """
    candidate: int | None = None
    for position in sorted(curve):
        point = curve[position]
        if candidate is None:
            candidate = position if point.correct == 0 and point.value == 0 else None
        elif hopeful(point, n):
            candidate = None
    return candidate
