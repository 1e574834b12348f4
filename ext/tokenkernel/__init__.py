"""Next-token statistics in one sweep, from logits or from hidden states.

Works on torch tensors. On the CPU a compiled kernel reads each logit once (``isa()`` names the
instruction set); without it, and on other devices, ``tokenkernel.reference`` does the same in
torch. All logarithms are natural. ``import tokenkernel`` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokenkernel.build import HAVE, about, available, has_bf16, isa, use

if TYPE_CHECKING:
    from tokenkernel.dispatch import Accumulator, backend, pair_stats, token_stats
    from tokenkernel.hidden import influence_from_hidden, stats_from_hidden
    from tokenkernel.results import PairStats, TokenStats

__all__ = [
    "HAVE",
    "Accumulator",
    "PairStats",
    "TokenStats",
    "about",
    "available",
    "backend",
    "has_bf16",
    "influence_from_hidden",
    "isa",
    "pair_stats",
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
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"tokenkernel.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tokenkernel' has no attribute {name!r}")
