"""Which per-token values can be shown as colour, and how: map, range and labels of the legend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.render.text import number

Map = Literal["sequential", "diverging", "buckets"]
Values = npt.NDArray[np.float32]

RANK_EDGES = (1, 10, 100, 1000)


@dataclass(frozen=True, slots=True)
class Signal:
    """One coloured value.

    Attributes:
        name: column it is read from (``probability`` is exp of ``logprob``).
        title: what a person reads.
        unit: of the numbers in the legend.
        doc: one-line definition.
        map: colour map.
        low: value drawn as the page's background (the ordinary).
        high: value drawn in the strongest colour; may be the smaller one.
        labels: texts at both ends of the legend, or of every bucket.
        edges: upper edges of the buckets.
        whole: counts and ranks: written without decimals.
    """

    name: str
    title: str
    unit: str
    doc: str
    map: Map
    low: float
    high: float
    labels: tuple[str, ...]
    edges: tuple[float, ...] = ()
    whole: bool = False

    def json(self) -> dict[str, Any]:
        """As the strip's JavaScript reads it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Look:
    """How a known column is drawn: ``ordinary`` says which end of its range is the background."""

    ordinary: Literal["small", "large", "zero"] = "small"
    low: float | None = None
    high: float | None = None
    least: float = 0.0
    most: float = math.inf


_LOOKS: dict[str, _Look] = {
    "surprisal": _Look(low=0, least=6.0),
    "probability": _Look("large", low=0, high=1),
    "entropy": _Look(low=0, least=3.0),
    "rank": _Look(),
    "margin": _Look("large", low=0, least=1.0, most=6.0),
    "varentropy": _Look(low=0, least=3.0),
    "max_prob": _Look("large", low=0, high=1),
    "sum_p2": _Look("large", low=0, high=1),
    "self_certainty": _Look("large"),
    "value": _Look("large", low=0, high=1),
    "contrast": _Look("large", low=0, high=1),
}
_SHARE = _Look(low=0, high=1)
_PROBABILITY = "The chance the model gave to this token."


def values_of(tokens: pa.Table, name: str) -> Values:
    """A column as float32, null as NaN; ``probability`` comes from ``logprob``."""
    derived = name == "probability" and name not in tokens.column_names
    column = tokens["logprob" if derived else name].combine_chunks()
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = column.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return np.exp(values) if derived else values


def signals_of(tokens: pa.Table, columns: Mapping[str, Any] | None = None) -> list[Signal]:
    """The signals of a ``tokens`` table, best known first.

    Args:
        tokens: per-token table with ``segment``.
        columns: declared columns (``label``, ``unit``, ``doc``), from the analysis.
    """
    declared = columns or {}
    known = [n for n in _LOOKS if n in tokens.column_names or _derived(n, tokens)]
    others = [
        n
        for n in declared
        if n in tokens.column_names and n not in (*known, *_QUIET) and _numeric(tokens[n].type)
    ]
    answered = pc.not_equal(tokens["segment"], "prompt").to_numpy()
    return [_signal(n, tokens, answered, declared.get(n)) for n in (*known, *others)]


# In the table, but a colour would only repeat another one or say nothing.
_QUIET = {
    "logprob", "ties", "position", "token_id", "token", "token_bytes", "start_byte", "end_byte",
    "role", "segment", "ids_origin", "special", "rollout", "group", "fall_low", "fall_high",
}  # fmt: skip


def _derived(name: str, tokens: pa.Table) -> bool:
    return name == "probability" and "logprob" in tokens.column_names


def _numeric(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _signal(name: str, tokens: pa.Table, answered: npt.NDArray[np.bool_], column: Any) -> Signal:
    label = getattr(column, "label", "")
    title = label or name.replace("_", " ")
    unit = getattr(column, "unit", "")
    doc = _PROBABILITY if name == "probability" else getattr(column, "doc", "")
    is_share = unit == "probability"
    if is_share:
        unit = ""
    values = values_of(tokens, name)
    if name == "rank":
        labels = ("1", "2–10", "11–100", "101–1,000", "over 1,000")
        edges = tuple(float(e) for e in RANK_EDGES)
        return Signal(name, title, "", doc, "buckets", 1, 1000, labels, edges, True)
    kind = tokens["logprob" if name not in tokens.column_names else name].type
    whole = bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))
    if pa.types.is_boolean(kind):
        return Signal(name, title, "", doc, "sequential", 0, 1, ("no", "yes"), (), whole)
    shown = values[answered] if answered.any() else values
    shown = shown[np.isfinite(shown)]
    look = _LOOKS.get(name) or (_SHARE if is_share else _Look())
    signed = bool(np.nanmin(values, initial=0, where=np.isfinite(values)) < 0)
    if look.low is None and look.ordinary == "small" and signed:
        look = _Look("zero")
    if look.ordinary == "zero":
        top = _nice(float(np.abs(shown).max()) if shown.size else 1.0)
        ends = (f"−{_end(top)}", _end(top))
        return Signal(name, title, unit, doc, "diverging", -top, top, ends, (), whole)
    bottom, top = _range(look, shown)
    over = bool(np.nanmax(values, initial=-np.inf) > top * 1.0001)
    small, large = _end(bottom), _end(top) + (" or more" if over else "")
    if look.ordinary == "large":
        return Signal(name, title, unit, doc, "sequential", top, bottom, (large, small), (), whole)
    return Signal(name, title, unit, doc, "sequential", bottom, top, (small, large), (), whole)


def _range(look: _Look, shown: Values) -> tuple[float, float]:
    """Smallest and largest value of the colour scale."""
    if not shown.size:
        return look.low or 0.0, look.high or max(look.least, 1.0)
    largest = float(shown.max())
    if look.low is None:
        low = float(math.floor(float(shown.min())))
        return low, max(float(math.ceil(largest)), low + 1)
    if look.high is not None:
        return look.low, look.high
    return look.low, min(max(_nice(largest), look.least), look.most)


def _nice(value: float) -> float:
    """The next round number above: 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if m * power >= value * 0.99999)


def _end(value: float) -> str:
    return number(int(value) if float(value).is_integer() and abs(value) < 1e6 else value, digits=2)
