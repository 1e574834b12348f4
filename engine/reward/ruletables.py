"""Params and tables of ``reward.rules``."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
from pydantic import Field, model_validator

from engine.reward.populationtables import AdvantageParams, tokens_schema
from engine.schema import Column, Table


class RulesParams(AdvantageParams):
    """Settings of ``reward.rules``: the thresholds of every rule."""

    source: Literal["auto", "log", "models"] = Field(
        "auto",
        title="Ratio from",
        description="log: its trainer and inference log-probabilities; models: roles model and "
        "old; auto: models where they are named, else the log.",
    )
    clip_low: float = Field(
        0.2, ge=0, lt=1, title="Clip, ε low", description="PPO and GRPO: ratio below 1 − ε."
    )
    clip_high: float = Field(
        0.2, ge=0, title="Clip, ε high", description="Ratio above 1 + ε; DAPO takes 0.28."
    )
    dcpo_low: float | None = Field(
        None,
        gt=0,
        title="DCPO, ε low",
        description="Needed for DCPO: its code has 0.1 as default, its recipe another.",
    )
    dcpo_high: float | None = Field(
        None,
        gt=0,
        title="DCPO, ε high",
        description="Needed for DCPO: its code has 0.2 as default, its recipe sets 0.28.",
    )
    icepop_alpha: float = Field(
        0.5, gt=0, le=1, title="IcePop, α", description="Ratio below α; verl's preset is 0.5."
    )
    icepop_beta: float = Field(
        5.0, ge=1, title="IcePop, β", description="Ratio above β; verl's preset is 5."
    )
    dppo_low: float = Field(
        0.2, ge=0, le=1, title="DPPO, low", description="Probability fell by more; prime-rl: 0.2."
    )
    dppo_high: float = Field(
        0.2, ge=0, le=1, title="DPPO, high", description="Probability rose by more; prime-rl: 0.2."
    )

    @model_validator(mode="after")
    def _both(self) -> RulesParams:
        if (self.dcpo_low is None) != (self.dcpo_high is None):
            raise ValueError("DCPO needs both of its thresholds: set dcpo_low and dcpo_high")
        return self


def _verdict(name: str, doc: str) -> dict[str, Column]:
    return {
        f"{name}_dropped": Column(pa.bool_(), doc, "", f"{name} drops"),
        f"{name}_side": Column(pa.string(), "high or low, empty when it is kept.", "", "side"),
    }


TOKENS = tokens_schema(
    "One row per token.",
    {
        "advantage": Column(pa.float64(), "Of the log, else GRPO's.", "", "advantage"),
        "log_ratio": Column(pa.float64(), "log p trained − log p sampled.", "nats", "log-ratio"),
        "ratio": Column(pa.float64(), "Importance ratio, exp of it.", "", "ratio"),
        "mismatch_kl": Column(pa.float64(), "e^r − 1 − r of the log-ratio r.", "nats", "KL"),
        "probability_change": Column(
            pa.float64(), "p trained − p sampled.", "probability", "p change"
        ),
        "dcpo_lowest": Column(pa.float64(), "DCPO's lower bound on the ratio.", "", "DCPO low"),
        "dcpo_highest": Column(pa.float64(), "DCPO's upper bound on the ratio.", "", "DCPO high"),
        **_verdict("clip", "Whether PPO's clip stops its gradient."),
        **_verdict("dcpo", "Whether DCPO's bounds stop its gradient."),
        **_verdict("icepop", "Whether IcePop masks it."),
        **_verdict("dppo", "Whether DPPO's binary TV mask drops it."),
    },
)

DROPS = Table(
    doc="One row per rule.",
    columns={
        "rule": Column(pa.string(), "clip, dcpo, icepop or dppo.", "", "rule"),
        "tokens": Column(pa.int64(), "Response tokens it could judge.", "", "tokens"),
        "unjudged": Column(pa.int64(), "Those without ratio or advantage.", "", "unjudged"),
        "dropped": Column(pa.int64(), "Tokens it drops.", "", "dropped"),
        "share": Column(pa.float64(), "Dropped of judged.", "probability", "share"),
        "high": Column(pa.int64(), "Dropped above the region.", "", "above"),
        "low": Column(pa.int64(), "Dropped below the region.", "", "below"),
        "rollouts": Column(pa.int64(), "Rollouts that lose a token.", "", "rollouts"),
    },
)
