"""``attribution.lime``: a small linear model of what happens when words are taken away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.attribution.coalitions import ridge
from engine.attribution.sampled import (
    NOTHING_LEFT,
    SAMPLED_TABLES,
    SampledParams,
    lively,
    note_undefined,
    nullable,
    read_all,
    spread,
    uniforms,
)
from engine.attribution.work import MODELS, Bools, Floats, Work
from engine.context import Context
from engine.limits.caps import READS
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

TOO_FEW = "The selections do not determine the scores: raise samples, or a penalty above 0."
NO_ERROR = "No more selections were drawn than there are sources: raise samples."

FIT = Table(
    doc="One row per target: how well the linear model fits.",
    columns={
        "target_position": Column(pa.int64(), "First position of the target."),
        "intercept": Column(pa.float64(), "The linear model's value with everything taken away."),
        "r2": Column(
            pa.float64(), "Share of the weighted variance of the values that it explains, R²."
        ),
    },
)


class LimeParams(SampledParams):
    """Also: the neighbourhood and the linear model."""

    samples: int = Field(
        1000,
        ge=2,
        le=1_000_000,
        title="selections",
        description="How many are read (ours; the lime package reads 5,000).",
        json_schema_extra=READS,
    )
    width: float = Field(
        25.0,
        gt=0,
        le=1e6,
        title="width",
        description=(
            "Of the neighbourhood: selections count by exp(−d²/(2·width²)), d = 100 × the cosine "
            "distance to the whole text."
        ),
    )
    penalty: float = Field(
        1.0, ge=0, le=1e9, title="penalty", description="Of the squared coefficients (ridge)."
    )


@analysis(
    "attribution.lime",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=LimeParams,
    tables={**SAMPLED_TABLES, "fit": FIT},
    title="Which tokens does a simple linear model of this prediction rest on?",
    cite=(
        "Ribeiro, Singh & Guestrin 2016, Why Should I Trust You?, §3; defaults of the lime package",
        "White 1980, A Heteroskedasticity-Consistent Covariance Matrix Estimator (errors)",
    ),
    caveats=(
        "Drawn at random: differences below a few standard errors mean nothing.",
        "The penalty draws all scores towards 0; with a low R² no linear model fits.",
        "Width and penalty are choices of the package, not of theory, and change the scores.",
    ),
)
def lime(ctx: Context) -> Iterator[Progress | Tables]:
    """LIME: coefficients of a weighted ridge regression of the value on what was kept.

    As the lime package does for text: the first selection is the whole text; for each other one the
    number of sources taken away is uniform over 1 … S, then which ones. It counts by √exp(−d²/w²),
    d = 100 · (1 − cosine of the selection with the whole text). Scores are the coefficients: what
    keeping the source adds in this model. Not complete: ``baseline`` and ``residual`` are empty.

    One forward of each selection serves all targets; each is fitted over the sources before it. No
    features are selected beforehand. (Captum's and Inseq's LIME fit one target at a time, with a
    lasso.) Standard errors are of the draws alone.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    count = len(work.sources)

    def make(first: int, last: int) -> Bools:
        return draw(ctx.params.seed, count, first, last)

    def tables(keep: Bools, values: Floats) -> Tables:
        scores, errors, fit = _solved(work, keep, values)
        return work.tables(scores, spread=spread(work, scores, errors), fit=fit)

    keep, values = yield from lively(read_all(work, make, ctx.params.samples, tables))
    scores, errors, _ = _solved(work, keep, values)
    note_undefined(work, scores, TOO_FEW if np.isfinite(values).all() else NOTHING_LEFT)
    note_undefined(work, errors, NO_ERROR, "standard_error")
    yield tables(keep, values)


def draw(seed: int, count: int, first: int, last: int) -> Bools:
    """Selections number ``first`` to ``last`` − 1, [last − first, count]; number 0 keeps all."""
    found = np.ones((last - first, count), bool)
    for row, number in enumerate(range(first, last)):
        if number:
            draws = uniforms(seed, "lime", number, count + 1)
            gone = 1 + min(int(draws[0] * count), count - 1)
            found[row, np.argsort(draws[1:], kind="stable")[:gone]] = False
    return found


def nearness(keep: Bools, width: float) -> Floats:
    """Weight of each selection [N, m], [N]."""
    distance = 100 * (1 - np.sqrt(keep.mean(1)))
    found: Floats = np.sqrt(np.exp(-((distance / width) ** 2)))
    return found


def _solved(work: Work, keep: Bools, values: Floats) -> tuple[Floats, Floats, pa.Table]:
    """Scores and standard errors [n, S], and the table ``fit``."""
    params = work.ctx.params
    scores = np.full(work.applies.shape, np.nan)
    errors = np.full(work.applies.shape, np.nan)
    about = np.full((len(work.targets), 2), np.nan)
    for i, players in enumerate(work.applies):
        if players.any():
            own = keep[:, players]
            weights = nearness(own, params.width)
            scores[i, players], errors[i, players], *about[i] = ridge(
                own, values[:, i], weights, params.penalty
            )
    fit = {
        "target_position": [t.start for t in work.targets],
        "intercept": nullable(about[:, 0]),
        "r2": nullable(about[:, 1]),
    }
    return scores, errors, pa.table(fit)
