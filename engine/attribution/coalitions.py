"""Weights and regressions over coalitions of sources: no model, no torch, only numbers.

A target only sees the sources before it, so a coalition counts for it by those: one read coalition
serves all targets, each with the weights of its own game.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.attribution.sampled import uniforms
from engine.attribution.work import Bools, Floats


def size_weights(count: int) -> Floats:
    """Chance of each size 1 … count − 1 of a coalition under the Shapley kernel."""
    sizes = np.arange(1, count)
    weights: Floats = 1 / (sizes * (count - sizes))
    return weights / weights.sum()


def draw_pairs(seed: int, count: int, first: int, last: int) -> Bools:
    """Coalitions by the Shapley kernel, each followed by its complement, [last − first, count].

    Args:
        seed: of the draws.
        count: sources, two at least.
        first, last: numbers of the coalitions, even; the same number gives the same one.
    """
    edges = size_weights(count).cumsum()
    found = np.zeros((last - first, count), bool)
    for row in range(0, last - first, 2):
        draws = uniforms(seed, "kernel_shap", (first + row) // 2, count + 1)
        size = 1 + min(int(np.searchsorted(edges, draws[0], side="right")), count - 2)
        found[row, np.argsort(draws[1:], kind="stable")[:size]] = True
        found[row + 1] = ~found[row]
    return found


def kernel_weights(keep: Bools, players: Bools, *, drawn: bool) -> Floats:
    """Weight of each coalition [N, S] in the game of the target whose players are marked, [N].

    The Shapley kernel over the chance that a coalition with so many of the players was drawn (a
    hypergeometric mixture where sources after the target were drawn with them), or that of every
    subset alike. Coalitions with none or all of the players have weight 0: the constraint holds
    them.
    """
    from scipy.special import gammaln
    from scipy.stats import hypergeom

    own = int(players.sum())
    sizes = np.arange(own + 1)
    inner = (sizes > 0) & (sizes < own)
    weight = np.zeros(own + 1)
    k = sizes[inner]
    if drawn:
        all_sizes = np.arange(1, len(players))
        mixed = hypergeom.pmf(k[:, None], len(players), own, all_sizes[None])
        weight[inner] = 1 / (k * (own - k)) / (mixed @ size_weights(len(players)))
    else:
        ways = gammaln(own + 1) - gammaln(k + 1) - gammaln(own - k + 1)
        weight[inner] = np.exp(-ways) / (k * (own - k))
    found: Floats = weight[keep[:, players].sum(1)]
    return found


def constrained(
    keep: Bools, values: Floats, weights: Floats, empty: float, full: float, *, paired: bool
) -> tuple[Floats, Floats]:
    """Weighted least squares of values on coalitions, coefficients adding up to full − empty.

    Args:
        keep: [N, m] coalitions of the players.
        values: [N].
        weights: [N].
        empty, full: value without and with all players.
        paired: rows 2i and 2i + 1 were drawn together (for the errors).

    Returns:
        Coefficients [m] and their standard errors [m] from the draws (a sandwich, HC1, over
        independent draws); NaN where the coalitions do not determine them.
    """
    m = keep.shape[1]
    if m == 1:
        return np.array([full - empty]), np.zeros(1)
    used = weights > 0
    z, y, w = keep.astype(float), values - empty, weights / max(weights.sum(), 1e-300)
    gram = (z * w[:, None]).T @ z
    if used.sum() < m - 1 or not np.isfinite(y[used]).all():
        return np.full(m, np.nan), np.full(m, np.nan)
    # With the constraint the directions that matter are those whose coefficients add up to 0.
    basis = _zero_sum(m)
    small = basis.T @ gram @ basis
    if np.linalg.matrix_rank(small, tol=1e-10 * np.trace(gram), hermitian=True) < m - 1:
        return np.full(m, np.nan), np.full(m, np.nan)
    start = np.full(m, (full - empty) / m)
    y = np.where(used, y, 0.0)
    solved = np.linalg.solve(small, basis.T @ (z.T @ (w * (y - z @ start))))
    found: Floats = start + basis @ solved
    scores = (w * (y - z @ found))[:, None] * z @ basis
    return found, _errors(basis, small, scores, paired=paired)


def _zero_sum(m: int) -> Floats:
    """Orthonormal basis [m, m − 1] of the vectors whose entries add up to 0."""
    full, _ = np.linalg.qr(np.column_stack([np.ones(m), np.eye(m)[:, : m - 1]]))
    basis: Floats = full[:, 1:]
    return basis


def _errors(basis: Floats, bread: Floats, scores: Floats, *, paired: bool) -> Floats:
    """Standard errors of basis · solution, from the score contributions [N, k] of each row."""
    groups = scores.reshape(-1, 2, scores.shape[1]).sum(1) if paired else scores
    count, free = len(groups), scores.shape[1]
    if count <= free:
        return np.full(len(basis), np.nan)
    half = np.linalg.solve(bread, groups.T)
    spread: Any = basis @ half
    found: Floats = np.sqrt((spread**2).sum(1) * count / (count - free))
    return found


def ridge(
    keep: Bools, values: Floats, weights: Floats, penalty: float
) -> tuple[Floats, Floats, float, float]:
    """Weighted ridge regression with a free intercept, as scikit-learn's ``Ridge``.

    Args:
        keep: [N, m].
        values: [N].
        weights: [N], not normalised: the penalty counts against their sum.
        penalty: of the squared coefficients.

    Returns:
        Coefficients [m], their standard errors [m] (sandwich, HC1), the intercept, and the
        weighted share of the variance explained, R²; NaN where undefined.
    """
    m, total = keep.shape[1], weights.sum()
    nothing = np.full(m, np.nan), np.full(m, np.nan), float("nan"), float("nan")
    if not np.isfinite(values).all() or total <= 0:
        return nothing
    z = keep.astype(float)
    centre, level = weights @ z / total, weights @ values / total
    x, y = z - centre, values - level
    bread = (x * weights[:, None]).T @ x + penalty * np.eye(m)
    if np.linalg.matrix_rank(bread, hermitian=True) < m:
        return nothing
    found = np.linalg.solve(bread, x.T @ (weights * y))
    left = y - x @ found
    scores = (weights * left)[:, None] * x
    errors = _errors(np.eye(m), bread, scores, paired=False)
    spread = float(weights @ y**2)
    fit = 1 - float(weights @ left**2) / spread if spread > 0 else float("nan")
    return found, errors, float(level - centre @ found), fit
