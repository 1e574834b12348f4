"""Pure measures of a cloud of hidden states: linear maps, dimension, anisotropy, neighbours.

All take float64 arrays [N, D], one row per token, and know nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

REDUCTION = 5
"""TwoNN is fitted to the first 1/5 of the sorted ratios (LLM-Microscope's ``reduction_factor``)."""

LEAST_POINTS = 50
"""Fewest distinct points for an intrinsic dimension: ten ratios are left. Ours."""

_BLOCK_BYTES = 32 * 2**20
_RANK = 1e-12


@dataclass(frozen=True)
class Basis:
    """A centred cloud in its singular vectors.

    Attributes:
        left: [N, r] left singular vectors of the r directions that are there.
        values: [r] singular values, largest first.
    """

    left: Floats
    values: Floats

    @classmethod
    def of(cls, points: Floats) -> Basis:
        """Centre ``points`` and decompose them."""
        left, values, _ = np.linalg.svd(centred(points), full_matrices=False)
        there = values > (values[0] * _RANK if len(values) else 0)
        return cls(left[:, there], values[there])

    def shares(self, ridge: float = 0.0) -> Floats:
        """How much of a target along each direction a linear map of this cloud reaches, [r].

        Args:
            ridge: penalty on the map between clouds of Frobenius norm 1; 0 is least squares.
        """
        squares = self.values**2 / np.sum(self.values**2)
        return squares / (squares + ridge)


def centred(points: Floats) -> Floats:
    """Points less their mean."""
    return points - points.mean(0)


def unexplained(basis: Basis, target: Floats, ridge: float = 0.0) -> Floats:
    """What the best linear map from a cloud to ``target`` misses, [N, …], both centred."""
    goal = centred(target)
    weighted = basis.left * basis.shares(ridge)
    return goal - weighted @ (basis.left.T @ goal)


def linearity(
    basis: Basis, target: Floats, ridge: float = 0.0
) -> tuple[float | None, Floats | None]:
    """How much of a cloud is a linear map of another (LLM-Microscope, §3).

    Args:
        basis: of the cloud before.
        target: the cloud after, [N, D].
        ridge: see :meth:`Basis.shares`.

    Returns:
        1 − min‖ĤA − Ĥ′‖²_F of the centred clouds divided by their Frobenius norms, and per row
        √N‖Aĥ − ĥ′‖₂, whose mean square is 1 − the score. None where the target is one point.
    """
    whole = float(np.linalg.norm(centred(target)))
    if whole == 0.0:
        return None, None
    missed = unexplained(basis, target, ridge) / whole
    return 1.0 - float(np.sum(missed**2)), np.sqrt(len(missed) * (missed**2).sum(1))


def prediction_residual(basis: Basis, values: Floats) -> float | None:
    """Σ(y − ŷ)²/Σ(y − ȳ)² of a least-squares fit with intercept; None for a constant y."""
    total = float(np.sum(centred(values) ** 2))
    if total == 0.0:
        return None
    return float(np.sum(unexplained(basis, values) ** 2)) / total


def anisotropy(basis: Basis) -> float | None:
    """σ₁²/Σσ² of the centred cloud; None for a single point."""
    squares = basis.values**2
    return float(squares[0] / squares.sum()) if squares.size else None


def nearest(points: Floats, k: int) -> Ints:
    """The ``k`` nearest other points of each, nearest first, [N, k]; ties by number."""
    cloud = centred(points)
    squares = (cloud**2).sum(1)
    rows = max(1, _BLOCK_BYTES // (8 * max(1, len(cloud))))
    found = []
    for start in range(0, len(cloud), rows):
        block = cloud[start : start + rows]
        distances = squares - 2 * block @ cloud.T
        distances[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf
        found.append(np.argsort(distances, axis=1, kind="stable")[:, :k])
    return np.concatenate(found)


def overlap(one: Ints, other: Ints) -> float:
    """Mean share of each point's neighbours that two clouds have in common (Doimo et al. 2020).

    Args:
        one: [N, k] neighbours in one cloud.
        other: [N, k] neighbours of the same points in another.
    """
    common = (one[:, :, None] == other[:, None, :]).any(2)
    return float(common.mean())


def shuffled_overlap(one: Ints, other: Ints, seed: int) -> float:
    """``overlap`` after the points of the other cloud changed names at random."""
    order = np.random.default_rng(seed).permutation(len(other))
    renamed = np.empty_like(other)
    renamed[order] = order[other]
    return overlap(one, renamed)


def two_nn(points: Floats) -> float | None:
    """Intrinsic dimension by the ratio of the two nearest distances (Facco et al. 2017).

    Doubled points count once. The line −log(1 − F) = d log μ through the origin is fitted to the
    first 1/:data:`REDUCTION` of the ratios, as LLM-Microscope does.

    Returns:
        The dimension, None for fewer than :data:`LEAST_POINTS` distinct points.
    """
    cloud = np.unique(points, axis=0)
    n = len(cloud)
    if n < LEAST_POINTS:
        return None
    cloud = centred(cloud)
    # Distances by products cancel for close points: the candidates' are taken anew.
    near = nearest(cloud, 4)
    exact = np.sort(np.stack([_gaps(cloud, near[:, j]) for j in range(near.shape[1])], 1), 1)
    ratios = np.sort(exact[:, 1] / exact[:, 0])
    kept = n // REDUCTION
    logs = np.log(ratios[:kept])
    heights = -np.log(1 - np.arange(1, kept + 1) / n)
    square = float(logs @ logs)
    return float(logs @ heights) / square if square > 0 else None


def _gaps(cloud: Floats, partner: Ints) -> Floats:
    gaps: Floats = np.linalg.norm(cloud - cloud[partner], axis=1)
    return gaps


@dataclass(frozen=True)
class Law:
    """log PR_l = a + l log ρ by least squares.

    Attributes:
        rho: factor of the residual from layer to layer.
        correlation: Pearson's, between the layer and log PR.
        fitted: exp(a + l log ρ) at each layer.
    """

    rho: float
    correlation: float
    fitted: tuple[float, ...]


def law(layers: Sequence[int], residuals: Sequence[float]) -> Law | None:
    """Fit the law of next-token prediction; None for fewer than three layers or a flat line.

    Args:
        layers: numbers of the layers.
        residuals: their prediction residuals, all above 0.
    """
    if len(layers) < 3 or min(residuals) <= 0:
        return None
    depth, logs = np.array(layers, float), np.log(residuals)
    x, y = depth - depth.mean(), logs - logs.mean()
    spread = float(np.sqrt((x @ x) * (y @ y)))
    if spread == 0.0:
        return None
    slope = float(x @ y / (x @ x))
    fitted = np.exp(logs.mean() + slope * x)
    return Law(exp(slope), float(x @ y) / spread, tuple(map(float, fitted)))
