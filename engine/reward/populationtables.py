"""What results over many rollouts share: params of the rewards, keys, table of thresholds."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from pydantic import Field

from engine.registry import Params
from engine.reward.grpo import VERL_EPSILON, Std
from engine.schema import Column, Table


class JudgedParams(Params):
    """How rollouts without a reward get one."""

    answer: str | None = Field(
        None,
        title="Right answer",
        description="Judges rollouts that came without a reward; a log's own answer if empty.",
        coerce_numbers_to_str=True,
    )
    checker: str = Field(
        "answer",
        title="Checker",
        description="How a response without a reward is judged, where the right answer is known.",
    )


class AdvantageParams(JudgedParams):
    """Settings of everything that starts from GRPO's advantage."""

    std: Std = Field(
        "unbiased",
        title="Divide by",
        description="Standard deviation of the group's rewards: unbiased (TRL, verl), population "
        "(the papers), or none (Dr. GRPO).",
    )
    epsilon: float = Field(
        VERL_EPSILON,
        ge=0,
        le=1,
        title="ε",
        description="Added to the standard deviation: 1e-6 in verl, 1e-4 in TRL.",
    )


KEYS: Mapping[str, Column] = {
    "group": Column(pa.string(), "Name of the prompt.", "", "group"),
    "rollout": Column(
        pa.int64(), "Number of the response, from 0, over all groups.", "", "rollout"
    ),
}

ROLLOUT: Mapping[str, Column] = {
    **KEYS,
    "tokens": Column(pa.int64(), "Response tokens that count in the loss.", "", "tokens"),
    "reward": Column(pa.float64(), "Its reward.", "", "reward"),
    "advantage": Column(pa.float64(), "Its advantage in its group.", "", "advantage"),
}

POPULATION = Table(
    doc="What each threshold was computed over.",
    columns={
        "quantity": Column(pa.string(), "Of what the threshold is."),
        "level": Column(pa.float64(), "Quantile or share that was asked for.", "", "level"),
        "threshold": Column(pa.float64(), "The threshold itself.", "", "threshold"),
        "tokens": Column(pa.int64(), "Tokens it was computed over.", "", "tokens"),
        "missing": Column(pa.int64(), "Response tokens without a value.", "", "missing"),
        "rollouts": Column(pa.int64(), "Rollouts they are from.", "", "rollouts"),
        "groups": Column(pa.int64(), "Groups they are from.", "", "groups"),
    },
)


def tokens_schema(doc: str, columns: Mapping[str, Column]) -> Table:
    """A per-token table over many rollouts: the keys, then the columns of the method."""
    return Table(per_token=True, doc=doc, columns={**KEYS, **columns})
