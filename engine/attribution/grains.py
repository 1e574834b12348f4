"""``attribution.grains``: which tokens speak for the target, and which for the other one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from engine.attribution.gradients import by_sign, finished
from engine.attribution.integrated_gradients import along_the_path, at_the_beginning
from engine.attribution.paths import PathParams
from engine.attribution.segments import texts
from engine.attribution.settings import TABLES
from engine.attribution.work import MODELS, Floats, Ints, Reading, Work
from engine.context import Context
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

SOURCE = (
    "Nguyen, Prasad, Stengel-Eskin & Bansal 2026, GrAInS: Gradient-based Attribution for "
    "Inference-Time Steering of LLMs and VLMs (ACL 2026, arXiv 2507.18043)"
)

DIFFERENCES = (
    (
        "The released code differentiates the last token's log-probability only, and reads it off "
        "the step behind that token; here all tokens of both continuations count, each at the "
        "step that predicts it."
    ),
    (
        "The released code scores the prompt twice, under either continuation; here a prompt "
        "token's score is the sum, so that scores add up to the difference that is explained."
    ),
)


class GrainsParams(PathParams):
    """A comparison is needed; also: how many tokens of each sign are named."""

    top: int = Field(
        3, ge=1, le=1000, title="named", description="Sources named on each side, as published."
    )

    @model_validator(mode="after")
    def _compared(self) -> GrainsParams:
        if self.contrast is None:
            raise ValueError('contrast is missing: say what the target is compared with, as " 7"')
        if self.explain != "logprob":
            raise ValueError("GrAInS explains log-probabilities: leave explain=logprob")
        return self


BRANCHES = Table(
    doc="One row per source: its score from either side of the comparison.",
    columns={
        "source": Column(pa.string(), "The source, readable."),
        "source_position": Column(pa.int64(), "Its first position."),
        "source_end": Column(pa.int64(), "Position after its last token."),
        "preferred": Column(pa.float64(), "What it adds to the target's log-probability.", "nats"),
        "other": Column(
            pa.float64(), "What it takes from the log-probability of the other one.", "nats"
        ),
        "score": Column(pa.float64(), "Both together.", "nats"),
        "direction": Column(
            pa.string(), "for or against the target, where it is among the strongest."
        ),
        "rank": Column(pa.int64(), "1 for the strongest of its direction."),
    },
)


@analysis(
    "attribution.grains",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=GrainsParams,
    tables={**TABLES, "branches": BRANCHES},
    title="Which tokens speak for the target, and which for the other one?",
    cite=(SOURCE, "Sundararajan, Taly & Yan 2017, Axiomatic Attribution, §3"),
    caveats=DIFFERENCES,
)
def grains(ctx: Context) -> Iterator[Progress | Tables]:
    """Integrated gradients of F = Σ log p(y⁺) − Σ log p(y⁻), signed and summed over dimensions.

    y⁺ is the target, y⁻ the ``contrast``, both after the same context. As published with
    ``baseline=zero`` and 20 steps; here from the mean embedding with 32 Gauss–Legendre points.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    sides = yield from two_sides(work, ctx.params)
    baseline = yield from at_the_beginning(work, ctx.params)
    table = _branches(work, work.per_source(sides), ctx.params.top)
    yield finished(work, sides.sum(0, keepdims=True), baseline, branches=table)


def two_sides(work: Work, params: PathParams) -> Reading:
    """Integrated gradients of Σ log p(y⁺) and of −Σ log p(y⁻), [2, C]."""
    return along_the_path(work, params, by_sign(work))


def strongest(scores: Floats, top: int) -> tuple[Ints, Ints]:
    """The ``top`` largest positive scores, and the smallest negative ones, strongest first."""
    order = np.argsort(-scores, kind="stable")
    against = np.argsort(scores, kind="stable")
    return order[scores[order] > 0][:top], against[scores[against] < 0][:top]


def _branches(work: Work, sides: Floats, top: int) -> pa.Table:
    names = texts(work.trace, work.sources)
    total = sides.sum(0)
    direction: list[str | None] = [None] * len(total)
    rank: list[int | None] = [None] * len(total)
    for word, chosen in zip(("for", "against"), strongest(total, top), strict=True):
        for place, source in enumerate(chosen):
            direction[source], rank[source] = word, place + 1
    finite = ~np.isfinite(total)
    return pa.table(
        {
            "source": names,
            "source_position": [s.start for s in work.sources],
            "source_end": [s.end for s in work.sources],
            "preferred": pa.array(sides[0], pa.float64(), mask=finite),
            "other": pa.array(sides[1], pa.float64(), mask=finite),
            "score": pa.array(total, pa.float64(), mask=finite),
            "direction": pa.array(direction, pa.string()),
            "rank": pa.array(rank, pa.int64()),
        }
    )
