"""TRIM's fingerprints: what a token's state looks like where the target samples attend to it.

TRIM, arXiv 2510.07118. Its exact forms of the saliencies are not public; those here are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models import LoadedModel

Floats = npt.NDArray[np.float64]


class Saliency:
    """Row and column saliency of every token, gathered while the attention goes by.

    Row *i* is 1 − H(A_i) / log(i + 1): how sharply position i attends, 0 when evenly, 1 when to one
    token; undefined at the first position. Column *i* is the mean weight that later positions give
    to i, over the largest such mean; undefined at the last. Both are means over heads and layers.

    Args:
        length: tokens, T.
    """

    def __init__(self, length: int) -> None:
        self._rows = np.zeros(length)
        self._columns = np.zeros(length)
        self._maps = 0
        self.length = length

    def __call__(self, layer: int, start: int, weights: Tensor) -> None:
        """One block of attention weights, [H, rows, T]; rows ascending."""
        import torch

        weights = weights.double()
        entropy = torch.special.entr(weights).sum(-1).sum(0).cpu().numpy()
        places = np.arange(start, start + weights.shape[1])
        most = np.log(np.maximum(places + 1, 2))
        self._rows[places] += weights.shape[0] - entropy / most
        summed = weights.sum(0)
        later = torch.arange(start, start + weights.shape[1], device=summed.device)[:, None]
        keys = torch.arange(self.length, device=summed.device)[None]
        self._columns += torch.where(keys < later, summed, 0).sum(0).cpu().numpy()
        if start == 0:
            self._maps += weights.shape[0]

    @property
    def rows(self) -> Floats:
        """[T], NaN at the first position."""
        found: Floats = self._rows / self._maps
        found[:1] = np.nan
        return found

    @property
    def columns(self) -> Floats:
        """[T], NaN at the last position."""
        later = np.arange(self.length - 1, -1, -1.0)
        later[-1:] = np.nan
        mean = self._columns / later
        if not np.isfinite(mean).any():
            return mean
        found: Floats = mean / np.nanmax(mean)
        return found

    @property
    def both(self) -> Floats:
        """α = ½ row + ½ column, [T]."""
        return (self.rows + self.columns) / 2


def directions(model: LoadedModel, ids: Sequence[int]) -> Floats:
    """Last hidden state of each token (its own position), at length 1, [T, D]."""
    states = model.hidden(ids).double().cpu().numpy()
    norms = np.linalg.norm(states, axis=1, keepdims=True)
    found: Floats = states / np.where(norms > 0, norms, 1)
    return found


@dataclass
class Fingerprints:
    """One direction for each token id of the target samples.

    Attributes:
        sums: by id, Σ α ĥ so far, [D].
        counts: by id, tokens in it.
    """

    sums: dict[int, Floats] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, ids: Sequence[int], states: Floats, weights: Floats) -> None:
        """Add tokens; those without a weight are left out."""
        for token, state, weight in zip(ids, states, weights, strict=True):
            if np.isfinite(weight):
                self.sums[token] = self.sums.get(token, 0.0) + weight * state
                self.counts[token] = self.counts.get(token, 0) + 1

    def made(self) -> tuple[list[int], Floats]:
        """Ids, ascending, and their fingerprints at length 1, [C, D]."""
        ids = sorted(t for t, total in self.sums.items() if np.linalg.norm(total) > 0)
        rows = [self.sums[t] / np.linalg.norm(self.sums[t]) for t in ids]
        return ids, np.array(rows)


def score(
    ids: Sequence[int],
    states: Floats,
    known: Sequence[int],
    prints: Floats,
    embeddings: Floats,
    known_embeddings: Floats,
    penalty: float,
) -> tuple[Floats, list[int]]:
    """Cosine of each token with the fingerprint of its id, or of the nearest one times a penalty.

    Args:
        ids: n tokens.
        states: their directions, [n, D].
        known: ids with fingerprints, C.
        prints: the fingerprints, [C, D].
        embeddings: input embeddings of the tokens, [n, E].
        known_embeddings: input embeddings of ``known``, [C, E].
        penalty: factor for tokens whose id has no fingerprint.

    Returns:
        Scores [n], and the id whose fingerprint each was compared with.
    """
    place = {token: number for number, token in enumerate(known)}
    near = (_unit(embeddings) @ _unit(known_embeddings).T).argmax(1)
    chosen = np.array([place.get(token, near[i]) for i, token in enumerate(ids)])
    factor = np.array([1.0 if token in place else penalty for token in ids])
    found: Floats = (states * prints[chosen]).sum(1) * factor
    return found, [known[c] for c in chosen]


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = rows / np.where(norms > 0, norms, 1)
    return found
