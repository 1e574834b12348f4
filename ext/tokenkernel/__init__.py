"""Next-token statistics in one sweep, from logits or from hidden states; a byte trie.

Works on torch tensors. On the CPU a compiled kernel reads each logit once (``isa()`` names the
instruction set); without it, and on other devices, ``tokenkernel.reference`` does the same in
torch. All logarithms are natural. ``import tokenkernel`` alone does not import torch, nor do the
byte trie over a vocabulary and what is counted with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokenkernel.build import HAVE, about, available, has_bf16, isa, use

if TYPE_CHECKING:
    from tokenkernel.dispatch import Accumulator, backend, pair_stats, token_stats
    from tokenkernel.hidden import influence_from_hidden, stats_from_hidden
    from tokenkernel.results import PairStats, TokenStats
    from tokenkernel.tries import Difference, Lattice, Spelling, Trie, differences, rank_merges

__all__ = [
    "HAVE",
    "Accumulator",
    "Difference",
    "Lattice",
    "PairStats",
    "Spelling",
    "TokenStats",
    "Trie",
    "about",
    "available",
    "backend",
    "differences",
    "has_bf16",
    "influence_from_hidden",
    "isa",
    "pair_stats",
    "rank_merges",
    "stats_from_hidden",
    "token_stats",
    "use",
]

_HOMES = {
    "Accumulator": "dispatch",
    "backend": "dispatch",
    "pair_stats": "dispatch",
    "token_stats": "dispatch",
    "influence_from_hidden": "hidden",
    "stats_from_hidden": "hidden",
    "PairStats": "results",
    "TokenStats": "results",
    "Difference": "tries",
    "Lattice": "tries",
    "Spelling": "tries",
    "Trie": "tries",
    "differences": "tries",
    "rank_merges": "tries",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"tokenkernel.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tokenkernel' has no attribute {name!r}")
