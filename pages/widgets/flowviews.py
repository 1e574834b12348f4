"""What the Flow page draws of its results, built once and shared by all visitors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

import engine
from engine import Result, Trace
from engine.render.flowgraph import flowgraph_payload
from engine.render.signals import Signal
from engine.render.strip import names, payload
from engine.render.text import number, one_line
from engine.schema import PER_TOKEN, Column
from pages.widgets import state
from pages.widgets.signals import Widened, widen

CHANNEL = "flow"
FIRST = ("throughput", "inflow", "log_reach")
MORE = ("influence", "waad", "fai", "preplan", "anchor", "exit_depth", "nonlinearity")


@dataclass(frozen=True, slots=True)
class Drawn:
    """One text with its flow and whatever else was computed of it.

    Attributes:
        key: names the results it is made of.
        wide: nodes with further values as one per-token table.
        strip: the strip's payload.
        signals: what can be shown, in order.
        names: every token as readable plain text.
        start: the token selected when nobody chose one.
    """

    key: str
    wide: Widened
    strip: dict[str, Any]
    signals: dict[str, Signal]
    names: list[str]
    start: int

    @property
    def columns(self) -> Mapping[str, Column]:
        """All per-token columns and what they mean."""
        return {**PER_TOKEN, **self.wide.columns}


def drawn(trace: Trace, backbone: Result, others: Sequence[Result]) -> Drawn:
    """The nodes of a backbone, with per-token values of other analyses."""
    parts = [state.name_of(trace), backbone.key, *(r.key for r in others)]
    return _drawn("|".join(parts), trace, backbone, list(others))


@st.cache_resource(max_entries=32, show_spinner=False)
def _drawn(key: str, _trace: Trace, _backbone: Result, _others: list[Result]) -> Drawn:
    declared = engine.analyses()["flow.backbone"].tables["nodes"].columns
    nodes = _backbone.table("nodes")
    wide = widen(nodes, declared, _trace, _others)
    shown = [n for n in (*FIRST, *MORE) if n in wide.tokens.column_names]
    base = [n for n in wide.tokens.column_names if n in PER_TOKEN]
    table = wide.tokens.select([*base, *shown])
    strip = payload(
        {"tokens": table}, channel=CHANNEL, columns=wide.columns, text=state.name_of(_trace)
    )
    known = {s["name"]: Signal(**s) for s in strip["signals"]}
    signals = {n: known[n] for n in shown if n in known}
    return Drawn(
        key=key,
        wide=wide,
        strip={**strip, "signals": [s.json() for s in signals.values()]},
        signals=signals,
        names=names({"tokens": table}),
        start=_start(nodes),
    )


def _start(nodes: pa.Table) -> int:
    """The first hub, else the node with the largest throughput."""
    hubs = nodes.filter(pc.equal(nodes["hub"], 1))
    if hubs.num_rows:
        return int(hubs["position"][0].as_py())
    values = nodes["throughput"]
    return int(pc.index(values, pc.max(values)).as_py())


@st.cache_resource(max_entries=32, show_spinner=False)
def graph(key: str, _backbone: Result, _trace: Trace) -> dict[str, Any]:
    """The picture of the backbone."""
    (summary,) = _backbone.table("summary").to_pylist()
    spans = {n: (summary[f"{n}_start"], summary[f"{n}_end"]) for n in ("question", "answer")}
    return flowgraph_payload(
        _backbone.table("nodes"),
        _backbone.table("edges"),
        spans,
        text=state.name_of(_trace),
        channel=CHANNEL,
        share=summary["share"],
        note=f"attention of layers {summary['layers']}, {summary['reduce']} over heads",
    )


def sentence(backbone: Result) -> str:
    """The page's finding in one or two sentences."""
    (summary,) = backbone.table("summary").to_pylist()
    nodes = backbone.table("nodes")
    hubs = sorted(
        (row["hub"], row["token"], row["position"], row["inflow"])
        for row in nodes.filter(pc.is_valid(nodes["hub"])).to_pylist()
    )[:3]
    kept = (
        f"{100 * summary['share']:.0f} % of the flow over every cut runs along "
        f"{summary['backbone_edges']:,} of {summary['edges']:,} edges"
    )
    if not hubs:
        return f"{kept}; no token in between stands out."
    said = ", ".join(f"{quoted(t)} at {p:,} ({100 * f:.0f} %)" for _, t, p, f in hubs)
    return f"From the question to the answer {kept}, most of it through {said}."


def quoted(token: str) -> str:
    """A token as it is quoted in a sentence."""
    bare = token.strip()
    return f"“{one_line(bare)}”" if bare else f"“{token.replace(' ', '·').replace(chr(10), '⏎')}”"


def neighbours(
    backbone: Result, position: int, *, into: bool, count: int = 6
) -> list[dict[str, Any]]:
    """The heaviest edges into a token, or out of it."""
    edges = backbone.table("edges")
    here, there = ("target_position", "source_position")[:: 1 if into else -1]
    rows = edges.filter(pc.equal(edges[here], position)).slice(0, count).to_pylist()
    tokens = backbone.table("nodes")["token"]
    return [
        {
            "position": row[there],
            "token": quoted(tokens[row[there]].as_py()),
            "flow": row["flow"],
            "weight": row["weight"],
        }
        for row in rows
    ]


def marked(backbone: Result, column: str, count: int = 8) -> list[dict[str, Any]]:
    """Hubs or checkpoints in order of rank."""
    nodes = backbone.table("nodes")
    rows = nodes.filter(pc.is_valid(nodes[column])).sort_by(column).slice(0, count).to_pylist()
    return [
        {
            "rank": row[column],
            "token": quoted(row["token"]),
            "position": row["position"],
            "inflow": row["inflow"],
            "edges in": row["backbone_in"],
            "edges out": row["backbone_out"],
        }
        for row in rows
    ]


def path_rows(paths: Result) -> list[dict[str, Any]]:
    """The heaviest ways as readable lines, the remainder last."""
    steps: dict[int, list[str]] = {}
    for row in paths.table("steps").to_pylist():
        steps.setdefault(row["path"], []).append(f"{quoted(row['token'])} {row['position']}")
    return [
        {
            "path": "all others" if row["path"] is None else str(row["path"]),
            "share": row["share"],
            "edges": row["length"],
            "way": " → ".join(steps.get(row["path"], [])) or "–",
        }
        for row in paths.table("paths").to_pylist()
    ]


def change(result: Result) -> str:
    """What a knock-out did to the answer, in one sentence."""
    (row,) = result.table("summary").to_pylist()
    return (
        f"Without it the answer's log-probability goes from {number(row['before'])} to "
        f"{number(row['after'])} nats ({'+' if row['change'] > 0 else '−'}"
        f"{number(abs(row['change']))})."
    )
