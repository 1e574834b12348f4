"""``pair_stats`` against float64, identities and bounds."""

from __future__ import annotations

import math

import pytest
import tokenkernel as tk
import torch
from tokenkernel import reference

from tests.ext.rows import close, hostile, largest


@pytest.mark.parametrize("vocabulary", [1, 7, 512, 4099, 40_001])
@pytest.mark.parametrize("beta", [None, 1.0, 0.0])
def test_hostile_rows(isa: str, vocabulary: int, beta: float | None) -> None:
    p, target = hostile(vocabulary)
    q = hostile(vocabulary, seed=1)[0].roll(4, 0)
    found = tk.pair_stats(p, q, target, beta=beta)
    wanted = reference.pair_stats(p.double(), q.double(), target, beta=beta)
    # Contrasts of float32 logits that are 60 apart round like their multiples.
    scale = 4 * torch.maximum(largest(p), largest(q))
    close(found, wanted, scale=scale, factor=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(isa: str, dtype: torch.dtype) -> None:
    p, q = (
        torch.randn(9, 3000, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (1, 2)
    )
    target = torch.arange(9)
    wanted = reference.pair_stats(p.double(), q.double(), target, beta=0.5)
    close(tk.pair_stats(p, q, target, beta=0.5), wanted, factor=2)


def test_equal_distributions_do_not_differ(isa: str) -> None:
    z = torch.randn(6, 5000) * 4
    found = tk.pair_stats(z, z.clone(), torch.arange(6), beta=1.0)
    for name in ("kl_pq", "kl_qp", "js", "tv", "log_ratio"):
        assert float(getattr(found, name).abs().max()) < 2e-6, name
    assert torch.allclose(found.contrast, found.logprob_p, atol=1e-5)


def test_disjoint_distributions_differ_as_much_as_can_be(isa: str) -> None:
    z = torch.full((2, 64), -math.inf)
    p, q = z.clone(), z.clone()
    p[:, :5], q[:, 10:20] = 1.0, 2.0
    found = tk.pair_stats(p, q, torch.tensor([0, 10]))
    assert torch.allclose(found.js, torch.full((2,), math.log(2)))
    assert torch.allclose(found.tv, torch.ones(2))
    assert bool((found.kl_pq == math.inf).all())
    assert bool((found.kl_qp == math.inf).all())
    assert found.logprob_q[0] == -math.inf


def test_exchange_and_bounds(isa: str) -> None:
    p, q = torch.randn(40, 700) * 3, torch.randn(40, 700) * 3
    target = torch.arange(40)
    one, other = tk.pair_stats(p, q, target), tk.pair_stats(q, p, target)
    assert torch.allclose(one.kl_pq, other.kl_qp, atol=1e-5)
    assert torch.allclose(one.js, other.js, atol=1e-6)
    assert torch.allclose(one.tv, other.tv, atol=1e-6)
    assert bool((one.tv**2 <= one.kl_pq / 2 + 1e-6).all())  # Pinsker
    assert bool((one.js <= math.log(2)).all())
    alone = tk.token_stats(p, target)
    assert torch.allclose(one.entropy_p, alone.entropy, atol=1e-5)
    assert torch.allclose(one.logprob_p, alone.logprob, atol=1e-6)


def test_the_official_contrast(isa: str) -> None:
    """``softmax(2 · positive − negative)`` of the paper's code is β = 1."""
    p, q = torch.randn(5, 90).double(), torch.randn(5, 90).double()
    target = torch.arange(5)
    official = (2 * p.log_softmax(-1) - q.log_softmax(-1)).log_softmax(-1)
    found = tk.pair_stats(p.float(), q.float(), target, beta=1.0, js=False)
    assert torch.allclose(found.contrast.double(), official[target, target], atol=1e-5)
    assert bool(found.js.isnan().all())
    assert bool(tk.pair_stats(p.float(), q.float(), target).contrast.isnan().all())


@pytest.mark.parametrize(
    ("p", "q", "reason"),
    [
        (torch.zeros(2, 5), torch.zeros(2, 6), "same shape"),
        (torch.zeros(2, 5), torch.zeros(2, 5).bfloat16(), "same dtype"),
    ],
)
def test_what_does_not_fit_is_said(isa: str, p: torch.Tensor, q: torch.Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        tk.pair_stats(p, q, torch.zeros(2, dtype=torch.int64))
