"""``reward.reweighted``: the advantages that THR's rule leaves each token, for any p and β."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.registry import analysis
from engine.result import Request
from engine.reward.rows import WHICH
from engine.reward.scored import RewardParams
from engine.schema import PER_TOKEN, Column, Progress, Table, Tables
from engine.signalsource import floats
from engine.subjects import Group, Rollouts


class ReweightedParams(RewardParams):
    """Settings of ``reward.reweighted``."""

    p: float = Field(
        0.1,
        ge=-1,
        le=1,
        title="p",
        description="Above 0 tokens that raise right answers count more, below 0 less.",
    )
    beta: float = Field(
        1.0, ge=0, le=100, title="β", description="Multiplies the threshold τ; 1 in the paper."
    )


TOKENS = Table(
    per_token=True,
    doc="One row per token of every rollout.",
    columns={
        **WHICH,
        "reweighted_advantage": Column(
            pa.float64(), "1[|THR| > β τ] · (1 + sign(THR) p) · advantage.", "", "reweighted"
        ),
        "above_threshold": Column(pa.bool_(), "|THR| > β τ.", "", "dominant"),
    },
)


@analysis(
    "reward.reweighted",
    version=1,
    subject=(Group, Rollouts),
    params=ReweightedParams,
    tables={"tokens": TOKENS},
    title="What would THR's rule make of the advantages?",
    cite=("Deng et al. (2025), Token Hidden Reward, arXiv 2510.03669: reweighting by p and τ.",),
    caveats=(
        "How the paper norms its threshold for THR is not known; τ here is from the sums of THR.",
        "Where τ is not above 0, every token counts as dominant.",
    ),
)
def reweighted(ctx: Context) -> Iterator[Progress | Tables]:
    """``1[|THR| > β τ] (1 + sign(THR) p) A`` of every trained token, from the stored THR.

    Nothing of the model is asked again, so p and β may be tried out at once.
    """
    params: ReweightedParams = ctx.params
    yield Progress(None, "Reading the hidden rewards")
    shared = params.model_dump(include=set(RewardParams.model_fields))
    ref = {"model": ctx.plan.models["model"].ref}
    found = ctx.run(Request("reward.thr", ctx.subject, ref, shared))
    tokens = found.table("tokens")
    value, advantage = floats(tokens, "thr"), floats(tokens, "advantage")
    limit = _limits(found.table("groups"), tokens)
    above = np.abs(value) > params.beta * limit
    known = ~np.isnan(value)
    columns = {
        "reweighted_advantage": np.where(
            known, above * (1 + np.sign(value) * params.p) * advantage, np.nan
        ),
    }
    table = tokens.select([*WHICH, *PER_TOKEN])
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.float64(), from_pandas=True))
    table = table.append_column("above_threshold", pa.array(above, pa.bool_(), mask=~known))
    for row in found.notes.to_pylist():
        if row["table"] == "tokens" and row["column"] in (None, "thr"):
            ctx.note("tokens", row["column"] and "reweighted_advantage", row["reason"])
    yield Tables(tokens=table.select(TOKENS.schema().names))


def _limits(groups: pa.Table, tokens: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """τ of each token's group at β = 1, NaN where it has none."""
    first = groups["first_rollout"].to_numpy()
    tau = floats(groups, "tau")
    at = np.searchsorted(first, tokens["rollout"].to_numpy(), side="right") - 1
    return tau[at]
