"""The rollouts of a group side by side, as a network reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.reward.scored import Scored

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models import LoadedModel

BATCH_BYTES = 256 * 2**20
"""Of float32 logits and attention weights that a batch may hold; at least one rollout."""

SHORTEST = 4
"""Tokens of a prompt that is worth reading apart."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rollouts side by side, filled up on the right.

    Attributes:
        ids: [n, T]; what fills up comes last, where no row that counts can see it.
        sequence, place: [m] where in ``ids`` the token of each row is.
        rows: [m] which rows of the group these are.
    """

    ids: Tensor
    sequence: Tensor
    place: Tensor
    rows: Tensor


def batches(model: LoadedModel, scored: Scored) -> Iterator[Batch]:
    """The group's rollouts with rows, those of like length together."""
    order = sorted(range(len(scored.traces)), key=lambda i: len(scored.traces[i]))
    chosen: list[int] = []
    for index in order:
        if not scored.lengths[index]:
            continue
        if chosen and _bytes(model, len(scored.traces[index])) * (len(chosen) + 1) > BATCH_BYTES:
            yield batch_of(model, scored, chosen)
            chosen = []
        chosen.append(index)
    if chosen:
        yield batch_of(model, scored, chosen)


def prompt_of(scored: Scored) -> int:
    """Tokens that all rollouts with rows begin with, before the first row of any."""
    rolls = [scored.traces[i].ids for i in np.flatnonzero(scored.lengths)]
    if len(rolls) < 2:
        return 0
    most = int(scored.position.min())
    same = (len(set(column)) == 1 for column in zip(*rolls, strict=False))
    count = next((n for n, one in enumerate(same) if not one or n == most), most)
    return count if count >= SHORTEST else 0


def _bytes(model: LoadedModel, length: int) -> int:
    """Of the logits and of all layers' attention weights of one sequence."""
    config = model.model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    return 4 * length * (model.vocab_size + (heads or 0) * model.layers * length)


def batch_of(model: LoadedModel, scored: Scored, chosen: list[int]) -> Batch:
    """These rollouts of the group side by side."""
    import torch

    length = max(len(scored.traces[i]) for i in chosen)
    ids = torch.zeros(len(chosen), length, dtype=torch.long)
    parts = []
    for sequence, index in enumerate(chosen):
        trace = scored.traces[index]
        ids[sequence, : len(trace)] = torch.tensor(trace.ids)
        rows = np.flatnonzero(scored.rollout == index)
        parts.append(np.stack([np.full_like(rows, sequence), scored.position[rows], rows]))
    sequences, places, rows = torch.as_tensor(np.concatenate(parts, 1)).to(model.device)
    return Batch(ids.to(model.device), sequences, places, rows)
