"""Plotly figures in the page's own look."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from engine.render import palette


def theme_now() -> palette.Theme:
    return "dark" if getattr(st.context.theme, "type", "light") == "dark" else "light"


def plain(figure: go.Figure, x: str, y: str) -> None:
    """Thin axes, no grid, the page's own colours."""
    theme = theme_now()
    axis = {
        "gridcolor": palette.LINE[theme], "zerolinecolor": palette.LINE[theme],
        "linecolor": palette.LINE[theme], "tickfont": {"color": palette.MUTED[theme]},
        "showgrid": False,
    }  # fmt: skip
    figure.update_layout(
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        height=280,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": palette.TEXT[theme], "size": 12},
        legend={"orientation": "h", "y": 1.12, "x": 0},
        xaxis={**axis, "title": {"text": x}},
        yaxis={**axis, "title": {"text": y}},
    )
