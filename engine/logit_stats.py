"""Next-token statistics of logits in torch: every column of DESIGN section 9 in one call.

Formulas: reference notes section 0 (log-sum-exp state S0, S1, S2 about the row's maximum).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Statistics of n rows of logits; all tensors have n rows, float32 or int64.

    Attributes:
        logprob: log p(target), nats.
        entropy: nats.
        varentropy: variance of −log p, nats².
        rank: 1 + number of strictly larger logits.
        ties: other ids whose logit equals the target's.
        margin: log p₁ − log p₂ of the two most probable ids, nats; NaN for one real id.
        max_prob: largest probability.
        sum_p2: collision probability Σp².
        self_certainty: logZ − mean logit over real ids, nats (KL(U‖p) + log V).
        top_ids: [n, k] most probable ids, ties by lowest id.
        top_logprobs: [n, k] their log-probabilities, nats.
    """

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
    def cat(parts: list[TokenStats]) -> TokenStats:
        """Rows of all parts, in order."""
        return TokenStats(
            **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(TokenStats)}
        )


def token_stats(logits: Tensor, target: Tensor, k: int = 0) -> TokenStats:
    """Every next-token statistic of each row.

    Args:
        logits: [n, V], any floating dtype; −inf marks ids that cannot occur.
        target: [n] int64 ids.
        k: how many alternatives to list (at most V).

    Returns:
        ``TokenStats``; float32 (float64 for float64 logits).

    Raises:
        ValueError: for shapes that do not fit or target ids outside the vocabulary.
    """
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ")
    n, vocabulary = logits.shape
    if n and (int(target.min()) < 0 or int(target.max()) >= vocabulary):
        raise ValueError(f"target ids must lie between 0 and {vocabulary - 1}")
    z = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    k = min(k, vocabulary)

    peak = z.amax(-1, keepdim=True)
    own = z.gather(1, target[:, None])
    # exp(−1e4) is exactly 0, so masked ids drop out instead of giving 0 · inf.
    d = (z - peak).clamp_(min=-1e4)
    e = d.exp()
    s0 = e.sum(-1)
    # Products summed by rows: einsum would turn them into slow batched matrix products.
    s1 = (e * d).sum(-1)
    collision = (e * e).sum(-1) / (s0 * s0)
    mean = s1 / s0
    # Centred second pass: S2/S0 − (S1/S0)² would cancel when the distribution is flat.
    d.sub_(mean[:, None])
    varentropy = (e.mul_(d)).mul_(d).sum(-1) / s0
    log_s0 = s0.log()
    log_z = peak[:, 0] + log_s0

    larger = (z > own).sum(-1)
    equal = (z == own).sum(-1) - 1
    top_values, top_ids = _top(z, max(k, 2))
    margin = (
        top_values[:, 0] - top_values[:, 1]
        if vocabulary > 1
        else torch.full_like(log_z, float("nan"))
    )
    return TokenStats(
        logprob=own[:, 0] - log_z,
        entropy=(log_s0 - mean).clamp_(min=0),
        varentropy=varentropy,
        rank=larger + 1,
        ties=equal,
        margin=margin,
        max_prob=1 / s0,
        sum_p2=collision,
        self_certainty=log_z - _mean_of_real(z),
        top_ids=top_ids[:, :k],
        top_logprobs=top_values[:, :k] - log_z[:, None],
    )


def _mean_of_real(z: Tensor) -> Tensor:
    """Mean logit of each row over ids that can occur."""
    mean = z.mean(-1)
    masked = mean.isneginf().nonzero()[:, 0]
    if len(masked):
        rows = z[masked]
        real = ~rows.isneginf()
        mean[masked] = rows.masked_fill(~real, 0).sum(-1) / real.sum(-1)
    return mean


def _top(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, descending, ties by lowest id (torch leaves them open)."""
    k = min(k, z.shape[1])
    values, ids = z.topk(k, dim=-1)
    edge = values[:, -1:]
    for row in (values[:, 1:] == values[:, :-1]).any(-1).nonzero()[:, 0].tolist():
        best, at = ids[row].sort()
        ordered = values[row, at].sort(descending=True, stable=True)
        values[row], ids[row] = ordered.values, best[ordered.indices]
    # At the edge any of the equal ids may have been taken: put the lowest ones there.
    for row in ((z >= edge).sum(-1) > k).nonzero()[:, 0].tolist():
        inside = int((values[row] > edge[row]).sum())
        lowest = (z[row] == edge[row]).nonzero()[: k - inside, 0]
        ids[row, inside:] = lowest
    return values, ids
