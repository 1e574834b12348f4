"""A real step on a copy: against an optimiser's own, against predictions, and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from engine.errors import UserError
from engine.records import open_rollouts, write_rollouts
from engine.result import Request, Result
from engine.reward import headstep, step
from engine.reward.agreeing import agreement
from engine.reward.headstep import head_step
from engine.reward.lasthead import read_rows
from engine.reward.step import whole_step
from engine.running import run
from engine.workspace import Workspace
from tests.engine.reward.groups import (
    LENGTHS,
    PROMPT,
    REWARDS,
    finish,
    group,
    loaded,
    log_probs,
    same_bits,
    scored_of,
    state,
    traces,
    trainable,
    untied,
)

ADVANTAGE = 0.5 / (np.std(REWARDS, ddof=1) + 1e-6)


def compute(workspace: Workspace, model: str, **params: Any) -> Result:
    return run(Request("reward.step", group(), model, params), workspace=workspace)[0]


def sgd(network: Any, weights: Any, scored: Any, rate: float, without: int | None) -> np.ndarray:
    """Changes of log p by GRPO's loss as a trainer writes it, and an optimiser's own step."""
    before = log_probs(network, scored)
    terms = []
    for i, length in enumerate(LENGTHS):
        ratio = (before - before.detach()).exp()[scored.rollout == i]
        terms.append((1 if REWARDS[i] else -1) * ADVANTAGE * ratio / length)
    loss = -sum(term.sum() for term in terms) / len(LENGTHS)
    if without is not None:
        loss = loss + torch.cat(terms)[without] / len(LENGTHS)
    optimiser = torch.optim.SGD(weights, lr=rate)
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        return (log_probs(network, scored) - before).detach().numpy()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("without", [None, 6])
def test_step_of_all_weights_by_an_optimiser(family: str, without: int | None) -> None:
    model, scored = loaded(family), scored_of(group())
    rows = finish(read_rows(model, scored))
    found = finish(whole_step(model, scored, rows, 1e-2, without))
    expected = sgd(*trainable(model.model), scored, 1e-2, without)
    if without is not None:
        expected = expected - sgd(*trainable(model.model), scored, 1e-2, None)
    np.testing.assert_allclose(found.measured, expected, atol=1e-9)
    with torch.no_grad():
        np.testing.assert_allclose(found.before, log_probs(model.model, scored), atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "gemma2", "cohere"])
def test_step_of_the_output_matrix_by_an_optimiser(family: str) -> None:
    """Tied embeddings stay where they are; soft-caps, scales and biases are in the gradient."""
    model, scored = loaded(family), scored_of(group())
    rows = finish(read_rows(model, scored))
    before, after, length = head_step(rows, scored.weights, 1e-2)
    network, weight = untied(model.model)
    start = weight.detach().clone()
    expected = sgd(network, [weight], scored, 1e-2, None)
    np.testing.assert_allclose(after - before, expected, atol=1e-6 * abs(expected).max() + 1e-9)
    assert length == pytest.approx(float((weight.detach() - start).norm()) / 1e-2, rel=1e-6)


def test_parts_of_the_matrix_step_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = scored_of(group())
    rows = finish(read_rows(loaded("llama"), scored))
    whole = head_step(rows, scored.weights, 1e-2)
    monkeypatch.setattr(headstep, "LOGITS_BYTES", 8 * 259 * 4)
    parts = head_step(rows, scored.weights, 1e-2)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("what", ["lm_head", "all"])
@pytest.mark.parametrize("without", [None, (1, PROMPT), (2, PROMPT + 1)])
def test_predictions_hold_for_small_steps(
    workspace: Workspace, llama: str, what: str, without: tuple[int, int] | None
) -> None:
    result = compute(workspace, llama, what=what, lr=1e-6, without=without)
    name = "thr" if what == "lm_head" else "influence"
    for row in result.table("agreement").to_pylist():
        if row["prediction"] == name:
            assert row["count"] == (4 if row["level"] == "responses" else sum(LENGTHS))
            assert row["pearson"] > 0.9999
            assert row["spearman"] > 0.99
            assert row["slope"] == pytest.approx(1, abs=1e-3)
            assert row["sign_agreement"] > 0.99
        elif what == "all" and row["level"] == "tokens":
            # The output matrix alone is not the whole story.
            assert row["pearson"] < 0.999
    (made,) = result.table("step").to_pylist()
    assert made["measured"] == pytest.approx(made[f"predicted_{name}"], rel=1e-3)
    place = without or (None, None)
    assert (made["without_rollout"], made["without_position"]) == place
    assert (made["what"], made["lr"]) == (what, 1e-6)
    if without is None:
        assert made["measured"] > 0


def test_a_large_step_leaves_first_order(workspace: Workspace, llama: str) -> None:
    """The error falls with the square of the rate; a wrong slope or sign would not."""
    errors = []
    for rate in (1e-2, 1e-3):
        tokens = compute(workspace, llama, lr=rate).to_pandas("tokens")
        errors.append(abs(tokens.measured - tokens.predicted_influence).max())
    assert 30 < errors[0] / errors[1] < 300


def test_tables_agree_with_each_other(workspace: Workspace, llama: str) -> None:
    result = compute(workspace, llama)
    tokens, responses = result.to_pandas("tokens"), result.to_pandas("responses")
    assert len(tokens) == 4 * PROMPT + sum(LENGTHS)
    assert tokens.measured[tokens.segment == "prompt"].isna().all()
    for column in ("log_prob", "measured", "predicted_thr", "predicted_influence"):
        sums = tokens.groupby("rollout")[column].sum()
        np.testing.assert_allclose(responses[column], sums, rtol=1e-9)
    assert responses.reward.tolist() == list(REWARDS)
    np.testing.assert_allclose(abs(responses.advantage), ADVANTAGE)
    (made,) = result.table("step").to_pylist()
    assert made["measured"] == pytest.approx(responses.measured[responses.correct].sum())


def test_the_matrix_step_has_no_prediction_by_influence(workspace: Workspace, llama: str) -> None:
    result = compute(workspace, llama, what="lm_head")
    assert result.to_pandas("tokens").predicted_influence.isna().all()
    assert result.table("step").to_pylist()[0]["predicted_influence"] is None
    assert [r["count"] for r in result.table("agreement").to_pylist()] == [18, 0, 4, 0]
    told = {n["table"] for n in result.notes.to_pylist() if "output matrix" in n["reason"]}
    assert told == {"tokens", "responses", "agreement", "step"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_shared_weights_stay_bit_for_bit(dtype: torch.dtype) -> None:
    for family in ("llama", "gpt2"):
        model, scored = loaded(family, dtype), scored_of(group())
        before = state(model.model)
        rows = finish(read_rows(model, scored))
        for left_out in (None, 3):
            head_step(step.precise(rows), scored.weights, 1.0)
            finish(whole_step(model, scored, rows, 1.0, left_out))
        assert same_bits(model.model, before)
        assert all(w.grad is None and not w.requires_grad for w in model.model.parameters())


def test_the_shared_model_of_a_workspace_stays(workspace: Workspace, llama: str) -> None:
    model = workspace.load(workspace.plan_model(llama))
    before = state(model.model)
    first = compute(workspace, llama, lr=0.5)
    compute(workspace, llama, lr=0.5, what="lm_head")
    assert same_bits(model.model, before)
    again = compute(workspace, llama, lr=0.25)
    log_prob = "log_prob"
    assert again.to_pandas("tokens")[log_prob].equals(first.to_pandas("tokens")[log_prob])


def test_what_cannot_be_stepped_is_refused(
    workspace: Workspace, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rewards, reason in (
        ((1.0, 1.0, 1.0, 1.0), "All 4 rewards"),
        ((None, None, None, None), "No rollout"),
        ((1.0, None, None, None), "Only one"),
    ):
        with pytest.raises(UserError, match=reason):
            run(Request("reward.step", group(rewards), llama), workspace=workspace)
    with pytest.raises(UserError, match="not trained"):
        compute(workspace, llama, without=(0, 0))
    monkeypatch.setattr(step, "MOST_PARAMETERS", 1000)
    with pytest.raises(UserError, match="what=lm_head"):
        compute(workspace, llama)
    monkeypatch.setattr(step, "MOST_ENTRIES", 1000)
    with pytest.raises(UserError, match="output matrix"):
        compute(workspace, llama, what="lm_head")


def test_real_rewards_without_a_right_response(workspace: Workspace, llama: str) -> None:
    """A step there is; a gain of right responses there is not."""
    subject = group((0.1, 0.2, 0.1, 0.3))
    (result,) = run(Request("reward.step", subject, llama), workspace=workspace)
    (made,) = result.table("step").to_pylist()
    assert made["measured"] is None
    assert ("step", "measured") in {(n["table"], n["column"]) for n in result.notes.to_pylist()}
    assert result.to_pandas("responses").measured.abs().min() > 0


def test_a_thread_in_inference_mode() -> None:
    """Where a job that waits has left it: nothing that is learnt later may be made in it."""
    model, scored = loaded("llama"), scored_of(group())
    plain = finish(whole_step(model, scored, finish(read_rows(model, scored)), 1e-3, 3))
    fresh = loaded("llama")
    with torch.inference_mode():
        rows = finish(read_rows(fresh, scored))
        found = finish(whole_step(fresh, scored, rows, 1e-3, 3))
        changed = head_step(rows, scored.weights, 1e-3)
    np.testing.assert_array_equal(found.measured, plain.measured)
    assert np.isfinite(changed[1]).all()


def test_one_group_of_a_file(workspace: Workspace, llama: str, tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    groups = [group(prompt_id="a"), group((0.0, 1.0), (3, 4), prompt_id="7")]
    write_rollouts(path, groups)
    file = open_rollouts(path)
    for name, one in (("a", groups[0]), (7, groups[1])):
        found, expected = (
            run(Request("reward.step", s, llama, {"group": name}), workspace=workspace)[0]
            for s in (file, one)
        )
        assert found.table("tokens").equals(expected.table("tokens"))
        assert found.table("responses").equals(expected.table("responses"))
    with pytest.raises(UserError, match="a and 7 among them"):
        run(Request("reward.step", file, llama), workspace=workspace)
    with pytest.raises(UserError, match="name one of a, 7"):
        run(Request("reward.step", file, llama, {"group": "b"}), workspace=workspace)
    write_rollouts(path, groups[:1])
    run(Request("reward.step", open_rollouts(path), llama), workspace=workspace)


def test_agreement_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=50).round(1)
    y = 2 * x + rng.normal(size=50)
    y[3] = np.nan
    found = agreement(x, y)
    keep = ~np.isnan(y)
    assert found["count"] == 49
    assert found["pearson"] == pytest.approx(pearsonr(x[keep], y[keep])[0])
    assert found["spearman"] == pytest.approx(spearmanr(x[keep], y[keep])[0])
    (slope,) = np.linalg.lstsq(x[keep, None], y[keep], rcond=None)[0]
    assert found["slope"] == pytest.approx(slope)
    same = [np.sign(a) == np.sign(b) for a, b in zip(x[keep], y[keep], strict=True) if a and b]
    assert found["sign_agreement"] == pytest.approx(np.mean(same))


def test_agreement_of_nothing_is_null() -> None:
    nothing = agreement(np.full(4, np.nan), np.ones(4))
    assert nothing == {
        "count": 0, "pearson": None, "spearman": None, "slope": None, "sign_agreement": None
    }  # fmt: skip
    constant = agreement(np.zeros(4), np.arange(4.0))
    assert constant["pearson"] is constant["slope"] is constant["sign_agreement"] is None
    assert constant["count"] == 4


def test_responses_without_reward_are_left_out(workspace: Workspace, llama: str) -> None:
    subject = group((1.0, None, 0.0), (4, 3, 2))
    (result,) = run(Request("reward.step", subject, llama), workspace=workspace)
    assert result.to_pandas("responses").rollout.tolist() == [0, 2]
    assert len(traces((4, 3, 2))) == 3
