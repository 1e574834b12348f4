"""Attention rollout: attention of all layers multiplied, the residual stream counted half.

Plain functions of per-layer matrices ``[T, T]`` (query, key), heads averaged already. Each layer
becomes Â = rownorm(A + I); the rollout is Â_{L−1} … Â_1 Â_0 (Abnar and Zuidema 2020, §3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.flow.recurrences import Floats, Rows

if TYPE_CHECKING:
    from torch import Tensor

ABNAR = "Abnar and Zuidema (2020), Quantifying Attention Flow in Transformers, arXiv 2005.00928"


def with_residual(attention: Rows) -> Floats:
    """rownorm(A + I), [T, T] in float64: half of every row is the token itself."""
    mixed = attention.astype(np.float64)
    mixed[np.diag_indices_from(mixed)] += 1.0
    mixed /= mixed.sum(1, keepdims=True)
    return mixed


def rollout(layers: Iterable[Rows]) -> Floats:
    """How much of each input token is mixed into each position, [T, T]; rows sum to 1.

    Args:
        layers: attention of each layer, the first layer first; at least one.
    """
    rolled: Floats | None = None
    for attention in layers:
        mixed = with_residual(attention)
        rolled = mixed if rolled is None else mixed @ rolled
    if rolled is None:
        raise ValueError("a rollout needs at least one layer")
    return rolled


def rollout_of(layers: Sequence[Rows], weights: Floats) -> Floats:
    """``weights @ rollout(layers)`` without the product of the layers: T² a layer, not T³.

    Args:
        layers: attention of each layer, the first layer first.
        weights: [T] over positions, or [m, T].
    """
    mixed = weights
    for attention in reversed(layers):
        mixed = mixed @ with_residual(attention)
    return mixed


class Rolling:
    """Rolls attention out while a forward goes by: for texts too long to keep every layer.

    Attributes:
        rolled: [T, T] float32 after the forward.
    """

    def __init__(self, length: int, heads: Sequence[int]) -> None:
        self._length, self._heads = length, list(heads)
        self._mixed: Tensor | None = None
        self.rolled: Tensor | None = None

    def __call__(self, layer: int, start: int, weights: Tensor) -> None:
        """One block of attention weights, [H, rows, T]; rows ascending."""
        block = weights[self._heads].mean(0)
        if self._mixed is None:
            self._mixed = block.new_empty(self._length, self._length)
        end = start + len(block)
        self._mixed[start:end] = block
        if end == self._length:
            self._mixed.diagonal().add_(1.0)
            self._mixed /= self._mixed.sum(1, keepdim=True)
            if self.rolled is None:
                self.rolled, self._mixed = self._mixed, None
            else:
                self.rolled = self._mixed @ self.rolled
