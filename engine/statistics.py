"""``statistics``: what the model thought of every token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

CHUNK_BYTES = 64 * 1024 * 1024
"""Of float32 logits: rows looked at between two yields follow from the vocabulary."""


class StatisticsParams(Params):
    """Settings of ``statistics``."""

    top_k: int = Field(
        20, ge=0, le=1000, title="Alternatives", description="How many alternatives to list."
    )


def _nats(label: str, doc: str) -> Column:
    return Column(pa.float32(), doc, "nats", label)


TOKENS = Table(
    per_token=True,
    doc="One row per token; a value describes the prediction of that token.",
    columns={
        "logprob": _nats("log-probability", "Log-probability the model gave to this token."),
        "surprisal": _nats("surprisal", "−log p: how unexpected the token was."),
        "entropy": _nats("entropy", "How undecided the model was before this token."),
        "varentropy": Column(
            pa.float32(), "Variance of the surprisal under the model.", "nats²", "varentropy"
        ),
        "rank": Column(pa.int64(), "1 + number of ids with a strictly larger logit.", "", "rank"),
        "ties": Column(pa.int64(), "Other ids with exactly the same logit.", "", "ties"),
        "margin": _nats("margin", "log p of the most probable id minus that of the second."),
        "max_prob": Column(
            pa.float32(), "Probability of the most probable id.", "probability", "top probability"
        ),
        "sum_p2": Column(
            pa.float32(), "Σp²: chance that two draws agree.", "probability", "collision"
        ),
        "self_certainty": _nats(
            "self-certainty", "logZ − mean logit: divergence from the uniform guess plus log V."
        ),
    },
)

ALTERNATIVES = Table(
    doc="The most probable ids at each position, best first; ties by lowest id.",
    columns={
        "position": Column(pa.int64(), "Place in the sequence."),
        "alternative_rank": Column(pa.int64(), "1 for the most probable."),
        "alternative_id": Column(pa.int64(), "Id in the model's vocabulary."),
        "alternative": Column(pa.string(), "Its text; bytes that are no UTF-8 as \\xNN."),
        "alternative_bytes": Column(pa.binary(), "Its exact bytes."),
        "logprob": _nats("log-probability", "Log-probability the model gave to it."),
    },
)


@analysis(
    "statistics",
    version=1,
    subject=Trace,
    params=StatisticsParams,
    tables={"tokens": TOKENS, "alternatives": ALTERNATIVES},
    title="What did the model think of every token?",
    cite=(
        "Shannon (1948), A Mathematical Theory of Communication: entropy and surprisal.",
        "Gehrmann, Strobelt and Rush (2019), GLTR: rank and probability of each token.",
        "Kang et al. (2025), Scalable Best-of-N Selection via Self-Certainty.",
    ),
    caveats=(
        "The first token has no prediction: its values are empty.",
        "Temperature 1, no top-k or top-p: what the model thought, not what a sampler kept.",
        "With half-precision weights the logits are summed in float32; the model rounds them.",
        "Perplexity is exp of the mean surprisal in nats.",
    ),
)
def statistics(ctx: Context) -> Iterator[Progress | Tables]:
    """Log-probability, entropy, rank and relatives of every token, with the alternatives.

    Row *t* describes the prediction of token *t*, made at position *t* − 1; row 0 is empty. All
    logarithms are natural.
    """
    # torch is imported on the first computation only, so that pages open without it.
    import torch
    from tokenkernel import TokenStats

    trace: Trace = ctx.subject
    k = ctx.params.top_k
    n = len(trace)
    ctx.note("tokens", None, "the first token has no prediction", position=0)
    model = ctx.models["model"]
    parts: list[TokenStats] = []
    rows = max(1, CHUNK_BYTES // (4 * model.real_vocab))
    for start in range(0, n - 1, rows):
        end = min(n - 1, start + rows)
        target = torch.tensor(trace.ids[start + 1 : end + 1], device=model.device)
        # Not inference mode: kept hidden states may be differentiated later. Not across a yield:
        # another job would run without gradients.
        with torch.no_grad():
            parts.append(ctx.token_stats(start, end, target, k))
        if end < n - 1:
            yield Progress(end / (n - 1), f"Read the logits of {end:,} of {n - 1:,} tokens")
    yield Tables(_tables(ctx, parts, k))


def _tables(ctx: Context, parts: list, k: int) -> dict[str, pa.Table]:  # type: ignore[type-arg]
    from tokenkernel import TokenStats

    if not parts:
        empty = ctx.per_token({name: [None] for name in TOKENS.columns})
        return {"tokens": empty, "alternatives": ALTERNATIVES.schema().empty_table()}
    stats = TokenStats.cat(parts)
    columns = {}
    for name, column in TOKENS.columns.items():
        tensor = -stats.logprob if name == "surprisal" else getattr(stats, name)
        values = tensor.cpu().numpy()
        columns[name] = pa.concat_arrays(
            [pa.nulls(1, column.type), pa.array(values, column.type, from_pandas=True)]
        )
    rows, width = stats.top_ids.shape
    ids = stats.top_ids.cpu().reshape(-1).numpy()
    texts, data = ctx.token_texts(ids)
    alternatives = pa.table(
        {
            "position": np.repeat(np.arange(1, rows + 1), width),
            "alternative_rank": np.tile(np.arange(1, width + 1), rows),
            "alternative_id": ids,
            "alternative": texts,
            "alternative_bytes": data,
            "logprob": stats.top_logprobs.cpu().reshape(-1).numpy().astype(np.float32),
        },
        schema=ALTERNATIVES.schema(),
    )
    return {"tokens": ctx.per_token(columns), "alternatives": alternatives}
