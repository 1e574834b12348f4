"""``reward.delta``: tokens whose gradient belongs to their own side, as DelTA weighs them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from engine.context import Context
from engine.plan import check_trace
from engine.registry import analysis
from engine.reward.lasthead import Rows, head_of
from engine.reward.population import (
    Batch,
    Floats,
    batches,
    count_of,
    none_if_nan,
    survey,
    tokens_of,
)
from engine.reward.populationtables import AdvantageParams, tokens_schema
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Rollouts

Gamma = Literal["std", "mean_abs"]

ROUNDING = 2e-6
"""Relative error of ⟨v, μ⟩ in float32: margins within it are 0, or γ would blow up noise."""


class DeltaParams(AdvantageParams):
    """Settings of ``reward.delta``."""

    gamma: Gamma | None = Field(
        None,
        validate_default=True,
        title="γ",
        description="A choice: std, the standard deviation of the side's margins (released code), "
        "or mean_abs, their mean size.",
    )
    gamma_scale: float = Field(1.0, gt=0, title="γ times", description="Multiplies γ.")
    steps: int = Field(
        1, ge=0, le=20, title="K", description="How often the centroids are refined."
    )
    lambda_min: float = Field(0.8, gt=0, title="λ from", description="Weight of a shared token.")
    lambda_max: float = Field(1.2, gt=0, title="λ to", description="Weight of a token of its side.")

    @field_validator("gamma")
    @classmethod
    def _chosen(cls, value: Gamma | None) -> Gamma:
        if value is None:
            raise ValueError(
                "the paper only says that γ adapts to the distances, so it is yours to choose: "
                "set gamma=std (as the released code) or gamma=mean_abs"
            )
        return value

    @model_validator(mode="after")
    def _ordered(self) -> DeltaParams:
        if self.lambda_max < self.lambda_min:
            raise ValueError(
                "λ must not end below its start: set lambda_max at least to lambda_min"
            )
        return self


TOKENS = tokens_schema(
    "One row per token; a value describes the prediction of that token.",
    {
        "advantage": Column(pa.float64(), "Of the response.", "", "advantage"),
        "margin": Column(
            pa.float64(),
            "‖v − μ other‖² − ‖v − μ own‖²: above 0 the gradient is nearer to its own side.",
            "",
            "margin",
        ),
        "own_distance2": Column(pa.float64(), "‖v − μ own‖².", "", "distance²"),
        "assignment": Column(pa.float64(), "σ(margin / γ).", "probability", "α"),
        "weight": Column(pa.float64(), "λ, divided by its mean over the group.", "", "weight"),
    },
)

GROUPS = Table(
    doc="One row per prompt.",
    columns={
        "group": Column(pa.string(), "Name of the prompt.", "", "group"),
        "positive": Column(pa.int64(), "Tokens with a positive advantage.", "", "positive"),
        "negative": Column(pa.int64(), "Tokens with a negative advantage.", "", "negative"),
        "gamma_positive": Column(pa.float64(), "γ of the positive side.", "", "γ, positive"),
        "gamma_negative": Column(pa.float64(), "γ of the negative side.", "", "γ, negative"),
        "apart2": Column(pa.float64(), "‖μ₊ − μ₋‖² of the refined centroids.", "", "apart²"),
    },
)


@dataclass(frozen=True, slots=True)
class Assigned:
    """What DelTA makes of the tokens of a group, [N] each.

    Attributes:
        margin, own_distance2, assignment: of each token, to the last centroids.
        gammas: of the positive and the negative side.
        apart2: squared distance of the centroids.
    """

    margin: Floats
    own_distance2: Floats
    assignment: Floats
    gammas: tuple[float, float]
    apart2: float


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + e^−x), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * values))


def assigned(
    rows: Any, norm2: Floats, advantage: Floats, gamma: Gamma, scale: float, steps: int
) -> Assigned:
    """Soft assignment of every token's gradient v to its own side.

    Args:
        rows: has ``pull(w)`` = ⟨v_k, Σ_t w_t v_t⟩ [N], see ``Rows.pull``.
        norm2: ‖v‖² [N].
        advantage: [N], with both signs.
        gamma, scale: what the margins are divided by, per side.
        steps: refinements of the centroids with weights |Â| α.
    """
    sides = advantage > 0, advantage < 0
    weights = [np.abs(advantage) * side for side in sides]
    before: list[float] | None = None
    for _ in range(steps + 1):
        shares = [weight / weight.sum() for weight in weights]
        pulls = [np.asarray(rows.pull(share)) for share in shares]  # ⟨v, μ⟩ of both sides
        sizes = [float(share @ pull) for share, pull in zip(shares, pulls, strict=True)]  # ‖μ‖²
        distances = [norm2 - 2 * p + size for p, size in zip(pulls, sizes, strict=True)]
        nearer = distances[1] - distances[0]  # above 0: nearer to the positive side
        largest = max(*sizes, 0.0)
        noise = ROUNDING * (2 * np.sqrt(norm2 * largest) + largest)
        margin = np.where(np.abs(nearer) > noise, np.where(sides[0], nearer, -nearer), 0.0)
        now = [scale * spread_of(margin[side], gamma) for side in sides]
        # As in the released code: after a refinement γ is still of the margins before it.
        used = before or now
        before = now
        divisor = np.where(sides[0], *used)
        alpha = sigmoid(np.divide(margin, divisor, out=np.zeros_like(margin), where=divisor > 0))
        weights = [np.abs(advantage) * side * alpha for side in sides]
    apart2 = max(sum(sizes) - 2 * float(shares[0] @ pulls[1]), 0.0)
    neither = advantage == 0
    margin[neither], alpha[neither] = np.nan, np.nan
    own = np.where(neither, np.nan, np.where(sides[0], *distances))
    return Assigned(margin, own, alpha, (used[0], used[1]), apart2)


def spread_of(margins: Floats, gamma: Gamma) -> float:
    """Standard deviation of a side's margins, or the mean of their sizes."""
    return float(margins.std() if gamma == "std" else np.abs(margins).mean())


def token_weights(alpha: Floats, low: float, high: float) -> Floats:
    """λ = low + (high − low) α, divided by its mean; tokens of neither side (NaN) get low."""
    weights = low + (high - low) * np.nan_to_num(alpha)
    return weights / weights.mean()


@analysis(
    "reward.delta",
    version=1,
    subject=(Group, Rollouts),
    params=DeltaParams,
    tables={"tokens": TOKENS, "groups": GROUPS},
    title="Which tokens tell right responses from wrong ones?",
    cite=(
        "Zhang, Wu and Lin (2026), DelTA, arXiv 2605.21467: discriminative token credit.",
        "RUCBM/DelTA, dp_actor.py: γ as a standard deviation, K refinements, the norming of λ.",
    ),
    caveats=(
        "v is the gradient of log p(token) in the output matrix alone: g hᵀ over all ids.",
        "The released code takes (1 − p) h, the token's own row of it, in place of v.",
        "Centroids are of one prompt's responses; a trainer's batch mixes prompts.",
        "γ is not fixed by the paper: the choice is yours and changes every weight.",
    ),
)
def delta(ctx: Context) -> Iterator[Progress | Tables]:
    """Weight λ of each token by α = σ(margin / γ): how clearly its gradient is of its own side.

    The centroids μ₊ and μ₋ are advantage-weighted means of v = g hᵀ over the tokens of right and
    of wrong responses, refined K times with weights |Â| α. Distances come from
    ‖v − μ‖² = ‖g‖² ‖h‖² − 2 gᵀ M h + ‖M‖², linear in tokens, and never hold v.
    """
    yield Progress(None, "Loading the model")
    ctx.models["model"].require_plain_head()
    seen = yield from survey(ctx)
    found: dict[int, dict[str, Floats]] = {}
    groups: list[dict[str, Any]] = []
    for batch in batches(ctx):
        ones = seen[batch.first : batch.first + len(batch.group.rollouts)]
        trained = [o.trained & ~np.isnan(o.advantage) for o in ones]
        advantage = np.concatenate(
            [np.full(int(t.sum()), o.advantage) for t, o in zip(trained, ones, strict=True)]
        )
        row: dict[str, Any] = dict.fromkeys(GROUPS.columns)
        row |= {
            "group": batch.group.prompt_id,
            "positive": int((advantage > 0).sum()),
            "negative": int((advantage < 0).sum()),
        }
        groups.append(row)
        columns = {name: np.full(advantage.size, np.nan) for name in TOKENS.columns}
        if row["positive"] and row["negative"]:
            rows, norm2 = yield from _gradients(ctx, batch, trained)
            params: DeltaParams = ctx.params
            assert params.gamma is not None
            result = assigned(
                rows, norm2, advantage, params.gamma, params.gamma_scale, params.steps
            )
            row |= {
                "gamma_positive": none_if_nan(result.gammas[0]),
                "gamma_negative": none_if_nan(result.gammas[1]),
                "apart2": result.apart2,
            }
            columns |= {
                "margin": result.margin,
                "own_distance2": result.own_distance2,
                "assignment": result.assignment,
                "weight": token_weights(result.assignment, params.lambda_min, params.lambda_max),
            }
        else:
            ctx.note("groups", "apart2", f"{batch.group.prompt_id}: tokens of one side are missing")
        columns["advantage"] = advantage
        cuts = np.cumsum([int(t.sum()) for t in trained])[:-1]
        for name in ("advantage", "margin", "own_distance2", "assignment", "weight"):
            for o, t, part in zip(ones, trained, np.split(columns[name], cuts), strict=True):
                whole = np.full(len(t), np.nan)
                whole[t] = part
                found.setdefault(o.rollout, {})[name] = whole
        done = batch.first + len(ones)
        yield Progress(done / count_of(ctx), f"Rollout {done:,} of {count_of(ctx):,}")
    yield Tables(
        tokens=tokens_of(ctx, seen, TOKENS, lambda one, trace: found[one.rollout]),
        groups=pa.Table.from_pylist(groups, schema=GROUPS.schema()),
    )


def _gradients(
    ctx: Context, batch: Batch, trained: list[Any]
) -> Generator[Progress, None, tuple[Rows, Floats]]:
    """The group's tokens as the output matrix sees them, and ‖v‖² = ‖g‖² ‖h‖² of each."""
    import torch
    from tokenkernel import stats_from_hidden

    model = ctx.models["model"]
    head = head_of(model)
    hidden, target = [], []
    for trace, marks in zip(batch.group.rollouts, trained, strict=True):
        check_trace(trace, ctx.plan.models["model"])
        places = np.flatnonzero(marks)
        # Row p − 1 predicts the token at p.
        rows = torch.as_tensor(places - 1, device=model.device)
        with torch.no_grad():
            hidden.append(model.hidden(trace.ids)[rows])
        target += [trace.ids[p] for p in places]
        yield Progress(None, "Reading hidden states")
    states = torch.cat(hidden)
    ids = torch.as_tensor(target, device=model.device)
    stats = stats_from_hidden(states.to(head.weight.dtype), head.weight, ids, bias=head.bias)
    p = stats.logprob.double().exp()
    g2 = (1 - 2 * p + stats.sum_p2.double()).clamp_min(0)
    norm2 = g2 * states.double().square().sum(-1)
    return Rows(head, states.to(head.weight.dtype), ids), norm2.cpu().numpy()
