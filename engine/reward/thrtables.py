"""The tables of ``reward.thr``."""

from __future__ import annotations

import pyarrow as pa

from engine.reward.rows import WHICH
from engine.schema import Column, Table


def _number(label: str, doc: str, unit: str = "") -> Column:
    return Column(pa.float64(), doc, unit, label)


TOKENS = Table(
    per_token=True,
    doc="One row per token of every rollout; a value describes the prediction of that token.",
    columns={
        **WHICH,
        "reward": _number("reward", "Of the rollout: the log's, or the checker's 1 or 0."),
        "advantage": _number("advantage", "GRPO's: reward minus the group's mean, over its std."),
        "thr": _number(
            "THR",
            "Token Hidden Reward: (2r − 1) Σ over right responses of 1/|y| times the change of "
            "their log-probability, per unit step of the output matrix. Above 0: the token's term "
            "raises right answers.",
            "nats",
        ),
        "nthr": _number(
            "NTHR",
            "Wrong responses only: how much raising this token would raise the right ones, without "
            "length norm. High: pushing it down hurts them.",
            "nats",
        ),
        "influence": _number(
            "influence",
            "Change of Σ log π(right responses) by this token's term of the loss, all weights, per "
            "unit of learning rate.",
            "nats",
        ),
        "thr_advantage": _number(
            "THR by advantage", "As THR with the advantage in place of 2r − 1.", "nats"
        ),
        "above_threshold": Column(pa.bool_(), "|THR| > τ.", "", "dominant"),
        "reweighted_advantage": _number(
            "reweighted", "1[|THR| > τ] · (1 + sign(THR) p) · advantage."
        ),
        "nthr_above": Column(pa.bool_(), "NTHR > τ of NTHR.", "", "spared by NTHR"),
        "nthr_advantage": _number(
            "NTHR advantage", "The advantage, times η on wrong responses' tokens above τ."
        ),
    },
)

ROLLOUTS = Table(
    doc="One row per rollout.",
    columns={
        **WHICH,
        "reward": TOKENS.columns["reward"],
        "reward_from": Column(pa.string(), "log or checker.", "", "reward from"),
        "correct": Column(pa.bool_(), "Whether the reward reaches the threshold.", "", "right"),
        "advantage": TOKENS.columns["advantage"],
        "tokens": Column(pa.int64(), "Trained tokens.", "", "tokens"),
        "anchor": _number("anchor", "Right ones: mean over tokens of what THR's M does.", "nats"),
        "nthr_anchor": _number("NTHR anchor", "The same without length norm.", "nats"),
        "thr_sum": _number("Σ THR", "Sum of THR over its tokens.", "nats"),
        "influence_sum": _number("Σ influence", "Sum of influence over its tokens.", "nats"),
    },
)

GROUPS = Table(
    doc="One row per group: what its thresholds are.",
    columns={
        "group": WHICH["group"],
        "first_rollout": Column(pa.int64(), "Number of its first rollout.", "", "first rollout"),
        "rollouts": Column(pa.int64(), "Rollouts.", "", "rollouts"),
        "rewarded": Column(pa.int64(), "Those with a reward.", "", "with reward"),
        "correct": Column(pa.int64(), "Those that are right.", "", "right"),
        "success_rate": _number("success rate", "Right ones among those with a reward."),
        "tokens": Column(pa.int64(), "Trained tokens of those with a reward.", "", "tokens"),
        "top_tenth": Column(
            pa.float64(),
            "Share of Σ |THR| that the tenth of the tokens with the largest |THR| holds.",
            "probability",
            "held by a tenth",
        ),
        "tau": _number("τ", "β times the smallest anchor, self pair included.", "nats"),
        "tau_nthr": _number("τ of NTHR", "β times the smallest NTHR anchor.", "nats"),
        "eta": _number("η", "2 |0.5 − success rate|."),
        "above": Column(pa.int64(), "Tokens with |THR| > τ.", "", "dominant tokens"),
        "method": Column(pa.string(), "How influence was found: forward mode or differences."),
        "reason": Column(pa.string(), "Why the group has no values.", "", "reason"),
    },
)

DERIVED = tuple(n for n in TOKENS.columns if n not in (*WHICH, "reward", "advantage"))
"""Columns that need right and wrong rollouts."""
