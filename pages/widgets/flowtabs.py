"""What stands beside and below the picture of the Flow page."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

import engine
from engine import Request, Result, Trace, UserError
from engine.flow.export import to_graphml, to_json
from engine.gallery import cause_rollouts
from engine.render.flowsvg import flowgraph_svg
from engine.render.text import escape_markdown
from pages.widgets import flowforms, flowpictures, flowviews, state
from pages.widgets.asking import ask
from pages.widgets.downloads import downloads, table_view
from pages.widgets.flowforms import Asked
from pages.widgets.flowviews import Drawn
from pages.widgets.notice import hint
from pages.widgets.share import share
from pages.widgets.tables import plain_table

TABS = {
    "hubs": "Hubs and ways",
    "layers": "Layer by layer",
    "routes": "Routes through the layers",
    "causal": "Does cutting change the answer?",
    "beside": "Other measures",
    "numbers": "All numbers",
}
TABLE = [
    "position", "token", "part", "throughput", "inflow", "log_reach", "in_backbone",
    "backbone_in", "backbone_out", "hub", "checkpoint",
]  # fmt: skip


def details(
    trace: Trace, backbone: Result, position: int, asked: Asked, edge: tuple[int, int] | None
) -> None:
    """What the selected token draws from and feeds; which heads carry the selected edge."""
    (row,) = backbone.table("nodes").slice(position, 1).to_pylist()
    # A heading is Markdown, and a token may hold some.
    said = escape_markdown(f"{flowviews.quoted(row['token'])}, position {position:,}")
    st.subheader(said, anchor=False)
    facts = [f"throughput   {row['throughput']:.3g}", f"inflow   {row['inflow']:.3g}"]
    if row["log_reach"] is not None:
        facts.append(f"log reach   {row['log_reach']:.3g} nats")
    with st.container(key="facts"):
        st.text("\n".join(facts))
    for into, label in ((True, "Draws from"), (False, "Feeds")):
        rows = flowviews.neighbours(backbone, position, into=into)
        if rows:
            st.text(label)
            _small(rows, key=f"flow-{'in' if into else 'out'}")
    if edge is not None:
        _edge(trace, backbone, edge, asked)
    elif row["in_backbone"]:
        st.text("Click an edge of the picture to see which heads carry it, and to cut it.")
    _cut_token(trace, position, asked)


def _small(rows: list[dict[str, Any]], *, key: str) -> None:
    st.dataframe(
        pa.Table.from_pylist(rows),
        key=key,
        hide_index=True,
        row_height=28,
        height=37 + 28 * len(rows),
        column_order=("token", "position", "flow"),
        column_config={
            "position": st.column_config.NumberColumn("at", width=60),
            "token": st.column_config.Column("token", width=120),
            "flow": st.column_config.NumberColumn("flow", format="%.3g", width=70),
        },
    )


def _edge(trace: Trace, backbone: Result, edge: tuple[int, int], asked: Asked) -> None:
    source, target = edge
    tokens = backbone.table("nodes")["token"]
    a, b = (flowviews.quoted(tokens[p].as_py()) for p in edge)
    said = escape_markdown(f"Edge {a} {source:,} → {b} {target:,}")
    st.subheader(said, anchor=False)
    model = {"model": state.chosen_model()}
    named = f"{source}>{target}"
    request = Request(
        "flow.carriers", trace, model, {"edge": named, "effects": True, **asked.answer}
    )
    found = ask("flow.carriers", request, "Which heads carry it?", doing="Reading the heads")
    if found is not None:
        rows = found.table("carriers").sort_by([("weight", "descending")]).slice(0, 6)
        flowpictures.carriers(rows)
        downloads(found, "carriers", "Heads", key="carriers")
    request = Request("flow.knockout", trace, model, {"edges": named, **asked.answer})
    cut = ask("flow.knockout.edge", request, "Knock this edge out", doing="Cutting the edge")
    if cut is not None:
        st.text(flowviews.change(cut))
        answer = flowforms.span_of(trace, "answer")
        predicting = asked.params.get("answer_row") == "predicting"
        if answer is not None and answer[0] <= target and not predicting:
            st.text(
                "An edge into an answer token's own row reaches only the tokens after it: choose "
                "“predicting” under Layers and heads to cut the row that predicts it."
            )


def _cut_token(trace: Trace, position: int, asked: Asked) -> None:
    answer = flowforms.span_of(trace, "answer")
    if answer is None or position >= answer[0]:
        return
    request = Request(
        "flow.knockout",
        trace,
        {"model": state.chosen_model()},
        {"nodes": str(position), **asked.answer},
    )
    cut = ask("flow.knockout.node", request, "Cut this token off", doing="Cutting the token off")
    if cut is not None:
        st.text("No later token may look at it. " + flowviews.change(cut))


def below(trace: Trace, backbone: Result, view: Drawn, asked: Asked, position: int) -> None:
    """Tables, layers, the causal check, and what can be taken home."""
    # Only the open one is drawn: the first picture does not wait for the others.
    tabs = st.tabs(list(TABS.values()), key="flow-tabs", on_change="rerun")
    drawn = dict(zip(TABS, tabs, strict=True))
    makers = {
        "hubs": lambda: _hubs(trace, backbone, asked),
        "layers": lambda: _layers(trace, position),
        "routes": lambda: _routes(trace, asked),
        "causal": lambda: _causal(trace, asked),
        "beside": lambda: _beside(trace, asked),
        "numbers": lambda: table_view(view.wide.tokens, view.columns, TABLE, tokens=view.names),
    }
    for name, tab in drawn.items():
        if tab.open:
            with tab:
                makers[name]()
    with st.container(key="actions"):
        share(asked.request(trace), trace)
        downloads(backbone, "nodes", "Nodes", key="nodes")
        downloads(backbone, "edges", "Edges", key="edges")
        _graph_files(backbone, view, trace)


def _graph_files(backbone: Result, view: Drawn, trace: Trace) -> None:
    payload = flowviews.graph(view.key, backbone, trace)
    made = {
        "GraphML": ("graphml", "application/graphml+xml", lambda: to_graphml(backbone)),
        "JSON": ("json", "application/json", lambda: to_json(backbone)),
        "SVG": ("svg", "image/svg+xml", lambda: flowgraph_svg(payload)),
    }
    with st.container(key="downloads-graph", horizontal=True, vertical_alignment="center"):
        st.text("Graph")
        for label, (ending, mime, make) in made.items():
            st.download_button(
                label,
                make,
                file_name=f"flow-{backbone.key[:8]}.{ending}",
                mime=mime,
                key=f"download-graph-{ending}",
                on_click="ignore",
                type="tertiary",
            )


def _hubs(trace: Trace, backbone: Result, asked: Asked) -> None:
    left, right = st.columns([1, 1.6], gap="medium")
    with left:
        for column, title in (
            ("hub", "Hubs: where most of the flow passes"),
            ("checkpoint", "Checkpoints: where several ways come together"),
        ):
            rows = flowviews.marked(backbone, column)
            st.text(title if rows else f"No {column} between question and answer.")
            if rows:
                _rows(rows)
    with right:
        st.text("The heaviest ways, each with what its narrowest edge still held")
        found = ask("flow.paths", asked.request(trace, "paths"), "Find the ways", auto=True)
        if found is not None:
            _rows(flowviews.path_rows(found))
            downloads(found, "paths", "Ways", key="paths")


def _rows(rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    config = {
        name: st.column_config.NumberColumn(name, format="%.3g")
        for name in table.column_names
        if pa.types.is_floating(table[name].type)
    }
    config["position"] = st.column_config.NumberColumn("at")
    st.dataframe(
        table,
        hide_index=True,
        row_height=28,
        height=min(37 + 28 * len(rows), 340),
        placeholder="–",
        column_config=config,
    )


def _layers(trace: Trace, position: int) -> None:
    model = {"model": state.chosen_model()}
    lens = ask("flow.lens", Request("flow.lens", trace, model), "Read every layer", auto=True)
    if lens is not None:
        st.text("Each layer's stream read with the model's own final norm and head.")
        flowpictures.lens(lens, trace, position)
        downloads(lens, "layers", "Layers", key="lens")
    geometry = Request("flow.geometry", trace, model)
    found = ask("flow.geometry", geometry, "Measure the shape of the layers", doing="Measuring")
    if found is not None:
        name = next(iter(found.tables))
        plain_table(found.table(name), engine.analyses()["flow.geometry"].tables[name].columns)
        _reasons(found)
        downloads(found, name, "Shape", key="geometry")


def _reasons(found: Result) -> None:
    """Why values are empty."""
    said = dict.fromkeys(n["reason"] for n in found.notes.to_pylist())
    for reason in list(said)[:4]:
        hint(reason[:1].upper() + reason[1:] + ".", key=f"reason-{hash(reason)}")


def _routes(trace: Trace, asked: Asked) -> None:
    threshold = st.slider(
        "Follow edges that contribute more than",
        0.0,
        0.2,
        0.04,
        0.01,
        key="flow-threshold",
        persist_state="session",
        help="LLM Transparency Tool's default is 0.04.",
    )
    params = {} if threshold == 0.04 else {"threshold": threshold}
    request = Request("flow.routes", trace, {"model": state.chosen_model()}, params)
    found = ask("flow.routes", request, "Follow the routes", doing="Taking the layers apart")
    if found is not None:
        flowpictures.routes(found, trace)
        downloads(found, "edges", "Routes", key="routes")


def _causal(trace: Trace, asked: Asked) -> None:
    """The paper's check on this text, and over the gallery's answers."""
    st.text(
        "Cut the reasoning tokens with the most throughput off from the answer, and let the model "
        "write the answer again; then as many random ones, and those with the least."
    )
    model = state.chosen_model()
    expected = state.expected_answer()
    params = {"answer": expected} if expected else {}
    request = Request("flow.causal", trace, {"model": model}, params)
    found = ask("flow.causal", request, "Run the check on this text", doing="Cutting and answering")
    if found is not None:
        flowpictures.conditions(found)
        downloads(found, "conditions", "Check", key="causal")
        downloads(found, "cases", "Cases", key="causal-cases")
    stored = _gallery(model)
    if stored is not None:
        st.text(f"Over the gallery's right answers of {model}, taken as they came:")
        flowpictures.conditions(stored)
        downloads(stored, "conditions", "Over the gallery", key="causal-gallery")


def _gallery(model: str) -> Result | None:
    subject = cause_rollouts(model)
    if subject is None:
        return None
    try:
        return state.workspace().lookup(Request("flow.causal", subject, {"model": model}))
    except UserError:
        return None


def _beside(trace: Trace, asked: Asked) -> None:
    """Attention rollout, preplan and anchor marks, maximum flow; each may colour the strip."""
    model = {"model": state.chosen_model()}
    rollout = Request("flow.rollout", trace, model, asked.answer)
    rhythm = Request("flow.rhythm", trace, model)
    found = [
        ask("flow.rollout", rollout, "Attention rollout: what is mixed into the answer"),
        ask("flow.rhythm", rhythm, "Preplan and anchor: how far the model looks back"),
    ]
    for result in found:
        if result is not None:
            st.text(engine.analyses()[result.analysis].title)
            declared = engine.analyses()[result.analysis].tables["tokens"].columns
            main = next(iter(declared))
            table = result.table("tokens").sort_by([(main, "descending")]).slice(0, 8)
            plain_table(table.select(["position", "token", *declared]), declared)
            downloads(result, "tokens", "Values", key=result.analysis)
    flow = ask(
        "flow.maxflow",
        Request("flow.maxflow", trace, model, asked.answer),
        "Maximum flow (short texts)",
        doing="Finding maximum flows",
    )
    if flow is not None:
        pairs = flow.table("pairs").sort_by([("flow", "descending")]).slice(0, 12)
        plain_table(pairs, engine.analyses()["flow.maxflow"].tables["pairs"].columns)
        downloads(flow, "pairs", "Maximum flow", key="maxflow")


def known(table: pa.Table, column: str) -> bool:
    """Whether a column holds a value anywhere."""
    return column in table.column_names and bool(pc.any(pc.is_valid(table[column])).as_py())
