"""``reward.weights``: one number for each token, to weigh a loss with elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.registry import analyses, analysis, find
from engine.result import Request
from engine.reward.delta import Gamma
from engine.reward.population import Floats, batches, trained_of
from engine.reward.populationtables import AdvantageParams
from engine.schema import Column, Progress, Table, Tables
from engine.signalsource import floats
from engine.subjects import Group, Rollouts

RecipeName = Literal[
    "thr", "nthr", "advantage", "forking", "delta", "d3s", "stapo", "hapo", "ucas", "twgrpo"
]


class WeightsParams(AdvantageParams):
    """Settings of ``reward.weights``: the recipe, and what the recipes need."""

    recipe: RecipeName = Field("thr", title="Recipe", description="Which method makes the weights.")
    p: float = Field(0.1, ge=-1, le=1, title="p", description="thr: −1 explore to 1 exploit.")
    beta: float = Field(1.0, ge=0, le=100, title="β", description="thr, nthr: times τ.")
    rho: float | None = Field(
        None, gt=0, lt=1, title="ρ", description="forking (0.2 if empty) and hapo (0.8): quantile."
    )
    gamma: Gamma | None = Field(None, title="γ", description="delta: a choice, std or mean_abs.")
    tau_h: float | None = Field(
        None, gt=0, lt=1, title="τ of H", description="stapo: a choice, 0.2 or 0.8."
    )
    rollouts: int | None = Field(None, ge=1, title="N rollouts", description="d3s: a choice.")
    share: float | None = Field(None, gt=0, le=1, title="K", description="d3s: a choice.")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a method's columns become weights.

    Attributes:
        analysis: whose table ``tokens`` is read.
        weight: from its columns (and the params), [n]; None for 1.
        advantage: column with the advantage; None for GRPO's.
        keep: column that is true where the token stays in the loss; None for all.
        drop: column that is true where it leaves it; None for none.
        says: what the weight is.
    """

    analysis: str
    says: str
    weight: Callable[[pa.Table, Any], Floats] | None = None
    advantage: str | None = None
    keep: str | None = None
    drop: str | None = None


def _thr(table: pa.Table, params: WeightsParams) -> Floats:
    value, above = floats(table, "thr"), _truth(table, "above_threshold")
    return above * (1 + np.sign(value) * params.p)


def _nthr(table: pa.Table, params: WeightsParams) -> Floats:
    value, advantage = floats(table, "nthr_advantage"), floats(table, "advantage")
    none = np.full(len(value), np.nan)
    return np.divide(value, advantage, out=none, where=advantage != 0)


RECIPES: Mapping[RecipeName, Recipe] = {
    "advantage": Recipe("reward.advantage", "1: plain GRPO", advantage="advantage"),
    "thr": Recipe("reward.thr", "1[|THR| > τ] (1 + sign(THR) p)", _thr, advantage="advantage"),
    "nthr": Recipe(
        "reward.thr", "η for wrong responses' tokens with NTHR > τ, else 1", _nthr, "advantage"
    ),
    "forking": Recipe("reward.forking", "1[H ≥ τ]", lambda t, p: _truth(t, "forking")),
    "delta": Recipe("reward.delta", "λ over its mean", lambda t, p: floats(t, "weight")),
    "d3s": Recipe("reward.d3s", "1 on what is kept", keep="kept"),
    "stapo": Recipe("reward.stapo", "1 on what is not spurious", drop="spurious"),
    "hapo": Recipe("reward.hapo", "1; the advantage is HAPO's", advantage="advantage"),
    "ucas": Recipe("reward.ucas", "1; the advantage is UCAS's", advantage="advantage"),
    "twgrpo": Recipe("reward.twgrpo", "1 + (α − 1) k̂", lambda t, p: floats(t, "weight")),
}

WEIGHTS = Table(
    doc="One row per token of every rollout, prompts included: the ids rebuild the sequence.",
    columns={
        "group": Column(pa.string(), "Name of the prompt.", "", "group"),
        "rollout": Column(pa.int64(), "Number of the response, from 0, over all groups."),
        "position": Column(pa.int64(), "Place in the sequence, from 0.", "", "position"),
        "token_id": Column(pa.int64(), "Id in the model's vocabulary.", "", "id"),
        "token": Column(pa.string(), "The token's text; bytes that are no UTF-8 as \\xNN."),
        "segment": Column(pa.string(), "prompt, response or answer.", "", "segment"),
        "weight": Column(
            pa.float64(), "Multiplies the token's term; empty outside the loss.", "", "weight"
        ),
        "advantage": Column(pa.float64(), "Of the token's term.", "", "advantage"),
        "mask": Column(pa.bool_(), "Whether the loss counts the token at all.", "", "in the loss"),
    },
)

SUMMARY = Table(
    doc="What the recipe does to the loss: one row.",
    columns={
        "recipe": Column(pa.string(), "Its name.", "", "recipe"),
        "analysis": Column(pa.string(), "What computed it.", "", "analysis"),
        "weight": Column(pa.string(), "What the weight is.", "", "weight"),
        "tokens": Column(pa.int64(), "Response tokens that can be trained.", "", "tokens"),
        "in_loss": Column(pa.int64(), "Those the loss counts.", "", "in the loss"),
        "zero": Column(pa.int64(), "Of these, with weight 0.", "", "weight 0"),
        "mean_weight": Column(pa.float64(), "Mean weight of these.", "", "mean weight"),
    },
)


@analysis(
    "reward.weights",
    version=1,
    subject=(Group, Rollouts),
    optional_models=("model",),
    params=WeightsParams,
    tables={"weights": WEIGHTS, "summary": SUMMARY},
    title="Which weights do I train with?",
    cite=("Each recipe is cited where it is computed: see the analysis in the table summary.",),
    caveats=(
        "loss = −Σ mask · weight · advantage · ratio / Σ mask; docs/examples/weighted_loss.py.",
        "Tokens of groups without a direction have mask false and no weight.",
        "Weights belong to the model, the rollouts and the batch they were computed with.",
    ),
)
def weights(ctx: Context) -> Iterator[Progress | Tables]:
    """Weight, advantage and loss mask of every token by one recipe.

    The Parquet and Arrow files carry recipe, params, model and digests in their metadata
    (``tokenscope``), so that a trainer can check what it loads.
    """
    params: WeightsParams = ctx.params
    recipe = RECIPES[params.recipe]
    if recipe.analysis not in analyses():
        raise UserError(f"This version has no {recipe.analysis}: choose another recipe.")
    yield Progress(None, f"Computing {recipe.analysis}")
    table = _run(ctx, recipe.analysis)
    n = table.num_rows
    trained = np.concatenate([trained_of(t) for b in batches(ctx) for t in b.group.rollouts])
    if n != trained.size:
        raise ValueError(f"{recipe.analysis} has {n} rows for {trained.size} tokens")
    weight = np.ones(n) if recipe.weight is None else recipe.weight(table, params)
    source = table if recipe.advantage is not None else _run(ctx, "reward.advantage")
    advantage = floats(source, recipe.advantage or "advantage")
    known = trained & ~np.isnan(weight) & ~np.isnan(advantage)
    mask = known.copy()
    if recipe.keep is not None:
        mask &= _truth(table, recipe.keep) == 1
    if recipe.drop is not None:
        mask &= _truth(table, recipe.drop) == 0
    _explain(ctx, table, trained & ~known)
    inside = weight[mask]
    columns = {
        "weight": _where(weight, known),
        "advantage": _where(advantage, known),
        "mask": pa.array(mask, pa.bool_()),
    }
    kept = {c: table[c] if c in table.column_names else columns[c] for c in WEIGHTS.columns}
    yield Tables(
        weights=pa.table({**kept, **columns}).select(list(WEIGHTS.columns)),
        summary=pa.Table.from_pylist(
            [
                {
                    "recipe": params.recipe,
                    "analysis": recipe.analysis,
                    "weight": recipe.says,
                    "tokens": int(trained.sum()),
                    "in_loss": int(mask.sum()),
                    "zero": int((inside == 0).sum()),
                    "mean_weight": float(inside.mean()) if inside.size else None,
                }
            ],
            schema=SUMMARY.schema(),
        ),
    )


def _run(ctx: Context, name: str) -> pa.Table:
    """The table ``tokens`` of another analysis of the same rollouts, with the params given here."""
    declared = find(name)
    given = {
        n: v
        for n, v in ctx.params.model_dump().items()
        if n in declared.params.model_fields and (v is not None or n == "answer")
    }
    if "influence" in declared.params.model_fields:
        given["influence"] = False  # no recipe uses it, and it costs most
    models = None
    if declared.models and ctx.plan.models:
        models = {"model": ctx.plan.models["model"].ref}
    return ctx.run(Request(name, ctx.subject, models, given)).table("tokens")


def _truth(table: pa.Table, column: str) -> Floats:
    """1 and 0 of a column of truth values, NaN where it is empty."""
    return np.asarray(table[column].combine_chunks().cast(pa.float64()).to_numpy(False))


def _where(values: Floats, known: Any) -> pa.Array:
    return pa.array(np.where(known, values, np.nan), pa.float64(), from_pandas=True)


def _explain(ctx: Context, table: pa.Table, lost: Any) -> None:
    ctx.note("weights", "weight", "tokens outside the loss mask have no weight")
    for rollout in np.unique(table["rollout"].to_numpy()[lost]):
        why = "some of its tokens have no weight: its group has no direction, or a value is missing"
        ctx.note("weights", "weight", why, rollout=int(rollout))
