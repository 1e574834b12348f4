"""The tables of ``reward.step``."""

from __future__ import annotations

import pyarrow as pa

from engine.reward.rows import WHICH
from engine.schema import Column, Table


def _nats(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "nats", label)


CHANGES = {
    "log_prob": _nats("log-probability", "Before the step."),
    "measured": _nats("measured", "Real change of the log-probability."),
    "predicted_thr": _nats("THR predicts", "First order, output matrix only."),
    "predicted_influence": _nats("influence predicts", "First order, all weights."),
}

RESPONSES = Table(
    doc="One row per response with a reward.",
    columns={
        **WHICH,
        "reward": Column(pa.float64(), "Of the response.", "", "reward"),
        "correct": Column(pa.bool_(), "Whether it is right.", "", "right"),
        "advantage": Column(pa.float64(), "GRPO's.", "", "advantage"),
        "tokens": Column(pa.int64(), "Trained tokens.", "", "tokens"),
        **CHANGES,
    },
)

TOKENS = Table(
    per_token=True, doc="One row per token of every rollout.", columns={**WHICH, **CHANGES}
)

AGREEMENT = Table(
    doc="Prediction against measurement, over tokens and over responses.",
    columns={
        "level": Column(pa.string(), "tokens or responses.", "", "over"),
        "prediction": Column(pa.string(), "thr or influence.", "", "prediction"),
        "count": Column(pa.int64(), "Pairs compared.", "", "pairs"),
        "pearson": Column(pa.float64(), "Linear correlation.", "", "Pearson"),
        "spearman": Column(pa.float64(), "Rank correlation.", "", "Spearman"),
        "slope": Column(pa.float64(), "Measured per predicted, through 0.", "", "slope"),
        "sign_agreement": Column(pa.float64(), "Share with the same sign.", "", "same sign"),
    },
)

STEP = Table(
    doc="The step: one row.",
    columns={
        "what": Column(pa.string(), "Which weights moved.", "", "weights"),
        "lr": Column(pa.float64(), "Learning rate.", "", "learning rate"),
        "without_rollout": Column(pa.int64(), "Rollout of the token left out."),
        "without_position": Column(pa.int64(), "Its position."),
        "gradient_norm": Column(pa.float64(), "Length of the whole gradient.", "", "gradient"),
        "measured": _nats("right ones, measured", "Change of Σ log π over right responses."),
        "predicted_thr": _nats("right ones, THR", "The same as THR predicts."),
        "predicted_influence": _nats("right ones, influence", "The same as influence predicts."),
    },
)
