"""``reward.twgrpo``: places where the responses of one prompt disagree most."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.plan import check_trace
from engine.registry import Params, analysis
from engine.reward.population import Batch, Floats, batches, count_of, looking_at, survey, tokens_of
from engine.reward.populationtables import tokens_schema
from engine.reward.ucas import min_max
from engine.schema import Column, Progress, Table, Tables
from engine.statistics import CHUNK_BYTES
from engine.subjects import Group, Rollouts, Trace

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-8
"""Disagreements that differ by less are equal: forwards of the same tokens are not to the bit."""

WIDEST = 11.0
"""Differences of log-probabilities are cut off here, as in the released code (nats)."""


class TwGrpoParams(Params):
    """Settings of ``reward.twgrpo``."""

    alpha: float = Field(
        1.7,
        ge=1,
        le=100,
        title="α",
        description="Largest weight; 1.7 in the paper's runs, 1.5 as the code's own default.",
    )


TOKENS = tokens_schema(
    "One row per token; a value describes the prediction of that token.",
    {
        "place": Column(pa.int64(), "Place in the response, from 0.", "", "place"),
        "disagreement": Column(
            pa.float64(), "How far the responses' predictions at this place differ.", "nats", "k"
        ),
        "weight": Column(pa.float64(), "1 to α.", "", "weight"),
    },
)

PLACES = Table(
    doc="One row per place of the group's responses.",
    columns={
        "group": Column(pa.string(), "Name of the prompt.", "", "group"),
        "place": Column(pa.int64(), "Place in the response, from 0.", "", "place"),
        "running": Column(pa.int64(), "Responses that still run there.", "", "responses"),
        "disagreement": TOKENS.columns["disagreement"],
        "weight": TOKENS.columns["weight"],
    },
)


def disagreement(logps: Floats) -> Floats:
    """k of each place [T] from log-probabilities [G, T, V] over ids.

    mean over G of Σ_v (e^δ − δ − 1), δ = m̄ − log p cut off at ±11, m̄ the mean log-probability
    over G. At least 0, and 0 only where all G agree.
    """
    delta = np.clip(logps.mean(axis=0, keepdims=True) - logps, -WIDEST, WIDEST)
    found: Floats = (np.expm1(delta) - delta).sum(axis=-1).mean(axis=0)
    return found


def place_weights(k: Floats, alpha: float) -> Floats:
    """1 + (α − 1) k̂ with k̂ the min-max of k over the places; all 1 where k is constant."""
    return 1 + (alpha - 1) * min_max(k, ROUNDING)


@analysis(
    "reward.twgrpo",
    version=1,
    subject=(Group, Rollouts),
    params=TwGrpoParams,
    tables={"tokens": TOKENS, "places": PLACES},
    title="Where do the responses to one prompt disagree?",
    cite=("TW-GRPO (2025), and its code (longmalongma/TW-GRPO, grpo_trainer.py).",),
    caveats=(
        "Responses are compared place by place: only the n-th token with the n-th, whatever it is.",
        "A response that has ended counts as a uniform guess from there on, as in the code.",
        "The divergence is summed over all ids alike, not weighted by probability.",
        "The min-max is over the places of one prompt.",
    ),
)
def twgrpo(ctx: Context) -> Iterator[Progress | Tables]:
    """Weight 1 + (α − 1) k̂ of each place, k the divergence of the responses' predictions there."""
    yield Progress(None, "Loading the model")
    seen = yield from survey(ctx)
    found: dict[int, tuple[Floats, Floats]] = {}
    rows: list[pa.Table] = []
    total = count_of(ctx)
    for batch in batches(ctx):
        k = yield from _disagreements(ctx, batch)
        weights = place_weights(k, ctx.params.alpha)
        lengths = [_length(trace) for trace in batch.group.rollouts]
        for index in range(len(lengths)):
            found[batch.first + index] = k, weights
            if np.isnan(k).all():
                why = "a single response has nothing to disagree with"
                ctx.note("tokens", "weight", why, rollout=batch.first + index)
        rows.append(_places(batch, lengths, k, weights))
        yield Progress((batch.first + len(lengths)) / total, f"Prompt {batch.number + 1:,}")
    yield Tables(
        tokens=tokens_of(
            ctx, seen, TOKENS, lambda one, trace: _columns(trace, *found[one.rollout])
        ),
        places=pa.concat_tables(rows) if rows else PLACES.schema().empty_table(),
    )


def _length(trace: Trace) -> int:
    return len(trace) - _start(trace)


def _start(trace: Trace) -> int:
    """First response position that has a prediction."""
    return max(trace.response_start, 1)


def _disagreements(ctx: Context, batch: Batch) -> Generator[Progress, None, Floats]:
    """k of every place of a group; a few places of all responses are held at a time."""
    import torch

    traces = batch.group.rollouts
    longest = max(_length(trace) for trace in traces)
    if len(traces) < 2:
        return np.full(longest, np.nan)
    for trace in traces:
        check_trace(trace, ctx.plan.models["model"])
    model = ctx.models["model"]
    width = max(1, CHUNK_BYTES // (8 * model.real_vocab * len(traces)))
    parts = [np.zeros(0)]
    for first in range(0, longest, width):
        last = min(longest, first + width)
        with torch.no_grad():
            blocks = [_block(ctx, trace, first, last) for trace in traces]
        parts.append(disagreement(torch.stack(blocks).cpu().numpy()))
        if last < longest:
            yield Progress(None, f"Places {last:,} of {longest:,}")
    return np.concatenate(parts)


def _block(ctx: Context, trace: Trace, first: int, last: int) -> Tensor:
    """Log-probabilities over real ids at places ``first`` to ``last`` − 1, [last − first, V]."""
    import torch

    vocabulary = ctx.models["model"].real_vocab
    whole = torch.full((last - first, vocabulary), -float(np.log(vocabulary)), dtype=torch.float64)
    end = min(last, _length(trace))
    if end > first:
        start = _start(trace) - 1  # this row predicts the first token of the response
        logits = looking_at(ctx, trace).logits(start + first, start + end)
        whole[: end - first] = logits.double().log_softmax(-1).cpu()
    return whole


def _columns(trace: Trace, k: Floats, weights: Floats) -> dict[str, Floats]:
    start, length = _start(trace), _length(trace)
    columns = {name: np.full(len(trace), np.nan) for name in ("place", "disagreement", "weight")}
    columns["place"][start:] = np.arange(length)
    columns["disagreement"][start:] = k[:length]
    columns["weight"][start:] = weights[:length]
    return columns


def _places(batch: Batch, lengths: list[int], k: Floats, weights: Floats) -> pa.Table:
    n = k.size
    return pa.table(
        {
            "group": pa.array([batch.group.prompt_id] * n, pa.string()),
            "place": np.arange(n),
            "running": np.array([sum(length > t for length in lengths) for t in range(n)], int),
            "disagreement": pa.array(k, pa.float64(), from_pandas=True),
            "weight": pa.array(weights, pa.float64(), from_pandas=True),
        },
        schema=PLACES.schema(),
    )
