"""Token Hidden Reward: autograd, finite differences, double loops, and the undefined cases."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from engine.encode import trace_from_ids
from engine.errors import UserError
from engine.records import open_rollouts, write_rollouts
from engine.result import Request, Result
from engine.reward import thr as module
from engine.reward.lasthead import head_of, read_rows
from engine.reward.thr import values_of
from engine.running import run
from engine.subjects import Group
from engine.tokenization import Tokenizer
from engine.workspace import Workspace
from tests.engine.reward.groups import (
    LENGTHS,
    PROMPT,
    REWARDS,
    finish,
    gradients,
    group,
    loaded,
    log_probs,
    scored_of,
    traces,
    untied,
)
from tests.engine.tiny import BOS, tiny_folder, tiny_model

FAMILIES = ("llama", "gpt2", "phi", "gemma2", "cohere", "granite")
"""Plain, tied, with a bias, tied and soft-capped, multiplied and divided logits."""


def compute(workspace: Workspace, model: str, subject: Any, **params: Any) -> Result:
    return run(Request("reward.thr", subject, model, params), workspace=workspace)[0]


def trained(result: Result) -> pd.DataFrame:
    tokens = result.to_pandas("tokens")
    return tokens[(tokens.segment != "prompt")].reset_index(drop=True)


def reasons(result: Result, column: str, table: str = "tokens") -> list[str]:
    rows = result.notes.to_pylist()
    return [r["reason"] for r in rows if r["column"] == column and r["table"] == table]


@pytest.mark.parametrize("family", FAMILIES)
def test_products_of_gradients_by_autograd(family: str) -> None:
    """gᵀ M h is the sum over pairs of tokens of the products of their gradients in W."""
    model, scored = loaded(family), scored_of(group())
    network, weight = untied(model.model)
    gram = gradients(network, [weight], scored)
    gram = gram @ gram.T
    found = values_of(finish(read_rows(model, scored)), scored, beta=2.0)
    right = np.isin(scored.rollout, [0, 2])
    lengths = np.array(LENGTHS)[scored.rollout]
    size = abs(gram).max()
    np.testing.assert_allclose(found.plain, gram @ right, atol=1e-6 * size)
    np.testing.assert_allclose(found.pull, gram @ (right / lengths), atol=1e-6 * size)
    # The self pair is inside: without it the anchor is another number.
    anchors = [(gram @ (right / lengths))[scored.rollout == i].mean() for i in (0, 2)]
    np.testing.assert_allclose(found.anchors[[0, 2]], anchors, atol=1e-6 * size)
    assert np.isnan(found.anchors[[1, 3]]).all()
    assert found.tau == pytest.approx(2 * min(anchors))
    plain = [(gram @ right)[scored.rollout == i].mean() for i in (0, 2)]
    assert found.tau_nthr == pytest.approx(2 * min(plain))


def test_matrix_form_is_the_double_loop_over_all_ids() -> None:
    """With the published α = 1[y = y′] − p(y′) − p′(y) + ⟨p, p′⟩; the group's ids fall short."""
    model, scored = loaded("llama"), scored_of(group())
    rows = finish(read_rows(model, scored))
    hidden, target = rows.hidden.numpy(), scored.target
    p = torch.softmax(rows.hidden @ rows.head.weight.T, -1).numpy()
    known = np.unique(target)

    def loop(ids: np.ndarray) -> np.ndarray:
        total = np.zeros(len(target))
        for k in range(len(target)):
            for i in np.flatnonzero(np.isin(scored.rollout, [0, 2])):
                y, z = target[i], target[k]
                alpha = float(y == z) - p[i, z] - p[k, y] + p[i, ids] @ p[k, ids]
                total[k] += alpha * (hidden[i] @ hidden[k]) / LENGTHS[scored.rollout[i]]
        return total

    exact = values_of(rows, scored, 1.0).pull
    np.testing.assert_allclose(loop(np.arange(p.shape[1])), exact, atol=1e-9)
    assert abs(loop(known) - exact).max() > 1e-3 * abs(exact).max()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "cohere"])
def test_finite_difference_of_a_step_on_the_output_matrix(family: str) -> None:
    """One token's step, and the whole step of GRPO, change log π(y_i) as the products say."""
    model, scored = loaded(family), scored_of(group())
    network, weight = untied(model.model)
    rows = finish(read_rows(model, scored))
    logp = log_probs(network, scored)
    pulls = [np.eye(len(logp))[k] for k in (0, 7, len(logp) - 1)] + [scored.weights]
    for pull in pulls:
        (direction,) = torch.autograd.grad(
            (torch.tensor(pull) * logp).sum(), weight, retain_graph=True
        )
        start, size = weight.detach().clone(), 1e-4 / float(direction.norm())
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                weight.copy_(start + sign * size * direction)
                ends.append(log_probs(network, scored).numpy())
            weight.copy_(start)
        change = (ends[0] - ends[1]) / (2 * size)
        found = rows.pull(pull)
        np.testing.assert_allclose(found, change, atol=1e-5 * abs(change).max())
        # Completeness, per response: what all terms do together is the joint step.
        for i in range(4):
            inside = scored.rollout == i
            assert found[inside].sum() == pytest.approx(
                change[inside].sum(), abs=1e-5 * abs(change).max()
            )
    by_token = sum(w * rows.pull(np.eye(len(logp))[k]) for k, w in enumerate(scored.weights))
    np.testing.assert_allclose(by_token, rows.pull(scored.weights), atol=1e-9)


def test_columns_follow_from_the_products(workspace: Workspace, llama: str) -> None:
    result = compute(workspace, llama, group(), p=-0.3, beta=0.5)
    model, scored = loaded("llama"), scored_of(group())
    network, weight = untied(model.model)
    gram = gradients(network, [weight], scored)
    gram = gram @ gram.T
    right = np.isin(scored.rollout, [0, 2])
    pull = gram @ (right / np.array(LENGTHS)[scored.rollout])
    plain = gram @ right
    found = trained(result)
    assert found.rollout.tolist() == np.repeat(range(4), LENGTHS).tolist()
    advantage = np.where(right, 1, -1) * 0.5 / (np.std(REWARDS, ddof=1) + 1e-6)
    sign = np.where(right, 1, -1)
    tau = 0.5 * min(pull[scored.rollout == i].mean() for i in (0, 2))
    tau_nthr = 0.5 * min(plain[scored.rollout == i].mean() for i in (0, 2))
    above = abs(pull) > tau
    close = {"atol": 1e-4 * abs(pull).max(), "rtol": 1e-4}
    np.testing.assert_allclose(found.advantage, advantage)
    np.testing.assert_allclose(found.thr, sign * pull, **close)
    np.testing.assert_allclose(found.thr_advantage, advantage * pull, **close)
    np.testing.assert_allclose(found.nthr[~right], plain[~right], **close)
    assert found.nthr[right].isna().all()
    assert found.nthr_above[right].isna().all()
    assert found.above_threshold.tolist() == above.tolist()
    weighted = above * (1 - 0.3 * np.sign(sign * pull)) * advantage
    np.testing.assert_allclose(found.reweighted_advantage, weighted, atol=1e-12)
    # Two of four are right: η = 0, so what NTHR spares is not pushed down at all.
    spared = np.where(~right & (plain > tau_nthr), 0.0, advantage)
    np.testing.assert_allclose(found.nthr_advantage, spared, atol=1e-12)
    (row,) = result.table("groups").to_pylist()
    assert row["tau"] == pytest.approx(tau, rel=1e-4)
    assert row["tau_nthr"] == pytest.approx(tau_nthr, rel=1e-4)
    assert (row["eta"], row["correct"], row["rewarded"], row["tokens"]) == (0.0, 2, 4, 18)
    assert row["above"] == above.sum()
    assert row["method"] == "forward"
    rollouts = result.to_pandas("rollouts")
    sums = [(sign * pull)[scored.rollout == i].sum() for i in range(4)]
    np.testing.assert_allclose(rollouts.thr_sum, sums, **close)
    assert rollouts.reward_from.tolist() == ["log"] * 4
    if tau <= 0:
        assert reasons(result, "tau", "groups")


def test_thr_of_wrong_responses_is_minus_nthr_by_length(workspace: Workspace, llama: str) -> None:
    found = trained(compute(workspace, llama, group(lengths=(4, 5, 4, 6)), influence=False))
    wrong = found[found.reward == 0]
    np.testing.assert_allclose(wrong.thr, -wrong.nthr / 4, rtol=1e-4, atol=1e-6)


def test_signs_flip_with_the_reward(workspace: Workspace, llama: str) -> None:
    """Seen from the same right responses, a token of a wrong one counts the other way round."""
    three = group((1.0, 0.0, 1.0, 0.0))
    columns = trained(compute(workspace, llama, three, influence=False))
    scored = scored_of(three)
    pull = values_of(finish(read_rows(loaded("llama"), scored)), scored, 1.0).pull
    np.testing.assert_allclose(columns.thr[columns.reward == 0], -pull[~scored.right], rtol=1e-3)
    np.testing.assert_allclose(columns.thr[columns.reward == 1], pull[scored.right], rtol=1e-3)


def test_states_one_position_later_give_other_numbers() -> None:
    """The oracles above have 1e-6 of the largest value to spare; a shift costs 10,000 times it."""
    model, scored = loaded("llama"), scored_of(group())
    rows = finish(read_rows(model, scored))
    at = [model.hidden(scored.traces[i].ids)[p] for i, p in zip(*places(scored), strict=True)]
    late = type(rows)(rows.head, torch.stack(at), rows.target)
    right, wrong = (values_of(r, scored, 1.0).pull for r in (rows, late))
    assert abs(right - wrong).max() > 0.05 * abs(right).max()


def places(scored: Any) -> tuple[list[int], list[int]]:
    return scored.rollout.tolist(), scored.position.tolist()


@pytest.mark.parametrize("rewards", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.9, 0.8, 1.0)])
def test_one_sided_groups_are_null_with_the_reason(
    workspace: Workspace, llama: str, rewards: tuple[float, ...]
) -> None:
    result = compute(workspace, llama, group(rewards, (3, 4, 5)))
    found = trained(result)
    word = "None of" if rewards[0] == 0 else "All 3"
    for column in ("thr", "nthr", "influence", "thr_advantage", "above_threshold"):
        assert found[column].isna().all()
        assert any(word in reason for reason in reasons(result, column)), column
    assert found.reweighted_advantage.isna().all()
    (row,) = result.table("groups").to_pylist()
    assert row["tau"] is None
    assert word in row["reason"]
    if rewards[0] == rewards[1]:
        assert (found.advantage == 0).all()
    else:
        np.testing.assert_allclose(found.advantage[0], 0, atol=1e-9)


def test_one_rollout_has_no_advantage(workspace: Workspace, llama: str) -> None:
    result = compute(workspace, llama, group((1.0,), (3,)))
    assert trained(result).advantage.isna().all()
    assert any("Only one rollout" in reason for reason in reasons(result, "advantage"))


@pytest.mark.parametrize("std", ["unbiased", "population", "none"])
@pytest.mark.parametrize("epsilon", [1e-4, 0.5])
def test_advantage(workspace: Workspace, llama: str, std: Any, epsilon: float) -> None:
    rewards = (2.0, -1.0, 0.6)
    result = compute(
        workspace, llama, group(rewards, (3, 2, 4)), std=std, epsilon=epsilon, influence=False
    )
    centred = np.array(rewards) - np.mean(rewards)
    by = {"unbiased": centred.std(ddof=1), "population": centred.std()}
    expected = centred / (by[std] + epsilon) if std in by else centred
    rollouts = result.to_pandas("rollouts")
    np.testing.assert_allclose(rollouts.advantage, expected)
    assert rollouts.correct.tolist() == [True, False, True]


def test_missing_rewards_are_judged(workspace: Workspace, llama: str) -> None:
    tokenizer = Tokenizer.load(Path(llama))
    texts = (b"Answer: 7", b"Answer: 8", b"dunno", b"Answer: 7")
    rollouts = tuple(
        trace_from_ids([BOS, 63, *text], tokenizer, response_start=2) for text in texts
    )
    subject = Group(rollouts=rollouts, rewards=(None, None, None, 0.25))
    result = compute(workspace, llama, subject, answer=7, influence=False)
    rows = result.to_pandas("rollouts")
    assert rows.reward.tolist() == [1.0, 0.0, 0.0, 0.25]
    assert rows.reward_from.tolist() == ["checker"] * 3 + ["log"]
    assert rows.correct.tolist() == [True, False, False, False]
    expected = compute(
        workspace, llama, subject.model_copy(update={"expected": "7.0"}), influence=False
    )
    assert expected.to_pandas("rollouts").reward.tolist() == rows.reward.tolist()
    lower = compute(workspace, llama, subject, answer="7", success_threshold=0.2, influence=False)
    assert lower.to_pandas("rollouts").correct.tolist() == [True, False, False, True]


def test_rollouts_nobody_judged_take_no_part(workspace: Workspace, llama: str) -> None:
    five = Group(rollouts=traces((5, 4, 3, 6, 2)), rewards=(*REWARDS, None))
    result, without = (compute(workspace, llama, s) for s in (five, group()))
    found, expected = trained(result), trained(without)
    last = found[found.rollout == 4]
    for column in ("reward", "advantage", "thr", "influence"):
        assert last[column].isna().all()
        known = found[column][found.rollout < 4].to_numpy()
        np.testing.assert_allclose(known, expected[column], rtol=1e-4, atol=1e-6)
    notes = [r for r in result.notes.to_pylist() if r["rollout"] == 4]
    assert [r["column"] for r in notes] == ["reward"]
    assert "no reward" in notes[0]["reason"]
    assert result.table("groups").to_pylist()[0]["rewarded"] == 4
    assert result.to_pandas("rollouts").correct.isna().tolist() == [False] * 4 + [True]


def test_loss_mask(workspace: Workspace, llama: str) -> None:
    """A masked token has no value and does not count in |y|."""
    first, *rest = traces()
    mask = [p != PROMPT + 1 for p in range(len(first))]
    masked = Group(rollouts=(first.evolve(trainable=tuple(mask)), *rest), rewards=REWARDS)
    found = trained(compute(workspace, llama, masked))
    assert found.thr.isna().tolist() == [False, True, *[False] * 16]
    assert found.influence.isna().tolist() == [False, True, *[False] * 16]
    scored = scored_of(masked)
    assert scored.lengths.tolist() == [4, 4, 3, 6]
    network, weight = untied(loaded("llama").model)
    gram = gradients(network, [weight], scored)
    pull = gram @ gram.T @ (scored.right / np.array([4, 4, 3, 6])[scored.rollout])
    sign = np.where(scored.right, 1, -1)
    np.testing.assert_allclose(found.thr.dropna(), sign * pull, rtol=1e-3, atol=1e-4)


def test_prompts_have_no_values(workspace: Workspace, llama: str) -> None:
    result = compute(workspace, llama, group())
    tokens = result.to_pandas("tokens")
    prompt = tokens[tokens.segment == "prompt"]
    assert len(prompt) == 4 * PROMPT
    assert prompt.reward.tolist() == np.repeat(REWARDS, PROMPT).tolist()
    for column in ("advantage", "thr", "nthr", "influence", "reweighted_advantage"):
        assert prompt[column].isna().all()
    assert tokens.groupby("rollout").position.apply(list).tolist() == [
        list(range(PROMPT + n)) for n in LENGTHS
    ]
    assert any(note["column"] is None for note in result.notes.to_pylist())


def test_groups_of_a_file_are_streamed(
    workspace: Workspace, llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each group is its own population; states of an earlier one are gone when the next comes."""
    groups = [
        group(prompt_id="a"),
        group((1.0, 1.0), (3, 4), prompt_id="b"),
        group((0.0, 1.0, 1.0), (6, 2, 3), prompt_id="c"),
    ]
    path = tmp_path / "rollouts.jsonl"
    write_rollouts(path, groups)
    alone = [compute(workspace, llama, one) for one in groups]
    earlier: list[Any] = []

    def watched(rows: Any, *rest: Any) -> Any:
        gc.collect()
        assert not any(ref() is not None for ref in earlier)
        earlier.append(weakref.ref(rows.hidden))
        return values_of(rows, *rest)

    monkeypatch.setattr(module, "values_of", watched)
    result = compute(workspace, llama, open_rollouts(path))
    assert len(earlier) == 2
    for table in ("tokens", "rollouts", "groups"):
        frame = result.to_pandas(table)
        parts = pd.concat([one.to_pandas(table) for one in alone], ignore_index=True)
        own = ("rollout", "first_rollout", "reason")
        columns = [c for c in frame.columns if c not in own]
        pd.testing.assert_frame_equal(frame[columns], parts[columns])
    assert result.to_pandas("rollouts").rollout.tolist() == list(range(9))
    assert result.to_pandas("groups").first_rollout.tolist() == [0, 4, 6]
    assert any("Group b: All 2" in reason for reason in reasons(result, "thr"))


def test_soft_caps_behind_unknown_heads_are_refused() -> None:
    """A scale or a soft-cap is part of the gradient; anything unknown is refused by name."""
    head = head_of(loaded("gemma2"))
    assert (head.scale, head.softcap) == (1.0, 6.0)
    assert head_of(loaded("granite")).scale == 0.25
    model = loaded("llama")
    model.head_route = False
    with pytest.raises(UserError, match="no known function"):
        head_of(model)


def test_padded_vocabulary_takes_no_part() -> None:
    """Rows behind the tokenizer's last id are as if they were not there."""
    model, scored = loaded("llama"), scored_of(group())
    wide = loaded("llama", model=tiny_model("llama", vocab=300))
    with torch.no_grad():
        wide.model.get_input_embeddings().weight[:259] = model.model.get_input_embeddings().weight
        wide.model.lm_head.weight[:259] = model.model.lm_head.weight
        for name, weight in model.model.named_parameters():
            if weight.shape == wide.model.get_parameter(name).shape:
                wide.model.get_parameter(name).copy_(weight)
    wide.real_vocab = 259
    found, expected = (
        values_of(finish(read_rows(m, scored)), scored, 1.0).pull for m in (wide, model)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_effects_add_up_to_thr(workspace: Workspace, llama: str) -> None:
    subject = group()
    tokens = compute(workspace, llama, subject, influence=False).to_pandas("tokens")
    for rollout, position in ((1, PROMPT), (2, PROMPT + 2)):
        params = {"rollout": rollout, "position": position}
        (result,) = run(Request("reward.effects", subject, llama, params), workspace=workspace)
        pairs, each = result.to_pandas("pairs"), result.to_pandas("tokens")
        (value,) = tokens.thr[(tokens.rollout == rollout) & (tokens.position == position)]
        assert pairs.effect[pairs.correct].sum() == pytest.approx(value, rel=1e-4)
        assert pairs.response.tolist() == [0, 1, 2, 3]
        sign = 1 if REWARDS[rollout] else -1
        np.testing.assert_allclose(pairs.effect, sign * pairs.log_prob_change / pairs.tokens)
        sums = each.groupby("rollout").effect.sum()
        np.testing.assert_allclose(pairs.log_prob_change, sums, rtol=1e-5, atol=1e-6)


def test_effects_over_all_weights_by_autograd(workspace: Workspace, llama: str) -> None:
    from tests.engine.reward.groups import trainable

    params = {"rollout": 1, "position": PROMPT + 1, "what": "all"}
    (result,) = run(Request("reward.effects", group(), llama, params), workspace=workspace)
    scored = scored_of(group())
    network, weights = trainable(loaded("llama").model)
    gram = gradients(network, weights, scored)
    row = scored.row(1, PROMPT + 1)
    expected = gram @ gram[row]
    found = result.to_pandas("tokens").effect.dropna()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"rollout": 4, "position": 3}, "no rollout 4"),
        ({"rollout": 0, "position": 2}, "not trained"),
        ({"rollout": 0, "position": 99}, "not trained"),
        ({"rollout": 3, "position": 4}, "no reward"),
    ],
)
def test_effects_refuse_what_is_no_token(
    workspace: Workspace, llama: str, params: dict[str, int], reason: str
) -> None:
    subject = group((1.0, 0.0, 1.0, None))
    with pytest.raises(UserError, match=reason):
        run(Request("reward.effects", subject, llama, params), workspace=workspace)


def test_half_precision_is_near(workspace: Workspace, llama: str) -> None:
    from engine.modelref import ModelRef

    ref = ModelRef(source=str(tiny_folder("llama")), dtype="bfloat16")
    found, expected = (
        trained(run(Request("reward.thr", group(), m), workspace=workspace)[0])
        for m in (ref, llama)
    )
    for column in ("thr", "influence"):
        assert np.corrcoef(found[column], expected[column])[0, 1] > 0.99


def test_what_a_tenth_of_the_tokens_holds() -> None:
    from engine.reward.thr import top_tenth

    assert top_tenth(np.array([0.0, -3.0, 1.0, np.nan])) == pytest.approx(0.75)
    assert top_tenth(np.arange(20.0)) == pytest.approx((19 + 18) / sum(range(20)))
    assert top_tenth(np.zeros(4)) is None


def test_reweighted_for_any_p_and_beta(workspace) -> None:
    """The rule applied by hand to the stored THR; at the defaults it is the column of THR's."""
    from engine.gallery import gallery
    from engine.result import Request
    from engine.running import run

    item = next(i for i in gallery() if i.group is not None and i.model == "demo")
    assert item.group is not None
    (thr,) = run(Request("reward.thr", item.group, "demo"), workspace=workspace)
    rows = thr.table("tokens").to_pylist()
    (one,) = thr.table("groups").to_pylist()

    def column(**params: float) -> list[float | None]:
        request = Request("reward.reweighted", item.group, "demo", params)
        return (
            run(request, workspace=workspace)[0].table("tokens")["reweighted_advantage"].to_pylist()
        )

    assert column() == [row["reweighted_advantage"] for row in rows]
    for p, beta in ((-0.5, 1.0), (0.3, 0.0), (1.0, 3.0)):
        for row, got in zip(rows, column(p=p, beta=beta), strict=True):
            if row["thr"] is None:
                assert got is None
                continue
            kept = abs(row["thr"]) > beta * one["tau"]
            assert got == pytest.approx(kept * (1 + np.sign(row["thr"]) * p) * row["advantage"])
