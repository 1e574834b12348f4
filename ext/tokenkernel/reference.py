"""The same statistics in plain torch: fallback, path on GPUs, and oracle of the kernel's tests.

Nothing here is clever: each number follows its definition, in rows few enough to fit in memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenkernel import checks
from tokenkernel.results import PairStats, TokenStats

CHUNK = 1 << 24
"""Logits looked at together: 64 MiB in float32."""


def changed(
    logits: Tensor, scale: float, softcap: float, temperature: float, real: Tensor | None
) -> Tensor:
    """Logits after scale, soft-cap, temperature and mask, float32 or wider."""
    z = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    if softcap:
        z = torch.tanh(z * (scale / softcap)) * (softcap / temperature)
    elif scale != 1 or temperature != 1:
        z = z * (scale / temperature)
    return z if real is None else z.masked_fill(~real, -math.inf)


def token_stats(
    logits: Tensor,
    target: Tensor,
    k: int = 0,
    *,
    scale: float = 1.0,
    softcap: float = 0.0,
    temperature: float = 1.0,
    real: Tensor | None = None,
    threads: int = 0,
) -> TokenStats:
    """See ``tokenkernel.token_stats``; ``threads`` is torch's own affair."""
    logits, target, k, real = checks.token_arguments(
        logits, target, k, scale, softcap, temperature, real
    )
    rows = max(1, CHUNK // logits.shape[1])
    parts = [
        _rows(changed(part, scale, softcap, temperature, real), ids, k)
        for part, ids in zip(logits.split(rows), target.split(rows), strict=True)
    ]
    return TokenStats.cat(parts)


def _rows(z: Tensor, target: Tensor, k: int) -> TokenStats:
    peak = z.amax(-1, keepdim=True)
    possible = z > -math.inf
    good = torch.isfinite(peak[:, 0]) & ~z.isnan().any(-1)
    none = peak[:, 0] == -math.inf
    own = z.gather(1, target[:, None])
    # e^−1e4 is exactly 0, so masked ids drop out instead of giving 0 · inf.
    d = (z - peak.masked_fill(~good[:, None], 0)).clamp_(min=-1e4)
    e = d.exp()
    s0 = e.sum(-1)
    mean = (e * d).sum(-1) / s0
    collision = (e * e).sum(-1) / (s0 * s0)
    # Centred second pass: S2/S0 − (S1/S0)² would cancel when the distribution is flat.
    d.sub_(mean[:, None])
    varentropy = e.mul_(d).mul_(d).sum(-1) / s0
    log_s0 = s0.log()
    log_z = peak[:, 0] + log_s0
    values, ids = _top(z, max(k, 2))
    two = possible.sum(-1) > 1
    margin = values[:, 0] - values[:, -1 if values.shape[1] == 1 else 1]
    nan = math.nan
    mean_logit = z.masked_fill(~possible, 0).sum(-1) / possible.sum(-1)
    listed = good[:, None] & (values[:, :k] > -math.inf)
    return TokenStats(
        logz=torch.where(good | none, torch.where(none, -math.inf, log_z), nan),
        logprob=torch.where(good, (own[:, 0] - log_z).clamp(max=0), nan),
        entropy=torch.where(good, (log_s0 - mean).clamp(min=0), nan),
        varentropy=torch.where(good, varentropy, nan),
        rank=torch.where(good, (z > own).sum(-1) + 1, -1),
        ties=torch.where(good, (z == own).sum(-1) - 1, -1),
        margin=torch.where(good & two, margin, nan),
        max_prob=torch.where(good, 1 / s0, nan),
        sum_p2=torch.where(good, collision, nan),
        self_certainty=torch.where(good, log_z - mean_logit, nan),
        top_ids=torch.where(listed, ids[:, :k], -1),
        top_logprobs=torch.where(listed, (values[:, :k] - log_z[:, None]).clamp(max=0), nan),
    )


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


def pair_stats(
    p_logits: Tensor,
    q_logits: Tensor,
    target: Tensor,
    *,
    js: bool = True,
    beta: float | None = None,
    temperature: float = 1.0,
    real: Tensor | None = None,
    threads: int = 0,
) -> PairStats:
    """See ``tokenkernel.pair_stats``; ``threads`` is torch's own affair."""
    p_logits, q_logits, target, real = checks.pair_arguments(
        p_logits, q_logits, target, temperature, real
    )
    rows = max(1, CHUNK // p_logits.shape[1])
    parts = [
        _pair_rows(
            changed(p, 1, 0, temperature, real), changed(q, 1, 0, temperature, real), y, js, beta
        )
        for p, q, y in zip(
            p_logits.split(rows), q_logits.split(rows), target.split(rows), strict=True
        )
    ]
    return PairStats(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _pair_rows(
    zp: Tensor, zq: Tensor, target: Tensor, js: bool, beta: float | None
) -> tuple[Tensor, ...]:
    lp, lq = zp.log_softmax(-1), zq.log_softmax(-1)
    p, q = lp.exp(), lq.exp()
    own_p, own_q = (x.gather(1, target[:, None])[:, 0] for x in (lp, lq))

    def expected(weight: Tensor, value: Tensor) -> Tensor:
        return torch.where(weight > 0, weight * value, 0 * weight).sum(-1)

    nan = torch.full_like(own_p, math.nan)
    if js:
        middle = torch.logaddexp(lp, lq) - math.log(2)
        divergence = (expected(p, lp - middle) + expected(q, lq - middle)) / 2
        variation = (p - q).abs().sum(-1) / 2
    else:
        divergence = variation = nan
    contrast = nan
    if beta is not None:
        # An id that q rules out has no contrast; one that p rules out stays ruled out.
        mixed = torch.where(lp == -math.inf, lp, (1 + beta) * lp - (beta * lq if beta else 0))
        contrast = mixed.log_softmax(-1).gather(1, target[:, None])[:, 0]
    columns = (
        own_p, own_q, own_p - own_q, -expected(p, lp), -expected(q, lq),
        expected(p, lp - lq), expected(q, lq - lp), divergence, variation, contrast,
    )  # fmt: skip
    sound = torch.ones_like(nan, dtype=torch.bool)
    for z in (zp, zq):  # a NaN, +inf, or nothing possible: no distribution
        sound &= torch.isfinite(z.amax(-1)) & ~z.isnan().any(-1)
    return tuple(torch.where(sound, column, nan) for column in columns)


class Accumulator:
    """See ``tokenkernel.Accumulator``; keeps float64 sums where the device has them."""

    def __init__(
        self,
        rows: int,
        k: int = 0,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows, self.k = checks.sizes(rows, k)
        self._keep = max(k, 2)
        wide = torch.float32 if torch.device(device).type == "mps" else torch.float64
        zero = {"device": device, "dtype": wide}
        self._m = torch.full((rows,), -math.inf, **zero)
        self._s0, self._s1, self._s2, self._q, self._sum = (
            torch.zeros(rows, **zero) for _ in "abcde"
        )
        whole = {"device": device, "dtype": torch.int64}
        self._count, self._larger, self._equal = (torch.zeros(rows, **whole) for _ in "abc")
        self._bad = torch.zeros(rows, dtype=torch.bool, device=device)
        self._values = torch.full((rows, self._keep), -math.inf, device=device, dtype=dtype)
        self._ids = torch.full((rows, self._keep), -1, **whole)
        self._own = torch.full((rows,), math.nan, device=device, dtype=dtype)

    def update(
        self,
        block: Tensor,
        first: int,
        target: Tensor,
        own: Tensor,
        *,
        scale: float = 1.0,
        softcap: float = 0.0,
        temperature: float = 1.0,
        real: Tensor | None = None,
        threads: int = 0,
    ) -> None:
        """Add ids ``first`` to ``first + block.shape[1] − 1``."""
        block, real = checks.block_arguments(
            block, first, target, own, self.rows, scale, softcap, temperature, real
        )
        z = changed(block, scale, softcap, temperature, real)
        self._own = own.to(self._own)
        mine = self._own[:, None].to(z)
        self._bad |= z.isnan().any(-1) | (z == math.inf).any(-1)
        peak = z.amax(-1).to(self._m)
        m = torch.where(torch.isfinite(peak), torch.maximum(self._m, peak), self._m)
        self._rescale(m)
        base = torch.where(torch.isfinite(m), m, torch.zeros_like(m))
        d = (z.to(self._m) - base[:, None]).clamp_(min=-1e4)
        e = d.exp()
        self._s0 += e.sum(-1)
        self._s1 += (e * d).sum(-1)
        self._s2 += (e * d * d).sum(-1)
        self._q += (e * e).sum(-1)
        possible = z > -math.inf
        self._sum += z.masked_fill(~possible, 0).to(self._m).sum(-1)
        self._count += possible.sum(-1)
        at = torch.arange(first, first + z.shape[1], device=z.device)
        other = at[None, :] != target[:, None]
        self._larger += ((z > mine) & other).sum(-1)
        self._equal += ((z == mine) & other).sum(-1)
        values, ids = _top(z, self._keep)
        self._join(values, torch.where(values > -math.inf, ids + first, -1))

    def _rescale(self, m: Tensor) -> None:
        d = torch.where(torch.isfinite(self._m), self._m - m, torch.zeros_like(m))
        f = d.exp()
        self._s2 = f * (self._s2 + 2 * d * self._s1 + d * d * self._s0)
        self._s1 = f * (self._s1 + d * self._s0)
        self._s0 = f * self._s0
        self._q = f * f * self._q
        self._m = m

    def _join(self, values: Tensor, ids: Tensor) -> None:
        values = torch.cat([self._values, values.to(self._values)], 1)
        ids = torch.cat([self._ids, ids], 1)
        # By id first (those that are none last), then by value: stable, so ties keep their order.
        order = torch.where(ids < 0, torch.iinfo(torch.int64).max, ids).argsort(1)
        values, ids = values.gather(1, order), ids.gather(1, order)
        order = values.argsort(dim=1, descending=True, stable=True)[:, : self._keep]
        self._values, self._ids = values.gather(1, order), ids.gather(1, order)

    def merge(self, other: Accumulator) -> None:
        """Add what another saw of other ids of the same rows."""
        checks.mergeable(self, other)
        m = torch.maximum(self._m, other._m)
        self._rescale(m)
        d = torch.where(torch.isfinite(other._m), other._m - m, torch.zeros_like(m))
        f = d.exp()
        self._s2 += f * (other._s2 + 2 * d * other._s1 + d * d * other._s0)
        self._s1 += f * (other._s1 + d * other._s0)
        self._s0 += f * other._s0
        self._q += f * f * other._q
        self._sum += other._sum
        self._count += other._count
        self._larger += other._larger
        self._equal += other._equal
        self._bad |= other._bad
        self._own = torch.where(self._own.isnan(), other._own, self._own)
        self._join(other._values, other._ids)

    def finish(self) -> TokenStats:
        """The statistics of what was added so far."""
        good = (self._count > 0) & ~self._bad
        none = (self._count == 0) & ~self._bad
        log_s0 = self._s0.log()
        log_z = self._m + log_s0
        mean = self._s1 / self._s0
        top = self._values.to(log_z)
        narrow = self._values.dtype

        def real(value: Tensor, where: Tensor = good) -> Tensor:
            return torch.where(where, value, math.nan).to(narrow)

        listed = good[:, None] & (self._ids[:, : self.k] >= 0)
        return TokenStats(
            logz=torch.where(none, -math.inf, torch.where(good, log_z, math.nan)).to(narrow),
            logprob=real((self._own.to(log_z) - log_z).clamp(max=0)),
            entropy=real((log_s0 - mean).clamp(min=0)),
            varentropy=real((self._s2 / self._s0 - mean * mean).clamp(min=0)),
            rank=torch.where(good, self._larger + 1, -1),
            ties=torch.where(good, self._equal, -1),
            margin=real(top[:, 0] - top[:, 1], good & (self._count > 1)),
            max_prob=real((top[:, 0] - log_z).exp().clamp(max=1)),
            sum_p2=real(self._q / (self._s0 * self._s0)),
            self_certainty=real(log_z - self._sum / self._count),
            top_ids=torch.where(listed, self._ids[:, : self.k], -1),
            top_logprobs=torch.where(
                listed, (top[:, : self.k] - log_z[:, None]).clamp(max=0), math.nan
            ).to(narrow),
        )
