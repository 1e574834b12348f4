"""Advantage, forking tokens and clipping rules: against definitions, trainers' code and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import UserError
from engine.reward import rules
from engine.reward.forking import forking_marks
from engine.reward.grpo import TRL_EPSILON, advantages, undefined
from engine.reward.population import rewards_of, trained_of
from engine.subjects import Group
from engine.workspace import Workspace
from tests.engine.reward.signal_groups import (
    REWARDS,
    column,
    compute,
    file_of,
    group_of,
    log_softmax,
    logits64,
    response_rows,
    traces,
)
from tests.engine.tiny import tiny_folder

# -- GRPO's advantage --------------------------------------------------------------------------


def test_advantage_is_the_trainers() -> None:
    rewards = [0.0, 1.0, 1.0, 0.25, 0.5]
    values = torch.tensor(rewards, dtype=torch.float64)
    for epsilon in (1e-6, TRL_EPSILON):
        wanted = (values - values.mean()) / (values.std() + epsilon)
        np.testing.assert_allclose(advantages(rewards, "unbiased", epsilon), wanted, rtol=1e-12)
    wanted = (values - values.mean()) / (values.std(unbiased=False) + 1e-6)
    np.testing.assert_allclose(advantages(rewards, "population"), wanted, rtol=1e-12)
    np.testing.assert_allclose(advantages(rewards, "none"), values - values.mean(), rtol=1e-12)


def test_advantage_of_binary_rewards_has_a_closed_form() -> None:
    """Population std, ε = 0: √((1 − p) / p) for right, −√(p / (1 − p)) for wrong responses."""
    rewards = [1.0] * 3 + [0.0] * 5
    found = advantages(rewards, "population", 0.0)
    p = 3 / 8
    np.testing.assert_allclose(found[:3], math.sqrt((1 - p) / p), rtol=1e-12)
    np.testing.assert_allclose(found[3:], -math.sqrt(p / (1 - p)), rtol=1e-12)
    assert abs(found.sum()) < 1e-12


def test_equal_missing_and_single_rewards() -> None:
    assert advantages([0.1, 0.1, 0.1]).tolist() == [0.0, 0.0, 0.0]  # not 1e-17 / ε
    assert "equal (0.1)" in (undefined([0.1, 0.1, 0.1]) or "")
    found = advantages([1.0, None, 0.0])
    np.testing.assert_allclose(found[[0, 2]], advantages([1.0, 0.0]))
    assert np.isnan(found[1])
    assert np.isnan(advantages([1.0, None])).all()
    assert np.isnan(advantages([])).all()
    assert "Only one" in (undefined([1.0, None]) or "")
    assert "No rollout" in (undefined([None, math.nan]) or "")
    assert undefined([1.0, 0.0]) is None


def test_advantage_table(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama)
    result = compute(workspace, "reward.advantage", group, std="population", epsilon=0)
    inside = response_rows(group)
    found, rollout = column(result, "advantage"), column(result, "rollout")
    assert np.isnan(found[~inside]).all()
    for index, wanted in enumerate((1.0, -1.0, 1.0, -1.0)):
        assert set(found[inside & (rollout == index)]) == {wanted}
    assert result.table("groups").to_pylist() == [
        {
            "group": "sum",
            "rollouts": 4,
            "judged": 4,
            "mean": 0.5,
            "std_unbiased": pytest.approx(math.sqrt(1 / 3)),
            "std_population": 0.5,
            "teaches": True,
        }
    ]
    ids = result.table("tokens")["token_id"].to_pylist()
    assert ids == [i for trace in group.rollouts for i in trace.ids]


@pytest.mark.parametrize("rewards", [(1.0,) * 4, (0.0,) * 4, (None,) * 4, (1.0, None, None, None)])
def test_groups_without_direction_are_null(workspace: Workspace, llama: str, rewards) -> None:
    group = group_of(workspace, llama, rewards)
    result = compute(workspace, "reward.advantage", group)
    assert np.isnan(column(result, "advantage")).all()
    noted = {r["rollout"] for r in result.notes.to_pylist() if r["column"] == "advantage"}
    assert noted == {0, 1, 2, 3}
    for name, params in (("stapo", {"tau_h": 0.8}), ("d3s", {"rollouts": 2, "share": 0.5})):
        mark = {"stapo": "spurious", "d3s": "kept"}[name]
        other = compute(workspace, f"reward.{name}", group, llama, **params)
        assert np.isnan(column(other, mark)).all()
        told = {r["rollout"] for r in other.notes.to_pylist() if r["column"] == "advantage"}
        assert told == {0, 1, 2, 3}


def test_missing_rewards_are_judged(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama, (None, 0.25, None, None), expected="7")
    assert rewards_of(group).tolist() == [1.0, 0.25, 1.0, 0.0]
    assert np.isnan(rewards_of(group.evolve(expected=None))[[0, 2, 3]]).all()
    assert rewards_of(group, answer="9").tolist() == [0.0, 0.25, 0.0, 1.0]
    nowhere = group_of(workspace, llama, (None,), ("no idea",), expected="7")
    assert rewards_of(nowhere).tolist() == [0.0]  # as the trainers' reward functions do


def test_loss_mask_and_first_token(workspace: Workspace, llama: str) -> None:
    trace = traces(workspace, llama, ("abc",))[0]
    assert np.flatnonzero(trained_of(trace)).tolist() == list(range(len(trace) - 3, len(trace)))
    mask = [p != len(trace) - 2 for p in range(len(trace))]
    masked = trace.evolve(trainable=tuple(mask))
    assert np.flatnonzero(trained_of(masked)).tolist() == [len(trace) - 3, len(trace) - 1]
    bare = trace.evolve(response_start=0)
    assert np.flatnonzero(trained_of(bare)).tolist() == list(range(1, len(trace)))


# -- forking tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.01, 0.2, 0.5, 1.0])
def test_forking_marks_the_share(rho: float) -> None:
    entropy = np.random.default_rng(0).permutation(35) / 7  # distinct
    marks, threshold = forking_marks(entropy, rho)
    count = math.ceil(round(rho * 35, 9))
    assert marks.sum() == count
    assert threshold == np.sort(entropy)[-count]
    assert entropy[marks].min() >= entropy[~marks].max(initial=-1)


def test_forking_ties() -> None:
    entropy = np.array([1.0, 2.0, 1.0, 1.0, 0.5])
    marks, threshold = forking_marks(entropy, 0.4, "all")
    assert (marks.tolist(), threshold) == ([True, True, True, True, False], 1.0)
    marks, _ = forking_marks(entropy, 0.4, "first")
    assert marks.tolist() == [True, True, False, False, False]


def test_forking_of_a_file_is_one_population(
    workspace: Workspace, llama: str, tmp_path: Path
) -> None:
    """The threshold is over both prompts; entropies are those of the token, not of the next."""
    one = group_of(workspace, llama)
    two = group_of(workspace, llama, (1.0, 0.0), ("zzzzqqq", "...!"), prompt_id="other")
    both = file_of(tmp_path / "r.jsonl", one, two)
    result = compute(workspace, "reward.forking", both, llama, rho=0.3)
    wanted = []
    for trace in (*one.rollouts, *two.rollouts):
        logs = log_softmax(logits64(llama, trace.ids))
        entropy = -(np.exp(logs) * logs).sum(-1)
        wanted.append(entropy[trace.response_start - 1 : -1])
    flat = np.concatenate(wanted)
    marks = column(result, "forking")
    inside = ~np.isnan(marks)
    np.testing.assert_allclose(column(result, "entropy")[inside], flat, atol=2e-5)
    count = math.ceil(0.3 * flat.size)
    assert marks[inside].sum() == count
    assert set(np.flatnonzero(marks[inside])) == set(np.argsort(-flat)[:count])
    (row,) = result.table("population").to_pylist()
    assert row["tokens"] == flat.size
    assert (row["rollouts"], row["groups"], row["missing"]) == (6, 2, 0)
    assert row["threshold"] == pytest.approx(np.sort(flat)[-count], abs=2e-5)
    assert sorted(set(column(result, "rollout"))) == list(range(6))
    assert set(result.table("tokens")["group"].to_pylist()) == {"sum", "other"}


def test_forking_from_a_log(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama)
    with pytest.raises(UserError, match="needs the entropy of the response tokens"):
        compute(workspace, "reward.forking", group)
    logged = [
        t.evolve(signals={"entropy": tuple(float(p % 5) for p in range(len(t)))})
        for t in group.rollouts
    ]
    partly = group.evolve(rollouts=(*logged[:3], group.rollouts[3]))
    result = compute(workspace, "reward.forking", partly)
    (row,) = result.table("population").to_pylist()
    assert row["rollouts"] == 3
    assert row["missing"] == len(group.rollouts[3]) - group.rollouts[3].response_start
    assert np.isnan(column(result, "forking")[column(result, "rollout") == 3]).all()
    assert any("have no entropy" in r["reason"] for r in result.notes.to_pylist())


# -- rules -------------------------------------------------------------------------------------


def test_clip_stops_exactly_what_has_no_gradient() -> None:
    """PPO's objective differentiated: zero gradient where, and only where, the rule drops."""
    rng = np.random.default_rng(1)
    log_ratio = rng.normal(0, 0.5, 400)
    advantage = rng.choice([-1.3, 0.7], 400)
    side = rules.clipped(log_ratio, advantage, 0.2, 0.28)
    r = torch.tensor(log_ratio, requires_grad=True)
    ratio, a = r.exp(), torch.tensor(advantage)
    torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a).sum().backward()
    np.testing.assert_array_equal(side != 0, (r.grad == 0).numpy())
    assert (side[side != 0] * advantage[side != 0] > 0).all()
    assert {-1.0, 0.0, 1.0} == set(side)


def test_dcpo_bounds_solve_their_equations() -> None:
    q = np.array([0.9, 0.5, 0.41, 0.1, 0.01, 1e-4])
    low, high = rules.dcpo_bounds(q, 0.1, 0.2)
    solvable = q >= 0.4  # 1 − 4 ε / q ≥ 0
    np.testing.assert_allclose((q * low * (1 - low))[solvable], 0.1, rtol=1e-9)
    assert (low[~solvable] == 0.5).all()
    free = high < rules.DCPO_HIGHEST
    np.testing.assert_allclose((q * high * (high - 1))[free], 0.2, rtol=1e-9)
    assert high[-1] == 10.0
    assert (np.diff(high) >= 0).all()  # rarer, wider


def test_dppo_as_in_prime_rl() -> None:
    """Cases of its own tests: masked only on the side of the advantage."""
    new, old = np.log([1.0, 1.0, 0.5, 0.5, 0.6]), np.log([0.5, 0.5, 1.0, 1.0, 0.5])
    advantage = np.array([1.0, -1.0, -1.0, 1.0, 1.0])
    assert rules.dppo(new, old, advantage, 0.2, 0.2).tolist() == [1.0, 0.0, -1.0, 0.0, 0.0]


def test_icepop_and_mismatch() -> None:
    ratio = np.array([0.49, 0.5, 1.0, 5.0, 5.01, np.nan])
    side = rules.outside(ratio, 0.5, 5.0)
    np.testing.assert_array_equal(side, [-1, 0, 0, 0, 1, np.nan])
    r = np.linspace(-2, 2, 9)
    kl = rules.mismatch_kl(r)
    np.testing.assert_allclose(kl, np.exp(r) - 1 - r, rtol=1e-9, atol=1e-15)
    assert kl[4] == 0
    assert (np.delete(kl, 4) > 0).all()


def _logged(workspace: Workspace, model: str, rewards=REWARDS) -> Group:
    """Ratios of ¼, ½, 1, 2 and 8 in turn, probability ½ when sampled, less where it must fit."""
    group = group_of(workspace, model, rewards)
    shifts = np.log([0.25, 0.5, 1, 2, 8])
    made = []
    for trace in group.rollouts:
        shift = shifts[np.arange(len(trace)) % 5]
        old = np.minimum(np.log(0.5), -shift)
        signals = {"trainer_logprob": tuple(old + shift), "inference_logprob": tuple(old)}
        made.append(trace.evolve(signals=signals))
    return group.evolve(rollouts=tuple(made))


def test_rules_of_a_log(workspace: Workspace, llama: str) -> None:
    group = _logged(workspace, llama)
    result = compute(workspace, "reward.rules", group, dcpo_low=0.1, dcpo_high=0.2)
    inside = response_rows(group)
    ratio, advantage = column(result, "ratio")[inside], column(result, "advantage")[inside]
    assert set(np.round(ratio, 9)) == {0.25, 0.5, 1.0, 2.0, 8.0}
    assert np.isnan(column(result, "ratio")[~inside]).all()
    clip = ((ratio > 1.2) & (advantage > 0)) | ((ratio < 0.8) & (advantage < 0))
    np.testing.assert_array_equal(column(result, "clip_dropped")[inside], clip)
    outside = (ratio < 0.5 - 1e-9) | (ratio > 5)
    np.testing.assert_array_equal(column(result, "icepop_dropped")[inside], outside)
    side = np.array(result.table("tokens")["icepop_side"].to_pylist())[inside]
    assert side.tolist() == [
        "low" if r < 0.4 else "high" if r > 5 else None for r in ratio.tolist()
    ]
    drops = {row["rule"]: row for row in result.table("drops").to_pylist()}
    assert set(drops) == {"clip", "dcpo", "icepop", "dppo"}
    assert drops["clip"]["dropped"] == clip.sum() == drops["clip"]["high"] + drops["clip"]["low"]
    assert drops["icepop"]["share"] == pytest.approx(outside.mean())
    assert drops["dcpo"]["tokens"] == inside.sum()


def test_dcpo_waits_for_its_thresholds(workspace: Workspace, llama: str) -> None:
    group = _logged(workspace, llama)
    result = compute(workspace, "reward.rules", group)
    assert np.isnan(column(result, "dcpo_dropped")).all()
    assert any("set dcpo_low" in r["reason"] for r in result.notes.to_pylist())
    assert [row["rule"] for row in result.table("drops").to_pylist()] == ["clip", "icepop", "dppo"]
    with pytest.raises(UserError, match="set dcpo_low and dcpo_high"):
        compute(workspace, "reward.rules", group, dcpo_low=0.1)


def test_rules_without_direction(workspace: Workspace, llama: str) -> None:
    """All right: nothing to clip, so nothing is said; IcePop needs no advantage."""
    group = _logged(workspace, llama, (1.0,) * 4)
    result = compute(workspace, "reward.rules", group)
    assert np.isnan(column(result, "clip_dropped")).all()
    assert np.nansum(column(result, "icepop_dropped")) > 0
    drops = {row["rule"]: row for row in result.table("drops").to_pylist()}
    assert drops["clip"]["tokens"] == 0
    assert drops["clip"]["share"] is None
    # A log's own advantages win.
    own = [t.evolve(signals={**t.signals, "advantage": (2.0,) * len(t)}) for t in group.rollouts]
    result = compute(workspace, "reward.rules", group.evolve(rollouts=tuple(own)))
    assert set(column(result, "advantage")[response_rows(group)]) == {2.0}
    assert np.nansum(column(result, "clip_dropped")) > 0


def test_rules_of_two_models(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama)
    with pytest.raises(UserError, match="two log-probabilities of each token"):
        compute(workspace, "reward.rules", group)
    old = str(tiny_folder("llama", 1))
    result = compute(workspace, "reward.rules", group, {"model": llama, "old": old})
    wanted = []
    for trace in group.rollouts:
        ids = list(trace.ids)
        rows = np.arange(trace.response_start - 1, len(ids) - 1)
        now, then = (log_softmax(logits64(f, ids))[rows, ids[rows[0] + 1 :]] for f in (llama, old))
        wanted.append(now - then)
    found = column(result, "log_ratio")[response_rows(group)]
    np.testing.assert_allclose(found, np.concatenate(wanted), atol=2e-4)
    same = compute(workspace, "reward.rules", group, {"model": llama, "old": llama})
    assert set(column(same, "ratio")[response_rows(group)]) == {1.0}
    assert all(row["dropped"] == 0 for row in same.table("drops").to_pylist())
