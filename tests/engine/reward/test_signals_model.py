"""STAPO, SPINE, HAPO, D³S, UCAS, TW-GRPO and DelTA: identities, brute force, hand-made cases."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.errors import UserError
from engine.reward import d3s, delta, hapo, spine, stapo, twgrpo, ucas
from engine.reward.grpo import advantages
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
)
from tests.engine.tiny import VOCABULARY, tiny_folder

RNG = np.random.default_rng(7)


def parts(folder: str, group) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per rollout: logits before its response tokens, and their ids."""
    found = []
    for trace in group.rollouts:
        logits = logits64(folder, trace.ids)[trace.response_start - 1 : -1]
        found.append((logits, np.array(trace.ids[trace.response_start :])))
    return found


# -- STAPO -------------------------------------------------------------------------------------


def test_gradient_norm_is_the_gradients() -> None:
    logits = torch.tensor(RNG.normal(0, 2, (6, 11)), requires_grad=True)
    target, advantage = torch.tensor([0, 3, 3, 10, 5, 1]), RNG.normal(0, 1, 6)
    logp = logits.log_softmax(-1)
    chosen = logp.gather(1, target[:, None])[:, 0]
    (torch.tensor(advantage) * chosen).sum().backward()
    p = logp.exp().detach().numpy()
    found = stapo.gradient_norm2(advantage, p[np.arange(6), target], (p**2).sum(-1))
    np.testing.assert_allclose(found, (logits.grad**2).sum(-1), rtol=1e-10)


def test_gradient_bounds_hold() -> None:
    p = RNG.dirichlet(np.full(50, 0.1), 2000)
    p = np.maximum(p, 1e-300)
    y = RNG.integers(0, 50, 2000)
    entropy = -(p * np.log(p)).sum(-1)
    own, ones = p[np.arange(2000), y], np.ones(2000)
    exact = stapo.gradient_norm2(ones, own, (p**2).sum(-1))
    low, high = stapo.gradient_bounds(ones, own, entropy, 50)
    assert (low <= exact + 1e-9).all()
    assert (exact <= high + 1e-9).all()


def test_spurious_tokens_by_hand() -> None:
    nan = np.nan
    advantage = np.array([1.0, 0.1, 1.0, 1.0, -1.0, 0.0, nan])
    p = np.array([0.001, 0.001, 0.001, 0.002, 0.001, 0.001, 0.001])
    entropy = np.array([0.1, 0.1, 0.5, 0.1, 0.1, 0.1, 0.1])
    found = stapo.spurious(advantage, p, entropy, 0.002, 0.5)
    np.testing.assert_array_equal(found, [1, 1, 0, 0, 0, 0, nan])


def test_stapo_choice_and_population(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama)
    with pytest.raises(UserError, match=r"set tau_h=0\.2 or tau_h=0\.8"):
        compute(workspace, "reward.stapo", group, llama)
    result = compute(workspace, "reward.stapo", group, llama, tau_h=0.8, tau_p=0.01)
    stats = [log_softmax(z) for z, _ in parts(llama, group)]
    entropy = np.concatenate([-(np.exp(s) * s).sum(-1) for s in stats])
    p = np.concatenate(
        [
            np.exp(s[np.arange(len(y)), y])
            for s, (_, y) in zip(stats, parts(llama, group), strict=True)
        ]
    )
    lengths = [len(s) for s in stats]
    adv = np.repeat(advantages(REWARDS), lengths)
    threshold = np.quantile(entropy, 0.8)
    wanted = (adv > 0) & (p < 0.01) & (entropy < threshold)
    assert 0 < wanted.sum() < wanted.size
    inside = response_rows(group)
    np.testing.assert_array_equal(column(result, "spurious")[inside], wanted)
    (masked,) = result.table("masked").to_pylist()
    assert (masked["masked"], masked["kept"]) == (wanted.sum(), wanted.size - wanted.sum())
    (row,) = result.table("population").to_pylist()
    assert row["threshold"] == pytest.approx(threshold, abs=1e-5)
    sum_p2 = np.concatenate([(np.exp(2 * s)).sum(-1) for s in stats])
    np.testing.assert_allclose(
        column(result, "gradient")[inside], adv**2 * (1 - 2 * p + sum_p2), atol=1e-5
    )


# -- SPINE -------------------------------------------------------------------------------------


def test_spine_band_and_majority() -> None:
    low, high = spine.band_losses(np.array([0.0, 0.5, 0.7, 1.0, 3.0]), 0.5, 1.0)
    assert low.tolist() == [0.5, 0, 0, 0, 0]
    assert high.tolist() == [0, 0, 0, 0, 2]
    assert spine.majority_of(["7", "7.0", "8", None]) == ("7", 2)
    assert spine.majority_of(["7", "8"]) == (None, 1)
    assert spine.majority_of([None]) == (None, 0)


def test_spine_of_a_group(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama)
    result = compute(workspace, "reward.spine", group, llama)
    marks, entropy = column(result, "fork"), column(result, "entropy")
    rollout = column(result, "rollout")
    for index, trace in enumerate(group.rollouts):
        own = marks[rollout == index]
        n = len(trace) - trace.response_start
        assert np.nansum(own) == math.ceil(0.2 * n)
        assert np.isnan(own[: trace.response_start]).all()
    forks = entropy[marks == 1]
    low, high = (row["threshold"] for row in result.table("population").to_pylist())
    assert (low, high) == pytest.approx(tuple(np.quantile(forks, (0.1, 0.5))))
    np.testing.assert_allclose(column(result, "too_low")[marks == 1], np.maximum(0, low - forks))
    assert np.isnan(column(result, "too_high")[marks != 1]).all()
    rows = result.table("rollouts").to_pylist()
    assert [r["answer"] for r in rows] == ["7", "8, so", "7", "9"]
    assert [r["majority_reward"] for r in rows] == [1.0, 0.0, 1.0, 0.0]
    two = group_of(workspace, llama, (1.0, 0.0), ("Answer: 1", "Answer: 2"))
    result = compute(workspace, "reward.spine", two, llama)
    assert {r["majority_reward"] for r in result.table("rollouts").to_pylist()} == {None}
    assert any("most votes" in r["reason"] for r in result.notes.to_pylist())


# -- HAPO --------------------------------------------------------------------------------------


def test_hapo_h_has_the_intended_range_and_sign() -> None:
    entropy = RNG.gamma(1, 1, 101)
    h, pivot = hapo.scaled_entropy(entropy, 0.8)
    assert (h.min(), h.max()) == (-1.0, 1.0)
    order = np.argsort(entropy)
    assert (np.diff(h[order]) > 0).all()  # the printed formula is not monotone
    assert pivot == pytest.approx(np.sort(entropy)[80])
    assert h[order[80]] == 0
    # The deviation that the paper divides by cancels: any unit gives the same.
    again, _ = hapo.scaled_entropy(entropy**3, 0.8)
    np.testing.assert_allclose(again, h, atol=1e-9)
    constant, _ = hapo.scaled_entropy(np.full(5, 0.3), 0.8)
    assert constant.tolist() == [0.0] * 5


def test_hapo_token_norm_sums_to_zero() -> None:
    rewards, lengths = np.array([1.0, 0.0, 0.5, np.nan]), np.array([3.0, 10.0, 1.0, 7.0])
    found = hapo.token_advantages(rewards, lengths, 0.0)
    spread = np.repeat(rewards[:3], lengths[:3].astype(int))
    np.testing.assert_allclose(
        np.repeat(found[:3], lengths[:3].astype(int)), (spread - spread.mean()) / spread.std()
    )
    assert abs((found[:3] * lengths[:3]).sum()) < 1e-12
    assert np.isnan(found[3])


def test_hapo_cases_by_hand() -> None:
    h = np.array([0.5, 0.5, -0.5, -0.5])
    ratio = np.array([1.0, 1.3, 1.0, 1.3])
    found = hapo.adapted(np.full(4, 2.0), h, ratio, 0.2, 0.28)
    assert found.tolist() == [2.0, 3.0, 1.0, 2.0]
    low, high = hapo.clip_ranges(h, 0.2, 0.28)
    np.testing.assert_allclose(low, [0.2, 0.2, 0.3, 0.3])
    np.testing.assert_allclose(high, [0.42, 0.42, 0.28, 0.28])


def test_hapo_of_a_group(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama)
    result = compute(workspace, "reward.hapo", group, llama)
    inside = response_rows(group)
    h, base = column(result, "h")[inside], column(result, "token_advantage")[inside]
    assert abs(base.sum()) < 1e-9
    assert set(column(result, "ratio")[inside]) == {1.0}
    # On policy only the sure tokens change.
    wanted = np.where(h > 0, base, base * (1 + h))
    np.testing.assert_allclose(column(result, "advantage")[inside], wanted)
    assert any("1 is taken" in r["reason"] for r in result.notes.to_pylist())
    flat = compute(workspace, "reward.hapo", group.evolve(rewards=(1.0,) * 4), llama)
    assert np.isnan(column(flat, "advantage")).all()


# -- D³S ---------------------------------------------------------------------------------------


def test_widest_subset_by_brute_force() -> None:
    for _ in range(60):
        n = int(RNG.integers(2, 9))
        values = RNG.choice([-1.4, -0.3, 0.0, 0.6, 2.0], n) + RNG.normal(0, 0.01, n)
        for size in range(1, n + 1):
            marks = d3s.widest_subset(values, size)
            assert marks.sum() == size
            best = max(np.var(values[list(c)]) for c in itertools.combinations(range(n), size))
            assert np.var(values[marks]) == pytest.approx(best, abs=1e-9)


def test_d3s_of_a_group(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama, (1.0, 0.0, 0.5, 0.4))
    with pytest.raises(UserError, match="set rollouts=8"):
        compute(workspace, "reward.d3s", group, llama, share=0.2)
    with pytest.raises(UserError, match=r"set share=0\.2"):
        compute(workspace, "reward.d3s", group, llama, rollouts=2)
    result = compute(workspace, "reward.d3s", group, llama, rollouts=2, share=0.25)
    assert [r["kept"] for r in result.table("rollouts").to_pylist()] == [True, True, False, False]
    score, kept = column(result, "score"), column(result, "kept")
    np.testing.assert_allclose(
        score, np.abs(column(result, "advantage")) * column(result, "entropy")
    )
    pool = np.flatnonzero((column(result, "rollout") < 2) & ~np.isnan(score))
    best = pool[np.argsort(-score[pool])[: math.ceil(0.25 * pool.size)]]
    assert set(np.flatnonzero(kept == 1)) == set(best)
    assert (kept[response_rows(group)] >= 0).all()


# -- UCAS --------------------------------------------------------------------------------------


def test_ucas_of_a_group(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama)
    result = compute(workspace, "reward.ucas", group, llama)
    inside = response_rows(group)
    certainties, logits = [], []
    for z, y in parts(llama, group):
        p = np.exp(log_softmax(z))
        # KL(U ‖ p) + log V, the identity of self-certainty.
        kl = (1 / VOCABULARY * (np.log(1 / VOCABULARY) - np.log(p))).sum(-1)
        certainties.append(kl + math.log(VOCABULARY))
        logits.append(z[np.arange(len(y)), y])
    np.testing.assert_allclose(
        column(result, "self_certainty")[inside], np.concatenate(certainties), atol=2e-4
    )
    flat = np.concatenate(logits)
    np.testing.assert_allclose(column(result, "logit")[inside], flat, atol=2e-4)
    sums = torch.tensor([c.sum() for c in certainties])
    z = ((sums - sums.mean()) / (sums.std() + 1e-6)).numpy()
    adv = advantages(REWARDS)
    factor = np.where(adv > 0, np.exp(-0.25 * z), np.exp(0.35 * z))
    whole = np.repeat(adv * factor, [len(c) for c in certainties])
    raw = whole - 0.05 * (flat - flat.min()) / (flat.max() - flat.min())
    wanted = np.where(whole > 0, np.maximum(raw, 0), raw)
    np.testing.assert_allclose(column(result, "advantage")[inside], wanted, atol=1e-3)
    rows = result.table("rollouts").to_pylist()
    np.testing.assert_allclose([r["factor"] for r in rows], factor, atol=1e-3)


def test_ucas_edges() -> None:
    assert np.isnan(ucas.z_scores(np.array([3.0, np.nan]))).all()
    assert ucas.min_max(np.array([2.0, 2.0])).tolist() == [0.0, 0.0]
    assert ucas.min_max(np.array([2.0, np.nan, 4.0]))[[0, 2]].tolist() == [0.0, 1.0]
    found = ucas.bent(np.array([0.01, -1.0]), np.ones(2), np.ones(2), 0.05)
    assert found.tolist() == [0.0, -1.05]


# -- TW-GRPO -----------------------------------------------------------------------------------


def test_disagreement_is_zero_only_for_equals() -> None:
    logps = log_softmax(RNG.normal(0, 1, (1, 4, 9)))
    none = twgrpo.disagreement(np.repeat(logps, 3, axis=0))
    np.testing.assert_allclose(none, 0, atol=1e-25)
    assert twgrpo.place_weights(none, 1.7).tolist() == [1.0] * 4  # no noise is blown up
    other = np.concatenate([logps, log_softmax(RNG.normal(0, 1, (1, 4, 9)))])
    assert (twgrpo.disagreement(other) > 0).all()
    assert twgrpo.place_weights(np.array([1.0, 3.0, 2.0]), 1.7).tolist() == [1.0, 1.7, 1.35]
    assert twgrpo.place_weights(np.zeros(3), 1.7).tolist() == [1.0] * 3


def test_twgrpo_by_brute_force(
    workspace: Workspace, llama: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    group = group_of(workspace, llama)
    longest = max(len(t) - t.response_start for t in group.rollouts)
    k = np.zeros(longest)
    whole = np.full((4, longest, VOCABULARY), -math.log(VOCABULARY))  # uniform after the end
    for i, (z, _) in enumerate(parts(llama, group)):
        whole[i, : len(z)] = log_softmax(z)
    for t in range(longest):
        mean = whole[:, t].mean(0)
        for i in range(4):
            d = np.clip(mean - whole[i, t], -11, 11)
            k[t] += (np.exp(d) - d - 1).sum() / 4
    result = compute(workspace, "reward.twgrpo", group, llama)
    np.testing.assert_allclose(column(result, "disagreement", "places"), k, rtol=2e-4)
    weights = 1 + 0.7 * (k - k.min()) / (k.max() - k.min())
    inside = response_rows(group)
    wanted = np.concatenate([weights[: len(t) - t.response_start] for t in group.rollouts])
    np.testing.assert_allclose(column(result, "weight")[inside], wanted, atol=1e-3)
    assert np.isnan(column(result, "weight")[~inside]).all()
    assert column(result, "running", "places")[-1] == 1
    # A few places at a time give the same.
    monkeypatch.setattr(twgrpo, "CHUNK_BYTES", 8 * VOCABULARY * 4 * 3)
    with Workspace(tmp_path / "other") as other:
        again = compute(other, "reward.twgrpo", group, llama)
    np.testing.assert_allclose(
        column(again, "disagreement", "places"), column(result, "disagreement", "places"), rtol=1e-6
    )


def test_twgrpo_of_one_response(workspace: Workspace, llama: str) -> None:
    result = compute(workspace, "reward.twgrpo", group_of(workspace, llama, (1.0,), ("x",)), llama)
    assert np.isnan(column(result, "weight")).all()
    assert any("nothing to disagree" in r["reason"] for r in result.notes.to_pylist())


# -- DelTA -------------------------------------------------------------------------------------


def dense(folder: str, group) -> np.ndarray:
    """v = g hᵀ of every response token, flattened, [N, V · D], float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    found = []
    for trace in group.rollouts:
        with torch.no_grad():
            out = model.model(torch.tensor([list(trace.ids)]))
        hidden = out.last_hidden_state[0].numpy()[trace.response_start - 1 : -1]
        p = np.exp(log_softmax(hidden @ model.lm_head.weight.detach().numpy().T))
        y = np.array(trace.ids[trace.response_start :])
        g = -p
        g[np.arange(len(y)), y] += 1
        found.append((g[:, :, None] * hidden[:, None, :]).reshape(len(y), -1))
    return np.concatenate(found)


def brute_delta(v: np.ndarray, adv: np.ndarray, gamma: str, steps: int) -> tuple:
    """DelTA as its text says it, with all gradients held."""
    alpha, used, before = np.ones(len(v)), None, None
    for _ in range(steps + 1):
        mus = [
            np.average(v[side], axis=0, weights=(np.abs(adv) * alpha)[side])
            for side in (adv > 0, adv < 0)
        ]
        d = [((v - mu) ** 2).sum(-1) for mu in mus]
        margin = np.where(adv > 0, d[1] - d[0], d[0] - d[1])
        spread = np.std if gamma == "std" else lambda m: np.abs(m).mean()
        now = [spread(margin[side]) for side in (adv > 0, adv < 0)]
        used, before = before or now, now
        alpha = 1 / (1 + np.exp(-margin / np.where(adv > 0, *used)))
    return margin, np.where(adv > 0, *d), alpha, used, ((mus[0] - mus[1]) ** 2).sum()


@pytest.mark.parametrize(("gamma", "steps"), [("std", 1), ("mean_abs", 1), ("std", 0), ("std", 2)])
def test_delta_by_brute_force(workspace: Workspace, llama: str, gamma: str, steps: int) -> None:
    group = group_of(workspace, llama, (1.0, 0.0, 0.75, 0.0))
    v = dense(llama, group)
    adv = np.repeat(advantages(group.rewards), [len(t) - t.response_start for t in group.rollouts])
    margin, own, alpha, used, apart = brute_delta(v, adv, gamma, steps)
    result = compute(workspace, "reward.delta", group, llama, gamma=gamma, steps=steps)
    inside = response_rows(group)
    scale = np.abs(margin).max()
    np.testing.assert_allclose(column(result, "margin")[inside], margin, atol=1e-4 * scale)
    np.testing.assert_allclose(column(result, "own_distance2")[inside], own, rtol=1e-3)
    np.testing.assert_allclose(column(result, "assignment")[inside], alpha, atol=1e-3)
    wanted = 0.8 + 0.4 * alpha
    found = column(result, "weight")[inside]
    np.testing.assert_allclose(found, wanted / wanted.mean(), atol=1e-3)
    assert found.mean() == pytest.approx(1)
    (row,) = result.table("groups").to_pylist()
    assert (row["gamma_positive"], row["gamma_negative"]) == pytest.approx(tuple(used), rel=1e-3)
    assert row["apart2"] == pytest.approx(apart, rel=1e-3)


def test_delta_of_identical_sides_is_one_half(workspace: Workspace, llama: str) -> None:
    """γ adapts to the margins, so it must not blow up their rounding."""
    v = np.tile(RNG.normal(0, 1, (5, 6)), (2, 1))
    adv = np.repeat([1.0, -1.0], 5)
    rows = SimpleNamespace(pull=lambda w: v @ (w @ v))
    found = delta.assigned(rows, (v**2).sum(-1), adv, "std", 1.0, 1)
    assert set(found.margin) == {0.0}
    assert set(found.assignment) == {0.5}
    assert found.apart2 == pytest.approx(0, abs=1e-12)
    twins = group_of(workspace, llama, (1.0, 0.0), ("Answer: 7", "Answer: 7"))
    result = compute(workspace, "reward.delta", twins, llama, gamma="std")
    inside = response_rows(twins)
    assert set(column(result, "assignment")[inside]) == {0.5}
    np.testing.assert_allclose(column(result, "weight")[inside], 1)


def test_delta_choices_and_limits(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama)
    with pytest.raises(UserError, match="set gamma=std"):
        compute(workspace, "reward.delta", group, llama)
    with pytest.raises(UserError, match="lambda_max at least to lambda_min"):
        compute(workspace, "reward.delta", group, llama, gamma="std", lambda_min=2)
    flat = compute(workspace, "reward.delta", group.evolve(rewards=(0.0,) * 4), llama, gamma="std")
    assert np.isnan(column(flat, "weight")).all()
    assert any("one side" in r["reason"] for r in flat.notes.to_pylist())
    capped = str(tiny_folder("gemma2"))
    with pytest.raises(UserError, match="plain matrix product"):
        compute(workspace, "reward.delta", group_of(workspace, capped), capped, gamma="std")


def test_files_of_groups(workspace: Workspace, llama: str, tmp_path: Path) -> None:
    """DelTA and TW-GRPO look at each prompt alone: a file gives the same as its groups."""
    one = group_of(workspace, llama)
    two = group_of(workspace, llama, (0.0, 1.0), ("abc", "Answer: 7"), prompt_id="other")
    both = file_of(tmp_path / "r.jsonl", one, two)
    for name, params in (("delta", {"gamma": "std"}), ("twgrpo", {})):
        whole = compute(workspace, f"reward.{name}", both, llama, **params)
        single = [compute(workspace, f"reward.{name}", g, llama, **params) for g in (one, two)]
        np.testing.assert_array_equal(
            column(whole, "weight"), np.concatenate([column(r, "weight") for r in single])
        )
