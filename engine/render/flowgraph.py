"""The flow graph as data: tokens in columns, question to answer, and the edges that carry flow.

The payload holds every edge the slider can show, sorted by the share of flow from which on it
belongs to the backbone: moving the slider moves one index in the browser.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.render import palette
from engine.render.flowsvg import flowgraph_svg
from engine.render.strip import asset, digest
from engine.render.text import BOX, DIM, END
from engine.render.views import views_css
from engine.render.words import pieces
from engine.subjects import Span

__all__ = ["flowgraph_css", "flowgraph_js", "flowgraph_payload", "flowgraph_svg", "folded_runs"]

MOST_NODES = 150
"""Tokens and folded runs that are drawn at first."""

MOST_EDGES = 5_000
"""Edges that are sent; the table has all."""

LABEL = 12
"""Characters of a token beside its dot; hovering shows the whole."""

FLOWGRAPH_HTML = (
    '<div class="ts-view ts-flow"><div class="head"><span class="name"></span>'
    '<span class="aside"></span></div>'
    '<div class="controls"><label>share of flow kept'
    '<input class="share" type="range" step="0.01"></label><output class="kept"></output>'
    '<span class="drawn" role="status"></span>'
    '<span class="buttons"><button class="refold" type="button" hidden>Fold again</button>'
    '<button class="save-svg" type="button">SVG</button>'
    '<button class="save-png" type="button">PNG</button></span></div>'
    '<div class="room"><div class="plot"><canvas></canvas><canvas class="above"></canvas>'
    '<svg class="nodes" role="group"></svg></div></div>'
    '<div class="legend"></div><div class="readout" aria-live="polite"></div>'
    '<div class="tip" role="tooltip" hidden></div></div>'
)

_JS = ("flowlayout.js", "flowexport.js", "flowread.js", "flowhands.js", "flowgraph.js")


def flowgraph_payload(
    nodes: pa.Table,
    edges: pa.Table,
    spans: Mapping[str, Span | tuple[int, int]],
    *,
    text: str,
    channel: str = "tokens",
    share: float = 0.8,
    title: str = "Flow from the question to the answer",
    note: str = "",
    most_nodes: int = MOST_NODES,
    most_edges: int = MOST_EDGES,
) -> dict[str, Any]:
    """Tables of ``flow.backbone`` as the component ``flowgraph`` draws them.

    Args:
        nodes: per-token table with ``inflow`` and ``throughput``; of one rollout.
        edges: ``source_position``, ``target_position``, ``weight``, ``flow``, ``share_needed``.
        spans: ``question`` and ``answer`` (start, end); what is between them is the reasoning.
            Tokens outside carry no flow and are not drawn.
        text: name of the text the positions belong to (``trace.digest[:24]``).
        channel: name shared with the strip of the same text.
        share: of the flow, where the slider begins.
        title: heading.
        note: quieter words after it, such as layers and heads.
        most_nodes: of a longer text, runs of tokens with little throughput are folded.
        most_edges: edges that are sent; the slider then ends at the share they cover.

    Raises:
        ValueError: question and answer are not there, or not in this order.
    """
    question, answer = (_span(spans, name) for name in ("question", "answer"))
    start, end = question[0], answer[1]
    if question[1] > answer[0] or end > nodes.num_rows or start < 0:
        raise ValueError("the question must end before the answer begins, both inside the text")
    parts = np.ones(end - start, np.int8)
    parts[: question[1] - start] = 0
    parts[answer[0] - start :] = 2
    drawn = nodes.slice(start, end - start)
    shown = pieces(drawn)
    labels = [shortened(piece) for piece in shown]
    columns = {
        "piece": pa.array(shown, pa.string()),
        "cells": pa.array([cells(label) for label in labels], pa.int16()),
        "part": pa.array(parts),
        **{name: _floats(drawn[name]) for name in ("inflow", "throughput")},
    }
    for rank in ("hub", "checkpoint"):
        if rank in drawn.column_names:
            columns[rank] = _floats(drawn[rank])
    listed, reached = _edges(edges, start, end, most_edges)
    folds = folded_runs(_numbers(drawn["throughput"]), parts, most_nodes)
    rest: dict[str, Any] = {
        "channel": channel,
        "text": text,
        "offset": start,
        "labels": labels,
        "folds": [[a + start, b + start] for a, b in folds],
        "share": min(share, reached),
        "most_share": reached,
        "total_edges": edges.num_rows,
        "outside": nodes.num_rows - (end - start),
        "title": title,
        "note": note,
    }
    table = pa.table(columns)
    signature = digest(table, rest, digest(listed))
    looks = {"colors": _colors(), "ramps": {t: palette.sequential(t) for t in palette.THEMES}}
    return {**rest, "signature": signature, "columns": table, "edges": listed, **looks}


def folded_runs(
    throughput: npt.NDArray[Any], parts: npt.NDArray[Any], most: int
) -> list[tuple[int, int]]:
    """Runs [start, end) of two or more tokens to fold, so that at most ``most`` nodes are drawn.

    Tokens of the largest throughput stay; the others are folded where they stand side by side in
    one part. More nodes than ``most`` remain only if there are not fewer parts.
    """
    n = len(throughput)
    if n <= most:
        return []
    order = np.argsort(-throughput, kind="stable")

    def runs(kept: int) -> list[tuple[int, int]]:
        stays = np.zeros(n, bool)
        stays[order[:kept]] = True
        borders = np.flatnonzero((np.diff(stays) != 0) | (np.diff(parts) != 0)) + 1
        ends = [0, *borders.tolist(), n]
        return [(a, b) for a, b in pairwise(ends) if not stays[a] and b - a > 1]

    # Keeping one token more never draws fewer nodes.
    low, high = 0, n
    while low < high:
        middle = (low + high + 1) // 2
        if n - sum(b - a - 1 for a, b in runs(middle)) <= most:
            low = middle
        else:
            high = middle - 1
    return runs(low)


def shortened(piece: str, most: int = LABEL) -> str:
    """The first characters of a marked-up token, a code whole or not at all."""
    if cells(piece) <= most:
        return piece
    out, kind, room = "", "", most - 1
    for at, c in enumerate(piece):
        if c in (DIM, BOX):
            if c == BOX and cells(piece[at : piece.index(END, at)]) > room:
                break
            kind = END
        elif c == END:
            kind = ""
        else:
            room -= cells(c)
            if room < 0:
                break
        out += c
    return f"{out}{kind}…"


def cells(markup: str) -> int:
    """How many monospace cells a marked-up token takes."""
    wide = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in markup if c > END)
    return wide - sum(1 for c in markup if unicodedata.combining(c))


@cache
def flowgraph_css() -> str:
    """Style of the graph; colours are those of curve and scatter."""
    return views_css() + "\n" + asset("flowgraph.css")


@cache
def flowgraph_js() -> str:
    """The script with all it needs."""
    folder = Path(__file__).parent
    parts = ((folder / name).read_text(encoding="utf-8") for name in _JS)
    return "\n".join((asset("linked.js"), *parts))


def _edges(edges: pa.Table, start: int, end: int, most: int) -> tuple[pa.Table, float]:
    """The edges to send in the order of the slider, and the share up to which none is missing."""
    needed, flow = _numbers(edges["share_needed"]), _numbers(edges["flow"])
    order = np.lexsort((-flow, needed))
    # A share keeps every edge that needs less than it: up to what the first one left out needs.
    reached = 1.0 if len(order) <= most else float(needed[order[most]])
    order = order[:most]
    source, target = (
        edges[f"{name}_position"].to_numpy()[order].astype(np.int32)
        for name in ("source", "target")
    )
    inside = (source >= start) & (target < end)
    kept = order[inside]
    table = pa.table(
        {
            "source": source[inside],
            "target": target[inside],
            "flow": flow[kept].astype(np.float32),
            "weight": _numbers(edges["weight"])[kept].astype(np.float32),
            "needed": needed[kept],
        }
    )
    return table, reached


def _span(spans: Mapping[str, Span | tuple[int, int]], name: str) -> tuple[int, int]:
    span = spans.get(name)
    if span is None:
        raise ValueError(f"a flow graph needs the span of the {name}")
    start, end = (span.start, span.end) if isinstance(span, Span) else span
    if end <= start:
        raise ValueError(f"the {name} holds no token")
    return start, end


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return column.cast(pa.float64()).to_numpy()


def _floats(column: pa.ChunkedArray) -> pa.Array:
    """Float32 with NaN for null: the browser takes the buffer as it is."""
    return pa.array(_numbers(column).astype(np.float32))


def _colors() -> dict[str, dict[str, str]]:
    return {
        theme: {
            "text": palette.TEXT[theme],
            "background": palette.BACKGROUND[theme],
            "muted": palette.MUTED[theme],
            "line": palette.LINE[theme],
            "accent": palette.ACCENT[theme],
        }
        for theme in palette.THEMES
    }
