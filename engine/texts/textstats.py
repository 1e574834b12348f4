"""Numbers of a text from those of its tokens: parts, quantiles, rolling means, top shares."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from engine.subjects import Span, Trace

Floats = npt.NDArray[np.float64]
ALPHAS = tuple(step / 10 for step in range(11))
"""The levels of the cascade quantiles."""


def parts_of(trace: Trace) -> list[tuple[str, int, int]]:
    """Name, start and end of every part: all, prompt, response, then the named spans by place."""
    cut, end = trace.response_start, len(trace)
    parts = [("all", 0, end)]
    if 0 < cut < end:
        parts += [("prompt", 0, cut), ("response", cut, end)]
    spans: list[tuple[str, Span]] = sorted(trace.spans.items(), key=lambda s: (s[1].start, s[0]))
    taken = {name for name, _, _ in parts}
    parts += [(name, s.start, s.end) for name, s in spans if len(s) and name not in taken]
    return parts


def cascade_quantiles(logprob: Floats, alphas: tuple[float, ...] = ALPHAS) -> list[float | None]:
    """Chow-Quantile: the α-quantile of the tokens' log-probabilities, linear between them.

    NaN is left out; all None when nothing remains. α = 0 is the smallest, α = 1 the largest.
    """
    known = logprob[~np.isnan(logprob)]
    if not known.size:
        return [None] * len(alphas)
    return [float(v) for v in np.quantile(known, alphas)]


def rolling_mean(values: Floats, window: int) -> Floats:
    """Mean of each value and the ``window`` − 1 before it; NaN where any of them is missing."""
    result = np.full(len(values), np.nan)
    if window <= len(values):
        views = np.lib.stride_tricks.sliding_window_view(values, window)
        result[window - 1 :] = views.mean(axis=1)
    return result


def top_share(values: Floats, share: float) -> tuple[npt.NDArray[np.bool_], float, int]:
    """Mark ⌈share · n⌉ of the n values, the largest first, of equals the earlier one.

    Returns:
        The marks, the smallest marked value, and how many equal to it were not marked.
    """
    # A product such as 0.2 · 35 = 7.000000000000001 must not become 8.
    count = max(1, math.ceil(share * values.size - 1e-9))
    order = np.argsort(-values, kind="stable")[:count]
    marks = np.zeros(values.size, bool)
    marks[order] = True
    threshold = float(values[order[-1]])
    return marks, threshold, int(np.count_nonzero(values[~marks] == threshold))
