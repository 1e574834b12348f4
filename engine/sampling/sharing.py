"""Attention of many rows that continue prefixes of one sequence, whose keys and values they share.

The rows lie side by side as the tokens of one sequence of batch 1, [1, R], each with a position
of its own. :func:`sharing_attention` gives each row the keys of its own prefix, which all rows
read from one place, and of its own suffix: scores against the prefix are one matrix product per
key-value head, and one softmax goes over both. Nothing of the prefix is ever copied per row.

It is reached through a twin of the model, as in :mod:`engine.twin`. How far back a layer sees is
taken from transformers' own calls for masks: in place of a mask the layers get a :class:`Reach`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

SHARING = "tokenscope_sharing"
"""Name of the attention in transformers' registry."""

SCORE_BYTES = 2**20
"""Size of the float32 scores computed at once; they should stay in the processor's cache."""

ROOM = 64
"""Suffix tokens for which room is made at a time."""

SHRINK = 0.75
"""Room is given back when at most this share of the rows is left."""

Indices = npt.NDArray[np.int64]


class NotSharedError(Exception):
    """This model's attention asks for something that is not known here."""


@dataclass(frozen=True)
class Reach:
    """How many of the last positions a query sees, itself included; None is all."""

    window: int | None


class Suffixes:
    """What rows that began together have read since: equally many tokens each, so none is padded.

    Args:
        lengths: Tokens of each row's prefix, [R].
        most: Longest suffix that will be asked for.
        device: Where the rows are.

    Attributes:
        lengths: Tokens of each row's prefix, [R].
        age: Tokens of each suffix.
    """

    def __init__(self, lengths: Indices, most: int, device: torch.device) -> None:
        self.lengths = lengths
        self.age = 0
        self._most = most
        self._device = device
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._biases: dict[int | None, Tensor | None] = {}
        self._chunks: dict[int, list[tuple[slice, int]]] = {}

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add one token's keys and values [H_kv, R, d] to a layer; return all, [R, H_kv, n, d]."""
        rows, end = len(self.lengths), self.age + 1
        held = self._layers.get(layer)
        if held is None or held[0].shape[2] < end:
            made = tuple(self._room(new) for new in (keys, values))
            if held is not None:
                for new, old in zip(made, held, strict=True):
                    new[:, :, : self.age] = old[:rows, :, : self.age]
            self._layers[layer] = held = (made[0], made[1])
        for buffer, new in zip(held, (keys, values), strict=True):
            buffer[:rows, :, self.age] = new.transpose(0, 1)
        return held[0][:rows, :, :end], held[1][:rows, :, :end]

    def advance(self) -> None:
        """Count the token that all layers have been given."""
        self.age += 1
        for window in [w for w in self._biases if w is not None]:
            del self._biases[window]

    def keep(self, alive: npt.NDArray[np.bool_]) -> Indices:
        """Let rows go; those at the end move into the gaps.

        Returns:
            The old place of each row that is left, in its new order.
        """
        left = int(alive.sum())
        order = np.arange(left)
        gaps = np.flatnonzero(~alive[:left])
        movers = left + np.flatnonzero(alive[left:])
        order[gaps] = movers
        self.lengths = self.lengths[order]
        self._biases.clear()
        self._chunks.clear()
        places = {
            name: torch.as_tensor(at, device=self._device)
            for name, at in (("order", order), ("gaps", gaps), ("movers", movers))
        }
        for layer, held in self._layers.items():
            if left <= SHRINK * held[0].shape[0]:
                self._layers[layer] = (held[0][places["order"]], held[1][places["order"]])
            elif len(gaps):
                for buffer in held:
                    seen = buffer[:, :, : self.age]
                    seen[places["gaps"]] = seen[places["movers"]]
        return order

    def chunks(self, heads: int) -> list[tuple[slice, int]]:
        """Return rows to attend at once, each with the length of its longest prefix."""
        width = int(self.lengths.max()) + self.age + 1
        most = SCORE_BYTES if self._device.type == "cpu" else 64 * SCORE_BYTES
        size = max(8, most // (4 * heads * width))
        size = 1 << (size.bit_length() - 1)
        if size not in self._chunks:
            rows = len(self.lengths)
            self._chunks = {
                size: [
                    (slice(at, min(at + size, rows)), int(self.lengths[at : at + size].max()))
                    for at in range(0, rows, size)
                ]
            }
        return self._chunks[size]

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Return what is added to scores against prefixes, [R, T]: 0, or minus infinity.

        The token being read is at position ``lengths + age``. None when all see everything.
        """
        longest = int(self.lengths.max())
        if window is not None and longest + self.age < window:
            window = None
        if window not in self._biases:
            lengths = torch.as_tensor(self.lengths, device=self._device)[:, None]
            places = torch.arange(longest, device=self._device)
            hidden = places >= lengths
            if window is not None:
                hidden |= places <= lengths + self.age - window
            bias = None
            if window is not None or int(self.lengths.min()) < longest:
                bias = torch.zeros(hidden.shape, dtype=dtype, device=self._device)
                bias.masked_fill_(hidden, -math.inf)
            self._biases[window] = bias
        return self._biases[window]

    def _room(self, like: Tensor) -> Tensor:
        heads, rows, width = like.shape
        room = min(self._most, self.age + ROOM)
        return like.new_empty(rows, heads, max(room, self.age + 1), width)


@dataclass(frozen=True)
class Step:
    """One token for each row.

    Attributes:
        prefix: Keys and values of each layer, [H_kv, T, d].
        parts: The rows, in their order in the batch.
    """

    prefix: dict[int, tuple[Tensor, Tensor]]
    parts: tuple[Suffixes, ...]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Attend to these rows inside the block; afterwards each suffix is one longer."""
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)
        for part in self.parts:
            part.advance()


_active: ContextVar[Step | None] = ContextVar("tokenscope_sharing_step", default=None)


def reach_of(*, local_size: int | None = None, use_vmap: bool = False, **kwargs: Any) -> Reach:
    """Stand in for transformers' mask functions: say how far a layer sees."""
    if use_vmap:
        raise NotSharedError("a mask of the model's own")
    return Reach(local_size)


def sharing_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend from one new token of each row to the row's prefix and suffix.

    Args:
        module: The attention layer; its ``layer_idx`` names the layer.
        query: [1, H, R, d].
        key: [1, H_kv, R, d].
        value: [1, H_kv, R, d_v].
        attention_mask: A :class:`Reach`.
        scaling: Factor of the scores; one over the root of d if None.
        softcap: Gemma 2's bound of the scores.
        **kwargs: Arguments meant for other kinds of attention.

    Returns:
        [1, R, H, d_v], and None in the place of the weights.

    Raises:
        NotSharedError: The layer asks for what is not done here.
    """
    step, layer = _active.get(), getattr(module, "layer_idx", None)
    unknown = any(kwargs.get(name) is not None for name in ("s_aux", "position_bias"))
    if step is None or unknown or layer not in step.prefix or not isinstance(attention_mask, Reach):
        raise NotSharedError(type(module).__name__)
    _, heads, rows, width = query.shape
    kv = key.shape[1]
    scaling = width**-0.5 if scaling is None else scaling
    grouped = query[0].view(kv, heads // kv, rows, width) * scaling
    outputs = query.new_empty(rows, kv, heads // kv, value.shape[-1])
    start = 0
    for part in step.parts:
        here = slice(start, start + len(part.lengths))
        start = here.stop
        _attend(
            part,
            grouped[:, :, here].permute(2, 0, 1, 3),
            step.prefix[layer],
            part.extend(layer, key[0, :, here], value[0, :, here]),
            attention_mask.window,
            softcap,
            outputs[here],
        )
    return outputs.view(1, rows, heads, -1), None


def _attend(
    part: Suffixes,
    query: Tensor,
    prefix: tuple[Tensor, Tensor],
    suffix: tuple[Tensor, Tensor],
    window: int | None,
    softcap: float | None,
    outputs: Tensor,
) -> None:
    """Fill ``outputs`` [R, H_kv, g, d_v] from queries [R, H_kv, g, d], already scaled."""
    _, kv, group, width = query.shape
    if window is not None and part.age + 1 > window:
        suffix = (suffix[0][:, :, -window:], suffix[1][:, :, -window:])
    new = suffix[0].shape[2]
    bias = part.bias(window, query.dtype)
    for rows, old in part.chunks(kv * group):
        own = query[rows].contiguous()
        n = len(own)
        keys, values = prefix[0][:, :old], prefix[1][:, :old]
        shared = own.permute(1, 0, 2, 3).reshape(kv, n * group, width)
        far = torch.bmm(shared, keys.transpose(1, 2)).view(kv, n, group, old)
        near = torch.bmm(
            own.view(n * kv, group, width), suffix[0][rows].flatten(0, 1).transpose(1, 2)
        )
        scores = torch.cat((far.permute(1, 0, 2, 3), near.view(n, kv, group, new)), -1)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if bias is not None:
            scores[..., :old] += bias[rows, None, None, :old]
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        far = torch.bmm(weights[..., :old].permute(1, 0, 2, 3).reshape(kv, n * group, old), values)
        near = torch.bmm(
            weights[..., old:].reshape(n * kv, group, new), suffix[1][rows].flatten(0, 1)
        )
        torch.add(
            near.view(n, kv, group, -1),
            far.view(kv, n, group, -1).permute(1, 0, 2, 3),
            out=outputs[rows],
        )


AttentionInterface.register(SHARING, sharing_attention)
AttentionMaskInterface.register(SHARING, reach_of)
