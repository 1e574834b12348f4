"""Pictures of the Rewards page: predicted against measured, and the matrix of signals."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from engine import Result
from engine.render import palette


def scatter(found: Result) -> None:
    """Predicted against measured, one dot per answer."""
    rows = found.table("responses").to_pylist()
    theme = theme_now()
    figure = go.Figure()
    for name, label, color in (
        ("predicted_influence", "influence", palette.ACCENT[theme]),
        ("predicted_thr", "THR", palette.MUTED[theme]),
    ):
        pairs = [(r[name], r["measured"], r["rollout"]) for r in rows if r[name] is not None]
        if pairs:
            x, y, n = zip(*pairs, strict=True)
            figure.add_scatter(
                x=x, y=y, mode="markers", name=label, marker={"color": color, "size": 7},
                text=[f"answer {k + 1}" for k in n], hoverinfo="text+x+y",
            )  # fmt: skip
    plain(figure, "predicted change, nats", "measured change, nats")
    st.plotly_chart(figure, key="step-scatter", config={"displayModeBar": False})


def heatmap(
    names: list[str], cells: dict[tuple[str, str], float | None], signed: bool, *, key: str
) -> None:
    theme = theme_now()
    colors = palette.diverging(theme) if signed else palette.sequential(theme)
    scale = [[i / (len(colors) - 1), c] for i, c in enumerate(colors)]
    values = [[cells.get((a, b)) for b in names] for a in names]
    figure = go.Figure(
        go.Heatmap(
            z=values, x=names, y=names, zmin=-1 if signed else 0, zmax=1, colorscale=scale,
            text=[["" if v is None else f"{v:.2f}" for v in line] for line in values],
            texttemplate="%{text}", hoverinfo="x+y+z", xgap=2, ygap=2,
            colorbar={"thickness": 8, "len": 0.6, "outlinewidth": 0},
        )
    )  # fmt: skip
    plain(figure, "", "")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=110 + 34 * len(names))
    st.plotly_chart(figure, key=key, config={"displayModeBar": False})


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
