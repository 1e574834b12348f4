"""``reward.effects``: which responses one token raises or lowers, and where in them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.registry import analysis
from engine.reward.influence import MOST_PARAMETERS
from engine.reward.lasthead import read_rows, sums
from engine.reward.rows import WHICH, or_none, token_table
from engine.reward.scored import Floats, OneGroupParams, Scored, the_group
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Rollouts

What = Literal["lm_head", "all"]
WHAT = "lm_head: the output matrix, as THR; all: every weight, as influence."


class EffectsParams(OneGroupParams):
    """Settings of ``reward.effects``."""

    rollout: int = Field(0, ge=0, title="Rollout", description="Which rollout, from 0.")
    position: int = Field(
        ..., ge=1, title="Position", description="Which token of it: its place in the sequence."
    )
    what: What = Field("lm_head", title="Weights", description=WHAT)


PAIRS = Table(
    doc="One row per response: what a step on the chosen token alone does to it.",
    columns={
        "rollout": Column(pa.int64(), "Rollout of the chosen token.", "", "rollout"),
        "position": Column(pa.int64(), "Position of the chosen token.", "", "position"),
        "response": Column(pa.int64(), "Number of the response.", "", "response"),
        "effect": Column(
            pa.float64(),
            "(2r − 1) of the token's rollout times the mean change of this response's "
            "log-probabilities per unit step; over the right ones it sums to THR (lm_head).",
            "nats",
            "effect",
        ),
        "log_prob_change": Column(
            pa.float64(),
            "Change of this response's log-probability per unit step that makes the chosen token "
            "more probable.",
            "nats",
            "change",
        ),
        "reward": Column(pa.float64(), "Of the response.", "", "reward"),
        "correct": Column(pa.bool_(), "Whether it is right.", "", "right"),
        "tokens": Column(pa.int64(), "Its trained tokens.", "", "tokens"),
    },
)

TOKENS = Table(
    per_token=True,
    doc="One row per token of every rollout.",
    columns={
        **WHICH,
        "effect": Column(
            pa.float64(),
            "Change of this token's log-probability per unit step that makes the chosen token more "
            "probable: the product of the two gradients.",
            "nats",
            "effect",
        ),
    },
)


@analysis(
    "reward.effects",
    version=1,
    subject=(Group, Rollouts),
    params=EffectsParams,
    tables={"pairs": PAIRS, "tokens": TOKENS},
    title="Which responses does this token raise or lower?",
    cite=("Deng et al. (2025), Token Hidden Reward, arXiv 2510.03669: THR of a pair.",),
    caveats=(
        "First order, for a step along the gradient of this token's log-probability alone.",
        "The effect is signed by the token's own rollout: a wrong one is pushed down.",
    ),
)
def effects(ctx: Context) -> Iterator[Progress | Tables]:
    """THR's sum taken apart: the effect of one token on each response, and on each of its tokens.

    A step along ∇ log p(token) changes log p of every other token by the product of the two
    gradients. ``lm_head`` moves the output matrix only and is exact over the vocabulary; ``all``
    takes one backward and one forward-mode pass over the group.
    """
    params: EffectsParams = ctx.params
    yield Progress(None, "Loading the model")
    scored = the_group(ctx)
    row = chosen_row(scored, params.rollout, params.position)
    one = np.zeros(len(scored.rollout))
    one[row] = 1.0
    effect = yield from _effect(ctx, scored, one)
    ctx.note("tokens", "effect", "prompt tokens and tokens outside the loss mask are not trained")
    yield Tables(
        pairs=_pairs(scored, effect, params),
        tokens=token_table(scored, TOKENS.schema(), {"effect": effect}),
    )


def chosen_row(scored: Scored, rollout: int, position: int) -> int:
    """The row at a place.

    Raises:
        UserError: there is no trained token.
    """
    if rollout >= len(scored.traces):
        last = len(scored.traces) - 1
        raise UserError(f"There is no rollout {rollout}: name one from 0 to {last}.")
    if not np.isfinite(scored.rewards[rollout]):
        raise UserError(
            f"Rollout {rollout} has no reward: give the right answer as answer, so that it is "
            "judged."
        )
    row = scored.row(rollout, position)
    if row is None:
        raise UserError(
            f"Position {position} of rollout {rollout} is not trained: choose a token of the "
            "response inside the loss mask."
        )
    return row


def _effect(ctx: Context, scored: Scored, one: Floats) -> Generator[Progress, None, Floats]:
    """Product of every row's gradient with the chosen one's, [N]."""
    import torch

    from engine.reward.network import Network, refuse_size

    model = ctx.models["model"]
    if ctx.params.what == "lm_head":
        rows = yield from read_rows(model, scored)
        return rows.pull(one)
    refuse_size(model, MOST_PARAMETERS, "effects over all weights")
    network = Network(model, scored, torch.float32)
    gradient = yield from network.gradient(one)
    found, _ = yield from network.along(gradient)
    return found.double().cpu().numpy()


def _pairs(scored: Scored, effect: Floats, params: EffectsParams) -> pa.Table:
    sign = 1.0 if scored.correct[params.rollout] else -1.0
    change = sums(effect, scored)
    rows: list[dict[str, Any]] = []
    for index in np.flatnonzero(scored.lengths > 0):
        rows.append(
            {
                "rollout": params.rollout,
                "position": params.position,
                "response": int(index),
                "effect": float(sign * change[index] / scored.lengths[index]),
                "log_prob_change": float(change[index]),
                "reward": or_none(scored.rewards[index]),
                "correct": bool(scored.correct[index]),
                "tokens": int(scored.lengths[index]),
            }
        )
    return pa.Table.from_pylist(rows, PAIRS.schema())
