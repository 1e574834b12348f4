"""``reward.stapo``: unlikely tokens of right responses that STAPO silences as spurious."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from engine.context import Context
from engine.registry import analysis
from engine.reward.population import (
    Floats,
    pooled,
    population_row,
    population_table,
    survey,
    tokens_of,
)
from engine.reward.populationtables import POPULATION, AdvantageParams, tokens_schema
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Rollouts


class StapoParams(AdvantageParams):
    """Settings of ``reward.stapo``."""

    tau_p: float = Field(
        0.002,
        gt=0,
        le=1,
        title="τ of p",
        description="A token is unlikely below this probability.",
    )
    tau_h: float | None = Field(
        None,
        validate_default=True,
        title="τ of H, quantile",
        description="A choice: the paper has both 0.2 (the 20 % least entropy) and 0.8.",
        json_schema_extra={"examples": [0.2, 0.8]},
    )

    @field_validator("tau_h")
    @classmethod
    def _chosen(cls, value: float | None) -> float:
        if value is None or not 0 < value < 1:
            raise ValueError(
                "the paper contradicts itself about this quantile of the entropy, so it is yours "
                "to choose: set tau_h=0.2 or tau_h=0.8"
            )
        return value


TOKENS = tokens_schema(
    "One row per token; a value describes the prediction of that token.",
    {
        "advantage": Column(pa.float64(), "Of the response.", "", "advantage"),
        "probability": Column(pa.float64(), "Of the token.", "probability", "probability"),
        "entropy": Column(pa.float64(), "Before the token.", "nats", "entropy"),
        "gradient": Column(
            pa.float64(),
            "|advantage|² (1 − 2p + Σp²): squared norm of its term's gradient in the logits.",
            "",
            "gradient²",
        ),
        "spurious": Column(pa.bool_(), "Whether STAPO masks it.", "", "spurious"),
    },
)

MASKED = Table(
    doc="What is left for the loss: one row.",
    columns={
        "tokens": Column(pa.int64(), "Response tokens with an advantage.", "", "tokens"),
        "masked": Column(pa.int64(), "Those that are masked.", "", "masked"),
        "kept": Column(pa.int64(), "What the loss is divided by.", "", "kept"),
        "share": Column(pa.float64(), "Masked of all.", "probability", "share"),
    },
)


def spurious(
    advantage: Floats, probability: Floats, entropy: Floats, tau_p: float, threshold: float
) -> Floats:
    """1 where Â > 0, p < τ_p and H < τ_h; else 0; NaN where any of them is missing. All [N]."""
    marks = (advantage > 0) & (probability < tau_p) & (entropy < threshold)
    missing = np.isnan(advantage) | np.isnan(probability) | np.isnan(entropy)
    return np.where(missing, np.nan, marks)


def gradient_norm2(advantage: Floats, probability: Floats, sum_p2: Floats) -> Floats:
    """‖∂ Â log p(y) / ∂ logits‖² = Â² (1 − 2 p_y + Σ p²)."""
    return advantage**2 * np.maximum(1 - 2 * probability + sum_p2, 0)


def gradient_bounds(
    advantage: Floats, probability: Floats, entropy: Floats, vocabulary: int
) -> tuple[Floats, Floats]:
    """The paper's bounds on ``gradient_norm2`` from p and H alone.

    Â² (1 − 2p + e^{−H}) ≤ ‖·‖² ≤ Â² (2 − 2p − C H²), C = (V − 1) / (V ln² V).
    """
    constant = (vocabulary - 1) / (vocabulary * np.log(vocabulary) ** 2)
    low = advantage**2 * (1 - 2 * probability + np.exp(-entropy))
    return low, advantage**2 * (2 - 2 * probability - constant * entropy**2)


@analysis(
    "reward.stapo",
    version=1,
    subject=(Group, Rollouts),
    optional_models=("model",),
    params=StapoParams,
    tables={"tokens": TOKENS, "masked": MASKED, "population": POPULATION},
    title="Which unlikely tokens ride along with a right answer?",
    cite=(
        "STAPO (2026), arXiv 2602.15620: spurious tokens, their mask, and the gradient's bounds.",
    ),
    caveats=(
        "The paper gives both 20 % and 80 % as the entropy's quantile: the choice is yours.",
        "The quantile is of all response tokens handed in.",
        "The loss is then averaged over the tokens that are not masked.",
    ),
)
def stapo(ctx: Context) -> Iterator[Progress | Tables]:
    """Tokens with positive advantage, probability below τ_p and entropy below its τ_h quantile.

    Such a token was unlikely although the model was sure of another: it did not earn the reward.
    The gradient's norm needs Σp², so it is empty without a model.
    """
    names = ("logprob", "entropy", "sum_p2") if ctx.plan.models else ("logprob", "entropy")
    seen = yield from survey(ctx, names)
    params: StapoParams = ctx.params
    assert params.tau_h is not None
    threshold = float(np.quantile(pooled(seen, "entropy"), params.tau_h))
    row = population_row(seen, "entropy", "entropy", params.tau_h, threshold)
    if not ctx.plan.models:
        ctx.note("tokens", "gradient", "the norm of the gradient needs a model")
    columns: dict[int, dict[str, Floats]] = {}
    for one in seen:
        advantage = np.where(one.trained, one.advantage, np.nan)
        p, entropy = np.exp(one.values["logprob"]), one.values["entropy"]
        sum_p2 = one.values.get("sum_p2", np.full(len(p), np.nan))
        columns[one.rollout] = {
            "advantage": advantage,
            "probability": p,
            "entropy": entropy,
            "gradient": gradient_norm2(advantage, p, sum_p2),
            "spurious": spurious(advantage, p, entropy, params.tau_p, threshold),
        }
    marks = np.concatenate([c["spurious"] for c in columns.values()])
    known, masked = int((~np.isnan(marks)).sum()), int(np.nansum(marks))
    yield Tables(
        tokens=tokens_of(ctx, seen, TOKENS, lambda one, trace: columns[one.rollout]),
        masked=pa.Table.from_pylist(
            [
                {
                    "tokens": known,
                    "masked": masked,
                    "kept": known - masked,
                    "share": masked / known if known else None,
                }
            ],
            schema=MASKED.schema(),
        ),
        population=population_table([row]),
    )
