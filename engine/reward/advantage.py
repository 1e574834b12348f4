"""``reward.advantage``: which responses does the next step push up, and how hard?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from engine.context import Context
from engine.registry import analysis
from engine.reward.population import Seen, none_if_nan, rollout_row, survey, tokens_of
from engine.reward.populationtables import ROLLOUT, AdvantageParams, tokens_schema
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Rollouts

TOKENS = tokens_schema(
    "One row per token; every trained token of a response has the advantage of the response.",
    {
        "reward": Column(pa.float64(), "Reward of the response.", "", "reward"),
        "advantage": Column(pa.float64(), "Advantage in its group.", "", "advantage"),
    },
)

ROLLOUTS = Table(doc="One row per rollout.", columns=ROLLOUT)

GROUPS = Table(
    doc="One row per prompt.",
    columns={
        "group": Column(pa.string(), "Name of the prompt.", "", "group"),
        "rollouts": Column(pa.int64(), "Its rollouts.", "", "rollouts"),
        "judged": Column(pa.int64(), "Those with a reward.", "", "judged"),
        "mean": Column(pa.float64(), "Mean reward.", "", "mean reward"),
        "std_unbiased": Column(
            pa.float64(), "Standard deviation over n − 1, as trainers take it.", "", "std, n − 1"
        ),
        "std_population": Column(
            pa.float64(), "Standard deviation over n, as papers write it.", "", "std, n"
        ),
        "teaches": Column(pa.bool_(), "Whether its rewards differ at all.", "", "teaches"),
    },
)


@analysis(
    "reward.advantage",
    version=1,
    subject=(Group, Rollouts),
    models=(),
    params=AdvantageParams,
    tables={"tokens": TOKENS, "rollouts": ROLLOUTS, "groups": GROUPS},
    title="Which responses does the next step push up, and how hard?",
    cite=(
        "Shao et al. (2024), DeepSeekMath, arXiv 2402.03300, section 4.1: GRPO.",
        "Liu et al. (2025), arXiv 2503.20783: Dr. GRPO, without the standard deviation.",
        "TRL GRPOTrainer (ε 1e-4) and verl compute_grpo_outcome_advantage (ε 1e-6): torch.std.",
    ),
    caveats=(
        "Trainers divide by the unbiased standard deviation, papers by that of the population.",
        "A group whose rewards are all equal has no direction: its advantages are empty.",
        "Length normalisation, clipping and KL terms of a trainer come on top.",
    ),
)
def advantage(ctx: Context) -> Iterator[Progress | Tables]:
    """GRPO's advantage of every rollout: (reward − mean) / (std + ε) within its prompt.

    A reward that is missing is judged by the checker, where the right answer is known. Rollouts
    without a reward do not enter their group's mean.
    """
    seen = yield from survey(ctx)
    yield Tables(
        tokens=tokens_of(
            ctx,
            seen,
            TOKENS,
            lambda one, trace: {
                "reward": np.where(one.trained, one.reward, np.nan),
                "advantage": np.where(one.trained, one.advantage, np.nan),
            },
        ),
        rollouts=pa.Table.from_pylist([rollout_row(o) for o in seen], schema=ROLLOUTS.schema()),
        groups=pa.Table.from_pylist(_groups(ctx, seen), schema=GROUPS.schema()),
    )


def _groups(ctx: Context, seen: Sequence[Seen]) -> list[dict[str, Any]]:
    rows = []
    for _, members in groupby(seen, key=lambda one: one.group):
        ones = list(members)
        rewards = np.array([one.reward for one in ones])
        held = rewards[~np.isnan(rewards)]
        if held.size < 2:
            ctx.note("groups", "std_unbiased", f"{ones[0].name}: fewer than two rewards")
        rows.append(
            {
                "group": ones[0].name,
                "rollouts": len(ones),
                "judged": int(held.size),
                "mean": float(held.mean()) if held.size else None,
                "std_unbiased": none_if_nan(held.std(ddof=1)) if held.size > 1 else None,
                "std_population": none_if_nan(held.std()) if held.size > 1 else None,
                "teaches": bool(held.max() > held.min()) if held.size > 1 else None,
            }
        )
    return rows
