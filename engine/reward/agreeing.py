"""How well a prediction agrees with what was measured."""

from __future__ import annotations

import numpy as np

from engine.reward.scored import Floats


def agreement(predicted: Floats, measured: Floats) -> dict[str, float | int | None]:
    """Correlation, slope and agreement in sign.

    Returns:
        ``count`` of pairs where both are finite; ``pearson`` and ``spearman`` (mean ranks for
        ties), None where one side is constant or there are fewer than three pairs; ``slope``, the
        factor c of least squares ``measured ≈ c · predicted`` through 0, None where every
        prediction is 0; ``sign_agreement``, the share of pairs on the same side of 0 among those
        where neither is 0, None where there are none.
    """
    known = np.isfinite(predicted) & np.isfinite(measured)
    x, y = predicted[known], measured[known]
    both = (x != 0) & (y != 0)
    square = float(x @ x)
    return {
        "count": int(known.sum()),
        "pearson": _pearson(x, y),
        "spearman": _spearman(x, y),
        "slope": float(x @ y) / square if square > 0 else None,
        "sign_agreement": float((np.sign(x) == np.sign(y))[both].mean()) if both.any() else None,
    }


def _pearson(x: Floats, y: Floats) -> float | None:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.clip(x @ y / size, -1, 1)) if size > 0 else None


def _spearman(x: Floats, y: Floats) -> float | None:
    from scipy.stats import rankdata

    return _pearson(rankdata(x), rankdata(y)) if len(x) else None
