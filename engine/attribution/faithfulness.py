"""``attribution.faithfulness``: which method may be believed on this very text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from engine.attribution import scored
from engine.attribution.chance import Chance
from engine.attribution.faithtables import TABLES, filled, say_what_is_empty
from engine.attribution.measures import Bench, Judged, tells, within
from engine.attribution.scored import Scored
from engine.attribution.settings import RemovalParams
from engine.attribution.softmetrics import Scale, Soft
from engine.attribution.work import MODELS, Work
from engine.context import Context
from engine.errors import UserError
from engine.limits.caps import READS
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

PARTIAL = 8
"""How often at most the state so far is given while the targets are gone through."""


class FaithfulnessParams(RemovalParams):
    """Which methods, and how carefully they are measured."""

    methods: tuple[str, ...] = Field(
        scored.QUICK,
        title="methods",
        description="Names without the family, with commas between; each runs at its defaults.",
    )
    draws: int = Field(
        16,
        ge=1,
        le=256,
        title="masks",
        description="Soft masks drawn.",
        json_schema_extra=READS,
    )
    permutations: int = Field(
        8, ge=2, le=256, title="shuffles", description="Shuffles of each method's scores."
    )
    steps: int = Field(10, ge=2, le=200, title="points", description="Points of a curve.")
    scale: Scale = Field(
        "max",
        title="soft scale",
        description="How scores become probabilities of staying: by their max, min and max, raw.",
    )
    compat: bool = Field(
        False,
        title="as released",
        description="Soft measures by the squared distance of ReAGent's code, not by Hellinger's.",
    )
    top: int = Field(5, ge=1, le=1000, title="top", description="Sources compared by overlap.")
    seed: int = Field(0, ge=0, lt=2**32, title="seed", description="Of masks and shuffles.")

    @field_validator("methods", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return scored.split_names(value)


@analysis(
    "attribution.faithfulness",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=FaithfulnessParams,
    tables=TABLES,
    title="Which attribution method may I believe on this text?",
    cite=(
        "Zhao and Aletras 2023, ACL 2023: faithfulness metrics that mask softly, §4.",
        "Zhao and Shan 2024, ReAGent, arXiv 2402.00794, §5: Soft-NS and Soft-NC.",
        "Petsiuk, Das and Saenko 2018, RISE, arXiv 1806.07421: insertion and deletion.",
        "DeYoung et al. 2020, ERASER, ACL 2020, §4: sufficiency, comprehensiveness, AOPC.",
        "Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.",
    ),
    caveats=(
        "Soft measures reward dense scores: what counts is the difference to the scores shuffled.",
        (
            "Signed scores are clipped at 0 for the soft measures; the others order by the signed "
            "score, highest first."
        ),
        "The measures take tokens away as occlusion does, which favours methods of that kind.",
        "Faithful to the model is not the same as right: the model may be wrong.",
        "With one target the interval is about shuffles and masks only.",
        "The standing depends on which methods are compared.",
    ),
)
def faithfulness(ctx: Context) -> Iterator[Progress | Tables]:
    """Six measures of every method, each beside the same measure of the method's scores shuffled.

    ``soft_ns`` and ``soft_nc``: every element of a source's embedding stays with a probability
    that is the scaled score (or one minus it), and the Hellinger distance to the model's own
    prediction is taken; mean over ``draws`` masks. ``insertion`` and ``deletion``: area under the
    chance of the target when sources come in, or go, highest score first. ``sufficiency`` and
    ``comprehensiveness``: chance − chance with only, or without, the top 1, 5, 10, 20 and 50 % of
    the sources (at least one), averaged over these five; the paper's formula also counts a zeroth
    bin, which only scales it. The chance is p(target), its mean over the target's tokens; with a
    contrast p(target) / (p(target) + p(contrast)); for entropy and kl their own value.
    ``completeness``: |value − baseline − total| / |value − baseline| of methods that account for
    a difference; it has no shuffle and does not count for the rank.

    Masks, the orders of the shuffles and that of equal scores are the same for all methods, so
    that the measures of orders have one baseline. Rank: methods are ranked in each measure by
    their difference to the shuffles (to 0.001), and then by the mean of these ranks.
    """
    params: FaithfulnessParams = ctx.params
    names = scored.check_names(params.methods)
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    shared = {name: getattr(params, name) for name in RemovalParams.model_fields}
    methods: list[Scored] = []
    for step in scored.run_methods(ctx, work, names, shared, "faithfulness"):
        if isinstance(step, Progress):
            yield replace(step, fraction=0.3 * (step.fraction or 0))
        else:
            methods.append(step)
    if not methods:
        raise UserError("None of the methods can explain this text: name others.")
    judged: dict[str, dict[int, Judged]] = {m.method: {} for m in methods}
    bench, count = _bench(work, params), len(work.targets)
    often = -(-count // PARTIAL)
    for target in range(count):
        able = _able(ctx, work, methods, target)
        if not able:
            continue
        steps = bench.measure(target, [m.scores[target] for m in able])
        found = yield from within(steps, 0.3 + 0.7 * target / count, 0.7 / count)
        for method, mine in zip(able, found, strict=True):
            judged[method.method][target] = mine
        if target + 1 < count and (target + 1) % often == 0:
            yield Tables(filled(params, work, methods, judged))
    yield Progress(1.0, "Comparing")
    tables = filled(params, work, methods, judged)
    say_what_is_empty(ctx, methods, tables)
    yield Tables(tables)


def _bench(work: Work, params: FaithfulnessParams) -> Bench:
    return Bench(
        work,
        Chance(work),
        Soft(work, params.seed, compat=params.compat),
        params.draws,
        params.permutations,
        params.steps,
        params.scale,
        params.seed,
    )


def _able(ctx: Context, work: Work, methods: list[Scored], target: int) -> list[Scored]:
    """Methods whose scores order the sources of a target; notes about the others."""
    row, position = work.applies[target], work.targets[target].start
    able = []
    for one in methods:
        scores = one.scores[target][row]
        if not tells(scores):
            reason = f"{one.method} gives all sources the same score, which orders nothing"
            ctx.note("by_target", "value", reason, position=position)
            continue
        able.append(one)
        if np.isnan(scores).any():
            reason = f"{one.method}: sources without a score count as 0"
            ctx.note("by_target", None, reason, position=position)
    return able
