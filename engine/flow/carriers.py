"""``flow.carriers``: which layers and heads carry one edge, and what each does to the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.flow.cutting import edges_of
from engine.flow.graph import AnswerParams, one_span, row_of
from engine.flow.knockout import KNOCKOUT
from engine.flow.recurrences import Floats
from engine.flow.scoring import answer_logprobs, require_scores
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Span, Trace

if TYPE_CHECKING:
    from torch import Tensor


class CarriersParams(AnswerParams):
    """Settings of ``flow.carriers``."""

    edge: str = Field(
        max_length=40, title="Edge", description="SOURCE>TARGET in token positions, such as 12>40."
    )
    effects: bool = Field(
        False,
        title="Cut each alone",
        description="One forward for each of the heaviest heads: what the answer loses without it.",
    )
    most: int = Field(
        24,
        ge=1,
        le=256,
        title="Heads cut",
        description="How many of the heaviest are cut, one at a time.",
    )


CARRIERS = Table(
    doc="One row per layer and head.",
    columns={
        "layer": Column(pa.int64(), "Layer, from 0."),
        "head": Column(pa.int64(), "Head, from 0."),
        "weight": Column(pa.float64(), "Attention of the target to the source in this head."),
        "share": Column(pa.float64(), "Of the weight of all layers and heads.", "", "share"),
        "effect": Column(
            pa.float64(),
            "Change of the answer's log p when the edge is cut in this head alone.",
            "nats",
        ),
    },
)


@analysis(
    "flow.carriers",
    version=1,
    subject=Trace,
    params=CarriersParams,
    tables={"carriers": CARRIERS},
    title="Which layers and heads carry this edge?",
    cite=(KNOCKOUT,),
    caveats=(
        "A large weight need have no large effect: the head's values count too, and later layers.",
        "Effects of single heads do not add up to that of all of them.",
    ),
)
def carriers(ctx: Context) -> Iterator[Progress | Tables]:
    """Attention of one token to an earlier one in every layer and head.

    The text is read up to the target only, which is all its row can depend on. With ``effects``
    the edge is cut in the heaviest heads, one at a time, and the answer's log p compared with that
    of the same network uncut.
    """
    params: CarriersParams = ctx.params
    trace: Trace = ctx.subject
    edges = edges_of(params.edge, len(trace))
    if len(edges) != 1:
        raise UserError("Give one edge, such as 12>40.")
    source, target = edges[0]
    answer = None
    if params.effects or params.answer_row == "predicting":
        answer = one_span(trace, "answer", params.answer)
    row = row_of(target, answer, params.answer_row)
    yield Progress(0.0, "Reading the attention")
    weights = _weights(ctx, row, source)
    effects = np.full(weights.shape, np.nan)
    if params.effects:
        assert answer is not None
        order = np.argsort(-weights, axis=None, kind="stable")[: params.most]
        heaviest = [divmod(int(place), weights.shape[1]) for place in order]
        yield from _effects(ctx, (row, source), answer, heaviest, effects)
        if len(heaviest) < weights.size:
            ctx.note(
                "carriers", "effect", f"only the {len(heaviest)} heaviest heads were cut alone"
            )
    else:
        ctx.note("carriers", "effect", "not asked for: turn effects on")
    total = float(weights.sum())
    share = weights / total if total > 0 else np.full(weights.shape, np.nan)
    if total <= 0:
        ctx.note("carriers", "share", "no head looks along this edge")
    layer, head = np.indices(weights.shape)
    columns: dict[str, Any] = {
        "layer": layer.ravel(),
        "head": head.ravel(),
        "weight": weights.ravel(),
        "share": pa.array(share.ravel(), pa.float64(), from_pandas=True),
        "effect": pa.array(effects.ravel(), pa.float64(), from_pandas=True),
    }
    yield Tables(carriers=pa.table(columns, schema=CARRIERS.schema()))


def _weights(ctx: Context, row: int, source: int) -> Floats:
    """Attention ``[row, source]`` of every layer and head, [L, H]."""
    model = ctx.models["model"]
    found = np.full((model.layers, model.attention_heads), np.nan)

    def visit(layer: int, start: int, weights: Tensor) -> None:
        if start <= row < start + weights.shape[1]:
            found[layer] = weights[:, row - start, source].cpu().numpy()

    model.visit_attention(ctx.subject.ids[: row + 1], visit)
    if np.isnan(found).any():
        missing = int(np.flatnonzero(np.isnan(found).any(1))[0])
        raise UserError(
            f"Layer {missing} of {model.name} has no attention to read: choose another model."
        )
    return found


def _effects(
    ctx: Context,
    place: tuple[int, int],
    answer: Span,
    heads: Sequence[tuple[int, int]],
    effects: Floats,
) -> Iterator[Progress]:
    """Fill in what the answer's log p gains without the edge in each of the heads."""
    model = ctx.models["model"]
    require_scores(model, answer)
    # Nothing behind the answer can change what predicts it.
    ids = ctx.subject.ids[: answer.end]

    def score(cuts: list[tuple[int | None, ...]]) -> float:
        return float(answer_logprobs(model, model.hidden(ids, cuts), ids, answer).sum())

    if place[0] >= len(ids):
        for layer, head in heads:
            effects[layer, head] = 0.0
        return
    before = score([])
    for number, (layer, head) in enumerate(heads):
        yield Progress((number + 1) / (len(heads) + 1), f"Cut {number} of {len(heads)} heads")
        effects[layer, head] = score([(*place, layer, head)]) - before
