"""``attribution.value_zeroing``: what a prediction's position takes from each token."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from engine.attribution.attention import one_layer
from engine.attribution.rows import CAVEATS, read_ids, row_scores, target_weights
from engine.attribution.settings import TABLES, AttributionParams
from engine.attribution.work import MODELS, Work
from engine.context import Context
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace


class ValueZeroingParams(AttributionParams):
    """Which layers."""

    layer: int | None = Field(
        None,
        ge=-1,
        le=10_000,
        title="layer",
        description="One layer, from 0; −1 is the last. None rolls out all layers.",
    )


@analysis(
    "attribution.value_zeroing",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=ValueZeroingParams,
    tables=TABLES,
    title="From which tokens is the state made that says this?",
    cite=(
        "Mohebbi et al. 2023, Quantifying Context Mixing in Transformers, EACL 2023, §3.",
        "Abnar and Zuidema 2020, Quantifying Attention Flow in Transformers, ACL 2020, §3.",
    ),
    caveats=(
        CAVEATS[0],
        "Outputs are compared by their angle, in which a few large dimensions may count for all.",
        "Made for encoders; a causal model's row is that of the position before the target.",
    ),
)
def value_zeroing(ctx: Context) -> Iterator[Progress | Tables]:
    """1 − cos(output, output without the token's value) of each layer, rows normalised, rolled out.

    A layer is run again with the value vector of one token zero in all heads; queries, keys and
    the layer's input stay. As in the released code the rollout multiplies the layers without
    adding the identity: the residual stream is inside what is compared. The row of target *t* is
    that of position *t* − 1 and sums to 1; what special tokens get is in no score.
    """
    from engine.attribution.zeroing import mixing

    yield Progress(None, "Reading the text")
    work = Work(ctx)
    model, ids, layer = ctx.models["model"], read_ids(work), ctx.params.layer
    chosen = list(range(model.layers)) if layer is None else [one_layer(layer, model.layers)]
    layers = yield from mixing(model, work.parts[0].reader, ids, chosen)
    mixed = target_weights(work)
    for matrix in reversed(layers):
        mixed = mixed @ matrix
    yield work.tables(row_scores(work, mixed))
