"""Pass@k: how likely one of *k* samples is right, from *c* right ones among *n* (no bias)."""

from __future__ import annotations


def pass_at_k(n: int, c: int) -> list[float]:
    """1 − C(n − c, k) / C(n, k) for k = 1 … n: the share of all sets of k that hold a right one.

    Counted in whole numbers and divided once, so each value is rounded once.

    Args:
        n: samples, at least 1.
        c: how many of them are right.

    Raises:
        ValueError: when they are no such counts.

    Source: Chen et al. (2021), arXiv 2107.03374; used by Lin et al. (2025), arXiv 2411.19943.
    """
    if not 0 <= c <= n or n < 1:
        raise ValueError(f"{c} right of {n}")
    found = []
    sets, missed = 1, 1
    for k in range(1, n + 1):
        sets = sets * (n - k + 1) // k
        missed = missed * max(n - c - k + 1, 0) // k
        found.append((sets - missed) / sets)
    return found
