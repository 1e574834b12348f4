"""``reward.step``: one real step on a copy of the weights, against what was predicted of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.registry import analysis
from engine.reward.agreeing import agreement
from engine.reward.effects import WHAT, What, chosen_row
from engine.reward.grpo import undefined
from engine.reward.headstep import MOST_ENTRIES, head_step
from engine.reward.lasthead import Rows, read_rows, sums
from engine.reward.rows import or_none, token_table
from engine.reward.scored import Floats, OneGroupParams, Scored, the_group
from engine.reward.steptables import AGREEMENT, RESPONSES, STEP, TOKENS
from engine.schema import Progress, Tables
from engine.subjects import Group, Rollouts

if TYPE_CHECKING:
    import torch

    from engine.models import LoadedModel

MOST_PARAMETERS = 100_000_000
"""Of a model that is stepped here: weights, gradient and stepped weights stand in float64."""

PREDICTIONS = ("thr", "influence")


class StepParams(OneGroupParams):
    """Settings of ``reward.step``."""

    what: What = Field("all", title="Weights", description=WHAT)
    lr: float = Field(
        1e-3,
        gt=0,
        le=1,
        title="Learning rate",
        description="Of the plain gradient step; above 0.002 the second order often shows.",
    )
    without: tuple[int, int] | None = Field(
        None,
        title="Without a token",
        description="Rollout and position: the step without this token's term, minus the whole.",
    )


@analysis(
    "reward.step",
    version=1,
    subject=(Group, Rollouts),
    params=StepParams,
    tables={"responses": RESPONSES, "tokens": TOKENS, "agreement": AGREEMENT, "step": STEP},
    title="Does a real step do what was predicted?",
    cite=(
        "Deng et al. (2025), Token Hidden Reward, arXiv 2510.03669.",
        "Pruthi et al. (2020), TracIn, arXiv 2002.08484: influence as a product of gradients.",
    ),
    caveats=(
        "Plain gradient ascent, on policy: no Adam, no clip, no KL. The copy is thrown away.",
        "THR predicts a step of the output matrix; where all weights move it misses the rest.",
        "A slope below 1 means that the step is too large for a first-order prediction.",
    ),
)
def step(ctx: Context) -> Iterator[Progress | Tables]:
    """One gradient step on a copy, and the change of every log-probability beside its prediction.

    The step is ``θ + lr Σ_k w_k ∇ log p_k`` with w_k = A_j / (G |y_j|), the gradient of GRPO's loss
    on policy, in float64. ``lm_head`` moves a copy of the output matrix (untied, if it is tied to
    the embedding), ``all`` every weight. With ``without`` two steps are made, the whole one and one
    without that token's term, and all columns are the second minus the first.
    """
    params: StepParams = ctx.params
    yield Progress(None, "Loading the model")
    model = ctx.models["model"]
    scored = the_group(ctx)
    left_out = None if params.without is None else chosen_row(scored, *params.without)
    _check(scored)
    rows = yield from read_rows(model, scored)
    if params.what == "lm_head":
        found = _head(rows, scored, params.lr, left_out)
        reason = "influence is about all weights, and this step moves the output matrix only"
        for table in ("responses", "tokens", "agreement", "step"):
            ctx.note(table, "predicted_influence" if table != "agreement" else None, reason)
    else:
        found = yield from whole_step(model, scored, rows, params.lr, left_out)
    ctx.note("tokens", None, "prompt tokens and tokens outside the loss mask are not trained")
    yield Tables(_tables(ctx, scored, found))


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step did to the rows, [N] each.

    Attributes:
        before: log p before it.
        measured: change of log p.
        predicted: by name, NaN where a prediction does not apply.
        gradient_norm: of the whole step's gradient.
    """

    before: Floats
    measured: Floats
    predicted: dict[str, Floats]
    gradient_norm: float


def _check(scored: Scored) -> None:
    """Refuse a group without a direction.

    Raises:
        UserError: saying why there is none.
    """
    if not scored.weights.any():
        reason = undefined(scored.rewards) or "No token of this group is trained."
        raise UserError(f"There is no step to make. {reason}")


def change_of(scored: Scored, left_out: int | None) -> Floats:
    """The weights whose effect is looked at: the whole step's, or minus the removed term's."""
    if left_out is None:
        return scored.weights
    change = np.zeros_like(scored.weights)
    change[left_out] = -scored.weights[left_out]
    return change


def _head(rows: Rows, scored: Scored, lr: float, left_out: int | None) -> Stepped:
    entries = rows.head.weight.numel()
    if entries > MOST_ENTRIES:
        raise UserError(
            f"The output matrix has {entries:,} entries, too many for a copy with its gradient "
            f"here (at most {MOST_ENTRIES:,}): choose a smaller model."
        )
    whole, kept = scored.weights, scored.weights.copy()
    if left_out is not None:
        kept[left_out] = 0.0
    before, after, length = head_step(rows, whole, lr)
    origin = before
    if left_out is not None:
        origin, (_, after, _) = after, head_step(rows, kept, lr)
    predicted = lr * precise(rows).pull(change_of(scored, left_out))
    nothing = np.full_like(predicted, np.nan)
    return Stepped(before, after - origin, {"thr": predicted, "influence": nothing}, length)


def whole_step(
    model: LoadedModel,
    scored: Scored,
    rows: Rows,
    lr: float,
    left_out: int | None,
    dtype: torch.dtype | None = None,
) -> Generator[Progress, None, Stepped]:
    """Step all weights of a copy; ``dtype`` is float64 where the device has it.

    Raises:
        UserError: the model is too big.
    """
    import torch

    from engine.reward.network import Network, norm, refuse_size

    refuse_size(model, MOST_PARAMETERS, "a real step of all weights")
    if dtype is None:
        dtype = torch.float32 if model.device.type == "mps" else torch.float64
    network = Network(model, scored, dtype)
    gradient = yield from network.gradient(scored.weights)
    direction, moves = gradient, [(lr, gradient)]
    origin = before = yield from network.read(network.base)
    if left_out is not None:
        origin = yield from network.read(network.stepped(*moves))
        direction = yield from network.gradient(change_of(scored, left_out))
        moves = [*moves, (lr, direction)]
    after = yield from network.read(network.stepped(*moves))
    effect, _ = yield from network.along(direction)
    predicted = {
        "thr": lr * precise(rows).pull(change_of(scored, left_out)),
        "influence": lr * effect.double().cpu().numpy(),
    }
    measured = (after - origin).double().cpu().numpy()
    return Stepped(before.double().cpu().numpy(), measured, predicted, norm(gradient))


def precise(rows: Rows) -> Rows:
    """The same in float64 where the device has it: a step is measured with as many digits."""
    if rows.hidden.device.type == "mps":
        return rows
    return replace(rows, hidden=rows.hidden.double())


def _tables(ctx: Context, scored: Scored, found: Stepped) -> dict[str, pa.Table]:
    values = {
        "log_prob": found.before,
        "measured": found.measured,
        **{f"predicted_{name}": one for name, one in found.predicted.items()},
    }
    totals = {name: sums(one, scored) for name, one in values.items()}
    rewarded = np.flatnonzero(scored.lengths > 0)
    responses = [
        {
            "group": scored.name,
            "rollout": scored.first + int(i),
            "reward": or_none(scored.rewards[i]),
            "correct": bool(scored.correct[i]),
            "advantage": or_none(scored.advantage[i]),
            "tokens": int(scored.lengths[i]),
            **{name: or_none(total[i]) for name, total in totals.items()},
        }
        for i in rewarded
    ]
    return {
        "responses": pa.Table.from_pylist(responses, RESPONSES.schema()),
        "tokens": token_table(scored, TOKENS.schema(), values),
        "agreement": _agreement(ctx, values, {n: t[rewarded] for n, t in totals.items()}),
        "step": pa.Table.from_pylist([_row(ctx, scored, found, totals)], STEP.schema()),
    }


def _agreement(ctx: Context, tokens: dict[str, Floats], responses: dict[str, Floats]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for level, values in (("tokens", tokens), ("responses", responses)):
        for name in PREDICTIONS:
            row = agreement(values[f"predicted_{name}"], values["measured"])
            rows.append({"level": level, "prediction": name, **row})
            for column in ("pearson", "spearman", "slope", "sign_agreement"):
                if row["count"] and row[column] is None:
                    reason = f"{name} over {level}: too few pairs, or one side does not vary"
                    ctx.note("agreement", column, reason)
    return pa.Table.from_pylist(rows, AGREEMENT.schema())


def _row(ctx: Context, scored: Scored, found: Stepped, totals: dict[str, Floats]) -> dict[str, Any]:
    params: StepParams = ctx.params
    right = scored.correct & (scored.lengths > 0)
    if not right.any():
        ctx.note("step", "measured", "no response is right: there is nothing to sum")
    gains = {
        name: or_none(total[right].sum()) if right.any() else None
        for name, total in totals.items()
        if name != "log_prob"
    }
    rollout, position = params.without or (None, None)
    return {
        "what": params.what,
        "lr": params.lr,
        "without_rollout": rollout,
        "without_position": position,
        "gradient_norm": found.gradient_norm,
        **gains,
    }
