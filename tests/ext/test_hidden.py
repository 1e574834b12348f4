"""Statistics and influence from hidden states: equal to those of the logits, in little memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tokenkernel as tk
import torch
from tokenkernel import reference

from tests.ext.rows import close, exact

T, V, D = 70, 2500, 48


def case(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.Tensor, ...]:
    made = torch.Generator().manual_seed(seed)
    hidden = torch.randn(T, D, generator=made).to(dtype)
    weight = (torch.randn(V, D, generator=made) * 0.4).to(dtype)
    return hidden, weight, torch.randint(0, V, (T,), generator=made)


@pytest.mark.parametrize(
    "change",
    [{}, {"softcap": 5.0}, {"scale": 0.5, "temperature": 0.8}, {"softcap": 9.0, "scale": 2.0}],
)
def test_equal_to_the_logits(isa: str, change: dict[str, float]) -> None:
    hidden, weight, target = case()
    bias = torch.randn(V)
    logits = hidden.double() @ weight.double().T + bias.double()
    found = tk.stats_from_hidden(hidden, weight, target, 7, bias=bias, **change)
    close(found, exact(logits, target, 7, **change), scale=torch.full((T,), 40.0), factor=4)


@pytest.mark.parametrize(("tokens", "ids"), [(1, 1), (1, 5000), (513, 1025), (8, 97), (0, 5)])
def test_awkward_sizes(tokens: int, ids: int) -> None:
    hidden, weight = torch.randn(tokens, 5), torch.randn(ids, 5)
    target = torch.randint(0, ids, (tokens,))
    k = min(3, ids)
    wanted = exact(hidden.double() @ weight.double().T, target, k)
    close(tk.stats_from_hidden(hidden, weight, target, k), wanted, factor=10)


@pytest.mark.parametrize("width", [1, 2, 33, 48])
@pytest.mark.parametrize("hidden_type", [torch.bfloat16, torch.float32])
def test_half_precision_weights_give_exact_logits(
    isa: str, width: int, hidden_type: torch.dtype
) -> None:
    hidden, weight, target = case(torch.bfloat16)
    hidden, weight = hidden[:, :width].to(hidden_type), weight[:, :width]
    wanted = exact(hidden.double() @ weight.double().T, target, 5)
    found = tk.stats_from_hidden(hidden, weight, target, 5)
    assert torch.allclose(found.logz.double(), wanted.logz, atol=1e-6, rtol=1e-6)
    assert torch.allclose(found.logprob.double(), wanted.logprob, atol=1e-5)
    if width > 2:  # with few columns of few bits equal logits abound, and so do rounding ties
        assert torch.equal(found.rank, wanted.rank)


def test_the_models_own_rounding_is_another_thing() -> None:
    hidden, weight, target = case(torch.bfloat16)
    own = hidden @ weight.T
    found = tk.stats_from_hidden(hidden, weight, target, logits="model")
    assert torch.allclose(found.logz.double(), exact(own, target).logz, atol=1e-5)
    precise = tk.stats_from_hidden(hidden, weight, target)
    assert float((found.logz - precise.logz).abs().max()) > 1e-4


def test_masked_and_padded_ids() -> None:
    hidden, weight, target = case()
    target = target % 1000
    real = torch.ones(V, dtype=torch.bool)
    real[1000:] = False
    logits = hidden.double() @ weight[:1000].double().T
    for found in (
        tk.stats_from_hidden(hidden, weight, target, 4, real=real),
        tk.stats_from_hidden(hidden, weight[:1000], target, 4),
    ):
        close(found, exact(logits, target, 4), factor=10)


def brute(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, weights: torch.Tensor,
    scale: float, softcap: float, bias: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """By autograd in float64, token by token."""
    matrix = weight.double().requires_grad_()
    logits = hidden.double() @ matrix.T + (0 if bias is None else bias.double())
    logits = reference.changed(logits, scale, softcap, 1, None)
    logprob = logits.log_softmax(-1).gather(1, target[:, None])[:, 0]
    (pull,) = torch.autograd.grad((logprob * weights.double()).sum(), matrix, retain_graph=True)
    return torch.stack(
        [(torch.autograd.grad(p, matrix, retain_graph=True)[0] * pull).sum() for p in logprob]
    )


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, 0.0), (0.7, 0.0), (1.0, 6.0), (1.3, 4.0)])
def test_influence_by_autograd(scale: float, softcap: float) -> None:
    hidden, weight, target = (x[:20] if len(x) == T else x[:300] for x in case())
    target = target % 300
    weights = torch.randn(20)
    weights[::3] = 0
    bias = torch.randn(300)
    found = tk.influence_from_hidden(
        hidden, weight, target, weights, bias=bias, scale=scale, softcap=softcap
    )
    wanted = brute(hidden, weight, target, weights, scale, softcap, bias)
    assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_influence_is_what_a_small_step_does() -> None:
    """A step of the output matrix along M changes each log p by step · influence."""
    hidden, weight, target = (x.double() if x.is_floating_point() else x for x in case())
    weights = torch.randn(T).double()
    found = tk.influence_from_hidden(hidden, weight, target, weights)
    logits = hidden @ weight.T
    g = -logits.softmax(-1)
    g[torch.arange(T), target] += 1
    pull = (g * weights[:, None]).T @ hidden
    step = 1e-6 / float(pull.norm())

    def logprob(sign: int) -> torch.Tensor:
        moved = hidden @ (weight + sign * step * pull).T
        return moved.log_softmax(-1).gather(1, target[:, None])[:, 0]

    slope = (logprob(1) - logprob(-1)) / (2 * step)
    assert torch.allclose(found, slope, rtol=1e-4, atol=1e-6 * float(slope.abs().max()))


def test_influence_of_no_pull_is_none() -> None:
    hidden, weight, target = case()
    found = tk.influence_from_hidden(hidden, weight, target, torch.zeros(T))
    assert bool((found == 0).all())


def test_what_does_not_fit_is_said() -> None:
    hidden, weight, target = case()
    with pytest.raises(ValueError, match="width"):
        tk.stats_from_hidden(hidden[:, 1:], weight, target)
    with pytest.raises(ValueError, match="bias must"):
        tk.stats_from_hidden(hidden, weight, target, bias=torch.zeros(3))
    with pytest.raises(ValueError, match="weights must"):
        tk.influence_from_hidden(hidden, weight, target, torch.zeros(3))
    with pytest.raises(ValueError, match="target ids must"):
        tk.stats_from_hidden(hidden, weight, target + V)
    with pytest.raises(ValueError, match="logits must"):
        tk.stats_from_hidden(hidden, weight, target, logits="rough")  # type: ignore[arg-type]


MEMORY = """
import resource, torch, tokenkernel as tk
torch.set_num_threads(1)
T, D, V = 512, 64, 60_000
hidden, weight, target = torch.randn(T, D), torch.randn(V, D), torch.randint(0, V, (T,))
small = weight[:2048]
tk.stats_from_hidden(hidden, small, target % 2048, 8)
tk.influence_from_hidden(hidden, small, target % 2048, torch.ones(T))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
tk.stats_from_hidden(hidden, weight, target, 8)
tk.influence_from_hidden(hidden, weight, target, torch.ones(T))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory as Linux does")
def test_no_logits_are_ever_held() -> None:
    """All logits would be 117 MiB; what is resident grows by a fraction of that."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 24
