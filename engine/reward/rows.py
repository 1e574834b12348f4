"""Per-token tables of a whole group: the common columns of every rollout, and its rows' values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.reward.scored import Scored
from engine.schema import PER_TOKEN, Column
from engine.tokenization import show

WHICH: Mapping[str, Column] = {
    "group": Column(pa.string(), "The log's name of the prompt.", "", "group"),
    "rollout": Column(pa.int64(), "Number of the rollout, from 0.", "", "rollout"),
}
"""Put before the values of each row."""


def token_table(
    scored: Scored,
    schema: pa.Schema,
    values: Mapping[str, npt.NDArray[Any]],
    per_rollout: Mapping[str, npt.NDArray[Any]] | None = None,
) -> pa.Table:
    """A per-token table of all rollouts of a group.

    Args:
        scored: the group.
        schema: of the table: common columns, those of ``WHICH``, then the values.
        values: by column, [N] one per row of the group; NaN is null, 1 and 0 are true and false.
        per_rollout: by column, [G], given to all tokens of a rollout, the prompt's too.
    """
    lengths = [len(trace) for trace in scored.traces]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    places = starts[scored.rollout] + scored.position
    columns: dict[str, Any] = {name: [] for name in PER_TOKEN}
    for trace in scored.traces:
        for name, one in _common(trace).items():
            columns[name].extend(one)
    total = sum(lengths)
    columns["group"] = [scored.name] * total
    columns["rollout"] = scored.first + np.repeat(np.arange(len(lengths)), lengths)
    for name, given in values.items():
        columns[name] = _spread(given, places, total, schema.field(name).type)
    for name, given in (per_rollout or {}).items():
        everywhere = np.arange(total)
        columns[name] = _spread(np.repeat(given, lengths), everywhere, total, pa.float64())
    return pa.table({name: _array(columns[name], schema.field(name).type) for name in schema.names})


def _common(trace: Any) -> dict[str, Any]:
    n = len(trace)
    special = set(trace.special)
    return {
        "position": range(n),
        "token_id": trace.ids,
        "token": [show(piece) for piece in trace.pieces],
        "token_bytes": trace.pieces,
        "special": [p in special for p in range(n)],
        "start_byte": [a for a, _ in trace.offsets],
        "end_byte": [b for _, b in trace.offsets],
        "role": trace.roles,
        "segment": trace.segments,
        "ids_origin": [trace.ids_origin] * n,
    }


def _spread(
    given: npt.NDArray[Any], places: npt.NDArray[np.int64], total: int, kind: pa.DataType
) -> pa.Array:
    """Values of rows put at their places, null elsewhere and where they are NaN."""
    full = np.full(total, np.nan)
    full[places] = given
    missing = np.isnan(full)
    if pa.types.is_boolean(kind):
        return pa.array(full == 1, kind, mask=missing)
    return pa.array(full, kind, mask=missing)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def or_none(value: float | np.floating[Any] | None) -> float | None:
    """A number for a table: None where it is missing or not finite."""
    return float(value) if value is not None and np.isfinite(value) else None
