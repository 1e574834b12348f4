"""``reward.thr``: Token Hidden Reward, NTHR and full-parameter influence of a group's tokens."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.registry import analysis
from engine.reward.grpo import undefined
from engine.reward.influence import MOST_PARAMETERS, influence
from engine.reward.lasthead import Rows, read_rows, sums
from engine.reward.network import check_size
from engine.reward.rows import or_none, token_table
from engine.reward.scored import Floats, RewardParams, Scored, groups_of
from engine.reward.thrtables import DERIVED, GROUPS, ROLLOUTS, TOKENS
from engine.schema import Progress, Tables
from engine.subjects import Group, Rollouts


class ThrParams(RewardParams):
    """Settings of ``reward.thr``."""

    beta: float = Field(
        1.0, ge=0, le=100, title="β", description="Multiplies both thresholds τ; 1 in the paper."
    )
    p: float = Field(
        0.1,
        ge=-1,
        le=1,
        title="p",
        description="Above 0 tokens that raise right answers count more (exploitation), below 0 "
        "less (exploration); 0 keeps the dominant tokens as they are.",
    )
    influence: bool = Field(
        True,
        title="Influence over all weights",
        description="Costs a backward and a forward-mode pass over the group.",
    )


NOT_ABOVE = "not above 0, as some right response is lowered by the others: it sets nothing apart"
"""Said of a threshold that every token, or every one of the wrong sign, passes."""


@analysis(
    "reward.thr",
    version=1,
    subject=(Group, Rollouts),
    params=ThrParams,
    tables={"tokens": TOKENS, "rollouts": ROLLOUTS, "groups": GROUPS},
    title="Which tokens would the next step use to raise the right answers?",
    cite=(
        "Deng et al. (2025), Token Hidden Reward, arXiv 2510.03669: THR and its reweighting.",
        "Deng et al. (2025), On the Effect of Negative Gradient, arXiv 2505.18830: NTHR.",
        "Shao et al. (2024), DeepSeekMath, arXiv 2402.03300: the advantage.",
        "Pruthi et al. (2020), TracIn, arXiv 2002.08484: influence as a product of gradients.",
    ),
    caveats=(
        "THR moves the output matrix only: good for the dominant tokens, not for the rest's signs.",
        "Influence moves all weights.",
        "Both are first order, on policy, for plain gradient ascent: no Adam, no clip, no KL.",
        "How the paper norms its threshold for THR is not known; τ here is from the sums of THR.",
        "Both τ count a response's pairs with itself, which raises them.",
        "Exact over the whole vocabulary; the authors keep the ids of the group only.",
    ),
)
def thr(ctx: Context) -> Iterator[Progress | Tables]:
    """What each token's term of the next GRPO step does to the right responses of its prompt.

    With g the gradient of log p in the logits and h the input of the output matrix, THR of token
    k' of response j is ``(2r_j − 1) Σ_i (1/|y_i|) Σ_k ⟨g_ik, g_jk'⟩ ⟨h_ik, h_jk'⟩`` over the right
    responses i, computed as ``gᵀ M h`` in one linear sweep. ``nthr`` is the same product for wrong
    responses without 1/|y_i| and without sign. ``influence`` is
    ``A_j / (G |y_j|) · ⟨∇ Σ_i log π(y_i), ∇ log p(token)⟩`` over all weights.

    Only response tokens inside the loss mask count, |y| included. Each group is a population of its
    own; where all rollouts are right, or none is, its values are empty.
    """
    yield Progress(None, "Loading the model")
    ctx.note("tokens", None, "prompt tokens and tokens outside the loss mask are not trained")
    for column in ("nthr", "nthr_above"):
        ctx.note("tokens", column, "NTHR is of wrong responses only")
    for column in ("anchor", "nthr_anchor"):
        ctx.note("rollouts", column, "anchors are of right responses only")
    without = _no_influence(ctx)
    if without is not None:
        for table, column in (("tokens", "influence"), ("rollouts", "influence_sum")):
            ctx.note(table, column, without)
    parts: dict[str, list[pa.Table]] = {"tokens": [], "rollouts": [], "groups": []}
    total = getattr(ctx.subject, "count", None) or len(getattr(ctx.subject, "rollouts", ()))
    for number, scored in enumerate(groups_of(ctx)):
        made = yield from _group(ctx, scored, without is None)
        for name, table in made.items():
            parts[name].append(table)
        done = scored.first + len(scored.traces)
        yield Progress(done / total, f"Rollout {done:,} of {total:,}")
        if number & (number + 1) == 0:  # ever rarer, so that joining stays linear
            yield Tables(_joined(parts))
    yield Tables(_joined(parts))


def _joined(parts: dict[str, list[pa.Table]]) -> dict[str, pa.Table]:
    return {name: pa.concat_tables(tables) for name, tables in parts.items()}


@dataclass(slots=True)
class Values:
    """Values of a group's rows [N], NaN where undefined, and its thresholds.

    Attributes:
        pull: s, length-normed product with the right responses, without sign.
        plain: the same without length norm.
        anchors, plain_anchors: [G] their means over each right response.
        tau, tau_nthr: β times the smallest of them.
    """

    pull: Floats
    plain: Floats
    anchors: Floats
    plain_anchors: Floats
    tau: float
    tau_nthr: float


def values_of(rows: Rows, scored: Scored, beta: float) -> Values:
    """THR's and NTHR's products of every row; two sweeps over the output matrix."""
    right = scored.right.astype(np.float64)
    pull = rows.pull(right * scored.per_length)
    plain = rows.pull(right)
    anchors, plain_anchors = (_anchors(v, scored) for v in (pull, plain))
    return Values(
        pull=pull,
        plain=plain,
        anchors=anchors,
        plain_anchors=plain_anchors,
        tau=beta * float(np.nanmin(anchors)),
        tau_nthr=beta * float(np.nanmin(plain_anchors)),
    )


def _anchors(values: Floats, scored: Scored) -> Floats:
    """Mean of the values over each right response [G], NaN for others and empty ones."""
    counts = np.where(scored.correct & (scored.lengths > 0), scored.lengths, np.nan)
    return sums(values, scored) / counts


def columns_of(found: Values, scored: Scored, p: float) -> dict[str, Floats]:
    """The columns of ``tokens`` that follow from the products, [N] each."""
    right = scored.right
    advantage = scored.advantage[scored.rollout]
    hidden_reward = np.where(right, 1.0, -1.0) * found.pull
    above = np.abs(hidden_reward) > found.tau
    spared = found.plain > found.tau_nthr
    return {
        "thr": hidden_reward,
        "nthr": np.where(right, np.nan, found.plain),
        "thr_advantage": advantage * found.pull,
        "above_threshold": above.astype(np.float64),
        "reweighted_advantage": above * (1 + np.sign(hidden_reward) * p) * advantage,
        "nthr_above": np.where(right, np.nan, spared),
        "nthr_advantage": np.where(~right & spared, eta_of(scored), 1.0) * advantage,
    }


def eta_of(scored: Scored) -> float:
    """η = 2 |0.5 − p̂|, p̂ the share of right rollouts among those with a reward."""
    return float(2 * abs(0.5 - scored.correct.sum() / np.isfinite(scored.rewards).sum()))


def _group(
    ctx: Context, scored: Scored, with_influence: bool
) -> Generator[Progress, None, dict[str, pa.Table]]:
    """The three tables of one group."""
    params: ThrParams = ctx.params
    nothing = np.full(len(scored.rollout), np.nan)
    columns = {"advantage": scored.advantage[scored.rollout], **dict.fromkeys(DERIVED, nothing)}
    reason, found = scored.one_sided, None
    method: str | None = None
    if reason is None:
        rows = yield from read_rows(ctx.models["model"], scored)
        found = values_of(rows, scored, params.beta)
        for column in ("tau", "tau_nthr"):
            if getattr(found, column) <= 0:
                ctx.note("groups", column, f"{_of(scored)}{NOT_ABOVE}")
        yield Progress(None, "Token Hidden Reward")
        columns.update(columns_of(found, scored, params.p))
        if with_influence:
            made = yield from influence(ctx.models["model"], scored)
            columns["influence"], method = made.values, made.method
    else:
        _explain(ctx, scored, reason)
    if np.isnan(scored.advantage[np.isfinite(scored.rewards)]).any():
        ctx.note("tokens", "advantage", f"{_of(scored)}{undefined(scored.rewards)}")
    return {
        "tokens": token_table(scored, TOKENS.schema(), columns, {"reward": scored.rewards}),
        "rollouts": _rollouts(scored, found, columns),
        "groups": _summary(scored, found, columns, method, reason),
    }


def _no_influence(ctx: Context) -> str | None:
    """Why there is no influence, None where there is."""
    if not ctx.params.influence:
        return "influence was not asked for"
    return check_size(ctx.models["model"], MOST_PARAMETERS, "influence over all weights")


def _explain(ctx: Context, scored: Scored, reason: str) -> None:
    """A note for every column that stays empty in a group."""
    for column in DERIVED:
        ctx.note("tokens", column, f"{_of(scored)}{reason}")
    for column in ("anchor", "nthr_anchor", "thr_sum", "influence_sum"):
        ctx.note("rollouts", column, f"{_of(scored)}{reason}")


def _of(scored: Scored) -> str:
    return f"Group {scored.name}: " if scored.name else ""


def _rollouts(scored: Scored, found: Values | None, columns: dict[str, Floats]) -> pa.Table:
    known = np.isfinite(scored.rewards)
    nothing = np.full(len(scored.traces), np.nan)
    thr_sum, influence_sum = (sums(columns[name], scored) for name in ("thr", "influence"))
    rows = [
        {
            "group": scored.name,
            "rollout": scored.first + i,
            "reward": or_none(scored.rewards[i]),
            "reward_from": ("checker" if scored.judged[i] else "log") if known[i] else None,
            "correct": bool(scored.correct[i]) if known[i] else None,
            "advantage": or_none(scored.advantage[i]),
            "tokens": int(scored.lengths[i]) if known[i] else None,
            "anchor": or_none((nothing if found is None else found.anchors)[i]),
            "nthr_anchor": or_none((nothing if found is None else found.plain_anchors)[i]),
            "thr_sum": or_none(thr_sum[i]) if known[i] and found else None,
            "influence_sum": or_none(influence_sum[i]) if known[i] and found else None,
        }
        for i in range(len(scored.traces))
    ]
    return pa.Table.from_pylist(rows, ROLLOUTS.schema())


def top_tenth(values: Floats) -> float | None:
    """Share of Σ |v| in the tenth of the values with the largest |v|, rounded up; None for 0."""
    size = np.sort(np.abs(values[np.isfinite(values)]))[::-1]
    total = float(size.sum())
    return float(size[: -(-len(size) // 10)].sum()) / total if total else None


def _summary(
    scored: Scored,
    found: Values | None,
    columns: dict[str, Floats],
    method: str | None,
    reason: str | None,
) -> pa.Table:
    known = int(np.isfinite(scored.rewards).sum())
    row = {
        "group": scored.name,
        "first_rollout": scored.first,
        "rollouts": len(scored.traces),
        "rewarded": known,
        "correct": int(scored.correct.sum()),
        "success_rate": float(scored.correct.sum()) / known if known else None,
        "tokens": len(scored.rollout),
        "top_tenth": None if found is None else top_tenth(columns["thr"]),
        "tau": found and found.tau,
        "tau_nthr": found and found.tau_nthr,
        "eta": eta_of(scored) if known else None,
        "above": None if found is None else int(columns["above_threshold"].sum()),
        "method": method,
        "reason": reason,
    }
    return pa.Table.from_pylist([row], GROUPS.schema())
