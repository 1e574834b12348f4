"""Rows of token-to-token matrices as scores: what attention-based methods share.

A target token *t* is predicted at position *t* − 1, so its row is that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from engine.attribution.work import Floats, Work

CAVEATS = (
    (
        "It looks at where information may come from, not at what is explained: the scores are the "
        "same for every contrast and every explained number, and never negative."
    ),
    "Attention says where a model looks, not what it takes from there.",
)


def read_ids(work: Work) -> tuple[int, ...]:
    """The text up to the last row that predicts a target, [T]."""
    return tuple(work.trace.ids[: max(target.end for target in work.targets) - 1])


def target_weights(work: Work) -> Floats:
    """[n, T]: for each target the mean over the rows that predict its tokens."""
    weights = np.zeros((len(work.targets), len(read_ids(work))))
    for number, target in enumerate(work.targets):
        weights[number, target.start - 1 : target.end - 1] = 1 / (target.end - target.start)
    return weights


def row_scores(work: Work, mixed: Floats) -> Floats:
    """Rows [n, T] as scores of the sources [n, S]; what lies on fixed tokens is in none."""
    padded = np.zeros((len(mixed), max(work.context, mixed.shape[1])))
    padded[:, : mixed.shape[1]] = mixed
    return work.per_source(padded)


def count(work: Work, sequences: int, tokens: int) -> None:
    """Add to the cost what was read outside the readers."""
    reader = work.parts[0].reader
    reader.forwards += sequences
    reader.tokens += tokens
