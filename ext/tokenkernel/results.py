"""What the functions return: one tensor for each statistic, on the device of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Statistics of n rows of logits; float32 (float64 for float64 logits) or int64.

    A row with a NaN or +inf has NaN everywhere and −1 for ranks and ids; so has a row in which
    nothing is possible, whose ``logz`` is −inf.

    Attributes:
        logz: logarithm of the sum of e^z, nats.
        logprob: log p(target), nats; −inf for a masked target.
        entropy: nats.
        varentropy: variance of −log p, nats².
        rank: 1 + number of strictly larger logits.
        ties: other ids whose logit equals the target's.
        margin: log p₁ − log p₂ of the two most probable ids, nats; NaN for one possible id.
        max_prob: largest probability.
        sum_p2: collision probability Σp².
        self_certainty: logZ − mean logit over possible ids, nats (KL(U‖p) + log V).
        top_ids: [n, k] most probable ids, ties by lowest id; −1 where fewer are possible.
        top_logprobs: [n, k] their log-probabilities, nats; NaN where fewer are possible.
    """

    logz: Tensor
    logprob: Tensor
    entropy: Tensor
    varentropy: Tensor
    rank: Tensor
    ties: Tensor
    margin: Tensor
    max_prob: Tensor
    sum_p2: Tensor
    self_certainty: Tensor
    top_ids: Tensor
    top_logprobs: Tensor

    @staticmethod
    def cat(parts: Sequence[TokenStats]) -> TokenStats:
        """Rows of all parts, in order."""
        names = [f.name for f in fields(TokenStats)]
        return TokenStats(**{n: torch.cat([getattr(p, n) for p in parts]) for n in names})


@dataclass(frozen=True, slots=True)
class PairStats:
    """Two distributions over the same ids, row by row; float32 [n].

    NaN everywhere in a row where one of the two is none: it has a NaN, +inf, or nothing possible.

    Attributes:
        logprob_p: log p(target), nats.
        logprob_q: log q(target), nats.
        log_ratio: log p(target) − log q(target), nats.
        entropy_p: nats.
        entropy_q: nats.
        kl_pq: KL(p‖q), nats; inf where p allows an id that q does not.
        kl_qp: KL(q‖p), nats.
        js: Jensen–Shannon divergence, nats (at most log 2); NaN if it was not asked for.
        tv: total variation, ½ Σ|p − q|; 1 − tv is speculative decoding's acceptance rate.
        contrast: log of softmax((1 + β) log p − β log q) at the target, nats; NaN without β.
    """

    logprob_p: Tensor
    logprob_q: Tensor
    log_ratio: Tensor
    entropy_p: Tensor
    entropy_q: Tensor
    kl_pq: Tensor
    kl_qp: Tensor
    js: Tensor
    tv: Tensor
    contrast: Tensor
