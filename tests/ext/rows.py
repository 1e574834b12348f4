"""Rows of logits that break careless code, and comparisons that know what float32 can hold."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import tokenkernel as tk
import torch
from tokenkernel import reference
from torch import Tensor

TOLERANCE = {
    "logz": 1e-6,
    "logprob": 1e-6,
    "entropy": 1e-5,
    "varentropy": 2e-4,
    "margin": 1e-6,
    "max_prob": 1e-6,
    "sum_p2": 1e-6,
    "self_certainty": 1e-5,
    "top_logprobs": 1e-6,
    "logprob_p": 1e-6,
    "logprob_q": 1e-6,
    "log_ratio": 2e-6,
    "entropy_p": 1e-5,
    "entropy_q": 1e-5,
    "kl_pq": 1e-5,
    "kl_qp": 1e-5,
    "js": 1e-6,
    "tv": 1e-6,
    "contrast": 4e-6,
}
"""Absolute, on top of the rounding of a float32 result of that size (and of its logits)."""


def hostile(vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [15, V] in float32 and a target for each row."""
    made = torch.Generator().manual_seed(seed)
    z = torch.randn(15, vocabulary, generator=made) * 3
    z[1] = 1.5  # constant
    z[2] = torch.linspace(-8, 8, vocabulary)  # sorted, the largest last
    z[3] = torch.linspace(20, -60, vocabulary)  # sorted, the largest first
    z[4] += 300
    z[5] -= 300
    z[6, ::3] = -torch.inf  # a third masked
    z[7] = -torch.inf  # nothing possible
    z[8, vocabulary // 2] = torch.nan
    z[9, vocabulary // 2] = torch.inf
    z[10] = 0
    z[10, vocabulary // 3] = 80  # as good as one-hot
    z[11] = -torch.inf
    z[11, vocabulary // 2] = 3  # one possible id
    z[12] = torch.randint(0, 3, (vocabulary,), generator=made).float()  # ties everywhere
    z[13] *= 20
    z[14, : vocabulary // 2] = -torch.inf
    target = torch.randint(0, vocabulary, (15,), generator=made)
    return z, target


def close(found: Any, wanted: Any, *, scale: Tensor | None = None, factor: float = 1) -> None:
    """Every field equal: whole numbers exactly, floats within ``TOLERANCE``.

    Args:
        found: what is tested.
        wanted: the same in float64.
        scale: [n] largest logit of each row: differences of float32 logits round like it.
        factor: of the tolerance.
    """
    for field in fields(wanted):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        assert a.shape == b.shape, field.name
        if b.dtype == torch.int64:
            assert torch.equal(a, b), field.name
            continue
        a, b = a.double(), b.double()
        same = (a == b) | (a.isnan() & b.isnan())
        size = b.abs().nan_to_num(0, 0, 0)
        if scale is not None:
            size = torch.maximum(size, scale.double().reshape(-1, *[1] * (b.ndim - 1)))
        allowed = factor * (TOLERANCE[field.name] + 2.0**-23 * size)
        assert bool((same | ((a - b).abs() <= allowed)).all()), (
            field.name,
            float((a - b).abs().masked_fill(same, 0).max()),
        )


def largest(z: Tensor) -> Tensor:
    """[n] largest finite logit by amount."""
    return z.float().abs().nan_to_num(0, 0, 0).masked_fill(z.isinf(), 0).amax(-1)


def exact(z: Tensor, target: Tensor, k: int = 0, **change: Any) -> tk.TokenStats:
    """The oracle: float64 in torch."""
    return reference.token_stats(z.double(), target, k, **change)
