"""The whole network as a function of its weights: gradients, derivatives along them, real steps.

The shared model is never written to. What is called here is a copy of its structure that holds
the very same tensors; weights are handed in with each call and put into the copy only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.errors import UserError
from engine.reward.batches import Batch, batch_of, batches, prompt_of
from engine.reward.scored import Floats, Scored
from engine.reward.wide import wide
from engine.schema import Progress
from engine.skeleton import skeleton

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from engine.models import LoadedModel

DIFFERENCE = {"float32": 3e-3, "float64": 1e-5}
"""Length of the step in weight space of a central difference, by number type."""

SAME = 1e-3
"""Nats by which log p may differ between a prompt that is read once and one that is not."""

Weights = Mapping[str, "Tensor"]
Method = Literal["forward", "central"]


class Network:
    """log p of a group's rows as a function of all weights.

    Args:
        model: the shared model.
        scored: the group.
        dtype: number type of the weights; float32 shares the storage of float32 models.

    The prompt that all rollouts share is read once for a batch, where this gives the same numbers.

    Attributes:
        base: the model's own weights by name, without gradients.
        shared: tokens of the prompt that are read once, 0 for none.
        batches: the group's rollouts with rows, of like length together.
        count: N, rows of the group.
    """

    def __init__(self, model: LoadedModel, scored: Scored, dtype: torch.dtype) -> None:
        import torch

        self._model = model
        self._real = model.real_vocab
        self.dtype = dtype
        self.count = len(scored.rollout)
        with torch.inference_mode(False), model.lock:
            self._skeleton = skeleton(model)
            self.base: dict[str, Tensor] = {
                name: weight.detach().to(dtype) for name, weight in model.model.named_parameters()
            }
            self.batches = list(batches(model, scored))
        self.shared = prompt_of(scored)
        if self.shared and not self._shares(scored):
            self.shared = 0

    def log_probs(self, weights: Weights, batch: Batch) -> Tensor:
        """log p of the batch's rows, [m], differentiable in ``weights``."""
        self._model.forwards += 1
        first = max(1, self.shared)
        logits = self._logits(dict(weights), batch.ids[:, :-1])
        rows = logits[batch.sequence, batch.place - first][:, : self._real]
        target = batch.ids[batch.sequence, batch.place]
        return rows.to(self.dtype).log_softmax(-1).gather(-1, target[:, None])[:, 0]

    def _logits(self, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
        """Logits that follow each of ``ids`` [n, T], from the last shared one on."""
        import torch
        from torch.func import functional_call
        from transformers.cache_utils import Cache, DynamicLayer

        def call(part: Tensor, **inputs: Any) -> Tensor:
            inputs = {"input_ids": part, **inputs}
            return functional_call(self._skeleton, weights, (), inputs).logits

        if not self.shared:
            return call(ids, use_cache=False)
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        kept = {"past_key_values": cache, "use_cache": True}
        begun = call(ids[:1, : self.shared], **kept)[:, -1:].expand(len(ids), -1, -1)
        if ids.shape[1] == self.shared:
            return begun
        cache.batch_repeat_interleave(len(ids))
        return torch.cat([begun, call(ids[:, self.shared :], **kept)], 1)

    def _shares(self, scored: Scored) -> bool:
        """Whether the longest rollout has the same log p when its prompt is read apart."""
        shared, found = self.shared, []
        longest = max(np.flatnonzero(scored.lengths), key=lambda i: len(scored.traces[i]))
        try:
            with self.session():
                batch = batch_of(self._model, scored, [int(longest)])
                for self.shared in (0, shared):
                    found.append(self.log_probs(self.base, batch))
        except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
            return False  # it keeps another state than keys and values
        finally:
            self.shared = shared
        return bool((found[0] - found[1]).abs().max() < SAME)

    @contextlib.contextmanager
    def session(self, *, learn: bool = False) -> Iterator[None]:
        """Between two yields of a job: the lock, and whether gradients are wanted."""
        import torch

        precise = wide() if self.dtype == torch.float64 else contextlib.nullcontext()
        with self._model.lock, torch.inference_mode(False), torch.set_grad_enabled(learn), precise:
            yield

    def read(self, weights: Weights) -> Generator[Progress, None, Tensor]:
        """log p of all rows, [N]."""
        found = self.empty()
        for number, batch in enumerate(self.batches):
            with self.session():
                found[batch.rows] = self.log_probs(weights, batch)
            yield self._told(number, "Reading the group")
        return found

    def gradient(self, pull: Floats) -> Generator[Progress, None, dict[str, Tensor]]:
        """∇ Σ_k pull_k log p_k over all weights: forward and backward, batch by batch."""
        import torch

        with self.session():
            sums = {name: torch.zeros_like(weight) for name, weight in self.base.items()}
            factor = torch.as_tensor(pull, dtype=self.dtype, device=self._model.device)
        for number, batch in enumerate(self.batches):
            if bool(factor[batch.rows].any()):
                with self.session(learn=True):
                    leaves = {n: w.detach().requires_grad_() for n, w in self.base.items()}
                    total = (factor[batch.rows] * self.log_probs(leaves, batch)).sum()
                    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
                    for name, part in zip(leaves, found, strict=True):
                        if part is not None:
                            sums[name] += part
                    del leaves, total, found
            yield self._told(number, "Gradient")
        return sums

    def along(
        self, direction: Weights, method: Method | None = None
    ) -> Generator[Progress, None, tuple[Tensor, Method]]:
        """⟨direction, ∇ log p_k⟩ of every row k at once, [N], and how it was found.

        Args:
            direction: by weight.
            method: ``forward`` for one forward-mode pass, ``central`` for the difference of two
                forwards; None for the first, and the second where the network has an operation
                without a forward-mode derivative.
        """
        found = self.empty()
        for number, batch in enumerate(self.batches):
            with self.session():
                if method != "central":
                    try:
                        found[batch.rows] = self._forward_mode(direction, batch)
                    except (RuntimeError, NotImplementedError):
                        if method == "forward" or number:
                            raise
                        method = "central"
                if method == "central":
                    found[batch.rows] = self._central(direction, batch)
            yield self._told(number, "Effect of the gradient")
        return found, method or "forward"

    def stepped(self, *changes: tuple[float, Weights]) -> dict[str, Tensor]:
        """New weights: the model's own plus each factor times its direction."""
        with self.session():
            moved = {name: weight.clone() for name, weight in self.base.items()}
            for factor, direction in changes:
                for name, weight in moved.items():
                    weight.add_(direction[name], alpha=factor)
        return moved

    def _forward_mode(self, direction: Weights, batch: Batch) -> Tensor:
        import torch
        from torch.autograd import forward_ad
        from torch.nn.attention import SDPBackend, sdpa_kernel

        # The fused attention of the CPU has no forward-mode derivative.
        with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            make: Any = forward_ad.make_dual  # untyped, as is its counterpart
            unpack: Any = forward_ad.unpack_dual
            dual = {n: make(w, direction[n]) for n, w in self.base.items()}
            value, tangent = unpack(self.log_probs(dual, batch))
            return torch.zeros_like(value) if tangent is None else tangent.clone()

    def _central(self, direction: Weights, batch: Batch) -> Tensor:
        length = norm(direction)
        size = DIFFERENCE[str(self.dtype).removeprefix("torch.")] / length if length else 1.0
        above = self.log_probs(self.stepped((size, direction)), batch)
        return (above - self.log_probs(self.stepped((-size, direction)), batch)) / (2 * size)

    def empty(self) -> Tensor:
        """[N] to be filled."""
        import torch

        with torch.inference_mode(False):
            return torch.zeros(self.count, dtype=self.dtype, device=self._model.device)

    def _told(self, number: int, what: str) -> Progress:
        done = number + 1
        return Progress(None, f"{what}: batch {done:,} of {len(self.batches):,}")


def norm(direction: Weights) -> float:
    """Euclidean length over all weights."""
    return float(sum(float((part.double() ** 2).sum()) for part in direction.values()) ** 0.5)


def check_size(model: LoadedModel, most: int, what: str) -> str | None:
    """Why ``what`` is not done with this model, a sentence; None where it can be."""
    parameters = sum(p.numel() for p in model.model.parameters())
    if parameters <= most:
        return None
    return (
        f"{model.name} has {parameters:,} parameters, too many for {what} here (at most {most:,})"
    )


def refuse_size(model: LoadedModel, most: int, what: str) -> None:
    """Refuse a model that is too big.

    Raises:
        UserError: with the limit and the way round.
    """
    reason = check_size(model, most, what)
    if reason is not None:
        raise UserError(f"{reason}: set what=lm_head, or choose a smaller model.")
