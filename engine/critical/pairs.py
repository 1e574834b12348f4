"""Two predictions of the same tokens side by side: contrastive score and log-ratio.

What ``critical.contrast``, ``critical.fitted`` and ``critical.prompted`` share. Everything is
natural logarithms; z are logits, p = softmax(z) over the ids that are real in both models.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.schema import Column, Progress
from engine.statistics import CHUNK_BYTES

if TYPE_CHECKING:
    from torch import Tensor

    from engine.context import Context
    from engine.models import LoadedModel

Floats = npt.NDArray[np.float64]


def _nats(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "nats", label)


CONTRAST = Column(
    pa.float64(),
    "softmax((1 + β) z⁺ − β z⁻) of this token: low where only the negative side expected it.",
    "probability",
    "contrastive score",
)
PAIR: Mapping[str, Column] = {
    "contrast": CONTRAST,
    "log_contrast": _nats("log of the score", "Its logarithm, also where the score is too small."),
    "log_ratio": _nats("log-ratio", "log p⁺ − log p⁻: below 0 the negative side expected it more."),
    "positive_logprob": _nats("log p⁺", "Log-probability on the positive side."),
    "negative_logprob": _nats("log p⁻", "Log-probability on the negative side."),
}
"""Columns that come from the pair itself."""

BASE: Mapping[str, Column] = {
    "logprob": _nats("log-probability", "Baseline: what the model itself gave to this token."),
    "entropy": _nats("entropy", "Baseline: how undecided the model itself was before this token."),
}
"""Cheap baselines, as in ``statistics``."""

COLUMNS: Mapping[str, Column] = {**PAIR, **BASE}

CAVEATS = (
    "The first token has no prediction: its values are empty.",
    "A critical token need not be the mistake a person would mark.",
    "Compare with the baselines: in small models a wrong token is often just an unlikely one.",
)
"""True of every pair."""

SOURCE = (
    "Lin et al. (2025), Critical Tokens Matter, arXiv 2411.19943: contrastive score "
    "(official code, pipeline.py, calculate_ce_score)."
)


@dataclass(frozen=True, slots=True)
class Side:
    """A model reading a sequence.

    Attributes:
        model: who reads.
        ids: what it reads.
        first: the position whose prediction is compared first.
    """

    model: LoadedModel
    ids: Sequence[int]
    first: int = 0

    def logits(self, start: int, end: int, width: int) -> Tensor:
        """Logits of the ``start``-th to the ``end``-th prediction over ``width`` ids."""
        rows = slice(self.first + start, self.first + end)
        if self.model.head_route:
            logits = self.model.logits(self.model.hidden(self.ids)[rows])
        else:
            logits = self.model.full_logits(self.ids)[rows]
        return logits[:, :width]


def compare(
    positive: Side, negative: Side, targets: Sequence[int], beta: float
) -> Generator[Progress, None, dict[str, Floats]]:
    """The columns ``PAIR`` of each target, in chunks of rows so that memory stays bounded.

    log contrast = log softmax((1 + β) log p⁺ − β log p⁻)[y]; the normalisers of p⁺ and p⁻ cancel,
    so this is the official softmax((1 + β) z⁺ − β z⁻)[y].

    Args:
        positive: its predictions are rewarded.
        negative: its predictions are held against a token.
        targets: the ids predicted, from ``first`` of each side on.
        beta: β ≥ 0; 0 is p⁺ alone.

    Returns:
        float64 [len(targets)] by column; NaN where a side gives no distribution.
    """
    import torch
    from tokenkernel import PairStats, pair_stats

    width = min(positive.model.real_vocab, negative.model.real_vocab)
    rows = max(1, CHUNK_BYTES // (8 * width))
    device = positive.model.device
    parts: list[PairStats] = []
    for start in range(0, len(targets), rows):
        end = min(len(targets), start + rows)
        with torch.no_grad():
            z_pos = positive.logits(start, end, width)
            z_neg = negative.logits(start, end, width).to(device)
            wanted = torch.tensor(targets[start:end], device=device)
            parts.append(pair_stats(z_pos, z_neg, wanted, js=False, beta=beta))
        if end < len(targets):
            yield Progress(end / len(targets), f"Compared {end:,} of {len(targets):,} tokens")

    def joined(name: str) -> Floats:
        columns = [getattr(part, name).cpu().numpy() for part in parts]
        return np.concatenate([np.zeros(0), *columns]).astype(np.float64)

    log_contrast = np.minimum(joined("contrast"), 0.0)  # rounding can put it just above
    with np.errstate(under="ignore"):
        contrast = np.exp(log_contrast)
    return {
        "contrast": contrast,
        "log_contrast": log_contrast,
        "log_ratio": joined("log_ratio"),
        "positive_logprob": joined("logprob_p"),
        "negative_logprob": joined("logprob_q"),
    }


def reward(log_ratio: Floats) -> Floats:
    """T-REG's token reward σ(log p⁺/p⁻) − ½, in [−½, ½]; as a tanh so that it is odd to the bit."""
    return 0.5 * np.tanh(log_ratio / 2)


def weight(log_ratio: Floats, clip: float) -> Floats:
    """InTRO's weight p⁺/p⁻, at most ``clip``."""
    with np.errstate(over="ignore", under="ignore"):
        return np.minimum(np.exp(log_ratio), clip)


def compared(
    ctx: Context, positive: Side, negative: Side
) -> Generator[Progress, None, dict[str, pa.Array]]:
    """``COLUMNS`` of every token of the subject, both sides reading the subject itself."""
    trace = ctx.subject
    ctx.note("tokens", None, "the first token has no prediction", position=0)
    values = yield from compare(positive, negative, trace.ids[1:], ctx.params.beta)
    base = yield from baselines(ctx)
    return {**aligned(ctx, values, 1), **base}


def baselines(ctx: Context, first: int = 0) -> Generator[Progress, None, dict[str, pa.Array]]:
    """``BASE`` of every token from position ``first`` on; empty where no base model was given."""
    n = len(ctx.subject)
    if "model" not in ctx.models:
        reason = "no base model was given (role model): there is nothing to compare with"
        for name in BASE:
            ctx.note("tokens", name, reason)
        return {name: pa.nulls(n, column.type) for name, column in BASE.items()}
    yield Progress(None, "Reading the base model")
    stats = ctx.stats().table("tokens")
    found = {}
    for name, column in BASE.items():
        values = stats[name].combine_chunks().cast(column.type)
        found[name] = pa.concat_arrays([pa.nulls(first, column.type), values.slice(first)])
    return found


def aligned(
    ctx: Context,
    values: Mapping[str, Floats],
    first: int,
) -> dict[str, pa.Array]:
    """Columns of the whole subject from values of the tokens from position ``first`` on.

    NaN becomes null, with a note.
    """
    columns = {}
    for name, known in values.items():
        empty = int(np.isnan(known).sum())
        if empty:
            ctx.note("tokens", name, f"a model gives no distribution for {empty:,} of the tokens")
        tail = pa.array(known, pa.float64(), from_pandas=True)
        columns[name] = pa.concat_arrays([pa.nulls(first, pa.float64()), tail])
    return columns
