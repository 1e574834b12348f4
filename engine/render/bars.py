"""Means of groups as horizontal bars with their intervals: what the component ``bars`` draws."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from engine.render.axes import Quantity, axis
from engine.render.strip import asset
from engine.render.text import markup, number
from engine.render.views import views_css

BARS_HTML = (
    '<div class="ts-view ts-bars"><div class="head"><span class="name"></span>'
    '<span class="aside"></span></div><table></table>'
    '<div class="tip" role="tooltip" hidden></div></div>'
)
LONGEST = 24
"""Rows drawn; the table below has all."""


def bars_data(
    groups: pa.Table,
    quantity: Quantity,
    *,
    title: str,
    note: str = "",
    named: str = "group",
    longest: int = LONGEST,
) -> dict[str, Any]:
    """The table ``groups`` of the analysis ``grouped`` as bars.

    Args:
        groups: one row per group, in order; of more than ``longest`` rows the first are drawn.
        quantity: what the mean is of.
        title: heading.
        note: quieter words after the heading.
        named: column that names the groups.
        longest: most rows.
    """
    rows = groups.slice(0, longest).to_pylist()
    ends = [row[name] for row in rows for name in ("mean", "low", "high") if row[name] is not None]
    whole = Quantity(quantity.title, quantity.unit, low=min(0.0, min(ends, default=0.0)))
    data = {
        "title": title,
        "note": note,
        "more": max(0, groups.num_rows - longest),
        "axis": axis(np.array(ends, np.float32), whole).json(),
        "rows": [_row(row, quantity, named) for row in rows],
    }
    return {**data, "signature": hashlib.sha256(orjson.dumps(data)).hexdigest()[:24]}


def _row(row: Mapping[str, Any], quantity: Quantity, named: str) -> dict[str, Any]:
    def value(name: str) -> str:
        shown = number(row[name])
        return f"{shown} {quantity.unit}" if quantity.unit and shown != "–" else shown

    interval = "–"
    if row["low"] is not None:
        unit = f" {quantity.unit}" if quantity.unit else ""
        interval = f"{number(row['low'])} to {number(row['high'])}{unit}"
    facts = {
        "mean": value("mean"),
        "95 % interval": interval,
        "median": value("median"),
        "middle half": f"{number(row['q25'])} to {number(row['q75'])}",
        "tokens": f"{row['count']:,} ({row['share']:.0%})",
    }
    if row["sum_share"] is not None:
        facts["share of the sum"] = f"{row['sum_share']:.0%}"
    if row["traces"] > 1:
        facts["texts"] = f"{row['traces']:,}"
    piece = row["token_bytes"]
    return {
        # A token is drawn with its marks, a name as it is.
        "piece": None if piece is None else markup(piece),
        "name": row[named],
        "detail": row["detail"] if named == "group" else "",
        "mean": row["mean"],
        "low": row["low"],
        "high": row["high"],
        "shown": number(row["mean"]),
        "count": f"{row['count']:,}",
        "facts": [list(fact) for fact in facts.items()],
    }


@cache
def bars_css() -> str:
    """Style of the bars; colours are those of curve and scatter."""
    return views_css() + "\n" + asset("bars.css")
