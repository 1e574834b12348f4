"""Turn predictions of many rows into drawn ids, in about one pass over each row.

The result is that of :func:`engine.sampling.generation.inverse` up to rounding: exponentials are
taken in float32 and added up in blocks, blocks in float64, and only the block that a draw falls
into is looked at id by id. A draw within about 1e-7 of a border between two ids may fall on its
other side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from engine.sampling.generation import Sampler

CHUNK_BYTES = 2**20
"""Predictions handled at a time; a chunk should stay in the processor's cache."""

Drawn = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def draw_rows(logits: Tensor, sampler: Sampler, draws: npt.NDArray[np.float64]) -> Drawn:
    """Choose an id per row.

    Args:
        logits: [R, V] predictions of the plain model, ids of the tokenizer only.
        sampler: Temperature and filters.
        draws: [R] uniform numbers in [0, 1).

    Returns:
        Ids [R], and their log-probabilities under the plain model in nats, [R].
    """
    if logits.device.type == "mps":  # which has no float64
        logits = logits.cpu()
    size = max(16, CHUNK_BYTES // (4 * logits.shape[1]))
    if logits.device.type != "cpu":
        size = max(size, 256)
    uniform = torch.as_tensor(draws, device=logits.device)
    ids, logs = [], []
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        chosen, log = _draw(logits[rows].float(), sampler, uniform[rows])
        ids.append(chosen)
        logs.append(log)
    return torch.cat(ids).cpu().numpy(), torch.cat(logs).cpu().numpy()


def _draw(logits: Tensor, sampler: Sampler, draws: Tensor) -> tuple[Tensor, Tensor]:
    from engine.sampling.generation import inverse, weights

    if sampler.filters and sampler.temperature:
        plain = torch.log_softmax(logits.double(), dim=-1)
        found = inverse(weights(plain, sampler), draws)
        return found[:, 0], plain.gather(1, found)[:, 0]
    top = logits.amax(-1, keepdim=True)
    block = 1 << ((logits.shape[1] - 1).bit_length() + 1) // 2
    masses = _masses(logits, top, 1.0, block)
    sums = masses.sum(-1, dtype=torch.float32)
    total = sums.sum(-1, dtype=torch.float64)
    if sampler.temperature == 0:
        chosen = logits.argmax(-1)
    elif sampler.temperature == 1:
        chosen = _inverse(masses, sums, draws)
    else:
        masses = _masses(logits, top, sampler.temperature, block)
        chosen = _inverse(masses, masses.sum(-1), draws)
    picked = logits.gather(1, chosen[:, None])[:, 0]
    return chosen, picked.double() - top[:, 0].double() - total.log()


def _masses(logits: Tensor, top: Tensor, temperature: float, block: int) -> Tensor:
    """Return exp((logits − top) / temperature) in blocks of ids, [n, B, block]; 0 fills up."""
    n, vocab = logits.shape
    blocks = -(-vocab // block)
    masses = logits.new_empty(n, blocks * block)
    masses[:, vocab:] = 0
    real = masses[:, :vocab]
    torch.sub(logits, top, out=real)
    if temperature != 1:
        real /= temperature
    real.exp_()
    return masses.view(n, blocks, block)


def _inverse(masses: Tensor, sums: Tensor, draws: Tensor) -> Tensor:
    """Return the id at which the distribution function passes each draw, [n].

    Args:
        masses: [n, B, block], not summing to one.
        sums: [n, B] float32 sums of the blocks.
        draws: [n] float64 in [0, 1).
    """
    ends = sums.cumsum(-1, dtype=torch.float64)
    target = (draws * ends[:, -1])[:, None]
    at = torch.minimum(torch.searchsorted(ends, target, right=True), _last(sums))
    before = torch.where(at > 0, ends.gather(1, (at - 1).clamp_min(0)), 0.0)
    block = masses.shape[-1]
    inside = masses.gather(1, at[:, :, None].expand(-1, 1, block))[:, 0]
    passed = before + inside.cumsum(-1, dtype=torch.float64)
    # A block's sum is rounded otherwise than its ids one by one: the last possible id is the end.
    place = torch.minimum(torch.searchsorted(passed, target, right=True), _last(inside))
    return (at * block + place)[:, 0]


def _last(values: Tensor) -> Tensor:
    """Return the last place of each row that holds more than 0, [n, 1]."""
    places = torch.arange(values.shape[-1], device=values.device)
    return (places * (values > 0)).amax(-1, keepdim=True)
