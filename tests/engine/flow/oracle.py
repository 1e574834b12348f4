"""Flow by its definition, one node at a time, and random weights to try it on."""

from __future__ import annotations

from typing import Any

import numpy as np


def random_rows(n: int, seed: int = 0, spread: float = 1.5) -> np.ndarray:
    """Softmax rows over earlier positions and the own one, as attention has them."""
    scores = np.random.default_rng(seed).normal(size=(n, n)) * spread
    scores[np.triu_indices(n, 1)] = -np.inf
    rows = np.exp(scores - scores.max(1, keepdims=True))
    return rows / rows.sum(1, keepdims=True)


def marks(n: int, *positions: int) -> np.ndarray:
    made = np.zeros(n, bool)
    made[list(positions)] = True
    return made


def by_definition(
    rows: np.ndarray, questions: np.ndarray, answers: np.ndarray, absorbing: bool
) -> dict[str, Any]:
    """h, W', f, φ [from, to] and τ by the formulas, in Python loops."""
    n = len(rows)
    w = np.zeros((n, n))
    for i in range(n):
        for k in range(i + 1, n):
            if not (absorbing and answers[i]):
                w[i, k] = rows[k, i]
    h = np.zeros(n)
    for i in reversed(range(n)):
        h[i] = float(answers[i]) + sum(w[i, k] * h[k] for k in range(i + 1, n))
    step = np.zeros((n, n))
    for i in range(n):
        for k in range(i + 1, n):
            if h[i] > 0:
                step[i, k] = w[i, k] * h[k] / h[i]
    f = np.zeros(n)
    for k in range(n):
        if h[k] > 0:
            own = questions[k] / questions.sum()
            f[k] = own + sum(f[i] * step[i, k] for i in range(k))
    phi = f[:, None] * step
    return {"w": w, "h": h, "step": step, "f": f, "phi": phi, "tau": f + phi.sum(1)}


def by_paths(
    w: np.ndarray, h: np.ndarray, questions: np.ndarray, answers: np.ndarray
) -> np.ndarray:
    """f(k) = Σ over all paths through k of 1/|Q| · ΠW / h(first)."""
    n = len(h)
    f = np.zeros(n)

    def extend(path: list[int], product: float) -> None:
        last = path[-1]
        if answers[last]:
            f[path] += product / h[path[0]] / questions.sum()
        for k in range(last + 1, n):
            if w[last, k] > 0:
                extend([*path, k], product * w[last, k])

    for q in np.flatnonzero(questions):
        extend([int(q)], 1.0)
    return f


def backbone_by_cuts(phi: np.ndarray, share: float) -> set[tuple[int, int]]:
    """Over every cut the fewest edges, heaviest first, that carry at least the share."""
    n = len(phi)
    found = set()
    for c in range(n - 1):
        over = [(phi[i, k], -i, -k) for i in range(c + 1) for k in range(c + 1, n) if phi[i, k] > 0]
        over.sort(reverse=True)
        total, carried = sum(x[0] for x in over), 0.0
        for flow, i, k in over:
            if carried >= share * total:
                break
            found.add((-i, -k))
            carried += flow
    return found
