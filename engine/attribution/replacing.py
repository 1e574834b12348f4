"""Ids that stand in for tokens: any, of the same class, or as the model would have gone on."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.attribution.work import Floats, Ints, Work
from engine.texts.tokenclass import TokenClass, classes_of, token_classes

if TYPE_CHECKING:
    from engine.tokenization import Tokenizer

Sampler = Literal["class", "uniform", "model"]

_ROWS = 256
"""Rows of logits looked at together for the model's own predictions."""


class Replacer:
    """Draws an id for every position of the context.

    Args:
        work: whose context is replaced.
        sampler: ``uniform``: any ordinary id; ``class``: any of the same token class (any where
            that has no other); ``model``: the most probable id there but the token itself and
            special ones (any at position 0, which nothing predicts).
    """

    def __init__(self, work: Work, sampler: Sampler) -> None:
        self.own: Ints = np.array(work.trace.ids[: work.context], np.int64)
        ordinary = ordinary_ids(work.ctx.tokenizer)
        ordinary = ordinary[ordinary < work.model.real_vocab]
        self._pools = [_without(ordinary, own) for own in self.own]
        if sampler == "class":
            pools = class_pools(work.ctx.tokenizer)
            for position, kind in enumerate(token_classes(work.trace)[: work.context]):
                pool = pools.get(kind, ordinary[:0])
                same = _without(pool[pool < work.model.real_vocab], int(self.own[position]))
                if len(same):
                    self._pools[position] = same
        elif sampler == "model":
            for position, found in enumerate(predicted(work, ordinary), 1):
                self._pools[position] = np.array([found])

    def ids(self, draws: Floats) -> Ints:
        """Ids [N, C] for numbers [N, C] in [0, 1)."""
        found = np.empty(draws.shape, np.int64)
        for position, pool in enumerate(self._pools):
            places = (draws[:, position] * len(pool)).astype(np.int64)
            found[:, position] = pool[places] if len(pool) else self.own[position]
        return found


def _without(pool: Ints, own: int) -> Ints:
    return pool[pool != own]


def predicted(work: Work, ordinary: Ints) -> Ints:
    """The most probable ordinary id at positions 1 … C − 1 that is not the token itself."""
    import torch

    ids, found = torch.tensor(work.trace.ids[: work.context]), []
    for start in range(0, work.context - 1, _ROWS):
        end = min(start + _ROWS, work.context - 1)
        with torch.no_grad():
            logits = work.ctx.logits(start, end).float().cpu()
            allowed = torch.full_like(logits, -torch.inf)
            allowed[:, torch.as_tensor(ordinary)] = 0.0
            allowed.scatter_(1, ids[start + 1 : end + 1, None], -torch.inf)
            found.append((logits + allowed).argmax(-1).numpy())
    return np.concatenate(found) if found else np.zeros(0, np.int64)


@lru_cache(maxsize=4)
def ordinary_ids(tokenizer: Tokenizer) -> Ints:
    """Ids that stand for text: neither special nor unused."""
    kinds = [tokenizer.piece(i).kind for i in range(tokenizer.size)]
    return np.array([i for i, kind in enumerate(kinds) if kind not in ("special", "unused")])


@lru_cache(maxsize=4)
def class_pools(tokenizer: Tokenizer) -> dict[TokenClass, Ints]:
    """Ordinary ids by the class each has when it stands alone."""
    ids = ordinary_ids(tokenizer)
    pieces: list[bytes] = []
    for i in ids.tolist():
        pieces += [tokenizer.piece(i).data, b""]
    # Every second place counts as a special token, at which words end.
    kinds = np.array(classes_of(pieces, range(1, len(pieces), 2))[::2])
    return {kind: ids[kinds == kind] for kind in set(kinds.tolist())}
