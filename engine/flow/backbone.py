"""``flow.backbone``: the answer-targeted flow through the tokens of one text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.flow.edges import Edges, Flow, flow_of, listed_share, shares_needed
from engine.flow.graph import (
    CHOICES,
    FLOWTRACER,
    NODE_ROW,
    NOT_CAUSAL,
    Graph,
    GraphParams,
    read_graph,
)
from engine.flow.marks import checkpoints, hubs
from engine.flow.recurrences import Floats, Reach, reach
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace


class BackboneParams(GraphParams):
    """Settings of ``flow.backbone``."""

    share: float = Field(
        0.8,
        gt=0,
        le=1,
        title="Share of flow",
        description="The backbone carries at least so much of what crosses every cut.",
    )
    min_flow: float = Field(
        0.0, ge=0, le=1, title="Least flow", description="Lighter edges are not listed."
    )
    max_edges: int = Field(
        200_000,
        ge=1,
        le=2_000_000,
        title="Most edges",
        description="Only the heaviest are listed; the rest is counted.",
    )


NODES = Table(
    per_token=True,
    doc="One row per token, which is a node of the graph.",
    columns={
        "part": Column(
            pa.string(), "question, between (them) or answer; empty outside.", "", "part"
        ),
        "log_reach": Column(
            pa.float64(), "log h: how much of its weight leads to the answer.", "nats", "log reach"
        ),
        "inflow": Column(pa.float64(), "Flow that enters it, what is injected included."),
        "throughput": Column(pa.float64(), "What enters plus what leaves along edges."),
        "in_backbone": Column(pa.bool_(), "Whether an edge of the backbone touches it."),
        "backbone_in": Column(pa.int64(), "Backbone edges that enter it.", "", "edges in"),
        "backbone_out": Column(pa.int64(), "Backbone edges that leave it.", "", "edges out"),
        "hub": Column(
            pa.int64(),
            "Rank among peaks of throughput (above both neighbours and the mean) in between.",
            "",
            "hub",
        ),
        "checkpoint": Column(
            pa.int64(),
            "Rank among tokens in between that gather: 3 or more backbone edges in, fewer out.",
            "",
            "checkpoint",
        ),
    },
)

EDGES = Table(
    doc="One row per edge that carries flow, the heaviest first.",
    columns={
        "source_position": Column(pa.int64(), "Token it starts from.", "", "from"),
        "target_position": Column(pa.int64(), "Later token it leads to.", "", "to"),
        "weight": Column(pa.float64(), "Aggregated attention of the target to the source."),
        "flow": Column(pa.float64(), "Flow it carries; all that is injected is 1."),
        "in_backbone": Column(pa.bool_(), "Whether it belongs to the backbone.", "", "backbone"),
        "share_needed": Column(
            pa.float64(), "It belongs to the backbone of every share above this.", "", "from share"
        ),
    },
)

SUMMARY = Table(
    doc="One row: how the graph was made, and what must hold of the flow.",
    columns={
        **CHOICES,
        "share": Column(pa.float64(), "Share of flow the backbone carries over every cut."),
        "min_flow": Column(pa.float64(), "Lighter edges are not listed.", "", "least flow"),
        "max_edges": Column(pa.int64(), "At most so many edges are listed.", "", "most edges"),
        "sink_inflow": Column(
            pa.float64(), "Flow that arrives: the share of question tokens that reach the answer."
        ),
        "conservation_residual": Column(
            pa.float64(), "Largest error of a node's shares adding up to 1."
        ),
        "cut_residual": Column(
            pa.float64(), "Largest difference of what crosses a cut from what must cross it."
        ),
        "edges": Column(pa.int64(), "Edges that carry flow."),
        "edges_listed": Column(pa.int64(), "Edges in the table."),
        "flow_cut": Column(
            pa.float64(), "Share of the flow of all edges that is on edges not listed."
        ),
        "listed_share": Column(
            pa.float64(), "Every cut is covered by listed edges up to this share."
        ),
        "backbone_edges": Column(pa.int64(), "Edges in the backbone."),
        "backbone_nodes": Column(pa.int64(), "Tokens in the backbone."),
    },
)


@analysis(
    "flow.backbone",
    version=1,
    subject=Trace,
    params=BackboneParams,
    tables={"nodes": NODES, "edges": EDGES, "summary": SUMMARY},
    title="By which way did the information travel from the question to the answer?",
    cite=(FLOWTRACER,),
    caveats=(
        NOT_CAUSAL,
        NODE_ROW,
        "Layers, heads and their aggregation change the picture: a flow of W is not one of cW.",
        "Mean over heads, absorbing answers and the backbone by cuts are our reading of the paper.",
        "Hubs and checkpoints are our terms.",
    ),
)
def backbone(ctx: Context) -> Iterator[Progress | Tables]:
    """Flow from the question's tokens that ends at the answer, through the attention graph.

    With W(i, k) the aggregated attention of token k to an earlier token i, the reach of a token is
    h = 1 at the answer and h(i) = Σ_k W(i, k) h(k) elsewhere; conditioned on arriving, a walk goes
    from i to k with probability W'(i, k) = W(i, k) h(k) / h(i). One unit of flow starts in equal
    parts at the question's tokens (special tokens left out): ``inflow`` f(k) is the probability
    that the walk visits k, ``flow`` of an edge that it takes it. Tokens in between send on exactly
    what enters them, so their ``throughput`` is twice their inflow.

    The backbone keeps, over every cut between neighbouring tokens, the fewest edges that carry at
    least ``share`` of what crosses. Reach is null for tokens from which no way leads to the answer.
    """
    params: BackboneParams = ctx.params
    yield Progress(None, "Reading the attention")
    graph = read_graph(ctx)
    yield Progress(0.8, "Following the flow")
    reached = reach(graph.rows, graph.answers, absorbing=params.absorbing)
    refuse_unreached(graph, reached)
    flow = flow_of(graph.rows, reached, graph.source, params.max_edges)
    yield Progress(0.9, "Finding the backbone")
    edges = flow.edges.at_least(params.min_flow)
    needed, carried = shares_needed(edges, flow.crossing)
    covered = listed_share(carried, flow.crossing)
    inside = needed < params.share
    nodes = _nodes(graph, reached, flow, edges, inside)
    numbers = {
        **graph.choices(),
        **params.model_dump(include={"share", "min_flow", "max_edges"}),
        "sink_inflow": flow.sink_inflow,
        "conservation_residual": flow.conservation,
        "cut_residual": flow.cut,
        "edges": flow.count,
        "edges_listed": len(edges),
        "flow_cut": max(0.0, 1 - float(edges.flow.sum()) / flow.total),
        "listed_share": covered,
        "backbone_edges": int(inside.sum()),
        "backbone_nodes": int(nodes["in_backbone"].sum()),
    }
    _say(ctx, numbers)
    yield Tables(
        nodes=ctx.per_token(_padded(ctx, nodes, len(graph.answers))),
        edges=_edge_table(edges, inside, needed),
        summary=pa.Table.from_pylist([numbers], schema=SUMMARY.schema()),
    )


def refuse_unreached(graph: Graph, reached: Reach) -> None:
    """Refuse a graph in which no question token leads to the answer.

    Raises:
        UserError: with the mend.
    """
    if not (graph.questions & (reached.mantissa > 0)).any():
        raise UserError(
            "No attention leads from the question to the answer in these layers and heads: choose "
            "more of them, or other spans."
        )


def _nodes(
    graph: Graph, reached: Reach, flow: Flow, edges: Edges, inside: np.ndarray[Any, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    n = len(graph.answers)
    entering = np.bincount(edges.target[inside], minlength=n)
    leaving = np.bincount(edges.source[inside], minlength=n)
    start, end = graph.question.end, graph.answer.start
    part = np.full(n, None, object)
    part[start:end] = "between"
    part[graph.questions] = "question"
    part[graph.answers] = "answer"
    return {
        "part": part,
        "log_reach": reached.log,
        "inflow": flow.inflow,
        "throughput": flow.throughput,
        "in_backbone": (entering + leaving) > 0,
        "backbone_in": entering,
        "backbone_out": leaving,
        "hub": hubs(flow.throughput, start, end),
        "checkpoint": checkpoints(entering, leaving, flow.inflow, start, end),
    }


def _padded(ctx: Context, nodes: dict[str, np.ndarray[Any, Any]], n: int) -> dict[str, pa.Array]:
    """Columns over the whole trace: behind the answer there is no flow and no reach."""
    behind = len(ctx.subject) - n
    known = nodes["log_reach"] > -np.inf
    if behind or not known.all():
        ctx.note("nodes", "log_reach", "from these tokens no way leads to the answer")
    for name, reason in (
        ("part", "outside question, answer and what is between"),
        ("hub", "only peaks of throughput between question and answer are ranked"),
        ("checkpoint", "only tokens between question and answer that gather are ranked"),
    ):
        ctx.note("nodes", name, reason)
    columns = {}
    for name, column in NODES.columns.items():
        values = nodes[name]
        empty = np.zeros(n, bool)
        if name == "log_reach":
            empty = ~known
        elif name in ("hub", "checkpoint"):
            empty = values == 0
        padding = pa.nulls(behind, column.type)
        if name not in ("part", "log_reach", "hub", "checkpoint"):
            padding = pa.array([False if name == "in_backbone" else 0] * behind, column.type)
        made = pa.array(values, column.type, mask=empty if name != "part" else None)
        columns[name] = pa.concat_arrays([made, padding])
    return columns


def _edge_table(edges: Edges, inside: np.ndarray[Any, Any], needed: Floats) -> pa.Table:
    columns = (edges.source, edges.target, edges.weight, edges.flow, inside, needed)
    return pa.table(dict(zip(EDGES.columns, columns, strict=True)), schema=EDGES.schema())


def _say(ctx: Context, numbers: dict[str, Any]) -> None:
    """Note what was left out, and what did not arrive."""
    left_out = numbers["edges"] - numbers["edges_listed"]
    if left_out:
        ctx.note(
            "edges",
            None,
            f"{left_out:,} of {numbers['edges']:,} edges are not listed; they hold "
            f"{numbers['flow_cut']:.3g} of the flow of all edges",
        )
    if numbers["listed_share"] < numbers["share"] - 1e-9:
        ctx.note(
            "edges",
            "in_backbone",
            f"the listed edges cover every cut only up to a share of {numbers['listed_share']:.3g}",
        )
    if numbers["sink_inflow"] < 1 - 1e-9:
        ctx.note("summary", "sink_inflow", "some question tokens do not reach the answer")
