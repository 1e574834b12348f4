"""A sequence read once, all of whose prefixes can then be continued side by side.

One pass gives keys and values that serve every prefix, because attention is causal.
:mod:`engine.sampling.waves` says which rows are decoded when.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from engine.loaded import LoadedModel
from engine.sampling.decoding import CACHE_BYTES, ROW_STEP
from engine.sampling.sharing import SHARING, SHRINK, Step, Suffixes
from engine.twin import make_twin

MOST_ROWS = 512
LOGITS_BYTES = 256 * 2**20
"""Most bytes of float32 predictions held at once."""

_PROBE = 12
_UNSTEADY = {"dynamic", "longrope"}
"""Rotary embeddings that change with the longest position in the batch."""


class Shared:
    """A sequence read once, whose prefixes share its keys and values.

    Args:
        model: The model.
        twin: Its twin that attends by sharing, see :func:`sharing_twin`.
        ids: The sequence, already checked.
        lengths: Prefixes that will be continued, in the order in which they begin.
    """

    def __init__(
        self,
        model: LoadedModel,
        twin: PreTrainedModel,
        ids: tuple[int, ...],
        lengths: Sequence[int],
    ) -> None:
        self.model = model
        self._twin = twin
        self._ids = ids
        self._waiting = list(lengths)
        self._size = max(1, LOGITS_BYTES // (4 * model.vocab_size))
        self._first: dict[int, Tensor] = {}
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        self._predict(past_key_values=cache, use_cache=True)
        self.layers = {
            at: (layer.keys[0], layer.values[0]) for at, layer in enumerate(cache.layers)
        }

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        return sum(t[:, :1].nbytes for layer in self.layers.values() for t in layer)

    def first(self, lengths: npt.NDArray[np.int64]) -> Tensor:
        """Return the predictions of the token after each prefix, [R, V] of the tokenizer's ids."""
        logits = []
        for length in lengths.tolist():
            while length not in self._first:
                self._predict(use_cache=False)
            logits.append(self._first[length])
        return torch.stack(logits)

    def step(self, parts: Sequence[Suffixes], tokens: npt.NDArray[np.int64]) -> Tensor:
        """Append one token to each row; return the predictions of the next, [R, V]."""
        device = self.model.device
        positions = np.concatenate([part.lengths + part.age for part in parts])
        with self.model.lock, torch.no_grad(), Step(self.layers, tuple(parts)).active():
            self.model.forwards += 1
            logits: Tensor = self._twin(
                input_ids=torch.as_tensor(tokens, device=device)[None],
                position_ids=torch.as_tensor(positions, device=device)[None],
                use_cache=False,
            ).logits
        return logits[0, :, : self.model.real_vocab]

    def _predict(self, **cache: Any) -> None:
        """Read the sequence; keep the predictions after the next prefixes that fit in memory."""
        chosen, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        ends = torch.tensor([length - 1 for length in chosen], device=self.model.device)
        partly = "logits_to_keep" in inspect.signature(self.model.model.forward).parameters
        with torch.no_grad():
            logits = self.model.forward(
                input_ids=torch.tensor([self._ids], device=self.model.device),
                **({"logits_to_keep": ends} if partly else {}),
                **cache,
            ).logits[0]
        logits = (logits if partly else logits[ends])[:, : self.model.real_vocab]
        self._first = dict(zip(chosen, logits, strict=True))


def fitting_rows(shared: Shared, length: int, limit: int) -> int:
    """Return how many rows fit into the memory that all keys and values may take."""
    left = CACHE_BYTES - shared.token_bytes * length
    fitting = int(SHRINK * left) // (shared.token_bytes * limit)
    predictions = LOGITS_BYTES // (4 * shared.model.vocab_size)
    return max(ROW_STEP, min(MOST_ROWS, fitting, predictions))


_twins: weakref.WeakKeyDictionary[LoadedModel, PreTrainedModel | None] = weakref.WeakKeyDictionary()


def sharing_twin(model: LoadedModel) -> PreTrainedModel | None:
    """Return the twin by which prefixes of a sequence share keys and values.

    Made and compared with the plain model when first asked for.

    Returns:
        None when this architecture cannot do it; its prefixes are then continued one by one.
    """
    with model.lock:
        if model not in _twins:
            _twins[model] = _checked_twin(model)
        return _twins[model]


def _checked_twin(model: LoadedModel) -> PreTrainedModel | None:
    config = model.model.config.get_text_config()
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    # Models with several kinds of layers have one such dictionary for each.
    ropes = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    unsteady = any(each.get("rope_type") in _UNSTEADY for each in ropes)
    if unsteady or "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return None
    try:
        twin = make_twin(model.model)
        twin.config._attn_implementation = SHARING
        close = _agrees(model, twin)
    except Exception:
        # Attention written without transformers' interface fails in ways of its own.
        return None
    return twin if close else None


def _agrees(model: LoadedModel, twin: PreTrainedModel) -> bool:
    """Say whether continuing prefixes of a few ids predicts what reading them whole does."""
    count = min(_PROBE, model.context or _PROBE)
    step = model.real_vocab // (count + 2) or 1
    ids = tuple(step * (i + 1) % model.real_vocab for i in range(count))
    with torch.no_grad():
        own: Tensor = model.forward(input_ids=torch.tensor([ids], device=model.device)).logits[0]
    own = own[:, : model.real_vocab].float()
    lengths = np.arange(1, max(2, count - 2))
    shared = Shared(model, twin, ids, lengths.tolist())
    suffixes = Suffixes(lengths, 2, model.device)
    pairs = [(shared.first(lengths), own[lengths - 1])]
    for _ in range(min(2, count - int(lengths.max()))):
        at = lengths + suffixes.age
        pairs.append((shared.step([suffixes], np.array(ids)[at]), own[at]))
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    worst = max(float((found.float() - right).abs().max()) for found, right in pairs)
    return worst <= tolerance * (1 + float(own.abs().max()))
