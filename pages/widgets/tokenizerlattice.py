"""All tokens that could take part in spelling a short string, as a lattice."""

from __future__ import annotations

import html

import plotly.graph_objects as go
import pyarrow as pa
import streamlit as st

from engine.render import palette
from engine.render.text import plain
from pages.widgets.plots import plain as plainly
from pages.widgets.plots import theme_now

MOST_BYTES = 48
MOST_TOKENS = 240


def draw(lattice: pa.Table) -> None:
    """Each token as a bar over the bytes it stands for; the tokenizer's own are strong."""
    rows = lattice.to_pylist()
    if not rows or len(rows) > MOST_TOKENS or max(r["end_byte"] for r in rows) > MOST_BYTES:
        return
    theme = theme_now()
    # Long tokens on top; each takes the first lane that is free where it lies.
    lanes: list[list[tuple[int, int]]] = []
    shapes, labels = [], []
    for row in sorted(rows, key=lambda r: (not r["canonical"], r["start_byte"] - r["end_byte"])):
        start, end = row["start_byte"], row["end_byte"]
        lane = next(
            (i for i, used in enumerate(lanes) if all(b <= start or a >= end for a, b in used)),
            len(lanes),
        )
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append((start, end))
        own = bool(row["canonical"])
        shapes.append(
            {
                "type": "rect",
                "x0": start + 0.04,
                "x1": end - 0.04,
                "y0": -lane - 0.42,
                "y1": -lane + 0.42,
                "line": {"width": 1, "color": (palette.ACCENT if own else palette.LINE)[theme]},
                "fillcolor": palette.sequential(theme)[14] if own else "rgba(0,0,0,0)",
                "layer": "below",
            }
        )
        labels.append(
            {
                "x": (start + end) / 2,
                "y": -lane,
                # Plotly reads markup in its labels, so none is left.
                "text": html.escape(plain(row["token"])[: 4 * (end - start)], quote=False),
                "showarrow": False,
                "font": {"size": 11, "family": "monospace"},
            }
        )
    # All at once: added one by one each would be checked with all before it.
    figure = go.Figure(layout={"shapes": shapes, "annotations": labels})
    plainly(figure, "byte of the string", "")
    figure.update_xaxes(range=[-0.2, max(r["end_byte"] for r in rows) + 0.2], dtick=1)
    figure.update_yaxes(visible=False, range=[-len(lanes) + 0.4, 0.6])
    figure.update_layout(height=60 + 24 * len(lanes))
    st.text("Every token that could take part; filled are those the tokenizer takes")
    st.plotly_chart(figure, key="tokenizer-lattice", config={"displayModeBar": False})
