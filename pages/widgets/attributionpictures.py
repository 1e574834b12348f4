"""Pictures of the Attribution page: heatmaps, verdict, curves, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import streamlit as st

from engine import Result, Trace
from engine.render import palette
from engine.render.heatmap import Label, heatmap_payload
from engine.render.text import markup
from pages.widgets import state
from pages.widgets.attributionviews import CHANNEL, LEAST, Matrix
from pages.widgets.heatmap import heatmap
from pages.widgets.plots import plain, theme_now

MOST_ROWS, MOST_COLUMNS = 64, 2000
"""What one heatmap draws."""

FIRST = 8
"""Sources of each method that the comparison shows."""


def matrix(trace: Trace, found: Matrix, unit: str, *, key: str) -> None:
    """Targets × sources that matter somewhere; of a large text the last ones."""
    rows = found.targets[-MOST_ROWS:]
    values = found.scores[-len(rows) :]
    size = np.abs(np.nan_to_num(values))
    matter = np.flatnonzero(size.max(0) >= LEAST * size.max(initial=0.0))[-MOST_COLUMNS:]
    columns = [found.sources[i] for i in matter]
    if not columns:
        return
    left_out = len(found.sources) - len(columns)
    notes = [
        f"the last {len(rows)} targets" if len(rows) < len(found.targets) else "",
        f"{left_out:,} sources below {LEAST:.0%} of the largest left out" if left_out else "",
    ]
    heatmap(
        heatmap_payload(
            _causal(values[:, matter], rows, columns),
            _labels(trace, rows),
            _labels(trace, columns),
            text=state.name_of(trace),
            channel=CHANNEL,
            title="What each token adds to each later one",
            note=" · ".join(filter(None, notes)),
            name="adds",
            unit=unit,
        ),
        key=key,
    )


def methods(trace: Trace, found: Sequence[tuple[str, Matrix]], *, key: str) -> None:
    """One target by several methods, each row scaled to its own strongest source."""
    every = sorted({source for _, one in found for source in one.sources})
    places = {source: i for i, source in enumerate(every)}
    values = np.full((len(found), len(every)), np.nan)
    for row, (_, one) in enumerate(found):
        for source, score in zip(one.sources, np.nansum(one.scores, 0), strict=True):
            values[row, places[source]] = score
        values[row] /= np.nanmax(np.abs(values[row]), initial=0.0) or 1.0
    size = np.abs(np.nan_to_num(values))
    first = np.argsort(-size, axis=1, kind="stable")[:, :FIRST]
    shown = np.unique(first[np.take_along_axis(size, first, 1) > 0])[-MOST_COLUMNS:]
    if not len(shown):
        return
    values, columns = values[:, shown], [every[i] for i in shown]
    heatmap(
        heatmap_payload(
            values,
            [Label(name.replace("_", " "), None) for name, _ in found],
            _labels(trace, columns),
            text=state.name_of(trace),
            channel=CHANNEL,
            title="The same target by every method",
            name="relative score",
            row_name="method",
            limit=1.0,
        ),
        key=key,
    )


def _labels(trace: Trace, parts: Sequence[tuple[int, int, str]]) -> list[Label]:
    special = set(trace.special)
    return [
        Label("".join(markup(trace.pieces[p], special=p in special) for p in range(a, b)), a)
        for a, b, _ in parts
    ]


def _causal(
    values: Any, rows: Sequence[tuple[int, int, str]], columns: Sequence[tuple[int, int, str]]
) -> Any:
    """What comes after a target adds exactly nothing; only what was not scored is missing."""
    later = np.array([c[1] for c in columns])[None] > np.array([r[0] for r in rows])[:, None]
    return np.where(later, 0.0, values)


def verdict_table(found: Result, words: Mapping[str, str]) -> None:
    """Methods × metrics: the difference to the method's own scores shuffled, and the cost."""
    rows: dict[str, dict[str, Any]] = {}
    for row in found.table("faithfulness").to_pylist():
        line = rows.setdefault(row["method"], {"method": row["method"].replace("_", " ")})
        name = words.get(row["metric"])
        if name is not None:
            better = -1 if row["better"] == "down" else 1
            line[name] = None if row["difference"] is None else better * row["difference"]
        elif row["metric"] == "completeness":
            line["unaccounted"] = row["value"]
        line["forwards"] = max(line.get("forwards") or 0, row["forwards"] or 0)
        line["backwards"] = max(line.get("backwards") or 0, row["backwards"] or 0)
    order = [row["method"] for row in found.table("verdict").to_pylist()]
    names = ["method", *words.values(), "unaccounted", "forwards", "backwards"]
    lines = [{n: rows[m].get(n) for n in names} for m in order if m in rows]
    if not lines:
        return
    config: dict[str, Any] = {
        n: st.column_config.NumberColumn(n, format="%+.2f", help=HELP.get(n))
        for n in words.values()
    }
    config["unaccounted"] = st.column_config.NumberColumn(
        "unaccounted",
        format="%.2g",
        help="|residual| / |value − baseline|: 0 where the scores add up.",
    )
    st.dataframe(
        pa.Table.from_pylist(lines),
        hide_index=True,
        row_height=28,
        height=37 + 28 * len(lines),
        placeholder="–",
        column_config=config,
    )


HELP = {
    "Soft-NS": "Normalised sufficiency with soft masks: higher is better.",
    "Soft-NC": "Normalised comprehensiveness with soft masks: higher is better.",
    "insertion": "Area under p(target) as sources are put in, strongest first: higher is better.",
    "deletion": "Area under p(target) as sources are taken out, strongest first; shown so that "
    "higher is better.",
    "sufficiency": "What is lost when only the strongest sources are kept; shown so that higher "
    "is better.",
    "comprehensiveness": "What is lost when the strongest sources are taken away.",
}


def curves(found: Result) -> None:
    """p(target) while sources are put in or taken out, strongest first, per method."""
    table = found.table("curves").to_pylist()
    if not table:
        return
    theme = theme_now()
    left, right = st.columns(2)
    methods = [row["method"] for row in found.table("verdict").to_pylist()]
    shades = palette.series(theme, len(methods))
    for place, metric, title in (
        (left, "insertion", "putting sources in"),
        (right, "deletion", "taking sources out"),
    ):
        figure = go.Figure()
        for number, method in enumerate(methods):
            rows = [r for r in table if r["method"] == method and r["metric"] == metric]
            if rows:
                figure.add_scatter(
                    x=[r["fraction"] for r in rows],
                    y=[r["value"] for r in rows],
                    mode="lines",
                    name=method.replace("_", " "),
                    line={"color": shades[number][0], "dash": shades[number][1], "width": 1.6},
                )
        plain(figure, f"share of sources, {title}", "p of the target")
        figure.update_layout(legend={"orientation": "h", "y": -0.35, "x": 0}, height=360)
        with place:
            st.plotly_chart(figure, key=f"curves-{metric}", config={"displayModeBar": False})


def agreement(found: Result) -> None:
    """Rank correlation of every pair of methods."""
    from pages.widgets.rewardpictures import heatmap as squares

    rows = found.table("agreement").to_pylist()
    names = sorted({row["method"] for row in rows} | {row["other"] for row in rows})
    shown = [n.replace("_", " ") for n in names]
    cells: dict[tuple[str, str], float | None] = {(n, n): 1.0 for n in shown}
    for row in rows:
        a, b = row["method"].replace("_", " "), row["other"].replace("_", " ")
        cells[a, b] = cells[b, a] = row["spearman"]
    squares(shown, cells, True, key="attribution-agreement")
