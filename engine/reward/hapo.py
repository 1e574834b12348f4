"""``reward.hapo``: advantage and clip of each token, scaled by how its entropy compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.registry import analysis
from engine.reward.grpo import VERL_EPSILON, undefined
from engine.reward.population import (
    Floats,
    Seen,
    batches,
    pooled,
    population_row,
    population_table,
    survey,
    tokens_of,
    unpooled,
)
from engine.reward.populationtables import POPULATION, JudgedParams, tokens_schema
from engine.reward.rules import SAMPLED, TRAINED, first_signal
from engine.schema import Column, Progress, Tables
from engine.subjects import Group, Rollouts, Trace

SMALLEST_ENTROPY = 1e-8
"""Below this the logarithm of the entropy is cut off, as in the released code (nats)."""


class HapoParams(JudgedParams):
    """Settings of ``reward.hapo``."""

    rho: float = Field(
        0.8, gt=0, lt=1, title="ρ", description="Quantile of the log-entropy that is the pivot."
    )
    epsilon: float = Field(
        VERL_EPSILON, ge=0, le=1, title="ε", description="Added to the standard deviation."
    )
    clip_low: float = Field(0.2, ge=0, lt=1, title="ε low", description="Lower clip range.")
    clip_high: float = Field(0.28, ge=0, title="ε high", description="Upper clip range.")


TOKENS = tokens_schema(
    "One row per token; a value describes the prediction of that token.",
    {
        "entropy": Column(pa.float64(), "Before the token.", "nats", "entropy"),
        "h": Column(pa.float64(), "−1 (least entropy) over 0 (the pivot) to 1 (most).", "", "h̃"),
        "token_advantage": Column(
            pa.float64(), "Reward normed over all tokens of the group (B).", "", "token advantage"
        ),
        "ratio": Column(pa.float64(), "Importance ratio of the log, else 1.", "", "ratio"),
        "advantage": Column(pa.float64(), "What the loss uses (C).", "", "HAPO advantage"),
        "clip_low": Column(pa.float64(), "Its own lower clip range (D).", "", "ε low"),
        "clip_high": Column(pa.float64(), "Its own upper clip range (D).", "", "ε high"),
    },
)


def scaled_entropy(entropy: Floats, rho: float) -> tuple[Floats, float]:
    """h̃ ∈ [−1, 1] of each token of the batch [N], and the pivot as an entropy in nats.

    h = log H − Q_ρ(log H); h̃ = h / h_max above the pivot, h / |h_min| below it. The standard
    deviation the paper divides by cancels. Constant entropies give 0.
    """
    logs = np.log(np.maximum(entropy, SMALLEST_ENTROPY))
    pivot = float(np.quantile(logs, rho, method="nearest"))
    h = logs - pivot
    above, below = max(float(h.max()), 0.0), max(float(-h.min()), 0.0)
    scaled = np.where(h > 0, h / (above or 1.0), h / (below or 1.0))
    return scaled, float(np.exp(pivot))


def token_advantages(rewards: Floats, lengths: Floats, epsilon: float) -> Floats:
    """Rewards [G] normed over all tokens of the group: each counts as often as it has tokens.

    (r − mean) / (std + ε), both weighted by ``lengths`` [G], std of the population. Their sum over
    the group's tokens is 0. Rollouts with a NaN reward are NaN and count nowhere.
    """
    weight = np.where(np.isnan(rewards), 0.0, lengths)
    known = np.nan_to_num(rewards)
    mean = float((weight * known).sum() / weight.sum())
    std = float(np.sqrt((weight * (known - mean) ** 2).sum() / weight.sum()))
    return (rewards - mean) / (std + epsilon)


def adapted(advantage: Floats, h: Floats, ratio: Floats, low: float, high: float) -> Floats:
    """Â (1 + h̃) for uncertain tokens that moved and for sure tokens that did not; else Â.

    Moved means a ratio outside (1 − low/2, 1 + high/2).
    """
    moved = (ratio <= 1 - low / 2) | (ratio >= 1 + high / 2)
    return np.where((h > 0) == moved, advantage * (1 + h), advantage)


def clip_ranges(h: Floats, low: float, high: float) -> tuple[Floats, Floats]:
    """ε_low (1 − h̃) for h̃ ≤ 0 and ε_high (1 + h̃) for h̃ > 0; the other side stays."""
    lows = np.where(h <= 0, low * (1 - h), low)
    highs = np.where(h > 0, high * (1 + h), high)
    unknown = np.isnan(h)
    return np.where(unknown, np.nan, lows), np.where(unknown, np.nan, highs)


@analysis(
    "reward.hapo",
    version=1,
    subject=(Group, Rollouts),
    optional_models=("model",),
    params=HapoParams,
    tables={"tokens": TOKENS, "population": POPULATION},
    title="How would HAPO weigh sure and unsure tokens?",
    cite=("HAPO (2025), arXiv 2509.16591, and its code (starriver030515/HAPO, core_algos.py).",),
    caveats=(
        "Equation 6 as printed, and the code, make h̃ positive below the pivot too.",
        "What is computed here is the range the text states: h̃ from −1 to 1.",
        "Without importance ratios in the log they are 1, as in the first step of each update.",
        "The sampling temperature (part A) concerns drawing, not logged tokens.",
        "The code falls back to GRPO's advantage where the token's exceeds 5; not done here.",
    ),
)
def hapo(ctx: Context) -> Iterator[Progress | Tables]:
    """Token-level group advantage, scaled by h̃, and a clip range for each token."""
    seen = yield from survey(ctx, ("entropy",))
    params: HapoParams = ctx.params
    scaled, pivot = scaled_entropy(pooled(seen, "entropy"), params.rho)
    h = unpooled(seen, "entropy", scaled)
    ratios = _ratios(ctx, seen)
    tokens = _token_advantages(seen, params.epsilon)

    def columns(one: Seen, trace: Trace) -> dict[str, Floats]:
        own, ratio = h[one.rollout], ratios[one.rollout]
        advantage = np.where(one.trained, tokens[one.rollout], np.nan)
        low, high = clip_ranges(own, params.clip_low, params.clip_high)
        return {
            "entropy": one.values["entropy"],
            "h": own,
            "token_advantage": advantage,
            "ratio": ratio,
            "advantage": np.where(
                np.isnan(own),
                np.nan,
                adapted(advantage, own, ratio, params.clip_low, params.clip_high),
            ),
            "clip_low": low,
            "clip_high": high,
        }

    row = population_row(seen, "entropy", "entropy", params.rho, pivot)
    yield Tables(tokens=tokens_of(ctx, seen, TOKENS, columns), population=population_table([row]))


def _token_advantages(seen: Sequence[Seen], epsilon: float) -> dict[int, float]:
    found: dict[int, float] = {}
    for _, members in groupby(seen, key=lambda one: one.group):
        ones = list(members)
        rewards = np.array([one.reward for one in ones])
        lengths = np.array([float(one.trained.sum()) for one in ones])
        values = np.full(len(ones), np.nan)
        if undefined(rewards) is None and lengths[~np.isnan(rewards)].sum():
            values = token_advantages(rewards, lengths, epsilon)
        found.update({one.rollout: float(v) for one, v in zip(ones, values, strict=True)})
    return found


def _ratios(ctx: Context, seen: Sequence[Seen]) -> dict[int, Floats]:
    traces = (trace for batch in batches(ctx) for trace in batch.group.rollouts)
    found: dict[int, Floats] = {}
    missing = False
    for one, trace in zip(seen, traces, strict=True):
        log_ratio = first_signal(trace, TRAINED) - first_signal(trace, SAMPLED)
        unknown = np.isnan(log_ratio) & one.trained
        missing |= bool(unknown.any())
        ratio = np.where(unknown, 1.0, np.exp(log_ratio))
        found[one.rollout] = np.where(one.trained, ratio, np.nan)
    if missing:
        ctx.note("tokens", "ratio", "the log has no importance ratio for some tokens: 1 is taken")
    return found
