"""``attribution.kernel_shap``: Shapley values by a regression over coalitions of sources."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from engine.attribution.coalitions import constrained, draw_pairs, kernel_weights
from engine.attribution.sampled import (
    NOTHING_LEFT,
    SAMPLED_TABLES,
    SampledParams,
    all_subsets,
    emptied,
    lively,
    note_undefined,
    read_all,
    spread,
)
from engine.attribution.work import MODELS, Bools, Floats, Work
from engine.context import Context
from engine.limits.caps import READS
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

TOO_FEW = (
    "The coalitions do not determine the scores: raise samples (at least as many as sources), or "
    "choose larger sources."
)
NO_ERROR = "Too few coalitions were drawn for a standard error: raise samples."


class KernelShapParams(SampledParams):
    """Also: how many coalitions are read."""

    samples: int = Field(
        0,
        ge=0,
        le=1_000_000,
        title="coalitions",
        description=(
            "How many are read; 0 is 2 × sources + 2,048, as in the shap package. All of them "
            "when there are no more than that: then nothing is drawn."
        ),
        json_schema_extra=READS,
    )


@analysis(
    "attribution.kernel_shap",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=KernelShapParams,
    tables=SAMPLED_TABLES,
    title="What is each one's fair share, from a regression over random selections?",
    cite=(
        "Lundberg & Lee 2017, A Unified Approach to Interpreting Model Predictions, §4.1",
        "Covert & Lee 2021, Improving KernelSHAP, arXiv 2012.01536 (pairs; constrained solution)",
        "White 1980, A Heteroskedasticity-Consistent Covariance Matrix Estimator (errors)",
    ),
    caveats=(
        "Drawn at random: differences below a few standard errors mean nothing.",
        "Most of the texts read have about half of the sources taken away, which no one wrote.",
    ),
)
def kernel_shap(ctx: Context) -> Iterator[Progress | Tables]:
    """Shapley values as the solution of a weighted regression (KernelSHAP).

    Coalitions are drawn by the Shapley kernel, each with its complement, and the values are fitted
    under the constraint that the scores add up to value − baseline, so the residual is 0. With no
    more subsets than ``samples`` all are read and the scores are exact Shapley values. One forward
    of each coalition serves all targets: each is fitted over the sources before it, with weights
    that allow for the way its coalitions were drawn.

    (Captum replaces the two infinite weights of the kernel by a large number, so its scores add up
    only nearly.) Standard errors are of the draws alone.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    count = len(work.sources)
    samples = ctx.params.samples or 2 * count + 2048
    exact = count < 20 and 2**count <= samples
    subsets = all_subsets(count) if exact else None
    empty = yield from lively(emptied(work))

    def make(first: int, last: int) -> Bools:
        if subsets is not None:
            return subsets[first:last]
        return draw_pairs(ctx.params.seed, count, first, last)

    def tables(keep: Bools, values: Floats) -> Tables:
        scores, errors = _solved(work, keep, values, empty, drawn=not exact)
        return work.tables(scores, empty, spread=spread(work, scores, errors))

    total = 2**count if exact else samples + samples % 2
    keep, values = yield from lively(read_all(work, make, total, tables))
    scores, errors = _solved(work, keep, values, empty, drawn=not exact)
    note_undefined(work, empty[:, None] + 0 * scores, NOTHING_LEFT, "baseline")
    note_undefined(work, scores, TOO_FEW if np.isfinite(values).all() else NOTHING_LEFT)
    note_undefined(work, errors, NO_ERROR, "standard_error")
    yield work.tables(scores, empty, spread=spread(work, scores, errors))


def _solved(
    work: Work, keep: Bools, values: Floats, empty: Floats, *, drawn: bool
) -> tuple[Floats, Floats]:
    """Scores and standard errors [n, S] of each target's own game."""
    scores = np.full(work.applies.shape, np.nan)
    errors = np.full(work.applies.shape, np.nan)
    for i, players in enumerate(work.applies):
        if not players.any():
            continue
        weights = kernel_weights(keep, players, drawn=drawn)
        scores[i, players], found = constrained(
            keep[:, players], values[:, i], weights, empty[i], work.base[i], paired=drawn
        )
        errors[i, players] = found if drawn else 0 * scores[i, players]
    return scores, errors
