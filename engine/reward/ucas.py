"""``reward.ucas``: the advantage bent by how sure the model was, of the response and the token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.plan import check_trace
from engine.registry import analysis
from engine.reward.population import (
    Floats,
    Seen,
    batches,
    looking_at,
    none_if_nan,
    rollout_row,
    survey,
    tokens_of,
)
from engine.reward.populationtables import POPULATION, ROLLOUT, AdvantageParams, tokens_schema
from engine.schema import Column, Progress, Table, Tables
from engine.statistics import CHUNK_BYTES
from engine.subjects import Group, Rollouts, Trace


class UcasParams(AdvantageParams):
    """Settings of ``reward.ucas``."""

    positive: float = Field(
        0.25,
        ge=0,
        le=10,
        title="β, right",
        description="How much sureness lowers a good advantage.",
    )
    negative: float = Field(
        0.35,
        ge=0,
        le=10,
        title="β, wrong",
        description="How much sureness adds to a bad advantage.",
    )
    token: float = Field(
        0.05, ge=0, le=10, title="Token", description="Taken off for the token's own logit."
    )


TOKENS = tokens_schema(
    "One row per token; a value describes the prediction of that token.",
    {
        "self_certainty": Column(pa.float64(), "logZ − mean logit.", "nats", "self-certainty"),
        "logit": Column(pa.float64(), "The token's own logit.", "nats", "logit"),
        "logit_scaled": Column(
            pa.float64(), "The logit, 0 to 1 over all response tokens.", "", "logit, scaled"
        ),
        "advantage": Column(pa.float64(), "What the loss uses.", "", "UCAS advantage"),
    },
)

ROLLOUTS = Table(
    doc="One row per rollout.",
    columns={
        **ROLLOUT,
        "certainty": Column(pa.float64(), "Sum of the self-certainty.", "nats", "certainty"),
        "certainty_z": Column(
            pa.float64(), "Its distance from the group's mean in deviations.", "", "z"
        ),
        "factor": Column(pa.float64(), "Multiplies the advantage.", "", "factor"),
    },
)


def z_scores(values: Floats, epsilon: float = 1e-6) -> Floats:
    """(value − mean) / (unbiased std + ε) over values that are no NaN; NaN if fewer than two."""
    known = values[~np.isnan(values)]
    if known.size < 2:
        return np.full(values.shape, np.nan)
    return (values - known.mean()) / (known.std(ddof=1) + epsilon)


def factors(advantage: Floats, z: Floats, positive: float, negative: float) -> Floats:
    """exp(−β₊ z) where the advantage is above 0, exp(β₋ z) elsewhere."""
    return np.exp(np.where(advantage > 0, -positive * z, negative * z))


def min_max(values: Floats, least: float = 0.0) -> Floats:
    """Values scaled to [0, 1] over all that are no NaN; a range of at most ``least`` gives 0."""
    if np.isnan(values).all():
        return values.copy()
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return (values - low) / (high - low) if high - low > least else values * 0


def bent(advantage: Floats, factor: Floats, logit_scaled: Floats, token: float) -> Floats:
    """Â w − c ẑ, never below 0 where Â w is above it."""
    whole = advantage * factor
    raw = whole - token * logit_scaled
    return np.where(whole > 0, np.maximum(raw, 0), raw)


@analysis(
    "reward.ucas",
    version=1,
    subject=(Group, Rollouts),
    params=UcasParams,
    tables={"tokens": TOKENS, "rollouts": ROLLOUTS, "population": POPULATION},
    title="How would being sure change what a response and a token are worth?",
    cite=("UCAS (2025), arXiv 2510.10649, and its code (xvolcano02/UCAS, core_algos.py).",),
    caveats=(
        "A sum over the response: long responses count as surer.",
        "Logits are the model's own and have no common zero: only their order in the batch counts.",
        "The min-max is over all response tokens handed in.",
    ),
)
def ucas(ctx: Context) -> Iterator[Progress | Tables]:
    """Ã = Â exp(∓ β z) − c ẑ, with z the response's certainty in its group, ẑ the token's logit."""
    yield Progress(None, "Loading the model")
    seen = yield from survey(ctx)
    parts: dict[int, tuple[Floats, Floats]] = {}
    traces = (trace for batch in batches(ctx) for trace in batch.group.rollouts)
    for one, trace in zip(seen, traces, strict=True):
        parts[one.rollout] = certainty_and_logit(ctx, trace)
        yield Progress(0.9, f"Logits of rollout {one.rollout + 1:,}")
    sums = {o.rollout: _sum(parts[o.rollout][0][o.trained]) for o in seen}
    z = _z(ctx, seen, sums)
    logits = np.concatenate([parts[o.rollout][1][o.trained] for o in seen])
    scaled_all = min_max(logits)
    cuts = np.cumsum([int(o.trained.sum()) for o in seen])[:-1]
    scaled = {o.rollout: o.spread(v) for o, v in zip(seen, np.split(scaled_all, cuts), strict=True)}
    factor = {
        o.rollout: float(
            factors(
                np.array(o.advantage),
                np.array(z[o.rollout]),
                ctx.params.positive,
                ctx.params.negative,
            )
        )
        if not np.isnan(o.advantage)
        else np.nan
        for o in seen
    }

    def columns(one: Seen, trace: Trace) -> dict[str, Floats]:
        certainty, logit = parts[one.rollout]
        advantage = np.where(one.trained, one.advantage, np.nan)
        return {
            "self_certainty": certainty,
            "logit": logit,
            "logit_scaled": scaled[one.rollout],
            "advantage": bent(
                advantage, np.array(factor[one.rollout]), scaled[one.rollout], ctx.params.token
            ),
        }

    rollouts = [
        {
            **rollout_row(o),
            "certainty": none_if_nan(sums[o.rollout]),
            "certainty_z": none_if_nan(z[o.rollout]),
            "factor": none_if_nan(factor[o.rollout]),
        }
        for o in seen
    ]
    yield Tables(
        tokens=tokens_of(ctx, seen, TOKENS, columns),
        rollouts=pa.Table.from_pylist(rollouts, schema=ROLLOUTS.schema()),
        population=pa.Table.from_pylist(_limits(seen, logits), schema=POPULATION.schema()),
    )


def certainty_and_logit(ctx: Context, trace: Trace) -> tuple[Floats, Floats]:
    """logZ − mean logit before every response token, and the token's own logit, [T] in nats.

    One sweep over the kept hidden states; NaN for the prompt. The logits are not held.
    """
    import torch

    check_trace(trace, ctx.plan.models["model"])
    model = ctx.models["model"]
    view = looking_at(ctx, trace)
    certainty, logit = np.full(len(trace), np.nan), np.full(len(trace), np.nan)
    rows = max(1, CHUNK_BYTES // (4 * model.real_vocab))
    for start in range(max(trace.response_start, 1) - 1, len(trace) - 1, rows):
        end = min(len(trace) - 1, start + rows)
        target = torch.tensor(trace.ids[start + 1 : end + 1], device=model.device)
        with torch.no_grad():
            stats = view.token_stats(start, end, target)
        # Row t predicts token t + 1.
        certainty[start + 1 : end + 1] = stats.self_certainty.double().cpu().numpy()
        logit[start + 1 : end + 1] = (stats.logprob + stats.logz).double().cpu().numpy()
    return certainty, logit


def _sum(values: Floats) -> float:
    return float(values.sum()) if values.size else np.nan


def _z(ctx: Context, seen: Sequence[Seen], sums: dict[int, float]) -> dict[int, float]:
    found: dict[int, float] = {}
    for _, members in groupby(seen, key=lambda one: one.group):
        ones = list(members)
        values = z_scores(np.array([sums[one.rollout] for one in ones]))
        for one, value in zip(ones, values, strict=True):
            found[one.rollout] = float(value)
            if np.isnan(value):
                why = "its group has fewer than two responses with tokens"
                ctx.note("rollouts", "certainty_z", why, rollout=one.rollout)
    return found


def _limits(seen: Sequence[Seen], logits: Floats) -> list[dict[str, object]]:
    if not logits.size:
        return []
    common = {
        "tokens": int(logits.size),
        "missing": 0,
        "rollouts": sum(bool(o.trained.any()) for o in seen),
        "groups": len({o.group for o in seen if o.trained.any()}),
        "quantity": "logit",
    }
    ends = ((0.0, float(logits.min())), (1.0, float(logits.max())))
    return [{**common, "level": level, "threshold": value} for level, value in ends]
