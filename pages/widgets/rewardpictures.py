"""Pictures of the Rewards page: predicted against measured, and the matrix of signals."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from engine import Result
from engine.render import palette
from pages.widgets.plots import plain, theme_now


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
