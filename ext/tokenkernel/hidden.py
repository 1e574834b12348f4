"""The same from hidden states and the output matrix, block by block: never a [T, V]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from tokenkernel import checks, dispatch, reference
from tokenkernel.build import _kernel, has_bf16
from tokenkernel.results import TokenStats

BLOCK = 1024
"""Ids at a time."""

ROWS = 512
"""Tokens at a time: logits of one block then take 2 MiB."""

WORKSPACE = 40 << 20
"""Bytes ``influence_from_hidden`` may take for logits and their gradients."""


class _Head:
    """Blocks of the output matrix and what becomes of its products."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, mode: Literal["exact", "model"]
    ) -> None:
        self.hidden, self.weight = checks.matrix(hidden, "hidden"), checks.matrix(weight, "weight")
        if hidden.shape[1] != weight.shape[1]:
            raise ValueError(
                f"hidden has width {hidden.shape[1]}, the output matrix {weight.shape[1]}"
            )
        if hidden.device != weight.device:
            raise ValueError(f"hidden is on {hidden.device}, the output matrix on {weight.device}")
        if bias is not None and (bias.shape != weight.shape[:1] or bias.device != weight.device):
            raise ValueError("bias must have one entry for each id")
        if mode not in ("exact", "model"):
            raise ValueError("logits must be 'exact' or 'model'")
        self.bias = None if bias is None else bias.detach()
        self.vocabulary = weight.shape[0]
        narrow = weight.dtype in (torch.bfloat16, torch.float16)
        self.model = mode == "model" and narrow
        self.wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.fast = (
            narrow
            and not self.model
            and self.hidden.dtype == self.weight.dtype == torch.bfloat16
            and hidden.device.type == "cpu"
            and has_bf16()
            and hidden.stride(1) == weight.stride(1) == 1
        )

    def product(self, hidden: Tensor, rows: slice, out: Tensor) -> Tensor:
        """Logits of some tokens for some ids, written to ``out`` [tokens, ids] if it fits."""
        weight = self.weight[rows]
        if self.fast:
            _kernel.bf16_logits(hidden, weight, out, torch.get_num_threads())
            made = out
        elif self.model:
            made = hidden.to(weight.dtype) @ weight.T
        else:
            made = torch.mm(hidden.to(self.wide), weight.to(self.wide).T, out=out)
        if self.bias is not None:
            made = made.add_(self.bias[rows].to(made.dtype))
        return made

    def own(self, target: Tensor) -> Tensor:
        """Logits of the targets alone."""
        parts = []
        for hidden, ids in zip(self.hidden.split(64), target.split(64), strict=True):
            weight = self.weight[ids]
            if self.model:
                made = (hidden.to(weight.dtype) @ weight.T).diagonal()
            else:
                made = (hidden.to(self.wide) * weight.to(self.wide)).sum(-1)
            if self.bias is not None:
                made = made + self.bias[ids].to(made.dtype)
            parts.append(made.to(self.wide))
        return torch.cat(parts) if parts else self.hidden.new_empty(0, dtype=self.wide)


def stats_from_hidden(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    k: int = 0,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float = 0.0,
    temperature: float = 1.0,
    real: Tensor | None = None,
    logits: Literal["exact", "model"] = "exact",
    threads: int = 0,
) -> TokenStats:
    """``token_stats`` of ``hidden @ weight.T + bias``, without ever holding those logits.

    Args:
        hidden: [T, D] inputs of the output matrix.
        weight: [V, D] the output matrix; pass ``weight[:real]`` for a padded vocabulary.
        target: [T] ids.
        k: how many alternatives to list.
        bias: [V].
        scale, softcap, temperature: as in ``token_stats``.
        real: [V] bool, False for ids that cannot occur.
        logits: for half-precision weights, ``exact`` sums products in float32; ``model`` rounds
            each logit to the weights' dtype as the model itself does. For float32 they are one.
        threads: at most so many; 0 for all.

    Returns:
        ``TokenStats``. The target's logit is summed apart and may differ from the others' in the
        last bit, so an id with the very same weights need not count as a tie.

    Raises:
        TypeError: for other types.
        ValueError: for shapes, devices or ids that do not fit.
    """
    head = _Head(hidden, weight, bias, logits)
    target = checks.targets(target, hidden.shape[0], head.vocabulary, hidden)
    real = checks.mask(real, head.vocabulary, hidden)
    checks.change(scale, softcap, temperature)
    k = min(checks.top(k), head.vocabulary)
    change = {"scale": scale, "softcap": softcap, "temperature": temperature}
    with torch.inference_mode():
        own = reference.changed(head.own(target)[:, None], scale, softcap, temperature, None)[:, 0]
        if real is not None:
            own = own.masked_fill(~real[target], -torch.inf)
        parts = []
        for start in range(0, max(1, len(target)), ROWS):
            rows = slice(start, start + ROWS)
            state = _accumulator(head, len(target[rows]), k)
            out = torch.empty(0, dtype=head.wide, device=hidden.device)
            for ids, block in _blocks(head, head.hidden[rows], out):
                mask = None if real is None else real[ids]
                state.update(
                    block, ids.start, target[rows], own[rows], **change, real=mask, threads=threads
                )
            parts.append(state.finish())
        return TokenStats.cat(parts)


def _accumulator(head: _Head, rows: int, k: int) -> dispatch.Accumulator | reference.Accumulator:
    if head.hidden.device.type == "cpu" and head.wide == torch.float32:
        return dispatch.Accumulator(rows, k)
    return reference.Accumulator(rows, k, device=head.hidden.device, dtype=head.wide)


def _blocks(head: _Head, hidden: Tensor, out: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for first in range(0, head.vocabulary, BLOCK):
        ids = slice(first, min(first + BLOCK, head.vocabulary))
        shape = (hidden.shape[0], ids.stop - ids.start)
        # The last block is narrower: a new buffer of its own size.
        out = out if out.shape == shape else out.new_empty(shape)
        yield ids, head.product(hidden, ids, out)


def influence_from_hidden(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    weights: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float = 0.0,
    real: Tensor | None = None,
) -> Tensor:
    """How a step on the output matrix along some tokens' gradients changes every token.

    With g_t = ∂ log p(y_t) / ∂ logits (one-hot minus p, through scale and soft-cap) the gradient
    of log p(y_t) with respect to the output matrix is g_t h_tᵀ. For M = Σ_t w_t g_t h_tᵀ this
    returns s_k = g_kᵀ M h_k = Σ_t w_t ⟨g_k, g_t⟩ ⟨h_k, h_t⟩: the change of log p(y_k) per unit of
    step along M, to first order. Two sweeps over the ids, linear in tokens; the closed form behind
    Token Hidden Reward (2510.03669), with w_t the correct responses' tokens.

    Args:
        hidden: [T, D].
        weight: [V, D].
        target: [T] ids.
        weights: [T] w_t; 0 for tokens that do not pull.
        bias: [V].
        scale, softcap: of the logits, as in ``token_stats``.
        real: [V] bool, False for ids that cannot occur.

    Returns:
        [T] float32 (float64 for float64 hidden states).

    Raises:
        TypeError: for other types.
        ValueError: for shapes, devices or ids that do not fit.
    """
    head = _Head(hidden, weight, bias, "exact")
    target = checks.targets(target, hidden.shape[0], head.vocabulary, hidden)
    real = checks.mask(real, head.vocabulary, hidden)
    if weights.shape != target.shape or weights.device != hidden.device:
        raise ValueError("weights must have one entry for each token, on the same device")
    change = {"scale": scale, "softcap": softcap}
    logz = stats_from_hidden(hidden, weight, target, bias=bias, real=real, **change).logz
    with torch.inference_mode():
        logz = logz.to(head.wide)
        states = head.hidden.to(head.wide)
        # Tokens without weight pull nothing: their gradients are needed once only.
        pulling = (weights != 0).nonzero()[:, 0]
        pull = states[pulling] * weights[pulling, None].to(head.wide)
        influence = torch.zeros(len(target), dtype=head.wide, device=hidden.device)
        tokens = max(1, len(target))
        width = max(16, min(BLOCK, WORKSPACE // (2 * states.element_size() * tokens)))
        for first in range(0, head.vocabulary, width):
            ids = slice(first, min(first + width, head.vocabulary))
            out = torch.empty(len(target), ids.stop - first, dtype=head.wide, device=hidden.device)
            gradient = _gradient(head, ids, target, logz, out, scale, softcap, real)
            matrix = gradient[pulling].T @ pull if len(pulling) < len(target) else gradient.T @ pull
            effect = states @ matrix.T
            influence += effect.mul_(gradient).sum(-1)
        return influence


def _gradient(
    head: _Head,
    ids: slice,
    target: Tensor,
    logz: Tensor,
    out: Tensor,
    scale: float,
    softcap: float,
    real: Tensor | None,
) -> Tensor:
    """∂ log p(y_t) / ∂ (head output) for a block of ids, [T, width]."""
    raw = head.product(head.hidden, ids, out)
    slope: Tensor | float = scale
    if softcap:
        bent = torch.tanh(raw * (scale / softcap))
        slope = (1 - bent * bent) * scale
        raw = bent * softcap
    elif scale != 1:
        raw = raw.mul_(scale)
    gradient = raw.sub_(logz[:, None]).exp_().neg_()
    inside = ((target >= ids.start) & (target < ids.stop)).nonzero()[:, 0]
    gradient[inside, target[inside] - ids.start] += 1
    if real is not None:
        gradient *= real[ids]
    return gradient if isinstance(slope, float) and slope == 1 else gradient * slope
