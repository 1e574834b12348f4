"""Influence of every token's term of the loss on the right answers, over all weights.

One GRPO step moves the weights along Σ_k w_k ∇ log p_k. To first order the term of token *k* alone
changes the log-probability of the right responses by ``w_k ⟨∇ L, ∇ log p_k⟩`` per unit of learning
rate, with L = Σ log π(y_i) over the right ones. ∇ L is one backward pass over the right rollouts;
the products with all tokens' gradients together are one forward-mode pass over the group (or the
difference of two forwards along ∇ L). The last-layer form of the same is Token Hidden Reward.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.reward.scored import Floats, Scored
from engine.schema import Progress

if TYPE_CHECKING:
    import torch

    from engine.models import LoadedModel
    from engine.reward.network import Method

MOST_PARAMETERS = 300_000_000
"""Of a model whose gradient is taken here: the gradient, and for half precision a float32 copy
of the weights, stand beside the model itself."""


@dataclass(frozen=True, slots=True)
class Influence:
    """What a step does to the right answers, token by token.

    Attributes:
        values: [N] nats of Σ log π(right responses) per unit of learning rate, plain gradient
            ascent; positive: the token's term raises the right answers.
        method: ``forward`` or ``central``.
    """

    values: Floats
    method: Method


def influence(
    model: LoadedModel,
    scored: Scored,
    *,
    dtype: torch.dtype | None = None,
    method: Method | None = None,
) -> Generator[Progress, None, Influence]:
    """Influence of every row of a group; the shared model is not written to.

    Args:
        model: the policy that drew the group (importance ratio 1).
        scored: the group, with right rollouts.
        dtype: number type of the passes, float32 if not given.
        method: see ``Network.along``.
    """
    import torch

    from engine.reward.network import Network

    network = Network(model, scored, dtype or torch.float32)
    gradient = yield from network.gradient(scored.right.astype(np.float64))
    effect, used = yield from network.along(gradient, method)
    return Influence(scored.weights * effect.double().cpu().numpy(), used)
