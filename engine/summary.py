"""``summary``: how the model read a text as a whole, and where it could have gone another way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.registry import Params, analysis
from engine.schema import Column, Table, Tables
from engine.signalsource import floats, nested
from engine.subjects import Trace
from engine.texts.textstats import ALPHAS, cascade_quantiles, parts_of, rolling_mean, top_share
from engine.texts.tokenclass import token_classes

Floats = npt.NDArray[np.float64]


class SummaryParams(Params):
    """Settings of ``summary``."""

    window: int = Field(
        16, ge=1, le=4096, title="Window", description="Tokens in the rolling mean of the entropy."
    )
    share: float = Field(
        0.2, gt=0, le=1, title="Forks", description="Share of the tokens that is marked as forks."
    )
    population: Literal["response", "all"] = Field(
        "response",
        title="Forks among",
        description="The tokens that are ranked by entropy: the response, or the whole text.",
    )


def _nats(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "nats", label)


def _count(label: str, doc: str) -> Column:
    return Column(pa.int64(), doc, "", label)


def _rolled(name: str) -> Column:
    doc = f"Mean {name} of this token and those before it, as many as the window holds."
    return Column(pa.float32(), doc, "nats", f"rolling {name}")


SUMMARY = Table(
    doc="One row for the whole text, its prompt, its response, and every named span.",
    columns={
        "segment": Column(pa.string(), "Which part of the text.", "", "part"),
        "start": _count("from", "First position of the part."),
        "end": _count("to", "Position after its last one."),
        "tokens": _count("tokens", "Tokens in the part."),
        "predicted": _count("predicted", "Those with a prediction: all but the text's first."),
        "bytes": _count("bytes", "Bytes of text, without special and added tokens."),
        "logprob": _nats(
            "log-probability", "Sum over the predicted tokens (Chow-Sum of the cascades paper)."
        ),
        "surprisal": _nats("mean surprisal", "−log p, mean of the predicted tokens."),
        "perplexity": Column(
            pa.float64(),
            "exp(−Σ ln p / n): as surprising as a draw from so many equally likely tokens.",
            "",
            "perplexity",
        ),
        "bits_per_token": Column(pa.float64(), "Mean surprisal in bits.", "bits", "per token"),
        "bits_per_byte": Column(
            pa.float64(),
            "Surprisal of the tokens that stand for text, in bits, by their bytes: compares "
            "models with different tokenizers.",
            "bits",
            "per byte",
        ),
        "entropy": _nats("mean entropy", "How undecided the model was before a token, mean."),
        "first_choice": Column(
            pa.float64(), "Share of the tokens that were the model's first choice (rank 1).",
            "probability", "first choice",
        ),
        "forks": _count("forks", "Tokens marked as forks."),
    },
)  # fmt: skip

TOKENS = Table(
    per_token=True,
    doc="One row per token.",
    columns={
        "surprisal": Column(pa.float32(), "−log p: how unexpected it was.", "nats", "surprisal"),
        "entropy": Column(
            pa.float32(), "How undecided the model was before this token.", "nats", "entropy"
        ),
        "rolling_surprisal": _rolled("surprisal"),
        "rolling_entropy": _rolled("entropy"),
        "fork": Column(
            pa.bool_(), "Whether it is among the tokens of the highest entropy.", "", "fork"
        ),
        "token_class": Column(
            pa.string(),
            "function, content, word (other scripts), number, punctuation, whitespace, special, "
            "mixed or other.",
            "",
            "class",
        ),
    },
)

QUANTILES = Table(
    doc="Quantiles of the log-probabilities, by part of the text.",
    columns={
        "segment": Column(pa.string(), "Which part of the text.", "", "part"),
        "alpha": Column(pa.float64(), "Level: 0 is the least likely token, 1 the most.", "", "α"),
        "logprob": _nats("Chow-Quantile", "α-quantile of the predicted tokens' log-probability."),
    },
)

FORKS = Table(
    doc="How the forks were chosen: one row.",
    columns={
        "population": _count("among", "Tokens that were ranked by entropy."),
        "forks": _count("forks", "Tokens that were marked: share × population, rounded up."),
        "share": Column(pa.float64(), "The share that was asked for.", "", "share"),
        "threshold": _nats("threshold", "Entropy of the last token that was marked."),
        "tied": _count("tied", "Tokens not marked although their entropy is the threshold."),
    },
)


@analysis(
    "summary",
    version=1,
    subject=Trace,
    optional_models=("model",),
    params=SummaryParams,
    tables={"summary": SUMMARY, "tokens": TOKENS, "quantiles": QUANTILES, "forks": FORKS},
    title="How did the model read this text as a whole?",
    cite=(
        "Jelinek, Mercer, Bahl and Baker (1977): perplexity.",
        "Wang et al. (2025), Beyond the 80/20 Rule, arXiv 2506.01939: the top 20 % entropy tokens.",
        "Gupta et al. (2024), Language Model Cascades, arXiv 2404.10136: Chow-Sum, Chow-Quantile.",
        "Simonds (2025), Entropy Adaptive Decoding, arXiv 2502.06833: rolling entropy.",
    ),
    caveats=(
        "The first token of the text has no prediction: it counts in no mean.",
        "Bits per byte leave out special tokens, their surprisal and their bytes.",
        "The response includes its answer.",
        "Forks are ranked among the response tokens of this one text; the paper ranks a batch.",
        "Exactly the share, rounded up, is marked as forks; of equal entropies the earlier token.",
        "A rolling mean looks back only, and is empty until its window is full.",
        "Near the start of the response its window still holds tokens of the prompt.",
    ),
)
def summary(ctx: Context) -> Iterator[Tables]:
    """Perplexity, bits per token and byte, quantiles, rolling entropy and forks of a text.

    Perplexity is exp of the mean surprisal in nats. ``bits_per_byte`` is Σ surprisal / ln 2 over
    the bytes of the same tokens: predicted ones that stand for text. The rolling entropy is
    (1/w) Σ H over positions t − w + 1 to t. Everything follows from ``statistics``.
    """
    trace: Trace = ctx.subject
    stats = nested(ctx, trace, "statistics", "tokens")
    logprob, entropy, rank = (floats(stats, name) for name in ("logprob", "entropy", "rank"))
    ctx.note("tokens", None, "the first token has no prediction", position=0)
    fork, chosen = _forks(ctx, entropy)
    rows, quantiles = [], []
    for segment, start, end in parts_of(trace):
        part = slice(start, end)
        rows.append(
            {
                "segment": segment,
                "start": start,
                "end": end,
                **_part(trace, start, logprob[part], entropy[part], rank[part]),
                "forks": _forks_in(fork[part]),
            }
        )
        for column in SUMMARY.columns:
            if column != "forks" and rows[-1].get(column) is None:
                ctx.note("summary", column, f"no token of the part {segment!r} has such a value")
        quantiles += [
            {"segment": segment, "alpha": alpha, "logprob": value}
            for alpha, value in zip(ALPHAS, cascade_quantiles(logprob[part]), strict=True)
        ]
    tokens = ctx.per_token(
        {
            "surprisal": pa.array(0 - logprob, pa.float32(), from_pandas=True),
            "entropy": pa.array(entropy, pa.float32(), from_pandas=True),
            "rolling_surprisal": _rolling(ctx, "rolling_surprisal", 0 - logprob),
            "rolling_entropy": _rolling(ctx, "rolling_entropy", entropy),
            "fork": pa.array(fork, pa.float64(), from_pandas=True).cast(pa.bool_()),
            "token_class": pa.array(token_classes(trace), pa.string()),
        }
    )
    yield Tables(
        summary=pa.Table.from_pylist(rows, SUMMARY.schema()),
        tokens=tokens,
        quantiles=pa.Table.from_pylist(quantiles, QUANTILES.schema()),
        forks=pa.Table.from_pylist([chosen], FORKS.schema()),
    )


def _part(
    trace: Trace, start: int, logprob: Floats, entropy: Floats, rank: Floats
) -> dict[str, Any]:
    """The numbers of a part; what its tokens do not tell stays out."""
    silent = {*trace.special, *trace.added}
    lengths = np.array(
        [0 if p in silent else len(trace.pieces[p]) for p in range(start, start + len(logprob))],
        np.int64,
    )
    known = ~np.isnan(logprob)
    row: dict[str, Any] = {
        "tokens": len(logprob),
        "predicted": int(known.sum()),
        "bytes": int(lengths.sum()),
        "entropy": _mean(entropy),
        "first_choice": _mean(np.where(np.isnan(rank), np.nan, rank == 1)),
    }
    if known.any():
        total = float(logprob[known].sum())
        mean = -total / row["predicted"]
        row |= {
            "logprob": total,
            "surprisal": mean,
            "perplexity": math.exp(mean) if mean < 700 else math.inf,
            "bits_per_token": mean / math.log(2),
        }
    text = known & (lengths > 0)
    if text.any():
        nats = -float(logprob[text].sum())
        row["bits_per_byte"] = nats / math.log(2) / int(lengths[text].sum())
    return row


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _rolling(ctx: Context, name: str, values: Floats) -> pa.Array:
    window: int = ctx.params.window
    rolling = rolling_mean(values, window)
    empty = np.flatnonzero(np.isnan(rolling))
    if empty.size > 1:
        ctx.note("tokens", name, f"no window of {window} values that all exist ends there")
    return pa.array(rolling, pa.float32(), from_pandas=True)


def _forks(ctx: Context, entropy: Floats) -> tuple[Floats, Mapping[str, Any]]:
    """Marks (1, 0, NaN outside the population) and the row of ``forks``."""
    trace: Trace = ctx.subject
    start = trace.response_start if ctx.params.population == "response" else 0
    fork = np.full(len(trace), np.nan)
    ranked = start + np.flatnonzero(~np.isnan(entropy[start:]))
    row = {"population": int(ranked.size), "share": ctx.params.share}
    if not ranked.size:
        reason = "no token can be ranked: there is no response, or its entropies are unknown"
        for table, column in (("summary", "forks"), ("tokens", "fork"), ("forks", None)):
            ctx.note(table, column, reason)
        return fork, row
    marks, threshold, tied = top_share(entropy[ranked], ctx.params.share)
    fork[ranked] = marks
    if start:
        for table, column in (("summary", "forks"), ("tokens", "fork")):
            ctx.note(table, column, "tokens of the prompt are not ranked: only the response is")
    chosen = {"forks": int(marks.sum()), "threshold": threshold, "tied": tied}
    return fork, {**row, **chosen}


def _forks_in(marks: Floats) -> int | None:
    """Forks of a part, None where nothing of it was ranked."""
    return None if np.isnan(marks).all() else int(np.nansum(marks))
