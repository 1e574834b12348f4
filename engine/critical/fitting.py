"""A copy of a model fitted to a few responses of one prompt; the shared model is left alone."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.schema import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models import LoadedModel

LOGITS_BYTES = 128 * 2**20
"""Of float32 logits that a batch may hold; gradients of several batches add up to the whole."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted copy.

    Attributes:
        model: the copy, float32, in evaluation mode, without gradients.
        tokens: response tokens it was fitted to.
        before: mean negative log-likelihood of them before the first step, nats.
        after: the same after the last step.
    """

    model: LoadedModel
    tokens: int
    before: float
    after: float


def fit(
    model: LoadedModel,
    prompt: Sequence[int],
    responses: Sequence[Sequence[int]],
    *,
    steps: int,
    rate: float,
) -> Generator[Progress, None, Fitted]:
    """Fit a copy of ``model`` to responses of one prompt, by full-batch Adam.

    The loss is the mean negative log-likelihood over **all response tokens together**, so a long
    response counts more than a short one; ids that only pad the vocabulary take no part. Adam as
    published (β 0.9 and 0.999, ε 1e-8), no weight decay, constant rate, evaluation mode (no
    dropout): nothing is random, so on the CPU the same responses in the same order give the same
    weights. All weights are fitted. Gradients live only between two yields.

    Args:
        model: the shared model; not written to.
        prompt: at least one id; not fitted.
        responses: at least one, none of them empty.
        steps: number of steps.
        rate: learning rate.
    """
    import torch

    from engine.models import LoadedModel

    network = _copy(model)
    # Responses of like length go together, so that little is padded.
    ordered = sorted(responses, key=len)
    batches = list(_batches(ordered, model.vocab_size))
    first = torch.tensor([list(prompt)], device=model.device)
    tokens = sum(map(len, responses))
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    before = after = 0.0
    for step in range(steps + 1):
        total = 0.0
        for number, batch in enumerate(batches):
            ids, mask = (t.to(model.device) for t in _padded(batch))
            total += _nll(network, first, ids, mask, model.real_vocab, tokens, learn=step < steps)
            if number + 1 < len(batches):
                yield Progress(None, f"Step {step + 1:,}: batch {number + 1:,} of {len(batches):,}")
        before, after = (total if step == 0 else before), total
        if step < steps:
            with torch.inference_mode(False):
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        yield Progress((step + 1) / (steps + 1), f"Step {min(step + 1, steps):,} of {steps:,}")
    fitted = LoadedModel(model.located, f"{model.fingerprint} fitted", network)
    fitted.real_vocab = model.real_vocab
    return Fitted(fitted, tokens, before, after)


def _copy(model: LoadedModel) -> Any:
    """A float32 copy that gradients may flow through."""
    import torch

    # A job that waits at its yield may have left this thread in inference mode, whose tensors
    # can never be trained.
    with torch.inference_mode(False), model.lock:
        network = copy.deepcopy(model.model).float().eval()
        return network.requires_grad_(True)


def _batches(
    responses: Sequence[Sequence[int]], vocabulary: int
) -> Generator[list[Sequence[int]], None, None]:
    """The responses, in order, as many together as ``LOGITS_BYTES`` allows, at least one."""
    batch: list[Sequence[int]] = []
    for response in responses:
        if batch and 4 * vocabulary * len(response) * (len(batch) + 1) > LOGITS_BYTES:
            yield batch
            batch = []
        batch.append(response)
    yield batch


def _padded(responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids [n, R], filled up on the right, and which of them are there, [n, R]."""
    import torch

    shape = len(responses), max(map(len, responses))
    # What fills up comes last: no prediction that counts can see it.
    ids = torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, response in enumerate(responses):
        ids[row, : len(response)] = torch.tensor(response)
        mask[row, : len(response)] = True
    return ids, mask


def _nll(
    network: Any, prompt: Tensor, ids: Tensor, mask: Tensor, real: int, tokens: int, *, learn: bool
) -> float:
    """The batch's share of the loss, its gradient added to the weights' if ``learn``.

    Args:
        network: the copy.
        prompt: [1, P].
        ids: [n, R], responses.
        mask: [n, R], where they are.
        real: how many ids are real.
        tokens: of all batches together.
        learn: whether gradients are wanted.
    """
    import torch
    from torch.nn import functional

    with torch.inference_mode(False), torch.set_grad_enabled(learn):
        prompt, ids, mask = prompt.clone(), ids.clone(), mask.clone()
        logits = _logits(network, prompt, ids)[mask][:, :real]
        loss = functional.cross_entropy(logits.float(), ids[mask], reduction="sum") / tokens
        if learn:
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())


def _logits(network: Any, prompt: Tensor, ids: Tensor) -> Tensor:
    """Logits that predict ``ids`` [n, R] after one prompt, [n, R, V].

    The prompt is read once for all rows, which halves the work; gradients flow through its keys
    and values. Models that keep another state cannot be sampled and do not come here.
    """
    import torch
    from transformers.cache_utils import Cache, DynamicLayer

    rows, length = ids.shape
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    takes_last = "logits_to_keep" in inspect.signature(network.forward).parameters
    last = {"logits_to_keep": 1} if takes_last else {}
    begun = network(input_ids=prompt, past_key_values=cache, use_cache=True, **last)
    # The prompt's last position predicts the first token of every row.
    logits = begun.logits[:, -1:].expand(rows, -1, -1)
    if length == 1:
        return logits
    cache.batch_repeat_interleave(rows)
    rest = network(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True).logits
    return torch.cat([logits, rest], 1)
