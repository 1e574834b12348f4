"""``flow.maxflow``: how much could flow from each token to the answer, layer by layer at most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from engine.context import Context
from engine.errors import UserError
from engine.flow.graph import NOT_CAUSAL, AnswerParams, HeadParams, chosen, one_span, row_of
from engine.flow.recurrences import Floats, Rows
from engine.flow.rolled import ABNAR, with_residual
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

MOST = 48
"""Most tokens up to the end of the answer: every pair is a maximum flow of its own."""

SCALE = 1_000_000
"""Capacities are whole millionths, as the solver wants them."""


class MaxflowParams(HeadParams, AnswerParams):
    """Settings of ``flow.maxflow``."""


PAIRS = Table(
    doc="One row per answer token and token it could draw from.",
    columns={
        "target_position": Column(pa.int64(), "Answer token.", "", "to"),
        "source_position": Column(pa.int64(), "Token at the lowest layer.", "", "from"),
        "flow": Column(pa.float64(), "Maximum flow through the layers' attention; at most 1."),
        "share": Column(pa.float64(), "Of the sum over all sources of this answer token."),
    },
)


@analysis(
    "flow.maxflow",
    version=1,
    subject=Trace,
    params=MaxflowParams,
    tables={"pairs": PAIRS},
    title="How much could flow from each token to the answer?",
    cite=(f"{ABNAR}: attention flow, §3.",),
    caveats=(
        NOT_CAUSAL,
        "Each pair is asked alone: the flows of several sources could not all pass at once.",
        "Capacities are rounded to a millionth.",
    ),
)
def maxflow(ctx: Context) -> Iterator[Progress | Tables]:
    """Maximum flow from each input token to each answer token through the layered graph.

    Nodes are (layer, position); an edge from (l, s) to (l + 1, t) has the capacity Â_l[t, s] with
    Â = rownorm(mean of heads + I). Shares of one answer token sum to 1.
    """
    params: MaxflowParams = ctx.params
    answer = one_span(ctx.subject, "answer", params.answer)
    if answer.end > MOST:
        raise UserError(
            f"Maximum flows are computed up to {MOST} tokens; the answer ends at {answer.end:,}: "
            "use rollout or backbone, or a shorter text."
        )
    model = ctx.models["model"]
    layers, heads = chosen(params, model)
    yield Progress(0.0, "Reading the attention")
    kept = ctx.attention(layers=layers, heads=heads, keep="layers").cpu().numpy()
    # Later positions cannot lead to the answer.
    network = capacities(list(kept[:, : answer.end, : answer.end]))
    rows = []
    for number, target in enumerate(range(answer.start, answer.end)):
        yield Progress(number / len(answer), f"Answer token {number + 1} of {len(answer)}")
        row = row_of(target, answer, params.answer_row)
        flows = np.array([max_flow(network, source, row) for source in range(row + 1)])
        for source, flow in enumerate(flows):
            rows.append((target, source, flow, flow / flows.sum()))
    columns = dict(zip(PAIRS.columns, zip(*rows, strict=True), strict=True))
    yield Tables(pairs=pa.table(columns, schema=PAIRS.schema()))


def capacities(layers: Sequence[Rows]) -> list[Floats]:
    """Â of each layer in whole millionths, ``[t, s]``."""
    return [np.rint(with_residual(attention) * SCALE) for attention in layers]


def max_flow(network: Sequence[Floats], source: int, target: int) -> float:
    """Maximum flow from input token ``source`` to position ``target`` above the last layer.

    Args:
        network: ``capacities``.
        source: position at the lowest layer.
        target: position above the highest.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    n, count = len(network[0]), len(network)
    tails, heads, sizes = [], [], []
    for layer, capacity in enumerate(network):
        # Only between the two: earlier positions cannot lead from the one, later to the other.
        t, s = np.nonzero(np.tril(capacity))
        used = (s >= source) & (t <= target)
        tails.append(layer * n + s[used])
        heads.append((layer + 1) * n + t[used])
        sizes.append(capacity[t[used], s[used]])
    places = (np.concatenate(tails), np.concatenate(heads))
    size = (count + 1) * n
    graph = csr_array((np.concatenate(sizes).astype(np.int32), places), shape=(size, size))
    return float(maximum_flow(graph, source, count * n + target).flow_value) / SCALE
