"""Influence over all weights: products of gradients, real removals, and an untouched model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.result import Request
from engine.reward import batches
from engine.reward import influence as module
from engine.reward.agreeing import agreement
from engine.reward.influence import influence
from engine.reward.lasthead import read_rows
from engine.reward.network import Network
from engine.reward.step import whole_step
from engine.running import run
from engine.workspace import Workspace
from tests.engine.reward.groups import (
    LENGTHS,
    PROMPT,
    finish,
    gradients,
    group,
    loaded,
    log_probs,
    same_bits,
    scored_of,
    state,
    trainable,
)
from tests.engine.tiny import tiny_model, walked

SOME = ("llama", "gpt2", "qwen2", "mistral", "gemma2", "gpt_neox")
DOUBLE = ("gpt2", "gpt_neox", "opt")
"""Families whose plain forward is double precision throughout, as autograd reads it here."""


def exact(model: Any, scored: Any, dtype: Any = torch.float64, **choices: Any) -> np.ndarray:
    return finish(influence(model, scored, dtype=dtype, **choices)).values


@pytest.mark.parametrize("family", walked(*SOME))
def test_products_of_gradients_over_all_weights(family: str) -> None:
    """A_j/(G |y_j|) ⟨∇ Σ log π(right), ∇ log p⟩ by one backward for every token."""
    model, scored = loaded(family), scored_of(group())
    network, weights = trainable(model.model)
    gram = gradients(network, weights, scored)
    right = np.isin(scored.rollout, [0, 2]).astype(float)
    advantage = np.where(right, 1, -1) * 0.5 / (np.std([1, 0, 1, 0], ddof=1) + 1e-6)
    expected = advantage / (4 * np.array(LENGTHS)[scored.rollout]) * (gram @ (gram.T @ right))
    tolerance = (1e-8 if family in DOUBLE else 1e-4) * abs(expected).max()
    found = finish(influence(model, scored, dtype=torch.float64))
    assert found.method == "forward"
    np.testing.assert_allclose(found.values, expected, atol=tolerance)
    # One place on, or the other sign, is another number.
    assert abs(np.roll(expected, 1) - expected).max() > 1e3 * tolerance


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_forward_mode_is_the_central_difference(family: str) -> None:
    """In double precision through every norm and softmax, which transformers would leave."""
    model, scored = loaded(family), scored_of(group())
    forward, central = (exact(model, scored, method=m) for m in ("forward", "central"))
    np.testing.assert_allclose(forward, central, atol=1e-7 * abs(forward).max())


def test_single_precision_is_near() -> None:
    for family in ("llama", "gpt2"):
        scored = scored_of(group())
        expected = exact(loaded(family), scored)
        single = loaded(family, torch.float32)
        for method, tolerance in (("forward", 1e-5), ("central", 1e-2)):
            found = exact(single, scored, torch.float32, method=method)
            np.testing.assert_allclose(found, expected, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_real_removals_of_single_terms(family: str) -> None:
    """A step without one token's term changes Σ log π(right) by minus its influence."""
    model, scored = loaded(family), scored_of(group())
    predicted = exact(model, scored)
    rows = finish(read_rows(model, scored))
    right, rate, measured = scored.right, 1e-5, []
    chosen = range(0, len(predicted), 3)
    for row in chosen:
        step = finish(whole_step(model, scored, rows, rate, row))
        measured.append(-step.measured[right].sum() / rate)
    found = agreement(predicted[list(chosen)], np.array(measured))
    assert found["pearson"] > 0.999
    assert found["spearman"] > 0.95
    assert found["slope"] == pytest.approx(1, abs=0.02)
    assert found["sign_agreement"] == 1


def test_average_over_all_tokens() -> None:
    model = loaded("gpt2")
    by_response, by_token = (
        exact(model, scored_of(group(), average=a)) for a in ("response", "tokens")
    )
    lengths = np.repeat(LENGTHS, LENGTHS)
    np.testing.assert_allclose(by_token, by_response * 4 * lengths / sum(LENGTHS), rtol=1e-9)


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, scored = loaded("llama"), scored_of(group())
    together = Network(model, scored, torch.float64)
    whole = exact(model, scored)
    monkeypatch.setattr(batches, "BATCH_BYTES", 1)
    one_by_one = Network(model, scored, torch.float64)
    assert (len(together.batches), len(one_by_one.batches)) == (1, 4)
    assert sorted(int(r) for b in one_by_one.batches for r in b.rows) == list(range(18))
    np.testing.assert_allclose(exact(model, scored), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", walked("llama", "gemma2", "gpt_neox"))
def test_reading_the_prompt_once_changes_nothing(family: str) -> None:
    model, scored = loaded(family), scored_of(group(lengths=(9, 1, 3, 6)))
    network = Network(model, scored, torch.float64)
    assert network.shared == PROMPT
    apart = finish(network.read(network.base))
    direction = finish(network.gradient(scored.weights))
    along, _ = finish(network.along(direction, "forward"))
    network.shared = 0
    # Rotary tables are float32 and cut differently.
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(apart, finish(network.read(network.base)), **close)
    whole = finish(network.gradient(scored.weights))
    largest = max(float(w.abs().max()) for w in whole.values())
    for name, one in whole.items():
        torch.testing.assert_close(direction[name], one, rtol=0, atol=1e-6 * largest)
    again, _ = finish(network.along(direction, "forward"))
    torch.testing.assert_close(along, again, rtol=0, atol=1e-6 * float(again.abs().max()))


def test_prompts_are_read_apart_only_where_they_agree() -> None:
    first, *rest = group().rollouts
    other = first.evolve(ids=(first.ids[0], first.ids[1] ^ 1, *first.ids[2:]))
    apart = group().model_copy(update={"rollouts": (other, *rest)})
    network = Network(loaded("gpt2"), scored_of(apart), torch.float64)
    assert network.shared == 0
    found = finish(network.read(network.base)).numpy()
    with torch.no_grad():
        expected = log_probs(loaded("gpt2").model, scored_of(apart)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)
    # Responses of one token only: nothing follows the prompt.
    short = scored_of(group(lengths=(1, 1, 1, 1)))
    network = Network(loaded("gpt2"), short, torch.float64)
    assert network.shared == PROMPT
    with torch.no_grad():
        expected = log_probs(loaded("gpt2").model, short).numpy()
    np.testing.assert_allclose(finish(network.read(network.base)).numpy(), expected, atol=1e-9)


def test_a_network_that_keeps_another_state_reads_all() -> None:
    model = loaded("mamba", torch.float32, tiny_model("mamba"))
    assert Network(model, scored_of(group()), torch.float32).shared == 0


def test_a_pass_reads_log_probabilities_of_the_right_places() -> None:
    for family in ("llama", "gpt2", "gemma2"):
        model, scored = loaded(family), scored_of(group())
        network = Network(model, scored, torch.float64)
        found = finish(network.read(network.base)).numpy()
        with torch.no_grad():
            expected = log_probs(model.model, scored).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_padded_vocabulary_takes_no_part() -> None:
    model, scored = loaded("gpt2"), scored_of(group())
    model.real_vocab = 257
    network = Network(model, scored, torch.float64)
    found = finish(network.read(network.base)).exp().numpy()
    for row, (i, p) in enumerate(zip(scored.rollout, scored.position, strict=True)):
        logits = model.full_logits(scored.traces[i].ids)[p - 1, :257]
        assert found[row] == pytest.approx(
            float(logits.softmax(-1)[scored.traces[i].ids[p]]), rel=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_shared_model_is_left_alone(dtype: torch.dtype) -> None:
    model, scored = loaded("gpt2", dtype), scored_of(group())
    before = state(model.model)
    ids = torch.tensor([scored.traces[0].ids])
    logits = model.model(input_ids=ids).logits.clone()
    modules = [id(m) for m in model.model.modules()]
    for method in ("forward", "central"):
        finish(influence(model, scored, method=method))
    assert same_bits(model.model, before)
    assert torch.equal(model.model(input_ids=ids).logits, logits)
    assert [id(m) for m in model.model.modules()] == modules
    for weight in model.model.parameters():
        assert not weight.requires_grad
        assert weight.grad is None
        assert type(weight) is torch.nn.Parameter
    if dtype == torch.float32:
        shared = Network(model, scored, dtype)
        own = dict(model.model.named_parameters())
        assert all(shared.base[n].data_ptr() == w.data_ptr() for n, w in own.items())


def test_operations_without_forward_mode_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, scored = loaded("gpt2"), scored_of(group())
    expected = exact(model, scored)

    def fails(*_: Any) -> Any:
        raise NotImplementedError("no forward-mode derivative")

    monkeypatch.setattr(Network, "_forward_mode", fails)
    found = finish(influence(model, scored, dtype=torch.float64))
    assert found.method == "central"
    np.testing.assert_allclose(found.values, expected, atol=1e-7 * abs(expected).max())
    with pytest.raises(NotImplementedError):
        finish(influence(model, scored, dtype=torch.float64, method="forward"))


def test_architectures_of_their_own() -> None:
    """Attention outside transformers' interface, and no attention at all."""
    for family in ("gptj", "mamba"):
        model = loaded(family, torch.float32, tiny_model(family))
        scored = scored_of(group())
        network, weights = trainable(model.model)
        gram = gradients(network, weights, scored)
        expected = scored.weights * (gram @ (gram.T @ scored.right.astype(float)))
        found = exact(model, scored, torch.float32)
        np.testing.assert_allclose(found, expected, atol=1e-3 * abs(expected).max())


def test_influence_of_big_models_is_null(
    workspace: Workspace, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.reward import thr

    monkeypatch.setattr(thr, "MOST_PARAMETERS", 1000)
    (result,) = run(Request("reward.thr", group(), llama), workspace=workspace)
    tokens = result.to_pandas("tokens")
    assert tokens.influence.isna().all()
    assert tokens.thr.notna().sum() == sum(LENGTHS)
    (reason,) = (n["reason"] for n in result.notes.to_pylist() if n["column"] == "influence")
    assert "parameters" in reason
    assert "1,000" in reason


def test_column_of_thr(workspace: Workspace, llama: str) -> None:
    (result,) = run(Request("reward.thr", group(), llama), workspace=workspace)
    found = result.to_pandas("tokens").influence.dropna()
    expected = exact(loaded("llama"), scored_of(group()))
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())
    sums = [expected[scored_of(group()).rollout == i].sum() for i in range(4)]
    totals = result.to_pandas("rollouts").influence_sum
    np.testing.assert_allclose(totals, sums, atol=1e-5 * abs(expected).max())
    assert module.MOST_PARAMETERS >= 10**8


@pytest.mark.cuda
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_cuda_agrees_with_the_cpu(family: str) -> None:
    scored = scored_of(group())
    expected = exact(loaded(family), scored)
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 1e-3)):
        model = loaded(family, dtype, tiny_model(family), device="cuda")
        found = exact(model, scored, dtype)
        np.testing.assert_allclose(found, expected, atol=tolerance * abs(expected).max())
        step = finish(whole_step(model, scored, finish(read_rows(model, scored)), 1e-3, None))
        fit = agreement(step.predicted["influence"], step.measured)
        assert fit["pearson"] > 0.99
