"""Axes of the pictures: which range they show and the few values they label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.render.signals import Signal
from engine.render.text import number

Scale = Literal["linear", "log", "sqrt"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a curve or an axis measures, where it is none of the strip's signals.

    Attributes:
        title: what a person reads.
        unit: of the numbers, empty for none.
        low: lower end of the axis, None to fit the values.
        high: upper end, None to fit.
        scale: ``log`` for values over many powers of ten, ``sqrt`` for values crowded at 0.
        whole: the values are counts.
    """

    title: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    scale: Scale = "linear"
    whole: bool = False

    @classmethod
    def of(cls, signal: Signal | Quantity) -> Quantity:
        """A strip's signal as a quantity: its colour range is shown whole, ranks as powers."""
        if isinstance(signal, Quantity):
            return signal
        if signal.map == "buckets":
            return cls(signal.title, signal.unit, 1.0, None, "log", whole=True)
        low, high = sorted((signal.low, signal.high))
        return cls(signal.title, signal.unit, low, high, whole=signal.whole)


@dataclass(frozen=True, slots=True)
class Axis:
    """Ends of an axis and its few labelled values."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    scale: Scale = "linear"

    def json(self) -> dict[str, Any]:
        """As the JavaScript reads it."""
        return {
            "low": self.low,
            "high": self.high,
            "scale": self.scale,
            "ticks": [list(t) for t in self.ticks],
        }


def axis(values: npt.NDArray[np.float32], quantity: Quantity) -> Axis:
    """An axis that holds every finite value and the quantity's own range, with 2 to 5 ticks."""
    known = values[np.isfinite(values)].astype(np.float64)
    least = float(known.min()) if known.size else 0.0
    most = float(known.max()) if known.size else 1.0
    if quantity.scale == "log":
        low = 10.0 ** math.floor(math.log10(max(least, 1e-30)) + 1e-9)
        low = low if quantity.low is None else min(low, quantity.low)
        powers = max(1, math.ceil(math.log10(max(most, quantity.high or 0, low * 10) / low) - 1e-9))
        marks = [low * 10.0**k for k in range(0, powers + 1, math.ceil(powers / 4))]
        return Axis(low, low * 10.0**powers, tuple(zip(marks, _labels(marks), strict=True)), "log")
    # Rounding may leave a value a hair outside of what is possible: no reason for another step.
    hair = 1e-3 * (most - least)
    low, high = least, most
    if quantity.low is not None and least >= quantity.low - hair:
        low = quantity.low
    if quantity.high is not None and most <= quantity.high + hair:
        high = quantity.high
    if quantity.low is None and 0 <= low <= high / 2:
        low = 0.0
    if high <= low:
        low, high = (0.0, low or 1.0) if low >= 0 else (low, 0.0)
    step: float = _step((high - low) / 4)
    if high != quantity.high:
        high = math.ceil(high / step - 1e-9) * step
    if low != quantity.low:
        low = math.floor(low / step + 1e-9) * step
    if quantity.scale == "sqrt" and low == 0:
        marks = _spread(high)
    else:
        first, final = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        marks = [k * step for k in range(first, final + 1)]
    return Axis(low, high, tuple(zip(marks, _labels(marks), strict=True)), quantity.scale)


def _step(least: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def _spread(high: float) -> list[float]:
    """Round values from 0 up that stand apart on a square-root scale."""
    power = math.floor(math.log10(high))
    round_ones = [m * 10.0**k for k in range(power, power - 4, -1) for m in (5, 2, 1)]
    kept = [high]
    for value in round_ones:
        if 0.16 < math.sqrt(value / high) < math.sqrt(kept[-1] / high) - 0.16:
            kept.append(value)
    return [0.0, *reversed(kept)]


def _labels(values: list[float]) -> list[str]:
    """Texts with as many decimals as tell the values apart, the same for all on an even scale."""
    gaps = [b - a for a, b in pairwise(values)]
    largest = max(map(abs, values), default=0.0)
    if gaps and max(gaps) < 1.001 * min(gaps) and largest < 1e6 and min(gaps) > 1e-4:
        places = max(0, -math.floor(math.log10(gaps[0]) + 1e-9))
        return [f"{v:,.{places}f}".replace("-", "−") for v in values]
    texts: list[str] = []
    for digits in range(1, 7):
        texts = [number(int(v) if v.is_integer() and v < 1e6 else v, digits=digits) for v in values]
        if len(set(texts)) == len(texts):
            break
    return texts
