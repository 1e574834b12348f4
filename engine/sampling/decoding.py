"""Decode many continuations of one prefix: read it once, then one token per row and step.

transformers' own cache joins old and new keys and values by copying all of them at every step;
here they are written into room that was set aside, and only the new ones are written.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from engine.errors import UserError
from engine.loaded import LoadedModel

CACHE_BYTES = 512 * 2**20
"""Most bytes of keys and values that one batch of rows may take."""

MOST_ROWS = 128
_ROOM = 64
ATTENTION_KINDS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers whose state is keys and values."""

ROW_STEP = 4
"""Rows are filled up to a multiple of this. On the CPU, matrix products of fewer than four rows
and element-wise functions at a tensor's end round otherwise than the rest (measured); filled up,
not a bit of a row depends on what stands beside it."""


class RowLayer(DynamicLayer):
    """Keys and values of one layer, [B, H, length, d] views of buffers with room to grow."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append new keys and values [B, H, n, d]; return all so far."""
        end = self._length + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (_room(key_states, end), _room(value_states, end))
        assert self._buffers is not None
        if end > self._buffers[0].shape[-2]:
            self._reserve(end + max(_ROOM, end // 4))
        keys, values = self._buffers
        keys[:, :, self._length : end] = key_states
        values[:, :, self._length : end] = value_states
        return self._show(end)

    def repeated(self, rows: int, room: int) -> RowLayer:
        """Return a layer of ``rows`` copies of this one's single row, with room for more."""
        layer = RowLayer()
        layer.lazy_initialization(self.keys, self.values)
        end = self._length
        layer._buffers = tuple(  # type: ignore[assignment]
            _room(t.expand(rows, -1, -1, -1), end + room) for t in (self.keys, self.values)
        )
        assert layer._buffers is not None
        layer._buffers[0][:, :, :end] = self.keys
        layer._buffers[1][:, :, :end] = self.values
        layer._show(end)
        return layer

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only some rows."""
        assert self._buffers is not None
        keys, values = self._buffers
        self._buffers = (keys[indices], values[indices])
        self._show(self._length)

    def _reserve(self, room: int) -> None:
        assert self._buffers is not None
        old = self._buffers
        self._buffers = (_room(old[0], room), _room(old[1], room))
        for new, held in zip(self._buffers, old, strict=True):
            new[:, :, : self._length] = held[:, :, : self._length]

    def _show(self, end: int) -> tuple[Tensor, Tensor]:
        assert self._buffers is not None
        self._length = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values


def _room(like: Tensor, length: int) -> Tensor:
    batch, heads, _, width = like.shape
    return like.new_empty(batch, heads, length, width)


def refuse_state(model: LoadedModel) -> None:
    """Refuse a model that keeps more than keys and values.

    Raises:
        UserError: Its state cannot be shared between samples.
    """
    kinds = getattr(model.model.config.get_text_config(), "layer_types", None) or ()
    if getattr(type(model.model), "_is_stateful", False) or set(kinds) - ATTENTION_KINDS:
        raise UserError(
            f"{model.name} keeps a state that cannot be shared between samples: choose a "
            "model with attention only."
        )


class Prefilled:
    """A prefix read once, from which any number of rows can start.

    Args:
        model: The model.
        ids: The prefix, already checked.

    Raises:
        UserError: The model keeps more than keys and values and cannot be continued here.
    """

    def __init__(self, model: LoadedModel, ids: tuple[int, ...]) -> None:
        refuse_state(model)
        self.model = model
        self.length = len(ids)
        self.cache = Cache(layer_class_to_replicate=RowLayer)
        last = {}
        if "logits_to_keep" in inspect.signature(model.model.forward).parameters:
            last["logits_to_keep"] = 1
        with torch.no_grad():
            output = model.forward(
                input_ids=torch.tensor([ids], device=model.device),
                past_key_values=self.cache,
                use_cache=True,
                **last,
            )
        self.logits: Tensor = output.logits[:, -1]

    def fitting_rows(self, limit: int) -> int:
        """Return how many rows of ``limit`` more tokens fit into :data:`CACHE_BYTES`."""
        per_token = sum(
            layer.keys[:, :, :1].nbytes + layer.values[:, :, :1].nbytes
            for layer in self.cache.layers
        )
        return max(1, min(MOST_ROWS, CACHE_BYTES // (per_token * (self.length + limit))))

    def rows(self, count: int, limit: int) -> Rows:
        """Return ``count`` rows that continue the prefix by up to ``limit`` tokens."""
        room = min(limit, _ROOM)
        filled = len(_filled([0] * count))
        layers = [layer.repeated(filled, room) for layer in self.cache.layers]
        return Rows(self.model, Cache(layers=layers), self.logits.expand(count, -1))


class Rows:
    """Rows being decoded side by side.

    Attributes:
        logits: [rows, V] predictions of the next token, over the tokenizer's ids only.
    """

    def __init__(self, model: LoadedModel, cache: Cache, logits: Tensor) -> None:
        self._model = model
        self._cache = cache
        self.logits = self._real(logits)

    def keep(self, places: list[int]) -> None:
        """Keep only some rows; the others have finished."""
        index = torch.tensor(_filled(places), device=self._model.device)
        for layer in self._cache.layers:
            layer.batch_select_indices(index)

    def step(self, tokens: list[int]) -> None:
        """Append one token to each row and predict the next."""
        with torch.no_grad():
            output = self._model.forward(
                input_ids=torch.tensor(_filled(tokens), device=self._model.device)[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
        self.logits = self._real(output.logits[: len(tokens), -1])

    def _real(self, logits: Tensor) -> Tensor:
        # mps has no float64, which the draws are made in.
        logits = logits.cpu() if logits.device.type == "mps" else logits
        return logits[:, : self._model.real_vocab]


def _filled(values: list[int]) -> list[int]:
    return values + values[:1] * (-len(values) % ROW_STEP)
