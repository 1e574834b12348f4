"""``sampler.kept``: which tokens a sampler leaves at one position, with p before and after."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace
from engine.tokenization import show

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-6
"""Ids at least this probable before are listed."""

TOP = 50
"""At least so many ids are listed."""

MOST = 10_000
"""At most so many kept ids are listed; ``summary`` counts all of them."""


class KeptParams(Params):
    """Settings of ``sampler.kept``; the filters apply in the order of the fields."""

    position: int | None = Field(
        None,
        ge=1,
        title="Position",
        description="Of the token that is predicted; empty for the one after the text.",
    )
    temperature: float = Field(
        1.0, ge=0, le=100, title="Temperature", description="0 takes the most probable token."
    )
    top_k: int | None = Field(None, ge=1, title="Top-k")
    top_p: float | None = Field(None, gt=0, le=1, title="Top-p")
    min_p: float | None = Field(None, ge=0, le=1, title="Min-p")


KEPT = Table(
    doc="One row per id, most probable first, ties by lowest id.",
    columns={
        "position": Column(pa.int64(), "Place of the predicted token."),
        "token_id": Column(pa.int64(), "Id in the model's vocabulary."),
        "token": Column(pa.string(), "Its text; bytes that are no UTF-8 as \\xNN."),
        "token_bytes": Column(pa.binary(), "Its exact bytes."),
        "rank": Column(pa.int64(), "1 + number of ids with a strictly larger logit."),
        "probability": Column(
            pa.float64(), "Of the plain model (temperature 1, nothing cut).", "probability", "p"
        ),
        "after": Column(
            pa.float64(),
            "After temperature and cuts, renormalised; 0 for what was cut.",
            "probability",
            "p after",
        ),
        "kept": Column(pa.bool_(), "Whether the sampler can draw it."),
        "said": Column(pa.bool_(), "Whether it is the token that stands there."),
    },
)

SUMMARY = Table(
    doc="One row.",
    columns={
        "position": Column(pa.int64(), "Place of the predicted token."),
        "vocabulary": Column(pa.int64(), "Ids the model chooses from."),
        "kept": Column(pa.int64(), "Ids the sampler can draw."),
        "kept_mass": Column(
            pa.float64(), "Probability of the kept ids under the plain model.", "probability"
        ),
        "entropy_before": Column(pa.float64(), "Of the plain model.", "nats"),
        "entropy_after": Column(pa.float64(), "Of what is drawn from.", "nats"),
    },
)


@analysis(
    "sampler.kept",
    version=1,
    subject=Trace,
    params=KeptParams,
    tables={"kept": KEPT, "summary": SUMMARY},
    title="What would the sampler keep?",
    cite=(
        "Fan, Lewis and Dauphin (2018), Hierarchical Neural Story Generation: top-k.",
        "Holtzman et al. (2020), The Curious Case of Neural Text Degeneration: top-p.",
        "Nguyen et al. (2024), Turning Up the Heat: min-p.",
    ),
    caveats=(
        "Temperature first, then top-k, top-p over what is left, then min-p, as generate draws.",
        "Of equally probable ids the lower one is kept first, so that exactly k remain.",
    ),
)
def kept_tokens(ctx: Context) -> Iterator[Progress | Tables]:
    """The next-token distribution at one position before and after temperature and cuts.

    The rule is the one ``generate`` draws by. Listed are the most probable ids: all kept ones (at
    most 10,000), those of probability 10⁻⁶ or more, at least 50, and the one that was said.
    """
    import torch

    from engine.sampling.generation import Sampler, weights

    trace: Trace = ctx.subject
    settings: KeptParams = ctx.params
    position = len(trace) if settings.position is None else settings.position
    if not 1 <= position <= len(trace):
        raise UserError(
            f"Position {position} is outside the text: choose one from 1 to {len(trace)}."
        )
    yield Progress(None, "Loading the model")
    sampler = Sampler(**settings.model_dump(exclude={"position"}))
    with torch.no_grad():
        logits = ctx.logits(position - 1, position)
        plain = torch.log_softmax(logits.double(), dim=-1)
        drawn = weights(plain, sampler)[0]
    yield Tables(_tables(ctx, position, plain[0].cpu(), (drawn / drawn.sum()).cpu()))


def _tables(ctx: Context, position: int, plain: Tensor, after: Tensor) -> dict[str, pa.Table]:
    import torch

    before = plain.exp()
    kept = after > 0
    order = plain.argsort(descending=True, stable=True)
    ranked = plain[order]
    probable = int((ranked.exp() >= LEAST).sum())
    listed = torch.zeros_like(kept)
    listed[order[: max(TOP, min(probable, MOST))]] = True
    if int(kept.sum()) <= MOST:
        listed |= kept
    else:
        listed[order[:MOST]] = True
    said = ctx.subject.ids[position] if position < len(ctx.subject) else -1
    if said >= 0:
        listed[said] = True
    ids = order[listed[order]]
    # Equal log-probabilities share a rank: that of the first of them.
    ranks = len(plain) - torch.searchsorted(ranked.flip(0), plain[ids], right=True) + 1
    left = len(plain) - len(ids)
    if left:
        rest = f"{left:,} less probable ids are not listed; together they hold "
        shares = (max(0.0, 1 - float(p[ids].sum())) for p in (before, after))
        rest += "{:.2g} of the probability before and {:.2g} after".format(*shares)
        ctx.note("kept", None, rest, position=position)
    pieces = [ctx.tokenizer.piece(i).data for i in ids.tolist()]
    table = pa.table(
        {
            "position": [position] * len(ids),
            "token_id": ids.tolist(),
            "token": [show(piece) for piece in pieces],
            "token_bytes": pieces,
            "rank": ranks.tolist(),
            "probability": before[ids].tolist(),
            "after": after[ids].tolist(),
            "kept": kept[ids].tolist(),
            "said": [i == said for i in ids.tolist()],
        },
        schema=KEPT.schema(),
    )
    summary = pa.table(
        {
            "position": [position],
            "vocabulary": [len(plain)],
            "kept": [int(kept.sum())],
            "kept_mass": [min(1.0, float(before[kept].sum()))],
            "entropy_before": [_entropy(before)],
            "entropy_after": [_entropy(after)],
        },
        schema=SUMMARY.schema(),
    )
    return {"kept": table, "summary": summary}


def _entropy(p: Tensor) -> float:
    """−Σ p log p, nats; exactly 0 for a certain choice."""
    positive = p[p > 0]
    entropy = -float((positive * positive.log()).sum())
    return entropy if math.isfinite(entropy) and entropy > 0 else 0.0
