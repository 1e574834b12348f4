"""``token_stats`` against float64 on hostile rows, and against closed forms."""

from __future__ import annotations

import math

import pytest
import tokenkernel as tk
import torch
from tokenkernel import reference

from tests.ext.rows import close, exact, hostile, largest


@pytest.mark.parametrize("vocabulary", [1, 2, 7, 16, 255, 512, 4099, 152_064])
def test_hostile_rows(isa: str, vocabulary: int) -> None:
    z, target = hostile(vocabulary)
    k = min(8, vocabulary)
    close(tk.token_stats(z, target, k), exact(z, target, k), scale=largest(z))


@pytest.mark.parametrize("vocabulary", [1, 7, 4099])
def test_the_reference_in_float32(vocabulary: int) -> None:
    z, target = hostile(vocabulary)
    k = min(8, vocabulary)
    found = reference.token_stats(z, target, k)
    close(found, exact(z, target, k), scale=largest(z), factor=30)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_it_is(isa: str, dtype: torch.dtype) -> None:
    z, target = hostile(3001)
    z = z.to(dtype)  # 300 ± 3 has many ties now
    close(tk.token_stats(z, target, 20), exact(z, target, 20), scale=largest(z))


def test_every_half_precision_number(isa: str) -> None:
    """All 65,536 of each: the conversion itself, subnormals included."""
    bits = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        values = bits.view(dtype)
        values = values[values.isfinite() & (values.abs() < 1e30)]
        z = values[:, None].expand(-1, 2).contiguous()
        z[:, 1] = 0
        found = tk.token_stats(z, torch.zeros(len(z), dtype=torch.int64), 2)
        difference = values.double()
        assert torch.equal(found.rank, (difference < 0).long() + 1)
        assert torch.equal(found.margin.double(), difference.abs().float().double())


def test_uniform_in_closed_form(isa: str) -> None:
    n = 5000
    z = torch.full((1, n), -2.5)
    found = tk.token_stats(z, torch.tensor([7]), 3)
    assert float(found.entropy) == pytest.approx(math.log(n), abs=1e-5)
    assert float(found.logprob) == pytest.approx(-math.log(n), abs=1e-6)
    assert float(found.varentropy) == pytest.approx(0, abs=1e-6)
    assert float(found.sum_p2) == pytest.approx(1 / n, rel=1e-5)
    assert float(found.self_certainty) == pytest.approx(math.log(n), abs=1e-5)
    assert (int(found.rank), int(found.ties), float(found.margin)) == (1, n - 1, 0.0)
    assert found.top_ids.tolist() == [[0, 1, 2]]


def test_varentropy_is_minus_the_slope_of_the_entropy(isa: str) -> None:
    """−dH(p^b)/db at b = 1, by central differences of the temperature."""
    z = torch.randn(4, 900, generator=torch.Generator().manual_seed(1)) * 2
    target = torch.zeros(4, dtype=torch.int64)
    step = 1e-2
    colder = tk.token_stats(z, target, temperature=1 / (1 + step)).entropy.double()
    warmer = tk.token_stats(z, target, temperature=1 / (1 - step)).entropy.double()
    slope = (warmer - colder) / (2 * step)
    assert torch.allclose(tk.token_stats(z, target).varentropy.double(), slope, rtol=2e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.7},
        {"scale": 0.25, "temperature": 2.0},
        {"softcap": 30.0},
        {"softcap": 40.0, "scale": 1.5, "temperature": 0.5},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_happens_to_the_logits_first(
    isa: str, change: dict[str, float], dtype: torch.dtype
) -> None:
    z = (torch.randn(9, 777, generator=torch.Generator().manual_seed(2)) * 6).to(dtype)
    target = torch.arange(9) * 80
    found = tk.token_stats(z, target, 5, **change)
    close(found, exact(z, target, 5, **change), scale=torch.full((9,), 80.0), factor=4)


def test_masked_ids_do_not_exist(isa: str) -> None:
    z = torch.randn(6, 1000, generator=torch.Generator().manual_seed(3))
    target = torch.arange(6) * 7
    real = torch.rand(1000, generator=torch.Generator().manual_seed(4)) > 0.4
    real[target] = True
    found = tk.token_stats(z, target, 5, real=real)
    kept = real.nonzero()[:, 0]
    where = torch.searchsorted(kept, target)
    wanted = exact(z[:, real], where, 5)
    assert torch.equal(found.top_ids, kept[wanted.top_ids])
    assert torch.equal(found.rank, wanted.rank)
    assert torch.allclose(found.entropy.double(), wanted.entropy, atol=1e-5)
    assert torch.allclose(found.self_certainty.double(), wanted.self_certainty, atol=1e-5)
    hidden = tk.token_stats(z, (~real).nonzero()[:6, 0], 5, real=real)
    assert bool((hidden.logprob == -math.inf).all())
    assert bool((hidden.rank == real.sum() + 1).all())


def test_rows_may_lie_apart(isa: str) -> None:
    wide = torch.randn(10, 2100)
    target = torch.arange(10)
    for view in (wide[:, :2003], wide[::2, 5:900], wide.T.contiguous().T):
        close(tk.token_stats(view, target[: len(view)], 4), exact(view, target[: len(view)], 4))


def test_a_shifted_answer_is_noticed(isa: str) -> None:
    """The comparison itself must fail for the neighbour's target, another sign, log 2."""
    z = torch.randn(5, 300)
    target = torch.arange(5)
    good = exact(z, target, 3)
    for wrong in (
        tk.token_stats(z, target + 1, 3),
        tk.token_stats(-z, target, 3),
        tk.token_stats(z.roll(1, 0), target, 3),
    ):
        with pytest.raises(AssertionError):
            close(wrong, good)


def test_no_rows_at_all(isa: str) -> None:
    found = tk.token_stats(torch.empty(0, 9), torch.empty(0, dtype=torch.int64), 3)
    assert found.entropy.shape == (0,)
    assert found.top_ids.shape == (0, 3)


def test_few_long_rows_are_shared_among_threads(isa: str) -> None:
    """One row as at decoding: the ids are split, the states merged."""
    z = torch.randn(1, 100_003) * 4
    z[0, 70_000:70_005] = z.max()
    target = torch.tensor([70_002])
    alone = tk.token_stats(z, target, 9, threads=1)
    shared = tk.token_stats(z, target, 9, threads=3)
    close(shared, exact(z, target, 9), scale=largest(z))
    assert torch.equal(shared.top_ids, alone.top_ids)
    assert int(shared.ties) >= 4


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ((torch.zeros(3), torch.zeros(3, dtype=torch.int64)), ValueError, "two dimensions"),
        ((torch.zeros(3, 0), torch.zeros(3, dtype=torch.int64)), ValueError, "no columns"),
        ((torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64)), ValueError, "one id for each"),
        ((torch.zeros(3, 4), torch.zeros(3)), TypeError, "ids"),
        ((torch.zeros(3, 4), torch.full((3,), 4)), ValueError, "between 0 and 3"),
        ((torch.zeros(3, 4), torch.full((3,), -1)), ValueError, "between 0 and 3"),
        ((torch.zeros(3, 4).int(), torch.zeros(3, dtype=torch.int64)), TypeError, "float32"),
        (([[1.0]], torch.zeros(1, dtype=torch.int64)), TypeError, "float32"),
    ],
)
def test_what_does_not_fit_is_said(
    isa: str, arguments: tuple[object, object], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        tk.token_stats(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"k": -1},
        {"k": 65_537},
        {"temperature": 0},
        {"temperature": math.nan},
        {"scale": 0},
        {"softcap": -1},
        {"real": torch.ones(3, dtype=torch.bool)},
        {"real": torch.ones(4)},
    ],
)
def test_settings_that_mean_nothing(isa: str, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        tk.token_stats(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), **change)  # type: ignore[arg-type]


def test_history_and_other_types(isa: str) -> None:
    z = torch.randn(3, 40, requires_grad=True)
    target = torch.tensor([1, 2, 3], dtype=torch.int32)
    found = tk.token_stats(z, target)
    assert not found.logprob.requires_grad
    assert tk.token_stats(z.double(), target).logprob.dtype == torch.float64
    with pytest.raises(ValueError, match="instruction set"):
        tk.use("quantum")
