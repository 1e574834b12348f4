"""Pictures of the Flow page: heads, layers, routes."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from engine import Result, Trace
from engine.render import palette
from engine.render.heatmap import MOST_COLUMNS, MOST_ROWS, Label, heatmap_payload
from engine.render.text import markup
from engine.tokenization import show
from pages.widgets import state
from pages.widgets.flowviews import CHANNEL
from pages.widgets.heatmap import heatmap
from pages.widgets.plots import plain, theme_now
from pages.widgets.tables import plain_table

AROUND = 10
"""Tokens before and after the selected one whose layers are spelled out."""


def carriers(rows: pa.Table) -> None:
    """The heads that carry most of an edge."""
    st.dataframe(
        rows,
        hide_index=True,
        row_height=28,
        height=37 + 28 * rows.num_rows,
        placeholder="–",
        column_order=("layer", "head", "weight", "effect"),
        column_config={
            "layer": st.column_config.NumberColumn("layer", width=50),
            "head": st.column_config.NumberColumn("head", width=50),
            "weight": st.column_config.NumberColumn("attention", format="%.2g", width=70),
            "effect": st.column_config.NumberColumn(
                "cut alone", format="%+.2g", help="Change of the answer's log-probability, nats."
            ),
        },
    )


def label(piece: bytes) -> str:
    """A token for an axis: Plotly reads markup in its labels, so none is left."""
    text = show(piece).replace(" ", "·").replace("\n", "⏎")
    return html.escape(text[:9] + ("…" if len(text) > 9 else ""), quote=False)


def window(length: int, position: int) -> range:
    """Positions that are drawn of a long text."""
    if length <= 2 * AROUND:
        return range(length)
    first = min(max(position - AROUND, 0), length - 2 * AROUND)
    return range(first, first + 2 * AROUND)


def lens(found: Result, trace: Trace, position: int) -> None:
    """Entropy of every layer at every token; around the selected one also what it would say."""
    _lens_map(found, trace)
    st.text(
        "Around the selected token: what each layer would say there; outlined is where that is "
        "the final token already."
    )
    table = found.table("layers")
    places = window(len(trace), position)
    inside = pc.and_(
        pc.greater_equal(table["position"], places.start), pc.less(table["position"], places.stop)
    )
    rows = table.filter(inside)
    layers = sorted(set(rows["layer"].to_pylist()))
    index = {p: i for i, p in enumerate(places)}
    values = np.full((len(layers), len(places)), np.nan)
    said = np.full(values.shape, "", object)
    sure: tuple[list[int], list[int]] = ([], [])
    for row in rows.to_pylist():
        at = (layers.index(row["layer"]), index[row["position"]])
        values[at] = np.nan if row["entropy"] is None else row["entropy"]
        said[at] = label((row["top"] or "").encode())
        if row["rank_final"] == 1:
            sure[0].append(at[1])
            sure[1].append(at[0])
    theme = theme_now()
    colors = palette.sequential(theme)
    figure = go.Figure(
        go.Heatmap(
            z=values,
            text=said,
            texttemplate="%{text}",
            textfont={"size": 11},
            colorscale=[[i / (len(colors) - 1), c] for i, c in enumerate(colors)],
            zmin=0,
            hovertemplate="layer %{y}, entropy %{z:.3g} nats<br>says %{text}<extra></extra>",
            xgap=1,
            ygap=1,
            colorbar={
                "thickness": 8, "len": 0.7, "outlinewidth": 0, "title": {"text": "entropy, nats"}
            },
        )
    )  # fmt: skip
    figure.add_scatter(
        x=sure[0],
        y=sure[1],
        mode="markers",
        marker={"symbol": "square-open", "size": 24, "color": palette.ACCENT[theme]},
        hoverinfo="skip",
        showlegend=False,
    )
    plain(figure, "", "layer")
    figure.update_xaxes(
        tickvals=list(range(len(places))),
        ticktext=[label(trace.pieces[p]) for p in places],
        tickangle=-60,
        tickfont={"size": 9},
    )
    figure.update_yaxes(tickvals=list(range(len(layers))), ticktext=[str(n) for n in layers])
    figure.update_layout(height=150 + 30 * len(layers))
    st.plotly_chart(figure, key="flow-lens", config={"displayModeBar": False})


def _lens_map(found: Result, trace: Trace) -> None:
    table = found.table("layers")
    places = sorted(set(table["position"].to_pylist()))[-MOST_COLUMNS:]
    layers = sorted(set(table["layer"].to_pylist()))[-MOST_ROWS:]
    values = np.full((len(layers), len(places)), np.nan)
    row, column = ({v: i for i, v in enumerate(n)} for n in (layers, places))
    for layer, place, entropy in zip(
        *(table[n].to_pylist() for n in ("layer", "position", "entropy")), strict=True
    ):
        if layer in row and place in column and entropy is not None:
            values[row[layer], column[place]] = entropy
    special = set(trace.special)
    heatmap(
        heatmap_payload(
            values[::-1],
            [Label(f"layer {n}") for n in reversed(layers)],
            [Label(markup(trace.pieces[p], special=p in special), p) for p in places],
            text=state.name_of(trace),
            channel=CHANNEL,
            title="How undecided each layer is",
            note="entropy of its prediction of each token",
            name="entropy",
            unit="nats",
            row_name="layer",
            column_name="token",
        ),
        key="flow-lens-map",
    )


def routes(found: Result, trace: Trace) -> None:
    """The route as lines between layers, wider where more is contributed."""
    (summary,) = found.table("summary").to_pylist()
    theme = theme_now()
    heights = {"X0": -1.0, "A": 0.35, "M": 0.7, "I": 1.0}

    def height(name: str) -> float:
        kind = name.split("_")[0].rstrip("0123456789") or "X"
        if name.startswith("X0"):
            return 0.0
        layer = int("".join(c for c in name.split("_")[0] if c.isdigit()) or 0)
        return layer + heights.get(kind, 1.0)

    figure = go.Figure()
    looks = {
        "attention": palette.ACCENT[theme], "residual": palette.MUTED[theme],
        "mlp": palette.diverging(theme)[8],
    }  # fmt: skip
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in found.table("edges").to_pylist():
        if row["source_position"] is not None:
            kinds.setdefault(row["kind"], []).append(row)
    for kind, rows in kinds.items():
        for low, width in ((0.0, 0.6), (0.08, 1.4), (0.25, 2.8)):
            high = {0.0: 0.08, 0.08: 0.25, 0.25: 9.0}[low]
            chosen = [r for r in rows if low <= r["weight"] < high]
            if not chosen:
                continue
            x: list[float | None] = []
            y: list[float | None] = []
            for r in chosen:
                x += [r["source_position"], r["target_position"], None]
                y += [height(r["source"]), height(r["target"]), None]
            figure.add_scatter(
                x=x, y=y, mode="lines", line={"color": looks.get(kind), "width": width},
                name=f"{kind}, {low:g} and more", hoverinfo="skip",
            )  # fmt: skip
    nodes = found.table("nodes")
    nodes = nodes.filter(nodes["in_route"]).to_pylist()
    figure.add_scatter(
        x=[n["position"] for n in nodes],
        y=[height(n["node"]) for n in nodes],
        mode="markers",
        marker={"size": 5, "color": palette.TEXT[theme]},
        text=[f"{n['node']}: {label(trace.pieces[n['position']])}" for n in nodes],
        hoverinfo="text",
        name="place in the model",
    )
    plain(figure, "", "layer")
    shown = sorted({n["position"] for n in nodes})
    figure.update_xaxes(
        tickvals=shown,
        ticktext=[label(trace.pieces[p]) for p in shown],
        tickangle=-60,
        tickfont={"size": 9},
    )
    figure.update_layout(height=200 + 70 * summary["layers"])
    st.plotly_chart(figure, key="flow-routes", config={"displayModeBar": False})
    st.text(
        f"{summary['nodes']:,} places and {summary['edges']:,} edges lead to the prediction after "
        f"position {summary['position']:,}; the parts add up to the model's own stream within "
        f"{summary['relative_error']:.1e} of its size."
    )


def conditions(found: Result) -> None:
    """How often the answer changes when reasoning tokens are hidden from it."""
    names = {
        "none": "nothing hidden",
        "top": "most throughput",
        "random": "drawn at random",
        "bottom": "least throughput",
    }
    rows = []
    for row in found.table("conditions").to_pylist():
        rows.append(
            {
                "hidden": names.get(row["condition"], row["condition"]),
                "tokens": row["masked"],
                "answers": row["cases"],
                "changed": row["rate"],
                "changed, 95 %": _ends(row["low"], row["high"]),
                "right or wrong flipped": row["flip_rate"],
                "flipped, 95 %": _ends(row["flip_low"], row["flip_high"]),
                "more than random": row["minus_random"],
                "more, 95 %": _ends(row["minus_random_low"], row["minus_random_high"]),
            }
        )
    plain_table(pa.Table.from_pylist(rows), {})


def _ends(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.2f} to {high:.2f}"
