"""Next-token statistics against float64 numpy, brute-force ranks and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tokenkernel import TokenStats, token_stats


def oracle(z: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Straight from the definitions, in float64, term by term."""
    z = z.astype(np.float64)
    n, v = z.shape
    out: dict[str, list[float]] = {}
    for row in range(n):
        real = [i for i in range(v) if z[row, i] != -np.inf]
        peak = max(z[row, i] for i in real)
        log_z = peak + np.log(sum(np.exp(z[row, i] - peak) for i in real))
        logp = {i: z[row, i] - log_z for i in real}
        p = {i: np.exp(logp[i]) for i in real}
        entropy = -sum(p[i] * logp[i] for i in real)
        best = sorted(logp.values(), reverse=True)
        own = z[row, y[row]]
        values = {
            "logprob": own - log_z,
            "entropy": entropy,
            "varentropy": sum(p[i] * (-logp[i] - entropy) ** 2 for i in real),
            "rank": 1 + sum(z[row, i] > own for i in range(v)),
            "ties": sum(z[row, i] == own for i in range(v)) - 1,
            "margin": best[0] - best[1] if len(best) > 1 else np.nan,
            "max_prob": np.exp(best[0]),
            "sum_p2": sum(q * q for q in p.values()),
            "self_certainty": log_z - np.mean([z[row, i] for i in real]),
        }
        for name, value in values.items():
            out.setdefault(name, []).append(float(value))
    return {name: np.array(values) for name, values in out.items()}


def compare(stats: TokenStats, expected: dict[str, np.ndarray], tolerance: float) -> None:
    for name, value in expected.items():
        got = getattr(stats, name).double().numpy()
        if name in ("rank", "ties"):
            assert (got == value).all(), name
        else:
            np.testing.assert_allclose(got, value, atol=tolerance, rtol=tolerance, err_msg=name)


HOSTILE = {
    "gaussian": np.random.default_rng(0).normal(size=(6, 40)) * 3,
    "constant": np.full((2, 40), 7.0),
    "sorted": np.sort(np.random.default_rng(1).normal(size=(3, 40)) * 8, axis=1),
    "shift up": np.random.default_rng(2).normal(size=(3, 40)) + 300,
    "shift down": np.random.default_rng(3).normal(size=(3, 40)) - 300,
    "one-hot": np.eye(3, 40) * 80,
    "two ids": np.array([[1.0, 1.0], [0.0, 5.0]]),
    "one id": np.array([[4.0]]),
    "masked": np.where(
        np.arange(40) % 3 == 0, -np.inf, np.random.default_rng(4).normal(size=(3, 40))
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_against_definitions_in_float64(name: str) -> None:
    z = HOSTILE[name]
    y = np.array([row.argmax() if i % 2 else z.shape[1] - 1 for i, row in enumerate(z)])
    if name == "masked":
        y = np.full(3, 1)
    expected = oracle(z, y)
    compare(token_stats(torch.tensor(z), torch.tensor(y), 5), expected, 1e-12)
    single = oracle(z.astype(np.float32), y)
    # Near 300 a float32 logit resolves 3e-5: the rank is exact, the logarithms cannot be.
    tolerance = 5e-5 if "shift" in name or name == "one-hot" else 5e-6
    compare(
        token_stats(torch.tensor(z, dtype=torch.float32), torch.tensor(y), 5), single, tolerance
    )


def test_masked_target_is_minus_infinity_never_nan() -> None:
    stats = token_stats(torch.tensor([[0.0, -np.inf, 1.0]]), torch.tensor([1]), 3)
    assert stats.logprob.item() == -np.inf
    assert stats.rank.item() == 3
    for name in ("entropy", "varentropy", "max_prob", "sum_p2", "self_certainty", "margin"):
        assert torch.isfinite(getattr(stats, name)).all(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_first(dtype: torch.dtype) -> None:
    z = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).mul(4).to(dtype)
    y = torch.arange(4)
    compare(token_stats(z, y, 3), oracle(z.double().numpy(), y.numpy()), 5e-6)


def test_varentropy_is_minus_the_slope_of_entropy_in_the_inverse_temperature() -> None:
    z = torch.randn(3, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.long)
    h = 1e-5
    up, down = token_stats(z * (1 + h), y).entropy, token_stats(z * (1 - h), y).entropy
    slope = (up - down) / (2 * h)
    torch.testing.assert_close(-slope, token_stats(z, y).varentropy, atol=1e-7, rtol=1e-6)


def test_a_shift_by_one_position_or_log_2_or_sign_would_be_seen() -> None:
    z = torch.randn(5, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2
    y = torch.arange(5)
    got = token_stats(z, y).logprob
    reference = z.log_softmax(-1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(got, reference)
    for wrong in (reference.roll(1), reference / np.log(2), -reference):
        assert (got - wrong).abs().max() > 0.1


@settings(max_examples=80, deadline=None)
@given(
    z=hnp.arrays(np.float32, (3, 12), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0, 2.5])),
    k=st.integers(0, 14),
)
def test_top_k_breaks_ties_by_lowest_id(z: np.ndarray, k: int) -> None:
    stats = token_stats(torch.tensor(z), torch.zeros(3, dtype=torch.long), k)
    expected = np.lexsort((np.tile(np.arange(12), (3, 1)), -z), axis=-1)[:, : min(k, 12)]
    assert (stats.top_ids.numpy() == expected).all()
    logp = torch.tensor(z).double().log_softmax(-1).numpy()
    np.testing.assert_allclose(
        stats.top_logprobs.numpy(), np.take_along_axis(logp, expected, 1), atol=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(
    z=hnp.arrays(np.float64, (2, 9), elements=st.floats(-50, 50)),
    shift=st.floats(-100, 100),
)
def test_shift_invariance_and_bounds(z: np.ndarray, shift: float) -> None:
    y = torch.tensor([0, 8])
    a, b = token_stats(torch.tensor(z), y), token_stats(torch.tensor(z + shift), y)
    for name in ("logprob", "entropy", "varentropy", "max_prob", "sum_p2", "self_certainty"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-9, rtol=1e-9)
    assert (a.entropy >= 0).all()
    assert (a.entropy <= np.log(9) + 1e-12).all()
    assert (a.sum_p2 >= 1 / 9 - 1e-12).all()
    assert (a.sum_p2 <= a.max_prob + 1e-12).all()


def test_refusals() -> None:
    z = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="one id for each"):
        token_stats(z, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="between 0 and 2"):
        token_stats(z, torch.tensor([0, 3]))
    assert len(token_stats(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).entropy) == 0
