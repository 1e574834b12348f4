"""Integrated gradients, GradientSHAP and GrAInS: completeness, closed forms, comparisons."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.attribution.paths import quadrature
from engine.reward.wide import wide
from tests.engine.attribution import toys
from tests.engine.tiny import BOS, VOCABULARY

PATH = "attribution.integrated_gradients"


def log_probs(model, ids, embeds=None) -> np.ndarray:
    """log p of every id at every position by the plain network, [T, V]."""
    inputs = (
        {"input_ids": torch.tensor([ids])} if embeds is None else {"inputs_embeds": embeds[None]}
    )
    with torch.no_grad(), wide():
        return model.model(**inputs).logits[0, :, :VOCABULARY].log_softmax(-1).numpy()


@pytest.mark.parametrize("rule", ["gauss_legendre", "trapezoid", "middle"])
def test_quadrature(rule) -> None:
    """Weights sum to one; lines are exact, and Gauss–Legendre of n points to degree 2n − 1."""
    points, weights = quadrature(rule, 5)
    assert weights.sum() == pytest.approx(1)
    assert weights @ points == pytest.approx(1 / 2)
    assert points.min() >= 0
    assert points.max() <= 1
    ninth = weights @ points**9
    assert ninth == pytest.approx(1 / 10) if rule == "gauss_legendre" else abs(ninth - 0.1) > 1e-3
    assert np.all(np.diff(points) > 0)


def test_two_points_in_closed_form() -> None:
    """The mean of the gradients at both ends, by the network's own autograd."""
    model, trace = toys.loaded("llama"), toys.text()
    ran = toys.run(PATH, model, trace, steps=2, quadrature="trapezoid", baseline="mean")
    table = model.model.get_input_embeddings().weight.detach()
    text = table[list(trace.ids[:-1])]
    start = table[:VOCABULARY].mean(0).expand_as(text).clone()
    start[0] = text[0]
    total = torch.zeros_like(text)
    for point in (start, text):
        own = point.clone().requires_grad_()
        with wide():
            logp = model.model(inputs_embeds=own[None]).logits[0, -1].log_softmax(-1)
        total += torch.autograd.grad(logp[trace.ids[-1]], own)[0] / 2
    wanted = (total * (text - start)).sum(-1)[1:].numpy()
    np.testing.assert_allclose(ran.matrix()[0], wanted, rtol=1e-8)
    end = log_probs(model, trace.ids)[-2, trace.ids[-1]]
    begin = log_probs(model, None, start)[-1, trace.ids[-1]]
    assert ran.column("value")[0] == pytest.approx(end)
    assert ran.column("baseline")[0] == pytest.approx(begin)
    assert ran.column("residual")[0] == pytest.approx(end - begin - wanted.sum())


@pytest.mark.parametrize("baseline", ["zero", "mean", "token"])
@pytest.mark.parametrize("contrast", [None, "x", "xyz"])
def test_completeness(baseline, contrast) -> None:
    """The residual falls with the steps until the scores account for everything."""
    model, trace = toys.loaded("gpt2"), toys.text()
    asked = {"targets": "16:18", "baseline": baseline, "contrast": contrast, "together": True}
    if baseline == "token":
        asked["baseline_token"] = "_"
    left = []
    for steps in (3, 12, 40):
        ran = toys.run(PATH, model, trace, steps=steps, **asked)
        total = np.nansum(ran.matrix(), 1)
        np.testing.assert_allclose(ran.column("total"), total)
        difference = ran.column("value") - ran.column("baseline")
        np.testing.assert_allclose(ran.column("residual"), difference - total)
        left.append(np.abs(ran.column("residual")).max())
    assert left[2] < 2e-3 < left[0]
    assert left[2] < left[1]
    assert abs(difference[0]) > 0.1


def test_contrast_is_the_difference_of_two_texts() -> None:
    """Of a longer one too: each token of a continuation at the step that predicts it."""
    model, trace = toys.loaded("gemma2"), toys.text()
    ran = toys.run(PATH, model, trace, targets="16:18", contrast="xyz", steps=4)
    sides = []
    for said in (trace.ids[16:18], tuple(b"xyz")):
        ids = (*trace.ids[:16], *said)
        logp = log_probs(model, ids)
        sides.append(sum(logp[15 + i, id] for i, id in enumerate(said)))
    assert ran.column("value")[0] == pytest.approx(sides[0] - sides[1])
    texts = [toys.text("One two, three.", t) for t in (" f", "xyz")]
    parts = [
        toys.run(PATH, model, t, targets="response", together=True, steps=4).matrix() for t in texts
    ]
    np.testing.assert_allclose(ran.matrix(), parts[0] - parts[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["saliency", "input_x_gradient", "grains", "smoothgrad"])
def test_symmetry_of_a_contrast(name: str) -> None:
    """Swapped, every signed score changes its sign, and sizes stay."""
    model = toys.loaded("llama")
    more = {"samples": 3} if name == "smoothgrad" else {}
    one = toys.run(f"attribution.{name}", model, toys.text("a b", "cd"), targets="response",
                   contrast="xyz", **more)  # fmt: skip
    two = toys.run(f"attribution.{name}", model, toys.text("a b", "xyz"), targets="response",
                   contrast="cd", **more)  # fmt: skip
    sign = -1 if name in ("grains", "input_x_gradient") else 1
    np.testing.assert_allclose(one.matrix(), sign * two.matrix(), rtol=1e-9)
    np.testing.assert_allclose(one.column("value"), -two.column("value"), rtol=1e-9)


def test_fixed_tokens_do_not_move() -> None:
    """Where only a span may change, the path changes it alone, and so does every draw."""
    model, trace = toys.loaded("llama"), toys.text()
    table = model.model.get_input_embeddings().weight.detach()
    text = table[list(trace.ids[:-1])].clone()
    text[3:5] = table[:VOCABULARY].mean(0)
    begin = log_probs(model, None, text)[-1, trace.ids[-1]]
    ran = toys.run(PATH, model, trace, granularity="spans", spans="3:5", steps=64, baseline="mean")
    assert ran.matrix().shape == (1, 1)
    assert ran.column("baseline")[0] == pytest.approx(begin)
    assert abs(ran.column("residual")[0]) < 1e-4
    nothing = {"baseline": "zero", "steps": 2}
    with_bos = toys.run(PATH, model, trace, special=True, **nothing).column("baseline")[0]
    without = toys.run(PATH, model, trace, **nothing).column("baseline")[0]
    zeros = torch.zeros_like(text)
    assert with_bos == pytest.approx(log_probs(model, None, zeros)[-1, trace.ids[-1]])
    zeros[0] = table[BOS]
    assert without == pytest.approx(log_probs(model, None, zeros)[-1, trace.ids[-1]])
    for background in ("vocabulary", "text", "mean"):
        shap = toys.run(
            "attribution.gradient_shap", model, trace, samples=8, noise=0.1,
            background=background, granularity="spans", spans="15:16", explain="logit",
        )  # fmt: skip
        assert shap.matrix().shape == (1, 1)
    one_token = toys.run(
        "attribution.gradient_shap", model, trace, samples=4, background="text",
        granularity="spans", spans="15:16",
    )  # fmt: skip
    assert one_token.matrix()[0, 0] == 0  # one token in random order is the text itself


def test_gradient_shap_finds_integrated_gradients() -> None:
    """From one fixed beginning its mean is the integral; the standard error is honest."""
    model, trace = toys.loaded("llama"), toys.text()
    wanted = toys.run(PATH, model, trace, steps=64)
    ran = toys.run("attribution.gradient_shap", model, trace, samples=200, background="mean")
    error = ran.column("standard_error", "spread")
    off = (ran.matrix()[0] - wanted.matrix()[0]) / error
    assert np.abs(off).max() < 4
    assert 0.4 < np.sqrt((off**2).mean()) < 1.7
    assert ran.column("baseline")[0] == pytest.approx(wanted.column("baseline")[0])
    random = toys.run("attribution.gradient_shap", model, trace, samples=100, seed=1)
    spread = random.column("standard_error", "spread")
    # Scores of one draw hang together, so that no simple sum of the errors is exact.
    assert abs(random.column("residual")[0]) < 4 * spread.sum()
    assert abs(random.column("baseline")[0] - ran.column("baseline")[0]) > 1e-3


def test_grains() -> None:
    """Both sides of the comparison, their sum, and the strongest of each sign."""
    model, trace = toys.loaded("llama"), toys.text()
    asked = {"targets": "16:18", "contrast": "xyz", "steps": 6}
    ran = toys.run("attribution.grains", model, trace, top=2, **asked)
    plain = toys.run(PATH, model, trace, **asked)
    np.testing.assert_allclose(ran.matrix(), plain.matrix(), rtol=1e-9)
    np.testing.assert_allclose(ran.column("residual"), plain.column("residual"), atol=1e-9)
    alone = toys.run(PATH, model, trace, targets="16:18", together=True, steps=6)
    rows = ran.tables["branches"].to_pylist()
    np.testing.assert_allclose([r["preferred"] for r in rows], alone.matrix()[0], rtol=1e-9)
    for row, score in zip(rows, ran.matrix()[0], strict=True):
        assert row["preferred"] + row["other"] == pytest.approx(row["score"])
        assert row["score"] == pytest.approx(score)
    scores = sorted(r["score"] for r in rows)
    named = {(r["direction"], r["rank"]): r["score"] for r in rows if r["direction"]}
    assert named == {
        ("for", 1): scores[-1],
        ("for", 2): scores[-2],
        ("against", 1): scores[0],
        ("against", 2): scores[1],
    }
    few = toys.run("attribution.grains", model, trace, targets="16:18", contrast="x", top=99)
    directions = few.tables["branches"]["direction"].to_pylist()
    assert directions == ["for" if s > 0 else "against" for s in few.column("score", "branches")]
    one_row = toys.run("attribution.grains", model, trace, targets="16", contrast="x")
    value = one_row.column("value")[0]
    logp = log_probs(model, trace.ids)[15]
    assert value == pytest.approx(logp[ord(" ")] - logp[ord("x")])
