"""LIME, KernelSHAP and Shapley sampling: against enumeration, closed forms and brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from engine.attribution import coalitions, lime, sampled, shapley_sampling
from engine.attribution.reading import Reader
from engine.registry import find
from engine.reward.wide import wide
from tests.engine.attribution import toys

METHODS = {
    "kernel_shap": {"samples": 64},
    "shapley_sampling": {"permutations": 4},
    "lime": {"samples": 64, "penalty": 0},
}


def by_orders(values: np.ndarray, count: int) -> np.ndarray:
    """Shapley values from the values of all subsets, by walking through all orders."""
    found = np.zeros(count)
    for order in permutations(range(count)):
        subset = 0
        for player in order:
            found[player] += values[subset | 1 << player] - values[subset]
            subset |= 1 << player
    return found / len(list(permutations(range(count))))


def error_of(found: toys.Ran) -> np.ndarray:
    """Standard errors as a matrix like the scores."""
    table = found.tables["spread"].to_pylist()
    assert len(table) == found.tables["attribution"].num_rows
    return np.array([r["standard_error"] for r in table], float)


@pytest.mark.parametrize("method", METHODS)
def test_closed_form(method: str) -> None:
    """On a linear model every fair share is the source's own summand, whatever is drawn."""
    model, trace = toys.loaded(toys.linear()), toys.text("One two.", " 4")
    found = toys.run(
        f"attribution.{method}", model, trace, explain="logit", removal="zero", **METHODS[method]
    )
    wanted = toys.linear_scores(trace, len(trace) - 1)[1:]
    np.testing.assert_allclose(found.matrix()[0], wanted, atol=1e-7)
    assert np.abs(found.matrix()[0][1:] - wanted[:-1]).max() > 0.01
    np.testing.assert_allclose(error_of(found), 0, atol=1e-7)
    if method == "lime":
        fit = found.tables["fit"].to_pylist()[0]
        np.testing.assert_allclose(fit["r2"], 1)
        np.testing.assert_allclose(fit["intercept"], found.column("value") - wanted.sum())
        assert np.isnan(found.column("residual")).all()
    else:
        np.testing.assert_allclose(found.column("residual"), 0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_only_reads_the_last_token(method: str) -> None:
    """Sources that do nothing get nothing; the last one gets everything."""
    model, trace = toys.loaded(toys.deaf()), toys.text("One two.", "4")
    found = toys.run(f"attribution.{method}", model, trace, removal="zero", **METHODS[method])
    scores = found.matrix()[0]
    np.testing.assert_allclose(scores[:-1], 0, atol=1e-10)
    without = toys.run("attribution.occlusion", model, trace, removal="zero").matrix()[0]
    np.testing.assert_allclose(scores[-1], without[-1], atol=1e-9)
    assert abs(scores[-1]) > 0.1


def test_exact_shares_are_those_of_all_orders() -> None:
    """For two targets with different numbers of sources, none of which sees the other's."""
    model, trace = toys.loaded("qwen2"), toys.text("So it", "is")
    asked = {"removal": "zero", "targets": "response"}
    some = {"permutations": 40}
    shapley = toys.run("attribution.shapley_sampling", model, trace, **asked, **some)
    kernel = toys.run("attribution.kernel_shap", model, trace, **asked)
    for i, count in enumerate((5, 6)):
        game = _game(model, trace, 6 + i, count)
        wanted = by_orders(game, count)
        for found in (shapley, kernel):
            np.testing.assert_allclose(found.matrix()[i, :count], wanted, atol=1e-7)
            np.testing.assert_allclose(error_of(found), 0)
            np.testing.assert_allclose(found.column("residual"), 0, atol=1e-9)
            np.testing.assert_allclose(found.column("baseline")[i], game[0], atol=1e-9)
    assert shapley.tables["cost"].to_pylist()[0]["forwards"] <= 2**6 + 2


def _game(model, trace, target: int, count: int) -> np.ndarray:
    """Log-probability of a token with each subset of the tokens 1 … count kept, else zeros."""
    with torch.no_grad(), wide():
        ids = torch.tensor(trace.ids[:target])
        embedded = model.model.get_input_embeddings()(ids)
        keep = np.ones((2**count, target), bool)
        keep[:, 1 : count + 1] = sampled.all_subsets(count)
        rows = embedded * torch.tensor(keep)[..., None]
        logits = model.model(inputs_embeds=rows).logits[:, -1, : model.real_vocab]
    return logits.log_softmax(-1)[:, trace.ids[target]].double().numpy()


@pytest.mark.parametrize("method", ["kernel_shap", "shapley_sampling"])
def test_drawn_shares_come_near(method: str) -> None:
    """Within their standard errors of the exact ones, which are far from equal to each other."""
    model, trace = toys.loaded("llama"), toys.text("One two", "4!")
    asked = {"removal": "zero", "targets": "response"}
    exact = toys.run("attribution.kernel_shap", model, trace, samples=2**9, **asked)
    few = {"kernel_shap": {"samples": 200}, "shapley_sampling": {"permutations": 20}}[method]
    found = toys.run(f"attribution.{method}", model, trace, seed=5, **few, **asked)
    error = error_of(found)
    assert (error > 0).all()
    known = np.isfinite(exact.matrix())
    off = (found.matrix() - exact.matrix())[known] / error
    assert np.abs(off).max() < 4
    assert np.sqrt((off**2).mean()) < 1.6
    assert error.max() < np.nanstd(exact.matrix())
    np.testing.assert_allclose(found.column("residual"), 0, atol=1e-9)
    again = toys.run(f"attribution.{method}", model, trace, seed=5, **few, **asked)
    np.testing.assert_array_equal(found.matrix(), again.matrix())
    other = toys.run(f"attribution.{method}", model, trace, seed=6, **few, **asked)
    assert np.nanmax(np.abs(found.matrix() - other.matrix())) > 1e-3


def test_coalitions_of_a_smaller_game() -> None:
    """Draws over nine sources give the fair shares of a game of six, and honest errors."""
    rng = np.random.default_rng(0)
    game = rng.normal(size=2**6) + 2 * sampled.all_subsets(6).sum(1) ** 1.5
    players = np.array([1, 1, 0, 1, 1, 0, 1, 1, 0], bool)
    wanted = by_orders(game, 6)

    def estimate(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        keep = coalitions.draw_pairs(seed, 9, 0, count)
        values = game[keep[:, players] @ (1 << np.arange(6))]
        weights = coalitions.kernel_weights(keep, players, drawn=True)
        ends = game[0], game[-1]
        return coalitions.constrained(keep[:, players], values, weights, *ends, paired=True)

    found, error = estimate(0, 20_000)
    np.testing.assert_allclose(found.sum(), game[-1] - game[0])
    assert np.abs(found - wanted).max() < 4 * error.max() < 0.2
    many = [estimate(seed, 200) for seed in range(1, 60)]
    spread = np.std([m[0] for m in many], axis=0)
    np.testing.assert_allclose(np.mean([m[1] for m in many], axis=0), spread, rtol=0.3)
    # Every subset once, with the kernel's own weights, is exact.
    keep = sampled.all_subsets(9)
    weights = coalitions.kernel_weights(keep, players, drawn=False)
    values = game[keep[:, players] @ (1 << np.arange(6))]
    exact, _ = coalitions.constrained(
        keep[:, players], values, weights, game[0], game[-1], paired=False
    )
    np.testing.assert_allclose(exact, wanted, atol=1e-9)
    # Too few coalitions determine nothing.
    assert np.isnan(estimate(0, 4)[0]).all()


def test_lime_by_brute_force() -> None:
    """Ridge by rows that pull towards 0; weights and draws as the package has them."""
    keep = lime.draw(0, 12, 0, 4000)
    assert keep[0].all()
    gone = (~keep[1:]).sum(1)
    assert set(gone) == set(range(1, 13))
    counts = np.bincount(gone, minlength=13)[1:]
    assert np.abs(counts / len(gone) - 1 / 12).max() < 0.02
    assert np.abs((~keep[1:]).mean(0) - 6.5 / 12).max() < 0.03
    # Three of twelve taken away: cosine √(9/12).
    three = keep[(~keep).sum(1) == 3][:1]
    distance = 100 * (1 - np.sqrt(9 / 12))
    np.testing.assert_allclose(lime.nearness(three, 25), np.exp(-(distance**2) / 25**2) ** 0.5)
    rng = np.random.default_rng(1)
    keep, values = keep[:60], rng.normal(size=60) + keep[:60] @ rng.normal(size=12)
    weights = lime.nearness(keep, 25.0)
    root = np.sqrt(weights)
    rows = np.column_stack([keep, np.ones(60)]) * root[:, None]
    pull = np.column_stack([np.sqrt(0.7) * np.eye(12), np.zeros(12)])
    solved, *_ = np.linalg.lstsq(
        np.vstack([rows, pull]), np.append(root * values, np.zeros(12)), rcond=None
    )
    found, error, intercept, fit = coalitions.ridge(keep, values, weights, 0.7)
    np.testing.assert_allclose(found, solved[:-1], atol=1e-10)
    np.testing.assert_allclose(intercept, solved[-1], atol=1e-10)
    assert 0 < fit < 1
    assert (error > 0).all()


def test_draws_only_add() -> None:
    """The first draws of many are those of few, and no two streams are alike."""
    np.testing.assert_array_equal(
        coalitions.draw_pairs(3, 7, 0, 20)[8:12], coalitions.draw_pairs(3, 7, 8, 12)
    )
    np.testing.assert_array_equal(lime.draw(3, 7, 0, 9)[4:], lime.draw(3, 7, 4, 9))
    many = shapley_sampling.orders(3, 7, 0, 8, antithetic=True)
    few = shapley_sampling.orders(3, 7, 0, 4, antithetic=True)
    np.testing.assert_array_equal(many[:4], few)
    np.testing.assert_array_equal(many[1], many[0][::-1])
    assert sorted(many[4]) == list(range(7))
    first = sampled.uniforms(0, "a", 0, 1000)
    assert 0.45 < first.mean() < 0.55
    for other in ((1, "a", 0), (0, "b", 0), (0, "a", 1)):
        assert abs(np.corrcoef(first, sampled.uniforms(*other, 1000))[0, 1]) < 0.15


def test_symmetry() -> None:
    """Two equal tokens that the model treats alike have equal shares, by drawing too."""
    model, trace = toys.loaded(toys.linear()), toys.text("abcab", "4")
    for method, params in METHODS.items():
        scores = toys.run(
            f"attribution.{method}", model, trace, explain="logit", removal="zero", **params
        ).matrix()[0]
        np.testing.assert_allclose(scores[0], scores[3], atol=1e-8)
        assert abs(scores[1] - scores[4]) > 1e-3  # the last one also speaks for itself


@pytest.mark.parametrize("method", METHODS)
def test_other_batches_and_what_is_known_so_far(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, trace = toys.loaded("gpt2"), toys.text("One two.", " 4")
    asked = {"removal": "delete", "granularity": "token", **METHODS[method]}
    whole = toys.run(f"attribution.{method}", model, trace, **asked)
    monkeypatch.setattr(Reader, "batch_size", lambda *_, **__: 7)
    monkeypatch.setattr(sampled, "CHUNK", 16)
    monkeypatch.setattr(shapley_sampling, "ROUND", 20)
    small = toys.run(f"attribution.{method}", model, trace, **asked)
    np.testing.assert_allclose(small.matrix(), whole.matrix(), atol=1e-8)
    states = [p.so_far() for p in small.progress if p.so_far is not None]
    assert len(states) >= 2
    declared = find(f"attribution.{method}")
    assert all(set(state) <= set(declared.tables) for state in states)
    last = states[-1]["attribution"]["score"].to_pylist()
    np.testing.assert_allclose(last, small.matrix()[0], atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_known_so_far_is_what_fewer_draws_give(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every state is the answer to a request for as many draws as were made by then."""
    model, trace = toys.loaded("gpt2"), toys.text("One two three.", " 4")
    name = "permutations" if method == "shapley_sampling" else "samples"
    total = 12 if method == "shapley_sampling" else 64
    monkeypatch.setattr(sampled, "CHUNK", 16)
    monkeypatch.setattr(shapley_sampling, "ROUND", 60)
    shared = {**METHODS[method], "removal": "delete", "granularity": "token"}
    many = toys.run(f"attribution.{method}", model, trace, **{**shared, name: total})
    states = [
        (int(p.message.split()[0]), p.so_far()) for p in many.progress if p.so_far is not None
    ]
    assert len(states) >= 3
    for drawn, state in states:
        few = toys.run(f"attribution.{method}", model, trace, **{**shared, name: drawn})
        found = np.array(state["attribution"]["score"].to_pylist(), float)
        np.testing.assert_allclose(found, few.matrix()[0], atol=1e-10, err_msg=str(drawn))
    # More draws say something else.
    assert states[0][1]["attribution"]["score"] != states[-1][1]["attribution"]["score"]
