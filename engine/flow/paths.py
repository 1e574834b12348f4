"""``flow.paths``: the heaviest ways from the question to the answer, and what they leave out."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.flow.backbone import refuse_unreached
from engine.flow.decompose import Path, paths
from engine.flow.edges import flow_of
from engine.flow.graph import (
    CHOICES,
    FLOWTRACER,
    NODE_ROW,
    NOT_CAUSAL,
    GraphParams,
    read_graph,
)
from engine.flow.recurrences import reach
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace
from engine.tokenization import show

WHOLE = 64
"""Most tokens from question to answer for a complete decomposition (6,810 paths at 128)."""


class PathsParams(GraphParams):
    """Settings of ``flow.paths``."""

    most: int = Field(20, ge=1, le=100, title="Paths", description="How many are listed.")
    complete: bool = Field(
        False,
        title="All paths",
        description=f"Until no flow is left; up to {WHOLE} tokens from question to answer.",
    )


PATHS = Table(
    doc="One row per path, the most probable first; the last row is what they leave out.",
    columns={
        "path": Column(pa.int64(), "Number from 1; empty for the remainder."),
        "kind": Column(pa.string(), "path, or remainder: all flow that no listed path carries."),
        "flow": Column(pa.float64(), "Flow it takes: all that its narrowest edge still held."),
        "share": Column(pa.float64(), "Of all flow that arrives.", "", "share"),
        "length": Column(pa.int64(), "Edges on it."),
        "log_weight": Column(
            pa.float64(),
            "log of the product of W': how probable the way is from its first token.",
            "nats",
            "log weight",
        ),
    },
)

STEPS = Table(
    doc="One row per token of a path.",
    columns={
        "path": Column(pa.int64(), "Number of the path."),
        "order": Column(pa.int64(), "Place on the path, from 0."),
        "position": Column(pa.int64(), "Place in the sequence."),
        "token": Column(pa.string(), "The token's text."),
    },
)

SUMMARY = Table(
    doc="One row: how the graph was made.",
    columns={
        **CHOICES,
        "sink_inflow": Column(pa.float64(), "Flow that arrives in all."),
        "paths": Column(pa.int64(), "Paths listed."),
        "complete": Column(pa.bool_(), "Whether the paths were to carry all flow."),
    },
)


@analysis(
    "flow.paths",
    version=1,
    subject=Trace,
    params=PathsParams,
    tables={"paths": PATHS, "steps": STEPS, "summary": SUMMARY},
    title="Along which tokens did most of the information travel?",
    cite=(
        FLOWTRACER,
        "Ford and Fulkerson (1962), Flows in Networks, ch. I: a flow as paths.",
    ),
    caveats=(
        NOT_CAUSAL,
        NODE_ROW,
        "Attention is diffuse: a few paths carry a small part, the remainder the rest.",
        "Another order of taking paths gives other paths: this one takes the most probable first.",
    ),
)
def flow_paths(ctx: Context) -> Iterator[Progress | Tables]:
    """The flow of ``flow.backbone`` as paths: most probable way first, bottleneck subtracted.

    The most probable way among edges that still hold flow is found by dynamic programming over
    log W'; it takes all that its narrowest edge (or its source, or its way into the sink) holds.
    The row ``remainder`` is the flow that arrives along no listed path.
    """
    params: PathsParams = ctx.params
    yield Progress(None, "Reading the attention")
    graph = read_graph(ctx)
    length = graph.answer.end - graph.question.start
    if params.complete and length > WHOLE:
        raise UserError(
            f"All paths are listed up to {WHOLE} tokens from question to answer; here are "
            f"{length:,}: turn complete off."
        )
    reached = reach(graph.rows, graph.answers, absorbing=params.absorbing)
    refuse_unreached(graph, reached)
    arriving = flow_of(graph.rows, reached, graph.source, 1).sink_inflow
    found: list[Path] = []
    most = None if params.complete else params.most
    for path in paths(graph.rows, reached, graph.source, most):
        found.append(path)
        fraction = None if most is None else 0.5 + 0.5 * len(found) / most
        yield Progress(fraction, f"Found {len(found):,} paths")
    ctx.note("paths", "path", "the remainder is no path: it has no number, length or weight")
    summary = {
        **graph.choices(),
        "sink_inflow": arriving,
        "paths": len(found),
        "complete": params.complete,
    }
    yield Tables(
        paths=pa.Table.from_pylist(_rows(found, arriving), schema=PATHS.schema()),
        steps=_steps(ctx.subject, found),
        summary=pa.Table.from_pylist([summary], schema=SUMMARY.schema()),
    )


def _rows(found: list[Path], arriving: float) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {
            "path": number,
            "kind": "path",
            "flow": path.flow,
            "share": path.flow / arriving,
            "length": len(path.nodes) - 1,
            "log_weight": path.log_weight,
        }
        for number, path in enumerate(found, 1)
    ]
    rest = max(0.0, arriving - sum(path.flow for path in found))
    rows.append({"kind": "remainder", "flow": rest, "share": rest / arriving})
    return rows


def _steps(trace: Trace, found: list[Path]) -> pa.Table:
    rows = [
        {"path": number, "order": order, "position": node, "token": show(trace.pieces[node])}
        for number, path in enumerate(found, 1)
        for order, node in enumerate(path.nodes)
    ]
    return pa.Table.from_pylist(rows, schema=STEPS.schema())
