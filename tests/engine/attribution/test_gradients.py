"""Gradient methods: closed forms, finite differences, and what must not change a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.attribution import gradients as graph
from engine.errors import UserError
from engine.reward.wide import wide
from tests.engine.attribution import toys
from tests.engine.tiny import FAMILIES, VOCABULARY

METHODS = {
    "saliency": {},
    "input_x_gradient": {},
    "integrated_gradients": {"steps": 8},
    "smoothgrad": {"samples": 4},
    "gradient_shap": {"samples": 4},
}
CONTRAST = {"targets": "16:18", "contrast": "xyz"}


def differences(model, trace, targets, explain: str, step: float = 1e-5) -> np.ndarray:
    """Central differences by every embedding dimension, [targets, T, D], in one batch."""
    rows = np.array(targets) - 1
    labels = np.array(trace.ids)[targets]
    with torch.no_grad(), wide():
        embedded = model.model.get_input_embeddings()(torch.tensor(trace.ids)).double()
        length, width = max(targets), embedded.shape[1]
        moves = torch.zeros(length, width, *embedded.shape, dtype=torch.float64)
        for t in range(length):
            for d in range(width):
                moves[t, d, t, d] = step
        ends = []
        for sign in (1, -1):
            moved = (embedded + sign * moves).flatten(0, 1)
            logits = model.model(inputs_embeds=moved).logits[:, rows, :VOCABULARY].numpy()
            ends.append(explained(logits, labels, explain))
    found = (ends[0] - ends[1]) / (2 * step)
    return found.reshape(length, width, len(targets)).transpose(2, 0, 1)


def explained(logits: np.ndarray, labels: np.ndarray, explain: str) -> np.ndarray:
    """The explained numbers [n, rows] of logits [n, rows, V]."""
    logp = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
    own = np.arange(len(labels)), labels
    if explain == "entropy":
        return -(np.exp(logp) * logp).sum(-1)
    return {"logit": logits, "logprob": logp, "probability": np.exp(logp)}[explain][:, *own]


@pytest.mark.parametrize("explain", ["logprob", "logit", "probability", "entropy"])
def test_by_finite_differences(explain: str) -> None:
    """To the position: the prediction of a target is made one token before it."""
    model, trace = toys.loaded("qwen2"), toys.text("ab c", "de")
    targets = [5, 6]
    wanted = differences(model, trace, targets, explain)
    embedded = model.model.get_input_embeddings().weight.detach()[list(trace.ids)].numpy()
    shared = {"targets": "5:7", "explain": explain, "special": True}
    norms = toys.run("attribution.saliency", model, trace, **shared)
    sums = toys.run("attribution.saliency", model, trace, norm="l1", **shared)
    products = toys.run("attribution.input_x_gradient", model, trace, **shared)
    for i, target in enumerate(targets):
        near = {"rtol": 1e-5, "atol": 1e-8}
        own = wanted[i, :target]
        found = norms.matrix()[i, :target]
        np.testing.assert_allclose(found, np.linalg.norm(own, axis=-1), **near)
        np.testing.assert_allclose(sums.matrix()[i, :target], np.abs(own).sum(-1), **near)
        by_hand = (own * embedded[:target]).sum(-1)
        np.testing.assert_allclose(products.matrix()[i, :target], by_hand, **near)
    assert np.isnan(norms.matrix()[0, 5])
    assert norms.column("baseline").tolist() == pytest.approx([np.nan] * 2, nan_ok=True)
    cost = norms.tables["cost"].to_pylist()[0]
    assert (cost["forwards"], cost["backwards"]) == (2, 2)  # the text as it is, and the graph


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_two_number_types(family: str) -> None:
    """Equal to plain autograd through the network itself, grouped queries and windows included."""
    trace = toys.text("One two, three.", " fo")
    for dtype, near in ((torch.float64, 1e-9), (torch.bfloat16, 0.06)):
        model = toys.loaded(family, dtype)
        ran = toys.run("attribution.input_x_gradient", model, trace, targets="response")
        embedded = model.model.get_input_embeddings()(torch.tensor([trace.ids]))
        embedded = embedded.detach().requires_grad_()
        with wide():
            logits = model.model(inputs_embeds=embedded).logits[0, :, :VOCABULARY].float()
            logp = logits.log_softmax(-1)
        for i, target in enumerate(range(16, 19)):
            (own,) = torch.autograd.grad(
                logp[target - 1, trace.ids[target]], embedded, retain_graph=True
            )
            wanted = (own.double() * embedded.double()).sum(-1)[0, 1:target].detach().numpy()
            found = ran.matrix()[i, : target - 1]
            assert np.abs(found - wanted).max() <= near * (1 + np.abs(wanted).max())
            assert np.isfinite(found).all()
            assert np.abs(found).max() > 0


def test_linear_model_in_closed_form() -> None:
    """Every method that accounts for a difference gives the model's own coefficients."""
    model, trace = toys.loaded(toys.linear()), toys.text()
    shared = {"targets": "16:19", "explain": "logit", "special": True}
    for name, more in {
        "input_x_gradient": {},
        "smoothgrad": {"samples": 2, "quantity": "input_x_gradient"},
        "integrated_gradients": {"steps": 2, "quadrature": "trapezoid", "baseline": "zero"},
        "gradient_shap": {"samples": 2, "background": "zero"},
    }.items():
        found = toys.run(f"attribution.{name}", model, trace, **shared, **more).matrix()
        for i, target in enumerate((16, 17, 18)):
            wanted = toys.linear_scores(trace, target)
            np.testing.assert_allclose(found[i, :target], wanted, atol=1e-7)
            assert np.abs(wanted[1:] - wanted[:-1]).max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_a_model_that_reads_only_the_last_token(name: str) -> None:
    model, trace = toys.loaded(toys.deaf()), toys.text()
    ran = toys.run(f"attribution.{name}", model, trace, targets="response", **METHODS[name])
    found = ran.matrix()
    for i, target in enumerate(range(16, 21)):
        own = target - 2  # sources begin behind BOS
        assert found[i, own] != 0
        assert set(np.delete(found[i, : own + 1], own)) == {0.0}
        assert np.isnan(found[i, own + 1 :]).all()


@pytest.mark.parametrize("name", METHODS)
def test_what_must_not_change_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches, chunks of targets, the draw's batch, and the sum over a source's tokens."""
    model, trace = toys.loaded("llama"), toys.text()
    asked = {"targets": "response", **METHODS[name]}
    whole = toys.run(f"attribution.{name}", model, trace, **asked)
    monkeypatch.setattr(graph, "MOST_GOALS", 2)
    monkeypatch.setattr("engine.attribution.reading.Reader.batch_size", lambda *a, **k: 3)
    parts = toys.run(f"attribution.{name}", model, trace, **asked)
    assert len(parts.progress) > len(whole.progress)
    np.testing.assert_allclose(parts.matrix(), whole.matrix(), rtol=1e-9, atol=1e-12)
    for column in ("baseline", "total", "residual"):
        near = {"rtol": 1e-9, "atol": 1e-9}
        np.testing.assert_allclose(parts.column(column), whole.column(column), **near)
    words = toys.run(f"attribution.{name}", model, trace, granularity="word", **asked)
    wanted = np.add.reduceat(whole.matrix()[0, :15], [0, 3, 7, 8, 14])
    assert words.tables["attribution"]["source"].to_pylist()[:5] == [
        "One",
        " two",
        ",",
        " three",
        ".",
    ]
    np.testing.assert_allclose(words.matrix()[0, :5], wanted, rtol=1e-9)


def test_divergence_from_another_model() -> None:
    """From itself it is 0 and at its least, so that nothing moves it; from another it does."""
    model, trace = toys.loaded("llama"), toys.text()
    asked = {"explain": "kl", "targets": "response"}
    same = toys.run("attribution.saliency", model, trace, other=model, **asked)
    assert np.abs(same.column("value")).max() < 1e-12
    assert np.nanmax(same.matrix()) < 1e-12
    other = toys.run("attribution.saliency", model, trace, other=toys.loaded("qwen2"), **asked)
    assert np.nanmin(other.column("value")) > 0.1
    assert np.nanmax(other.matrix()) > 0.1


@pytest.mark.parametrize("name", ["smoothgrad", "gradient_shap"])
def test_seeds(name: str) -> None:
    model, trace = toys.loaded("llama"), toys.text()
    first, again, other = (
        toys.run(f"attribution.{name}", model, trace, samples=3, noise=0.1, seed=s).matrix()
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


def test_smoothgrad_by_hand() -> None:
    """Mean of the norms at the noisy texts themselves; little noise is plain saliency."""
    model, trace = toys.loaded("llama"), toys.text()
    plain = toys.run("attribution.saliency", model, trace).matrix()
    little = toys.run("attribution.smoothgrad", model, trace, samples=2, noise=1e-7).matrix()
    np.testing.assert_allclose(little, plain, rtol=1e-4)
    more = toys.run("attribution.smoothgrad", model, trace, samples=3, noise=0.2).matrix()
    embedded = model.model.get_input_embeddings().weight.detach()[list(trace.ids[:-1])]
    size = 0.2 * float(embedded.max() - embedded.min())
    norms = []
    for i in range(3):
        noise = toys_noise(i, tuple(embedded.shape))
        noise[0] = 0  # BOS does not move
        point = (embedded + size * torch.as_tensor(noise)).requires_grad_()
        with wide():
            logp = model.model(inputs_embeds=point[None]).logits[0, -1].log_softmax(-1)
        (own,) = torch.autograd.grad(logp[trace.ids[-1]], point)
        norms.append(own.norm(dim=-1)[1:].numpy())
    np.testing.assert_allclose(more[0], np.mean(norms, 0), rtol=1e-6)


def toys_noise(number: int, shape: tuple[int, ...]) -> np.ndarray:
    from engine.attribution.noise import generator

    drawn = generator(0, "noise", number).standard_normal(shape)
    assert abs(drawn.mean()) < 0.2
    assert abs(drawn.std() - 1) < 0.2
    return drawn


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_left_behind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights get no gradients; an error half way leaves no hook on any module."""
    model, trace = toys.loaded("gpt2", torch.float32), toys.text()
    toys.run(f"attribution.{name}", model, trace, **METHODS[name])
    from engine.attribution.reading import private

    assert all(w.grad is None and not w.requires_grad for w in model.model.parameters())
    assert not toys.left_behind(model.model, private(model))
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        toys.run(f"attribution.{name}", model, trace, **METHODS[name])
    assert not toys.left_behind(model.model, private(model))
    assert not torch.is_inference_mode_enabled()


def test_a_gradient_that_is_no_number_is_null_with_a_note() -> None:
    own = toys.tiny_model("llama")
    with torch.no_grad():
        own.model.layers[0].mlp.down_proj.weight *= 1e5
    ran = toys.run("attribution.saliency", toys.loaded(own, torch.float16), toys.text())
    assert ran.tables["attribution"]["score"].null_count > 0
    assert "no finite number in float16: load the model in float32" in ran.notes[0][2]


@pytest.mark.parametrize(
    ("name", "params", "sentence"),
    [
        ("saliency", {"norm": "l3"}, "norm: Input should be 'l2' or 'l1'"),
        ("smoothgrad", {"samples": 0}, "greater than or equal to 1"),
        ("smoothgrad", {"noise": 0}, "greater than 0"),
        ("integrated_gradients", {"baseline": "token"}, "baseline=token belong together"),
        ("integrated_gradients", {"baseline_token": "a"}, "baseline=token belong together"),
        (
            "integrated_gradients",
            {"baseline": "token", "baseline_token": "ab"},
            "baseline_token has 2 tokens: give one that is a single token",
        ),
        ("integrated_gradients", {"steps": 1}, "greater than or equal to 2"),
        ("saliency", {"contrast": "r"}, "says the same as the target"),
        ("saliency", {"explain": "kl"}, "give it as other="),
        ("grains", {}, "contrast is missing"),
        ("grains", {"contrast": "x", "explain": "logit"}, "leave explain=logprob"),
    ],
)
def test_bad_input_is_a_sentence(name: str, params, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        toys.run(f"attribution.{name}", toys.loaded("llama"), toys.text(), **params)
