"""A heatmap of tokens against tokens as data: rows are targets, columns are sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.render import palette
from engine.render.flowgraph import shortened
from engine.render.strip import asset, digest
from engine.render.text import number
from engine.render.views import views_css

LABEL = 14
"""Characters of a token beside its row or above its column; hovering shows the whole."""

MOST_ROWS, MOST_COLUMNS = 64, 2_000

HEATMAP_HTML = (
    '<div class="ts-view ts-heat"><div class="head"><span class="name"></span>'
    '<span class="aside"></span><button class="fit" type="button" hidden></button></div>'
    '<div class="grid" role="application" aria-roledescription="heatmap" tabindex="0">'
    '<canvas class="rows" aria-hidden="true"></canvas>'
    '<div class="scroller" tabindex="-1"><div class="sheet"><canvas aria-hidden="true"></canvas>'
    "</div></div></div>"
    '<div class="legend"></div><div class="said" role="status"></div>'
    '<div class="tip" role="tooltip" hidden></div></div>'
)


@dataclass(frozen=True, slots=True)
class Label:
    """A row or a column.

    Attributes:
        piece: its token as ``engine.render.words.pieces`` writes it, or a name.
        position: of the token in the text; None for what is no single token.
    """

    piece: str
    position: int | None = None


def heatmap_payload(
    values: npt.ArrayLike,
    rows: Sequence[Label],
    columns: Sequence[Label],
    *,
    text: str,
    channel: str = "tokens",
    title: str,
    note: str = "",
    name: str = "score",
    unit: str = "",
    row_name: str = "target",
    column_name: str = "source",
    limit: float | None = None,
) -> dict[str, Any]:
    """Values of rows × columns as the component ``heatmap`` draws them.

    Args:
        values: [rows, columns]; NaN or None where there is no value: hatched.
        rows: at most 64, from top to bottom.
        columns: at most 2,000, from left to right.
        text: name of the text the positions belong to (``trace.digest[:24]``).
        channel: name shared with the strip of the same text.
        title: heading.
        note: quieter words after it.
        name: what a value is.
        unit: of the values.
        row_name: what a row is, such as the target of an attribution.
        column_name: what a column is, such as its source.
        limit: value (by size) of the strongest colour; the largest one without it.

    Raises:
        ValueError: the shape is another than that of the labels, or too large.
    """
    matrix = np.array(values, np.float64)
    if matrix.shape != (len(rows), len(columns)) or not matrix.size:
        raise ValueError(f"values are {matrix.shape}, labels {(len(rows), len(columns))}")
    if len(rows) > MOST_ROWS or len(columns) > MOST_COLUMNS:
        raise ValueError(f"at most {MOST_ROWS} rows and {MOST_COLUMNS:,} columns are drawn")
    known = matrix[np.isfinite(matrix)]
    signed = bool((known < 0).any())
    largest = float(np.abs(known).max(initial=0.0))
    bound = limit if limit is not None and limit > 0 else largest or 1.0
    ends = [number(-bound), "0", number(bound)] if signed else ["0", number(bound)]
    if largest > bound:
        ends[-1] += " or more"
    cells = pa.table({"value": pa.array(matrix.astype(np.float32).ravel())})
    heads = pa.table(
        {
            "piece": pa.array([c.piece for c in columns], pa.string()),
            "position": pa.array([_place(c) for c in columns], pa.int32()),
        }
    )
    rest = {
        "channel": channel,
        "text": text,
        "offset": 0,
        "title": title,
        "note": note,
        "name": name,
        "unit": unit,
        "names": [row_name, column_name],
        "limit": bound,
        "signed": signed,
        "ends": ends,
        "missing": bool(np.isnan(matrix).any()),
        "rows": [[r.piece, shortened(r.piece, LABEL), _place(r)] for r in rows],
        "labels": [shortened(c.piece, LABEL) for c in columns],
    }
    signature = digest(heads, rest, digest(cells))
    return {**rest, "signature": signature, "columns": heads, "cells": cells, "looks": _looks()}


@cache
def heatmap_css() -> str:
    """Style of the heatmap; colours are those of curve and scatter."""
    return views_css() + "\n" + asset("heatmap.css")


@cache
def heatmap_js() -> str:
    """The script with all it needs."""
    folder = Path(__file__).parent
    own = ((folder / name).read_text(encoding="utf-8") for name in ("heatpaint.js", "heatmap.js"))
    return "\n".join((asset("linked.js"), *own))


def _place(label: Label) -> int:
    return -1 if label.position is None else label.position


@cache
def _looks() -> dict[str, dict[str, Any]]:
    return {
        theme: {
            "text": palette.TEXT[theme],
            "background": palette.BACKGROUND[theme],
            "muted": palette.MUTED[theme],
            "line": palette.LINE[theme],
            "accent": palette.ACCENT[theme],
            "sequential": palette.sequential(theme),
            "diverging": palette.diverging(theme),
        }
        for theme in palette.THEMES
    }
