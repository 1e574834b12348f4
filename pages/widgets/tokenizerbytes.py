"""What comes next, byte by byte: exactly, as the tokens suggest it, and after the two repairs."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from engine import Result
from engine.render import palette
from engine.render.text import plain
from pages.widgets.plots import plain as plainly
from pages.widgets.plots import theme_now

MOST = 6
"""Outcomes shown for each way of asking: its most probable ones."""

SMALL = 5e-4
"""Below it nothing could be seen of a bar."""

REPAIRS = {"healing": "diamond", "alignment": "circle"}


def outcomes(found: Result) -> list[dict[str, Any]]:
    """The outcomes that any way of asking finds probable, the exact one's order first."""
    rows = found.table("bytes").to_pylist()
    for row, repaired in zip(rows, found.table("healing").to_pylist(), strict=True):
        row.update({name: repaired[name] for name in REPAIRS})
    shown: set[int] = set()
    for name in ("probability", "token_view", *REPAIRS):
        best = sorted(range(len(rows)), key=lambda n: -(rows[n][name] or 0))[:MOST]
        shown |= {n for n in best if (rows[n][name] or 0) >= SMALL}
    order = sorted(shown, key=lambda n: (-rows[n]["probability"], -rows[n]["token_view"]))
    return [{**rows[n], "label": _label(rows[n])} for n in order]


def draw(found: Result) -> None:
    """Bars for the exact and the token view; the repairs as marks."""
    rows = outcomes(found)
    theme = theme_now()
    # Plotly reads markup in its labels, so none is left.
    labels = [html.escape(row["label"], quote=False) for row in rows]
    figure = go.Figure()
    for name, title, color in (
        ("probability", "exact", palette.ACCENT[theme]),
        ("token_view", "as the prompt's tokens suggest", palette.MUTED[theme]),
    ):
        figure.add_bar(
            y=labels, x=[row[name] for row in rows], name=title, orientation="h",
            marker={"color": color}, hoverinfo="x+y+name",
        )  # fmt: skip
    for name, symbol in REPAIRS.items():
        if rows and rows[0][name] is not None:
            figure.add_scatter(
                y=labels, x=[row[name] for row in rows], name=f"after token {name}",
                mode="markers", hoverinfo="x+y+name",
                marker={"symbol": symbol, "size": 8, "color": "rgba(0,0,0,0)",
                        "line": {"width": 1.5, "color": palette.TEXT[theme]}},
            )  # fmt: skip
    plainly(figure, "probability", "")
    figure.update_xaxes(range=[0, 1.02])
    figure.update_yaxes(autorange="reversed", type="category", tickfont={"family": "monospace"})
    figure.update_layout(height=90 + 34 * len(rows), barmode="group", bargap=0.35)
    st.plotly_chart(figure, key="tokenizer-next", config={"displayModeBar": False})


def _label(row: dict[str, Any]) -> str:
    if row["kind"] == "end":
        return "end of the text"
    if row["kind"] == "control":
        return plain(row["token"] or f"id {row['token_id']}", special=True)
    named = {0x20: "space", 0x0A: "line break", 0x09: "tab"}
    return named.get(row["byte"], str(row["token"]))
