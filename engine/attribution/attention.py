"""``attribution.attention``: where the row that predicts the target looks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from engine.attribution.rows import CAVEATS, count, read_ids, row_scores, target_weights
from engine.attribution.settings import TABLES, AttributionParams
from engine.attribution.work import MODELS, Work
from engine.context import Context
from engine.errors import UserError
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace


class AttentionParams(AttributionParams):
    """Which attention."""

    layer: int | None = Field(
        None,
        ge=-1,
        le=10_000,
        title="layer",
        description="One layer, from 0; −1 is the last. None is the mean over all layers.",
    )


def one_layer(layer: int, layers: int) -> int:
    """The layer as counted from 0.

    Raises:
        UserError: the model does not have it.
    """
    if not -1 <= layer < layers:
        raise UserError(f"There is no layer {layer}: choose 0 to {layers - 1}, or -1 for the last.")
    return layer % layers


@analysis(
    "attribution.attention",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=AttentionParams,
    tables=TABLES,
    title="Where does the model look when it says this?",
    cite=(
        "Bahdanau, Cho and Bengio 2015, arXiv 1409.0473, §5: attention weights as an explanation.",
        "Jain and Wallace 2019, Attention is not Explanation, NAACL 2019: why to be careful.",
    ),
    caveats=(*CAVEATS, "The first token often takes most of the attention and means little."),
)
def attention(ctx: Context) -> Iterator[Progress | Tables]:
    """Attention weights of position *t* − 1, which predicts the target, mean over all heads.

    Of several target tokens as one, the mean of their rows. What special tokens get is in no score.
    """
    yield Progress(None, "Reading attention")
    work = Work(ctx)
    model, ids = ctx.models["model"], read_ids(work)
    layer = ctx.params.layer
    layers = None if layer is None else [one_layer(layer, model.layers)]
    weights = model.attention(ids, layers=layers).double().cpu().numpy()
    count(work, 1, len(ids))
    scores = row_scores(work, target_weights(work) @ weights)
    yield work.tables(np.asarray(scores))
