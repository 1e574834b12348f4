"""``reward.forking``: the tokens of high entropy that 80/20 training keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.registry import Params, analysis
from engine.reward.population import (
    Bools,
    Floats,
    pooled,
    population_row,
    population_table,
    survey,
    tokens_of,
    unpooled,
)
from engine.reward.populationtables import POPULATION, tokens_schema
from engine.schema import Column, Progress, Tables
from engine.subjects import Group, Rollouts
from engine.texts.textstats import top_share


class ForkingParams(Params):
    """Settings of ``reward.forking``."""

    rho: float = Field(
        0.2, gt=0, le=1, title="ρ", description="Share of the response tokens that is kept."
    )
    ties: Literal["all", "first"] = Field(
        "all",
        title="Ties",
        description="Tokens whose entropy is exactly the threshold: all are kept (the formula), or "
        "the first ones until the share is reached.",
    )


TOKENS = tokens_schema(
    "One row per token; a value describes the prediction of that token.",
    {
        "entropy": Column(
            pa.float64(), "How undecided the model was before this token.", "nats", "entropy"
        ),
        "forking": Column(pa.bool_(), "Whether 80/20 training keeps it.", "", "forking"),
    },
)


def forking_marks(
    entropy: Floats, rho: float, ties: Literal["all", "first"] = "all"
) -> tuple[Bools, float]:
    """Marks of the ⌈ρN⌉ tokens of the highest entropy, and the smallest entropy marked.

    Args:
        entropy: of the whole batch [N], without missing values, N ≥ 1.
        rho: share, 0 < ρ ≤ 1.
        ties: "all" marks every token at the threshold, so more than ⌈ρN⌉ may be marked.
    """
    marks, threshold, _ = top_share(entropy, rho)
    return (entropy >= threshold if ties == "all" else marks), threshold


@analysis(
    "reward.forking",
    version=1,
    subject=(Group, Rollouts),
    optional_models=("model",),
    params=ForkingParams,
    tables={"tokens": TOKENS, "population": POPULATION},
    title="Which tokens are the forks that 80/20 training keeps?",
    cite=(
        "Wang et al. (2025), Beyond the 80/20 Rule, arXiv 2506.01939: the top 20 % entropy tokens.",
    ),
    caveats=(
        "One threshold for all response tokens handed in: another batch, another mask.",
        "Entropy of the plain model (temperature 1), or as the log gave it.",
    ),
)
def forking(ctx: Context) -> Iterator[Progress | Tables]:
    """Mask m = 1[H ≥ τ], τ the (1 − ρ) quantile of the entropy over the batch's response tokens.

    Needs no rewards. ⌈ρN⌉ of the N tokens are marked, more where entropies tie at the threshold.
    """
    seen = yield from survey(ctx, ("entropy",), table=None)
    values = pooled(seen, "entropy")
    marks, threshold = forking_marks(values, ctx.params.rho, ctx.params.ties)
    row = population_row(seen, "entropy", "entropy", ctx.params.rho, threshold)
    if row["missing"]:
        ctx.note("tokens", "forking", f"{row['missing']:,} response tokens have no entropy")
    at = unpooled(seen, "entropy", marks)
    yield Tables(
        tokens=tokens_of(
            ctx,
            seen,
            TOKENS,
            lambda one, trace: {"entropy": one.values["entropy"], "forking": at[one.rollout]},
        ),
        population=population_table([row]),
    )
