"""``flow.rollout``: attention rollout, from every token to the answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.flow.graph import NOT_CAUSAL, AnswerParams, HeadParams, chosen, one_span, row_of
from engine.flow.recurrences import Floats
from engine.flow.rolled import ABNAR, Rolling, rollout, rollout_of
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

PAIRS = 512
"""Most tokens for which all pairs are listed."""


class RolloutParams(HeadParams, AnswerParams):
    """Settings of ``flow.rollout``."""

    pairs: bool = Field(
        False, title="All pairs", description=f"Every position's mixture, up to {PAIRS} tokens."
    )


TOKENS = Table(
    per_token=True,
    doc="One row per token; a value is about the position itself, not about its prediction.",
    columns={
        "influence": Column(
            pa.float64(), "Part of it in the mixture at the answer, mean over its rows.", "share"
        ),
    },
)

PAIR_TABLE = Table(
    doc="One row per position and earlier position (or itself), if asked for.",
    columns={
        "target_position": Column(pa.int64(), "Position that is a mixture.", "", "of"),
        "source_position": Column(pa.int64(), "Token that is in it.", "", "from"),
        "weight": Column(pa.float64(), "Its part; those of a position sum to 1.", "share"),
    },
)


@analysis(
    "flow.rollout",
    version=1,
    subject=Trace,
    params=RolloutParams,
    tables={"tokens": TOKENS, "pairs": PAIR_TABLE},
    title="What is mixed into the answer, layer upon layer?",
    cite=(f"{ABNAR}: attention rollout, §3.",),
    caveats=(
        NOT_CAUSAL,
        "The residual stream counts as half of every layer, whatever its size is.",
        "Values, feed-forward layers and norms are left out.",
    ),
)
def flow_rollout(ctx: Context) -> Iterator[Progress | Tables]:
    """Rollout of attention, Â_{L−1} … Â_0 with Â = rownorm(mean of heads + I), at the answer.

    ``influence`` is the mean of the rollout's rows of the answer tokens, so it sums to 1; tokens
    after the last such row have 0.
    """
    params: RolloutParams = ctx.params
    trace: Trace = ctx.subject
    length = len(trace)
    answer = one_span(trace, "answer", params.answer)
    if params.pairs and length > PAIRS:
        raise UserError(f"All pairs are listed up to {PAIRS} tokens; here are {length:,}.")
    weights = np.zeros(length)
    for t in range(answer.start, answer.end):
        weights[row_of(t, answer, params.answer_row)] += 1 / len(answer)
    yield Progress(None, "Reading the attention")
    influence, rolled = _rolled(ctx, weights)
    ctx.note("pairs", None, "every pair is listed" if params.pairs else "not asked for")
    yield Tables(
        tokens=ctx.per_token({"influence": pa.array(influence, pa.float64())}),
        pairs=_pairs(rolled) if rolled is not None else PAIR_TABLE.schema().empty_table(),
    )


def _rolled(ctx: Context, weights: Floats) -> tuple[Floats, Floats | None]:
    """The weighted mean of the rollout's rows, and the rollout where all pairs are asked for."""
    from engine.twin import KEEP_BYTES

    params: RolloutParams = ctx.params
    model = ctx.models["model"]
    layers, heads = chosen(params, model)
    length = len(weights)
    if 4 * len(layers) * length**2 <= KEEP_BYTES:
        kept = ctx.attention(layers=layers, heads=heads, keep="layers").cpu().numpy()
        if not params.pairs:
            return rollout_of(list(kept), weights), None
        rolled = rollout(kept)
        return weights @ rolled, rolled
    rolling = Rolling(length, heads)
    model.visit_attention(ctx.subject.ids, rolling, layers)
    assert rolling.rolled is not None
    # As in the short way, sums are in float64.
    used = np.flatnonzero(weights)
    rows = rolling.rolled[used.tolist()].double().cpu().numpy()
    return weights[used] @ rows, None


def _pairs(rolled: Floats) -> pa.Table:
    target, source = np.tril_indices(len(rolled))
    columns = {
        "target_position": target,
        "source_position": source,
        "weight": rolled[target, source],
    }
    return pa.table(columns, schema=PAIR_TABLE.schema())
