"""Random spellings and the canonical share of ``tokenizer.spellings``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from engine.schema import Progress
from engine.tokenizer.drawing import dropout_draws, stochastok_draws
from engine.tokenizer.scoring import (
    Lattice,
    Share,
    exact_share,
    importance_samples,
    logprobs,
    sampled_share,
)
from engine.tokenizer.spellingwork import NO_CONTEXT, Made

DRAW_BYTES = 10_000_000
"""Bytes of text times draws, at most."""

SHARE_BYTES = 1024
EXACT_SHARE = 4096
"""Most spellings that are all read by the model."""

SHORTEST = 256
"""Shortest spellings that are read when not all of them are."""

FEW_EFFECTIVE = 10
MOST_DRAWN = 200


def drawn(made: Made) -> Iterator[Progress]:
    params, text = made.ctx.params, made.text
    if not params.drawn:
        return
    if len(text.data) * params.drawn > DRAW_BYTES or not text.known:
        reason = (
            f"Not drawn: at most {DRAW_BYTES:,} bytes are drawn together."
            if text.known
            else "Not drawn: the vocabulary cannot spell the text."
        )
        made.note("draws", None, reason)
        return
    yield Progress(None, "Drawing spellings")
    counts = stochastok_draws(made.spec, text.ids, params.proportion, params.drawn, params.seed)
    _listed(made, "stochastok", counts, None)
    if int(params.proportion * len(text.ids)) == 0:
        reason = f"{len(text.ids)} tokens × {params.proportion:g} is less than one split."
        made.note("draws", "share", f"StochasTok leaves the text as it is: {reason}")
    if made.spec.kind != "bpe":
        made.note("draws", None, f"{made.spec.name} has no merges to leave out.")
        return
    yield Progress(None, "Leaving merges out")
    cuts = made.spec.pretokens(text.text)
    counts, exact = dropout_draws(made.spec, cuts, params.dropout, params.drawn, params.seed)
    _listed(made, "bpe_dropout", counts, exact)
    if exact is None:
        reason = "Computed for a single word of at most 8 bytes."
        made.note("draws", "probability", reason)


def _listed(
    made: Made, method: str, counts: Any, exact: dict[tuple[int, ...], float] | None
) -> None:
    total = sum(counts.values())
    rows = dict.fromkeys(ids for ids, _ in counts.most_common())
    if exact is not None:
        rows = dict.fromkeys(sorted(exact, key=lambda ids: (-exact[ids], ids)))
    if len(rows) > MOST_DRAWN:
        reason = f"{len(rows):,} different spellings came up; {MOST_DRAWN} are listed."
        made.note("draws", None, f"{method}: {reason}")
    for ids in list(rows)[:MOST_DRAWN]:
        made.add(
            "draws",
            method=method,
            tokens=[made.spec.token(i) for i in ids],
            ids=list(ids),
            length=len(ids),
            draws=counts[ids],
            share=counts[ids] / total,
            probability=None if exact is None else exact.get(ids, 0.0),
            canonical=ids == made.text.ids,
        )


def share(made: Made) -> Iterator[Progress]:
    text = made.text
    reason = None
    if not made.ctx.models:
        reason = "No model was given."
    elif not text.context:
        reason = NO_CONTEXT
    elif not text.known:
        reason = "The vocabulary cannot spell the text."
    elif len(text.data) > SHARE_BYTES:
        reason = f"Not estimated for more than {SHARE_BYTES:,} bytes."
    if reason is not None:
        made.note("share", None, reason)
        return
    found = yield from _share(made)
    if found is None:
        return
    made.add(
        "share",
        method=found.method,
        canonical_share=found.share,
        low=min(found.low, found.share),
        high=min(1.0, max(found.high, found.share)),
        logprob=found.logprob,
        canonical_logprob=found.canonical,
        spellings=found.samples,
        effective_samples=found.effective,
    )


def _share(made: Made) -> Generator[Progress, None, Share | None]:
    params, text, trie = made.ctx.params, made.text, made.spec.trie
    model = made.ctx.models["model"]
    if trie.log2_count(text.data) <= math.log2(EXACT_SHARE):
        rows = [spelling.ids for spelling in trie.best(text.data, EXACT_SHARE)]
        logs = yield from logprobs(model, text.context, rows, "Reading all spellings")
        sums = [float(sum(log)) for log in logs]
        return exact_share(sums[rows.index(text.ids)], sums)
    if params.samples < 2:
        made.note("share", None, "No samples were asked for: two at least are needed.")
        return None
    shortest = trie.best(text.data, min(params.samples, SHORTEST))
    rows = list(dict.fromkeys([text.ids, *(spelling.ids for spelling in shortest)]))
    logs = yield from logprobs(model, text.context, rows, "Reading the shortest spellings")
    read = {ids: float(sum(log)) for ids, log in zip(rows, logs, strict=True)}
    edges = trie.lattice(text.data)
    groups = np.searchsorted(edges.start, np.arange(len(text.data) + 1))
    spans = [slice(a, b) for a, b in itertools.pairwise(groups)]
    lattice = Lattice(
        len(text.data),
        tuple(edges.end[span] for span in spans),
        tuple(edges.id[span] for span in spans),
    )
    samples = yield from importance_samples(
        model, text.context, lattice, params.samples, params.seed
    )
    found = sampled_share(text.ids, read, samples)
    if found.effective < FEW_EFFECTIVE:
        reason = f"Only {found.effective:.1f} effective samples: the interval may be too narrow."
        made.note("share", "low", reason)
    return found
