"""``attribution.attention_rollout``: attention followed through all layers down to the tokens."""

from __future__ import annotations

from collections.abc import Iterator

from engine.attribution.rows import CAVEATS, count, read_ids, row_scores, target_weights
from engine.attribution.settings import TABLES, AttributionParams
from engine.attribution.work import MODELS, Work
from engine.context import Context
from engine.flow.rolled import Rolling, rollout_of
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace


@analysis(
    "attribution.attention_rollout",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=AttributionParams,
    tables=TABLES,
    title="Which tokens could reach this prediction through all layers of attention?",
    cite=("Abnar and Zuidema 2020, Quantifying Attention Flow in Transformers, ACL 2020, §3.",),
    caveats=(
        *CAVEATS,
        "Each layer counts half for attention and half for the residual stream, in any model.",
        "Early tokens gather weight with every layer, because every later token can reach them.",
    ),
)
def attention_rollout(ctx: Context) -> Iterator[Progress | Tables]:
    """Row *t* − 1 of ``Â_{L−1} … Â_0`` with ``Â = rownorm(mean over heads of A + I)``.

    A row sums to 1; what is missing from a target's scores lies on special tokens.
    """
    from engine.twin import KEEP_BYTES

    yield Progress(None, "Reading attention")
    work = Work(ctx)
    model, ids = ctx.models["model"], read_ids(work)
    weights = target_weights(work)
    if 4 * model.layers * len(ids) ** 2 <= KEEP_BYTES:
        layers = model.attention(ids, keep="layers").cpu().numpy()
        mixed = rollout_of(list(layers), weights)
    else:
        rolling = Rolling(len(ids), range(model.attention_heads))
        model.visit_attention(ids, rolling)
        assert rolling.rolled is not None
        mixed = weights @ rolling.rolled.double().cpu().numpy()
    count(work, 1, len(ids))
    yield work.tables(row_scores(work, mixed))
