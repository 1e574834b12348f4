"""From measures to a verdict: how far methods agree, and which of them may be believed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.attribution.curves import ranking

Floats = npt.NDArray[np.float64]

DECIMALS = 3
"""Differences that are the same to so many decimals share a rank."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One measure of one method: better than its shuffles by ``gain`` (whichever way is better).

    ``clear`` is 1 where its interval lies above 0, −1 where below, else 0.
    """

    gain: float
    clear: int


def verdicts(methods: dict[str, dict[str, Standing]]) -> list[dict[str, Any]]:
    """Rank methods by their mean rank over the measures they all could be given.

    Of each measure methods are ranked by the difference to their own shuffles, to the third
    decimal, ties at their mean rank; a method's standing is the mean of its ranks. Methods without
    any measure come last, without a rank.
    """
    from scipy.stats import rankdata

    ranks: dict[str, list[float]] = {name: [] for name in methods}
    for measure in dict.fromkeys(m for found in methods.values() for m in found):
        have = [name for name, found in methods.items() if measure in found]
        gains = [round(methods[name][measure].gain, DECIMALS) for name in have]
        for name, rank in zip(have, rankdata(-np.array(gains)), strict=True):
            ranks[name].append(float(rank))
    standing = {name: float(np.mean(r)) if r else None for name, r in ranks.items()}
    known = [name for name in methods if standing[name] is not None]
    places = rankdata([standing[name] for name in known], method="min") if known else []
    place = dict(zip(known, map(int, places), strict=True))
    rows = [
        {
            "method": name,
            "rank": place.get(name),
            "standing": standing[name],
            "measures": len(found),
            "better": sum(s.gain > 0 for s in found.values()),
            "clearly_better": sum(s.clear > 0 for s in found.values()),
            "clearly_worse": sum(s.clear < 0 for s in found.values()),
            "why": _why(found),
        }
        for name, found in methods.items()
    ]
    return sorted(rows, key=lambda row: (row["rank"] is None, row["rank"], row["method"]))


def _why(found: dict[str, Standing]) -> str:
    """One plain sentence."""
    if not found:
        return "Its scores are all the same here, so they order nothing."
    clear = sum(s.clear > 0 for s in found.values())
    worse = sum(s.clear < 0 for s in found.values())
    better = sum(s.gain > 0 for s in found.values())
    if worse > len(found) / 2:
        return f"Clearly worse than its own scores shuffled in {worse} of {len(found)} measures."
    text = f"Better than its own scores shuffled in {better} of {len(found)} measures"
    if clear and worse:
        return f"{text}: clearly better in {clear}, clearly worse in {worse}."
    if clear:
        return f"{text}, clearly in {clear}."
    if worse:
        return f"{text}, clearly in none, and clearly worse in {worse}."
    return f"{text}, clearly in none: this may be chance."


def agreements(scores: dict[str, Floats], applies: Any, top: int) -> list[dict[str, Any]]:
    """How alike two methods order the sources, averaged over the targets.

    Args:
        scores: by method, [n, S].
        applies: [n, S] which sources a target has.
        top: how many of the highest are compared.
    """
    rows = []
    names = list(scores)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            found = [
                _alike(scores[one][t][own], scores[other][t][own], top)
                for t, own in enumerate(applies)
            ]
            known = [f for f in found if f is not None]
            columns = ("spearman", "kendall", "overlap", "by_chance")
            means = np.mean(known, 0) if known else [None] * 4
            values = [None if m is None else float(m) for m in means]
            row = {"method": one, "other": other, "targets": len(known)}
            rows.append(row | dict(zip(columns, values, strict=True)))
    return rows


def _alike(one: Floats, other: Floats, top: int) -> tuple[float, float, float, float] | None:
    """Spearman, Kendall, shared part of the top, and what chance gives of it; None if undefined."""
    from scipy.stats import kendalltau, spearmanr

    both = np.isfinite(one) & np.isfinite(other)
    one, other = one[both], other[both]
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    k = min(top, len(one))
    ties = np.random.default_rng(0).random(len(one))
    shared = np.intersect1d(ranking(one, ties)[:k], ranking(other, ties)[:k])
    return (
        float(spearmanr(one, other).statistic),
        float(kendalltau(one, other).statistic),
        len(shared) / k,
        k / len(one),
    )
