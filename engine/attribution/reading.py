"""Reading many changed versions of one text at once: batched, prefix shared, within a memory cap.

One causal forward over a changed text scores every target after the change. Versions are given as
input embeddings, so that replacing, zeroing, scaling and gradients go one way. Versions that begin
alike with the text itself take its keys and values instead of reading that part again.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.skeleton import skeleton

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from engine.models import LoadedModel

SAME = 1e-3
"""By how much logits may differ between a text read whole and one read from its prefix's keys."""

MOST_ROWS = 256
"""Texts in one batch, however short."""

SHARED_LEAST = 16
"""Tokens below which sharing a prefix is not worth its copies."""

_skeletons: weakref.WeakKeyDictionary[LoadedModel, PreTrainedModel] = weakref.WeakKeyDictionary()


def private(model: LoadedModel) -> PreTrainedModel:
    """The model's structure for this family's own hooks, made once."""
    with model.lock:
        found = _skeletons.get(model)
        if found is None:
            found = _skeletons[model] = skeleton(model)
        return found


class Reader:
    """Logits at chosen rows of changed versions of one text.

    Args:
        model: the shared model; counted, never changed.
        ids: the text [T] up to and including the last row that is read.
        memory: megabytes that one batch may take.

    Attributes:
        embedded: [T, D] input embeddings of the text.
        forwards, backwards: sequences read so far; ``tokens`` read forwards.
    """

    def __init__(self, model: LoadedModel, ids: Sequence[int], memory: int) -> None:
        import torch

        self.model = model
        self.ids = model.check(ids)
        self.network = private(model)
        self.memory = memory
        self.forwards = self.backwards = self.tokens = 0
        self._cache: Any = None
        self._shares: bool | None = None
        with torch.no_grad(), torch.inference_mode(False):
            self.embedded = self.embed(torch.tensor(self.ids, device=model.device))

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the embeddings."""
        return self.embedded.dtype

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of ids, [..., D], before positions are added.

        Raises:
            UserError: the model has no embedding matrix to look them up in.
        """
        table = self.network.get_input_embeddings()
        if table is None:
            raise UserError(f"{self.model.name} has no input embeddings: choose another model.")
        found: Tensor = table(ids)
        return found

    def mean_embedding(self) -> Tensor:
        """Mean over the tokenizer's ids, [D]."""
        import torch

        with torch.no_grad(), torch.inference_mode(False):
            count, total = self.model.real_vocab, None
            for at in range(0, count, 8192):
                ids = torch.arange(at, min(at + 8192, count), device=self.model.device)
                part = self.embed(ids).double().sum(0)
                total = part if total is None else total + part
            assert total is not None
            return (total / count).to(self.dtype)

    def batch_size(self, length: int, rows: int = 1, *, gradient: bool = False) -> int:
        """How many texts of ``length`` tokens, read at ``rows``, fit into the cap; at least one.

        Estimated from the shape of the network: what a layer holds at a time, keys and values of
        all layers, logits of the rows; with gradients everything of every layer.
        """
        config = self.model.model.config.get_text_config()
        width = self.embedded.shape[-1]
        layers = self.model.layers
        wide = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None)
        inner = wide if isinstance(wide, int) else 4 * width
        heads = getattr(config, "num_attention_heads", 1)
        held = 6 * width + 3 * inner
        scores = heads * length if gradient else 0
        floats = length * (held + scores) * (layers if gradient else 1)
        floats += length * 4 * width * layers
        size = 4 * floats + 16 * rows * self.model.vocab_size
        return max(1, min(MOST_ROWS, self.memory * 2**20 // size))

    def logits(self, embeds: Tensor, rows: Tensor, first: int = 0) -> Tensor:
        """Logits [b, n, V] over the tokenizer's ids, float32, with the caller's gradient mode.

        Args:
            embeds: [b, T − first, D] from token ``first`` on; padding at the end does no harm.
            rows: [n] or [b, n] positions in the whole text.
            first: how many tokens before are the text's own; their keys and values are shared.
        """
        import torch

        count = len(embeds)
        rows = rows.to(embeds.device)
        rows = (rows if rows.ndim == 2 else rows.expand(count, -1)) - first
        inputs: dict[str, Any] = {"inputs_embeds": embeds, "use_cache": False}
        if first:
            inputs |= {"past_key_values": self._expanded(first, count), "use_cache": True}
        self.forwards += count
        self.tokens += count * embeds.shape[1]
        self.model.forwards += 1
        head: Any = self.network.get_output_embeddings()
        places = torch.arange(count, device=embeds.device)[:, None]

        def chosen(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (given[0].reshape(count, -1, given[0].shape[-1])[places, rows],)

        with self.model.lock:
            handle = head.register_forward_pre_hook(chosen)
            try:
                logits: Tensor = self.network(**inputs).logits
            finally:
                handle.remove()
        return logits[..., : self.model.real_vocab].float()

    @property
    def may_share(self) -> bool:
        """Whether it is worth putting versions together that begin alike."""
        return self._shares is not False and len(self.ids) >= 2 * SHARED_LEAST

    def share(self, first: int, rows: Tensor) -> int:
        """How many tokens before ``first`` a version may take over: ``first`` itself, or 0.

        Tried once on the text as it is: where it gives other logits, nothing is shared.
        """
        import torch

        if first < SHARED_LEAST or self._shares is False:
            return 0
        if self._shares is None:
            self._shares = False
            with torch.no_grad(), torch.inference_mode(False):
                whole = self.logits(self.embedded[None], rows)
                with contextlib.suppress(
                    RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError
                ):
                    self._prefill()
                    late = rows[rows >= first] if rows.ndim == 1 else rows
                    part = self.logits(self.embedded[None, first:], late, first)
                    scale = 1 + float(whole.abs().max())
                    gap = float((whole[:, -part.shape[1] :] - part).abs().max())
                    limit = SAME if self.dtype == torch.float32 else 0.02
                    self._shares = gap <= limit * scale
        return first if self._shares else 0

    def _prefill(self) -> None:
        """Keys and values of the text itself, read once."""
        from transformers.cache_utils import Cache, DynamicLayer

        cache = Cache(layer_class_to_replicate=DynamicLayer)
        self.forwards += 1
        self.tokens += len(self.ids)
        self.model.forwards += 1
        with self.model.lock:
            self.network(inputs_embeds=self.embedded[None], past_key_values=cache, use_cache=True)
        self._cache = cache

    def _expanded(self, first: int, count: int) -> Any:
        from transformers.cache_utils import Cache, DynamicLayer

        made = Cache(layer_class_to_replicate=DynamicLayer)
        for number, layer in enumerate(self._cache.layers):
            made.update(
                layer.keys[:, :, :first].expand(count, -1, -1, -1),
                layer.values[:, :, :first].expand(count, -1, -1, -1),
                number,
            )
        return made

    @contextlib.contextmanager
    def session(self, *, learn: bool = False) -> Iterator[None]:
        """Between two yields of a job: outside inference mode, gradients as wanted."""
        import torch

        with torch.inference_mode(False), torch.set_grad_enabled(learn):
            yield
