"""``attribution.occlusion``: how the target changes when a source is taken away."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Literal

import numpy as np
from pydantic import Field

from engine.attribution.hierarchical import BLOCKS, Search, blocks_table, search
from engine.attribution.sampled import NOTHING_LEFT, emptied, lively, note_undefined
from engine.attribution.settings import TABLES, RemovalParams
from engine.attribution.work import MODELS, Bools, Floats, Work
from engine.context import Context
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

LONG = 512
"""Sources above which ``auto`` looks at blocks first (ours)."""


class OcclusionParams(RemovalParams):
    """Also: whether every source is taken away alone."""

    strategy: Literal["auto", "flat", "hierarchical"] = Field(
        "auto",
        title="how",
        description=(
            "flat: every source alone; hierarchical: what gradients and whole blocks point at; "
            f"auto: flat up to {LONG} sources."
        ),
    )
    share: float = Field(
        0.2,
        gt=0,
        le=1,
        title="share of the work",
        description="With hierarchical: texts that may be read, as a share of the sources.",
    )


@analysis(
    "attribution.occlusion",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=OcclusionParams,
    tables={**TABLES, "blocks": BLOCKS},
    title="How does the target change when this is taken away?",
    cite=(
        "Zeiler & Fergus 2014, Visualizing and Understanding Convolutional Networks, §4.2",
        "Li, Monroe & Jurafsky 2016, Understanding Neural Networks through Representation Erasure",
        "Liu, Kandpal & Raffel 2024, AttriBoT, arXiv 2411.15102 (hierarchical)",
    ),
    caveats=(
        "Taken away alone, two sources that say the same cover for each other: both score low.",
        "Scores need not add up to value − baseline; the residual is what sources do together.",
        "A text with something taken away may be unlike any the model has seen.",
        "Hierarchical: a source that neither its gradient nor its block points at is missed.",
    ),
)
def occlusion(ctx: Context) -> Iterator[Progress | Tables]:
    """Leave one out: value on the text as it is, minus the value without the source.

    Signed and in the unit of what is explained; positive where the source supports the target.
    (Inseq drops the sign.) ``baseline`` is the value with all sources taken away at once: occlusion
    is not complete, so ``residual`` is not an error but what the sources do only together.

    One forward of each changed text scores all targets after the change. ``hierarchical`` takes
    away alone what gradients point at, and whole blocks, and looks into those that matter, until
    ``share`` of the full number of texts has been read; sources never taken away alone have no
    score. The scores it gives are those of ``flat``.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    baseline = yield from lively(emptied(work))
    note_undefined(work, baseline[:, None] + 0 * work.applies, NOTHING_LEFT, column="baseline")
    strategy = ctx.params.strategy
    if strategy == "auto":
        strategy = "flat" if len(work.sources) <= LONG else "hierarchical"
    if strategy == "flat":
        yield from _flat(work, baseline)
    else:
        yield from _hierarchical(work, baseline)


def _flat(work: Work, baseline: Floats) -> Generator[Progress | Tables, None, None]:
    def tables(values: Floats, known: Bools) -> Tables:
        scores = np.where(known, (work.base - values).T, np.nan)
        return work.tables(scores, baseline, blocks=blocks_table(work, None))

    keep = ~np.eye(len(work.sources), dtype=bool)
    values = yield from lively(work.kept(keep, so_far=tables))
    note_undefined(work, (work.base - values).T, NOTHING_LEFT)
    yield tables(values, np.ones(len(keep), bool))


def _hierarchical(work: Work, baseline: Floats) -> Generator[Progress | Tables, None, None]:
    def tables(found: Search) -> Tables:
        scores = found.scores(len(work.targets))
        return work.tables(scores, baseline, blocks=blocks_table(work, found))

    found = yield from lively(search(work, work.ctx.params.share, tables))
    note_undefined(
        work,
        found.scores(len(work.targets)),
        "Never taken away alone: gradients do not point at it, and the blocks it is in matter less "
        "than others (table blocks). strategy=flat scores every source.",
    )
    yield tables(found)
