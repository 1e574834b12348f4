"""How much each part of a sum of vectors contributes to it (Ferrando and Voita 2024, §2).

For y = Σ z_j the contribution of a part is max(‖y‖₁ − ‖y − z_j‖₁, ε), divided by the sum over all
parts. Per query row the parts are the stream before, what each head brings from each key, the
bias of attention's output, and the MLP; never are the parts of more than one row alive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from engine.flow.layerparts import LayerParts

Floats = npt.NDArray[np.float64]

EPSILON = 1e-5
"""Least contribution before division, as in the LLM Transparency Tool."""

CHUNK_BYTES = 64 * 2**20
"""Of the parts of one row: how many heads are looked at together."""


@dataclass(frozen=True)
class Shares:
    """Contributions to one stream at one position; together they are 1.

    Attributes:
        position: whose stream it is.
        residual: of the stream before.
        heads: [H, K] of each head and key; keys without attention weight are no parts and are 0.
        bias: of the bias of attention's output; 0 without one.
        mlp: of the MLP; 0 where it comes later.
        error: largest difference between the sum of the parts and the stream.
        scale: largest entry of the stream.
    """

    position: int
    residual: float
    heads: Floats
    bias: float
    mlp: float
    error: float
    scale: float

    def above(self, threshold: float) -> Shares:
        """The parts above a threshold, divided by their sum; all 0 where nothing is left."""

        def kept(value: float) -> float:
            return value if value > threshold else 0.0

        heads = np.where(self.heads > threshold, self.heads, 0.0)
        alone = [kept(self.residual), kept(self.bias), kept(self.mlp)]
        total = float(heads.sum()) + sum(alone) or 1.0
        residual, bias, mlp = (value / total for value in alone)
        return Shares(self.position, residual, heads / total, bias, mlp, self.error, self.scale)


def gains(whole: Tensor, parts: Tensor) -> Tensor:
    """max(‖y‖₁ − ‖y − z‖₁, ε) of every part, before division.

    Args:
        whole: [D], the sum y.
        parts: [..., D], the parts z.
    """
    missing = (whole - parts).abs().sum(-1)
    gained: Tensor = (whole.abs().sum() - missing).clamp(min=EPSILON)
    return gained


def attention_shares(parts: LayerParts, rows: Sequence[int]) -> Iterator[Shares]:
    """Contributions to the stream behind the attention, one row after another.

    In a parallel layer the MLP is a part of the same sum, and the stream is the layer's output.
    """
    import torch

    weights = parts.attended.weights(rows)
    per_row: dict[int, list[Tensor]] = {row: [] for row in rows}
    sums = torch.zeros(len(rows), parts.before.shape[1], device=weights.device)
    wholes = (parts.after if parts.parallel else parts.middle)[list(rows)].float()
    for heads, brought in _by_head(parts):
        for at, row in enumerate(rows):
            given = weights[heads, at, : row + 1]
            made = given[..., None] * brought[:, : row + 1] * parts.gain_at(row)
            sums[at] += made.sum((0, 1))
            gained = gains(wholes[at], made)
            per_row[row].append(torch.where(given > 0, gained, torch.zeros_like(gained)))
    for at, row in enumerate(rows):
        yield _divided(parts, row, torch.cat(per_row[row]), sums[at], wholes[at])


def _by_head(parts: LayerParts) -> Iterator[tuple[slice, Tensor]]:
    """What some heads would bring from every key, [heads, T, D] in float32, and which they are."""
    attended = parts.attended
    count, (length, width) = len(attended.query), attended.value.shape[1:]
    groups = count // len(attended.value)
    step = max(1, CHUNK_BYTES // (4 * length * parts.before.shape[1]))
    for start in range(0, count, step):
        heads = slice(start, min(count, start + step))
        values = attended.value[[head // groups for head in range(count)[heads]]].float()
        matrix = parts.project[start * width : heads.stop * width].float()
        yield heads, values @ matrix.reshape(len(values), width, -1)


def _divided(parts: LayerParts, row: int, heads: Tensor, brought: Tensor, whole: Tensor) -> Shares:
    import torch

    residual = parts.before[row].float()
    together = residual + brought
    alone = {"residual": gains(whole, residual)}
    if parts.bias is not None:
        bias = parts.bias.float() * parts.gain_at(row)
        together = together + bias
        alone["bias"] = gains(whole, bias)
    if parts.parallel:
        mlp = parts.mlp[row].float()
        together = together + mlp
        alone["mlp"] = gains(whole, mlp)
    total = float(heads.double().sum() + sum(value.double() for value in alone.values()))
    made = {name: float(value) / total for name, value in alone.items()}
    return Shares(
        position=row,
        residual=made["residual"],
        heads=heads.double().cpu().numpy() / total,
        bias=made.get("bias", 0.0),
        mlp=made.get("mlp", 0.0),
        error=float(torch.max(torch.abs(together - whole))),
        scale=float(whole.abs().max()),
    )


def mlp_shares(parts: LayerParts, row: int) -> Shares:
    """Contributions of the stream and of the MLP to a serial layer's output at one position."""
    whole = parts.after[row].float()
    middle, mlp = parts.middle[row].float(), parts.mlp[row].float()
    residual, added = float(gains(whole, middle)), float(gains(whole, mlp))
    total = residual + added
    error = float((middle + mlp - whole).abs().max())
    none = np.zeros((0, 0))
    scale = float(whole.abs().max())
    return Shares(row, residual / total, none, 0.0, added / total, error, scale)
