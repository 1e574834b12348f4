"""A real gradient step on a copy of the output matrix; hidden states do not move with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.reward.scored import Floats

if TYPE_CHECKING:
    from torch import Tensor

    from engine.reward.lasthead import Head, Rows

MOST_ENTRIES = 150_000_000
"""Of an output matrix; three float64 copies of it stand beside each other."""

LOGITS_BYTES = 64 * 2**20
"""Of float64 logits held at once."""


def head_step(rows: Rows, weights: Floats, lr: float) -> tuple[Floats, Floats, float]:
    """Move a copy of W by ``lr ∇_W Σ_k weights_k log p_k``, by backpropagation in float64.

    The bias stays. A matrix that is tied to the embedding is untied by being copied. Where the
    device has no float64 the copy is float32.

    Returns:
        log p of the rows before and after, [N] each, and the gradient's length.
    """
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        wide = torch.float32 if rows.hidden.device.type == "mps" else torch.float64
        matrix = rows.head.weight.to(wide, copy=True).requires_grad_()
        factor = torch.as_tensor(weights, dtype=wide, device=matrix.device)
        before = []
        for part in _parts(rows):
            found = log_probs(rows.head, matrix, rows.hidden[part].to(wide), rows.target[part])
            (factor[part] @ found).backward()  # type: ignore[no-untyped-call]
            before.append(found.detach())
        gradient = matrix.grad
        assert gradient is not None
        length = float(gradient.norm())
        with torch.no_grad():
            moved = matrix.detach().add_(gradient, alpha=lr)
            after = [
                log_probs(rows.head, moved, rows.hidden[part].to(wide), rows.target[part])
                for part in _parts(rows)
            ]
    return _numbers(before), _numbers(after), length


def log_probs(head: Head, matrix: Tensor, hidden: Tensor, target: Tensor) -> Tensor:
    """log p of ``target`` [n] under another output matrix [V, D], through scale and soft-cap."""
    logits = hidden @ matrix.T
    if head.bias is not None:
        logits = logits + head.bias.to(logits.dtype)
    logits = logits * head.scale
    if head.softcap:
        logits = (logits / head.softcap).tanh() * head.softcap
    return logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]


def _parts(rows: Rows) -> list[slice]:
    size = max(1, LOGITS_BYTES // (8 * len(rows.head.weight)))
    return [slice(i, i + size) for i in range(0, len(rows.target), size)]


def _numbers(parts: list[Tensor]) -> Floats:
    import torch

    return np.asarray(torch.cat(parts).double().cpu().numpy())
