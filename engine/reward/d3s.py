"""``reward.d3s``: the rollouts and tokens that a down-sampled step would keep."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from engine.context import Context
from engine.registry import analysis
from engine.reward.population import (
    Bools,
    Floats,
    population_row,
    population_table,
    rollout_row,
    survey,
    tokens_of,
)
from engine.reward.populationtables import POPULATION, ROLLOUT, AdvantageParams, tokens_schema
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Rollouts
from engine.texts.textstats import top_share


class D3sParams(AdvantageParams):
    """Settings of ``reward.d3s``; the paper's schedule has no published end values."""

    rollouts: int | None = Field(
        None,
        validate_default=True,
        title="N rollouts",
        description="A choice: how many rollouts of all handed in are kept.",
        json_schema_extra={"examples": [8]},
    )
    share: float | None = Field(
        None,
        validate_default=True,
        title="K, share of tokens",
        description="A choice: which share of their tokens is kept.",
        json_schema_extra={"examples": [0.2]},
    )

    @field_validator("rollouts")
    @classmethod
    def _some(cls, value: int | None) -> int:
        if value is None or value < 1:
            raise ValueError("no source gives N, so it is yours to choose: set rollouts=8, say")
        return value

    @field_validator("share")
    @classmethod
    def _part(cls, value: float | None) -> float:
        if value is None or not 0 < value <= 1:
            raise ValueError("no source gives K, so it is yours to choose: set share=0.2, say")
        return value


TOKENS = tokens_schema(
    "One row per token; a value describes the prediction of that token.",
    {
        "advantage": Column(pa.float64(), "Of the response.", "", "advantage"),
        "entropy": Column(pa.float64(), "Before the token.", "nats", "entropy"),
        "score": Column(pa.float64(), "|advantage| × entropy.", "nats", "|A| H"),
        "kept": Column(pa.bool_(), "Whether the step uses it.", "", "kept"),
    },
)

ROLLOUTS = Table(
    doc="One row per rollout.",
    columns={**ROLLOUT, "kept": Column(pa.bool_(), "Whether the step uses it.", "", "kept")},
)


def widest_subset(values: Floats, size: int) -> Bools:
    """The subset of that size with the largest variance; all where there are no more.

    The best one is made of the largest and the smallest values, so the split between them is
    scanned. Of equal splits the one with fewer small values, of equal values the earlier one.

    Args:
        values: [n], without NaN.
        size: how many to keep, ≥ 1.
    """
    n = values.size
    marks = np.zeros(n, bool)
    if size >= n:
        marks[:] = True
        return marks
    order = np.argsort(values, kind="stable")
    centred = values[order] - values.mean()
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    squares = np.concatenate([[0.0], np.cumsum(centred**2)])
    small = np.arange(size + 1)  # so many of the smallest, the others of the largest
    tail = n - (size - small)
    total = sums[small] + sums[n] - sums[tail]
    square = squares[small] + squares[n] - squares[tail]
    best = int(np.argmax(np.round(square / size - (total / size) ** 2, 12)))
    downwards = np.argsort(-values, kind="stable")[: size - best]
    marks[order[:best]] = True
    marks[downwards] = True
    return marks


@analysis(
    "reward.d3s",
    version=1,
    subject=(Group, Rollouts),
    optional_models=("model",),
    params=D3sParams,
    tables={"tokens": TOKENS, "rollouts": ROLLOUTS, "population": POPULATION},
    title="Which rollouts and tokens would a down-sampled step keep?",
    cite=("Wang et al. (2025), D3S, arXiv 2509.22115: largest Var(A), then largest |A| H.",),
    caveats=(
        "The paper relaxes N and K during training, between values it does not give.",
        "Tokens are ranked among those of the rollouts that are kept.",
        "Rollouts are chosen across all groups handed in.",
    ),
)
def d3s(ctx: Context) -> Iterator[Progress | Tables]:
    """The N rollouts with the largest variance of the advantage, and of their tokens the K share
    with the largest |advantage| × entropy."""
    seen = yield from survey(ctx, ("entropy",))
    params: D3sParams = ctx.params
    assert params.rollouts is not None
    assert params.share is not None
    known = [one for one in seen if not np.isnan(one.advantage)]
    chosen = set()
    if known:
        marks = widest_subset(np.array([one.advantage for one in known]), params.rollouts)
        chosen = {one.rollout for one, mark in zip(known, marks, strict=True) if mark}
    scores = {
        one.rollout: np.where(one.trained, abs(one.advantage) * one.values["entropy"], np.nan)
        for one in seen
    }
    ranked = {r: np.flatnonzero(~np.isnan(scores[r])) for r in sorted(chosen)}
    values = np.concatenate([scores[r][p] for r, p in ranked.items()] or [np.zeros(0)])
    threshold: float | None = None
    # A rollout that is not chosen loses all its tokens; one without advantage stays unknown.
    kept = {r: np.where(np.isnan(scores[r]), np.nan, 0.0) for r in scores}
    if values.size:
        tokens, threshold, _ = top_share(values, params.share)
        start = 0
        for rollout, places in ranked.items():
            kept[rollout][places] = tokens[start : start + places.size]
            start += places.size
    row = population_row(
        [one for one in seen if one.rollout in chosen],
        "entropy",
        "|advantage| × entropy of kept rollouts",
        params.share,
        threshold,
    )
    rollouts = [
        {**rollout_row(o), "kept": None if np.isnan(o.advantage) else o.rollout in chosen}
        for o in seen
    ]
    yield Tables(
        tokens=tokens_of(
            ctx,
            seen,
            TOKENS,
            lambda one, trace: {
                "advantage": np.where(one.trained, one.advantage, np.nan),
                "entropy": one.values["entropy"],
                "score": scores[one.rollout],
                "kept": kept[one.rollout],
            },
        ),
        rollouts=pa.Table.from_pylist(rollouts, schema=ROLLOUTS.schema()),
        population=population_table([row]),
    )
