"""``flow.knockout``: what the answer loses when chosen attention edges or tokens are cut."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.flow.cutting import Edge, Watched, edges_of, mask_of
from engine.flow.graph import (
    CHOICES,
    AnswerParams,
    HeadParams,
    chosen,
    numbers,
    one_span,
    row_of,
    selection,
)
from engine.flow.recurrences import Floats
from engine.flow.scoring import answer_logprobs, require_scores
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace
from engine.tokenization import show

KNOCKOUT = (
    "Geva et al. (2023), Dissecting Recall of Factual Associations in Auto-Regressive Language "
    "Models, arXiv 2304.14767: attention knock-out."
)


class KnockoutParams(HeadParams, AnswerParams):
    """Settings of ``flow.knockout``."""

    edges: str = Field(
        "",
        max_length=20_000,
        title="Edges",
        description="SOURCE>TARGET in token positions, such as 12>40,13>40.",
    )
    nodes: str = Field(
        "",
        max_length=4_000,
        coerce_numbers_to_str=True,
        title="Tokens",
        description="Positions no later token may look at, such as 12,13 or 20-24.",
    )


ANSWER = Table(
    doc="One row per answer token; a value describes the prediction of that token.",
    columns={
        "position": Column(pa.int64(), "Place in the sequence."),
        "token_id": Column(pa.int64(), "Id in the model's vocabulary."),
        "token": Column(pa.string(), "The token's text."),
        "before": Column(pa.float64(), "log p with all edges.", "nats"),
        "after": Column(pa.float64(), "log p without the cut ones.", "nats"),
        "change": Column(pa.float64(), "After minus before.", "nats"),
    },
)

CUTS = Table(
    doc="One row per edge or token that was cut.",
    columns={
        "kind": Column(pa.string(), "edge, or node: every later position's view of a token."),
        "source_position": Column(pa.int64(), "Token that was looked at.", "", "from"),
        "target_position": Column(pa.int64(), "Token that looked; empty for a node.", "", "to"),
        "weight": Column(
            pa.float64(),
            "Attention before, mean over the cut layers and heads; of a node summed over lookers.",
        ),
        "weight_after": Column(pa.float64(), "The same after the cut.", "", "weight after"),
    },
)

SUMMARY = Table(
    doc="One row: what was cut, and what became of the whole answer.",
    columns={
        "layers": Column(pa.string(), "Layers in which it was cut, from 0."),
        "heads": Column(pa.string(), "Heads in which it was cut."),
        **{name: CHOICES[name] for name in ("answer_row", "answer_start", "answer_end")},
        "edges": Column(pa.int64(), "Edges cut."),
        "nodes": Column(pa.int64(), "Tokens cut."),
        "before": Column(pa.float64(), "log p of the whole answer with all edges.", "nats"),
        "after": Column(pa.float64(), "The same without the cut ones.", "nats"),
        "change": Column(pa.float64(), "After minus before.", "nats"),
    },
)


@analysis(
    "flow.knockout",
    version=1,
    subject=Trace,
    params=KnockoutParams,
    tables={"answer": ANSWER, "cuts": CUTS, "summary": SUMMARY},
    title="What if this way were cut?",
    cite=(KNOCKOUT,),
    caveats=(
        "The rest of a row is scaled up to 1 again, as the softmax does: other edges gain.",
        "An edge into an answer token's own row does not change its own probability.",
        "With answer_row 'predicting' an edge into an answer token is one of the row before it.",
        "The text stays as it is: nothing is generated anew.",
    ),
)
def knockout(ctx: Context) -> Iterator[Progress | Tables]:
    """log p of the answer before and after cutting attention edges, token by token.

    A cut edge is out before the softmax, in the chosen layers and heads; both numbers come from
    the same network, so an edge without any influence changes exactly nothing. A token that is
    cut can be looked at by no later one (it still looks at itself).
    """
    params: KnockoutParams = ctx.params
    trace: Trace = ctx.subject
    length = len(trace)
    answer = one_span(trace, "answer", params.answer)
    edges = edges_of(params.edges, length)
    nodes = selection("tokens", params.nodes, length) if params.nodes.strip() else ()
    if not edges and not nodes:
        raise UserError("Nothing is cut: give edges such as 12>40, or tokens such as 12,13.")
    model = ctx.models["model"]
    require_scores(model, answer)
    layers, heads = chosen(params, model)
    rows = [row_of(target, answer, params.answer_row) for _, target in edges]
    from engine.twin import Knockout

    mask = mask_of(edges, nodes, length, answer, params.answer_row)
    cut = Knockout(mask, frozenset(layers), frozenset(heads))
    scores, weights = [], []
    for number, cuts in enumerate(((), (cut,))):
        yield Progress(
            number / 2, ("Reading with all edges", "Reading without the cut ones")[number]
        )
        watched = Watched(rows, [source for source, _ in edges], nodes, heads)
        hidden = model.visit_attention(trace.ids, watched, layers, cuts)
        scores.append(answer_logprobs(model, hidden, trace.ids, answer))
        weights.append(watched)
    before, after = scores
    summary = {
        "layers": numbers(layers),
        "heads": numbers(heads),
        "answer_row": params.answer_row,
        "answer_start": answer.start,
        "answer_end": answer.end,
        "edges": len(edges),
        "nodes": len(nodes),
        "before": float(before.sum()),
        "after": float(after.sum()),
        "change": float((after - before).sum()),
    }
    if nodes:
        ctx.note("cuts", "target_position", "a node is cut from every later token at once")
    yield Tables(
        answer=_answer(trace, answer.start, before, after),
        cuts=_cuts(edges, nodes, *weights),
        summary=pa.Table.from_pylist([summary], schema=SUMMARY.schema()),
    )


def _answer(trace: Trace, start: int, before: Floats, after: Floats) -> pa.Table:
    positions = range(start, start + len(before))
    columns = {
        "position": positions,
        "token_id": [trace.ids[p] for p in positions],
        "token": [show(trace.pieces[p]) for p in positions],
        "before": before,
        "after": after,
        "change": after - before,
    }
    return pa.table(columns, schema=ANSWER.schema())


def _cuts(edges: list[Edge], nodes: tuple[int, ...], before: Watched, after: Watched) -> pa.Table:
    columns = {
        "kind": ["edge"] * len(edges) + ["node"] * len(nodes),
        "source_position": [source for source, _ in edges] + list(nodes),
        "target_position": [target for _, target in edges] + [None] * len(nodes),
        "weight": [*before.edges, *before.nodes],
        "weight_after": [*after.edges, *after.nodes],
    }
    return pa.table(columns, schema=CUTS.schema())
