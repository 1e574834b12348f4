"""The matrix of signals, the weights to take home, and the example that trains with them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet
import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM

from engine import cli
from engine.errors import UserError
from engine.export import export_file
from engine.registry import analyses
from engine.reward import agreement
from engine.reward.grpo import advantages
from engine.reward.weights import RECIPES
from engine.workspace import Workspace
from tests.engine.reward.signal_groups import (
    REWARDS,
    column,
    compute,
    file_of,
    group_of,
    response_rows,
)

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "weighted_loss.py"
CHOICES = {
    "delta": {"gamma": "std"},
    "d3s": {"rollouts": 2, "share": 0.5},
    "stapo": {"tau_h": 0.8},
}
MODEL_FREE = ("surprisal", "entropy", "|advantage| × entropy")


# -- agreement ---------------------------------------------------------------------------------


def test_spearman_is_scipys_and_overlap_is_counted() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 6, 200).astype(float), rng.normal(0, 1, 200)
    other += one  # ties in one of them
    assert agreement.spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert agreement.spearman(one, -one) == pytest.approx(-1)
    assert np.isnan(agreement.spearman(one, np.ones(200)))
    a, b = np.arange(10.0), np.array([9, 1, 2, 3, 4, 5, 6, 7, 0, 8.0])
    assert agreement.top_overlap(a, a, 0.2) == 1
    assert agreement.top_overlap(a, b, 0.2) == 0.5  # {8, 9} and {0, 9}
    missing = b.copy()
    missing[9] = np.nan
    # Nine tokens have both: the top two of them are {7, 8} and {0, 7}.
    assert agreement.compare(a, missing, 0.2)[::2] == (9, 0.5)
    assert np.isnan(agreement.compare(a[:2], b[:2], 0.2)[1])


def test_matrix_of_a_group(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama)
    result = compute(workspace, "reward.agreement", group, llama, gamma="std")
    n = int(response_rows(group).sum())
    rows = {(r["signal"], r["other"]): r for r in result.table("matrix").to_pylist()}
    names = [r["signal"] for r in result.table("signals").to_pylist()]
    assert {"|THR|", "|NTHR|", "|influence|", "DelTA λ", "TW-GRPO weight"} <= set(names)
    assert len(rows) == len(names) ** 2
    for one in names:
        assert rows[one, one]["spearman"] == pytest.approx(1)
        assert rows[one, one]["overlap"] == 1
        for other in names:
            assert rows[one, other] == {**rows[other, one], "signal": one, "other": other}
    assert rows["entropy", "surprisal"]["tokens"] == n
    wrong = sum(
        len(t) - t.response_start for t, r in zip(group.rollouts, REWARDS, strict=True) if r == 0
    )
    assert rows["|NTHR|", "entropy"]["tokens"] == wrong
    # By hand: THR against surprisal, over the response tokens of all rollouts.
    thr = np.abs(column(compute(workspace, "reward.thr", group, llama), "thr"))
    inside = response_rows(group)
    stats = compute(workspace, "statistics", group, llama)
    surprisal = column(stats, "surprisal")
    wanted = spearmanr(thr[inside], surprisal[inside]).statistic
    assert rows["|THR|", "surprisal"]["spearman"] == pytest.approx(wanted, abs=1e-9)
    k = int(np.ceil(0.2 * n))
    tops = [set(np.argsort(-v[inside], kind="stable")[:k]) for v in (thr, surprisal)]
    assert rows["|THR|", "surprisal"]["overlap"] == pytest.approx(len(tops[0] & tops[1]) / k)


def test_what_cannot_take_part_is_noted(
    workspace: Workspace, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = group_of(workspace, llama)
    known = {name: a for name, a in analyses().items() if name != "reward.thr"}
    monkeypatch.setattr(agreement, "analyses", lambda: known)
    result = compute(workspace, "reward.agreement", group, llama)
    reasons = [r["reason"] for r in result.notes.to_pylist() if r["table"] == "signals"]
    assert any("has no reward.thr" in r for r in reasons)
    assert any("set gamma=std" in r for r in reasons)
    names = [r["signal"] for r in result.table("signals").to_pylist()]
    assert "|THR|" not in names
    assert "DelTA λ" not in names
    logged = group.evolve(
        rollouts=tuple(
            t.evolve(
                signals={
                    "entropy": tuple(float(p) for p in range(len(t))),
                    "logprob": tuple(-1.0 / (p + 1) for p in range(len(t))),
                }
            )
            for t in group.rollouts
        )
    )
    bare = compute(workspace, "reward.agreement", logged)
    assert tuple(r["signal"] for r in bare.table("signals").to_pylist()) == MODEL_FREE
    flat = compute(workspace, "reward.agreement", group.evolve(rewards=(1.0,) * 4), llama)
    rows = {(r["signal"], r["other"]): r for r in flat.table("matrix").to_pylist()}
    assert rows["|advantage| × entropy", "entropy"]["spearman"] is None
    assert any("too few tokens" in r["reason"] for r in flat.notes.to_pylist())


# -- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe(workspace: Workspace, llama: str, recipe: str) -> None:
    group = group_of(workspace, llama)
    result = compute(
        workspace, "reward.weights", group, llama, recipe=recipe, **CHOICES.get(recipe, {})
    )
    table = result.table("weights")
    assert table["token_id"].to_pylist() == [i for t in group.rollouts for i in t.ids]
    inside = response_rows(group)
    mask, weight = column(result, "mask") == 1, column(result, "weight")
    given = column(result, "advantage")
    assert not mask[~inside].any()
    assert np.isnan(weight[~inside]).all()
    assert np.isfinite(weight[mask]).all()
    assert np.isfinite(given[mask]).all()
    (row,) = result.table("summary").to_pylist()
    assert (row["tokens"], row["in_loss"]) == (inside.sum(), mask.sum())
    plain = np.repeat(advantages(REWARDS), [len(t) for t in group.rollouts])
    if recipe not in ("hapo", "ucas"):
        np.testing.assert_allclose(given[inside], plain[inside])
    own = compute(
        workspace,
        RECIPES[recipe].analysis,
        group,
        None if recipe == "advantage" else llama,
        **CHOICES.get(recipe, {}),
        **({"influence": False} if recipe in ("thr", "nthr") else {}),
    )
    if recipe == "thr":
        np.testing.assert_allclose(
            (weight * given)[inside], column(own, "reweighted_advantage")[inside]
        )
    elif recipe == "nthr":
        np.testing.assert_allclose((weight * given)[inside], column(own, "nthr_advantage")[inside])
    elif recipe in ("hapo", "ucas"):
        np.testing.assert_array_equal(given[inside], column(own, "advantage")[inside])
        assert set(weight[inside]) == {1.0}
    elif recipe == "forking":
        np.testing.assert_array_equal(weight[inside], column(own, "forking")[inside])
        assert 0 < row["zero"] < row["tokens"]
    elif recipe in ("d3s", "stapo"):
        kept = column(own, "kept") == 1 if recipe == "d3s" else column(own, "spurious") == 0
        np.testing.assert_array_equal(mask, kept)
    elif recipe in ("delta", "twgrpo"):
        np.testing.assert_array_equal(weight[inside], column(own, "weight")[inside])


def test_choices_are_passed_on(workspace: Workspace, llama: str) -> None:
    group = group_of(workspace, llama)
    for recipe, sentence in (("delta", "gamma=std"), ("stapo", "tau_h=0"), ("d3s", "rollouts=8")):
        with pytest.raises(UserError, match=sentence):
            compute(workspace, "reward.weights", group, llama, recipe=recipe)
    explore, exploit = (
        compute(workspace, "reward.weights", group, llama, recipe="thr", p=p, beta=0)
        for p in (-0.4, 0.4)
    )
    inside = response_rows(group)
    total = column(explore, "weight")[inside] + column(exploit, "weight")[inside]
    dominant = column(compute(workspace, "reward.thr", group, llama, beta=0), "above_threshold")
    np.testing.assert_allclose(total, 2 * dominant[inside])


def test_groups_without_direction_leave_the_loss(
    workspace: Workspace, llama: str, tmp_path: Path
) -> None:
    one = group_of(workspace, llama)
    right = group_of(workspace, llama, (1.0, 1.0), ("Answer: 7", "Answer: 7!"), prompt_id="easy")
    both = file_of(tmp_path / "r.jsonl", one, right)
    for recipe in ("forking", "thr"):
        result = compute(workspace, "reward.weights", both, llama, recipe=recipe)
        rollout, mask = column(result, "rollout"), column(result, "mask") == 1
        assert mask[rollout < 4].any()
        assert not mask[rollout >= 4].any()
        assert np.isnan(column(result, "weight")[rollout >= 4]).all()
        noted = {r["rollout"] for r in result.notes.to_pylist() if r["rollout"] is not None}
        assert noted == {4, 5}


def test_command_line_writes_the_recipe(
    tmp_path: Path, workspace: Workspace, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    file_of(tmp_path / "r.jsonl", group_of(workspace, llama))
    out = tmp_path / "w.parquet"
    argv = ["run", "reward.weights", "--model", llama, "--rollouts", str(tmp_path / "r.jsonl")]
    argv += ["--set", "recipe=forking", "--set", "rho=0.5", "--table", "weights", "--quiet"]
    assert cli.main([*argv, "--out", str(out)]) == 0
    metadata = json.loads(pyarrow.parquet.read_schema(out).metadata[b"tokenscope"])
    assert metadata["provenance"]["params"]["recipe"] == "forking"
    assert metadata["provenance"]["params"]["rho"] == 0.5
    assert metadata["provenance"]["models"]["model"]["fingerprint"]


# -- the example -------------------------------------------------------------------------------


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("weighted_loss", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["weighted_loss"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def test_the_example_trains(
    workspace: Workspace, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = example()
    group = group_of(workspace, llama)
    out = tmp_path / "w.parquet"
    result = compute(workspace, "reward.weights", group, llama, recipe="thr", p=0.5)
    export_file(result, "weights", out)
    provenance, sequences = module.load(out)
    assert provenance["params"]["p"] == 0.5
    assert [s.ids.tolist() for s in sequences] == [list(t.ids) for t in group.rollouts]
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64)
    # On policy the gradient is −Σ w A ∇ log p / N over the tokens of the loss.
    model.requires_grad_(True)
    loss = module.weighted_loss(model, sequences)
    (found,) = torch.autograd.grad(loss, model.lm_head.weight)
    total, count = torch.zeros(()), 0
    weight, given = column(result, "weight"), column(result, "advantage")
    start = 0
    for trace in group.rollouts:
        logp = model(input_ids=torch.tensor([trace.ids])).logits[0].log_softmax(-1)
        for t in range(trace.response_start, len(trace)):
            total = total - weight[start + t] * given[start + t] * logp[t - 1, trace.ids[t]]
            count += 1
        start += len(trace)
    (wanted,) = torch.autograd.grad(total / count, model.lm_head.weight)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    # A step lowers the loss taken with the old ratios: it does what it was weighed for.
    old = [module.logprobs(model, s.ids).detach() for s in sequences]
    before = float(module.weighted_loss(model, sequences, old).detach())
    module.step(model, sequences, 1e-3)
    assert float(module.weighted_loss(model, sequences, old).detach()) < before
    assert module.main([str(out), "--model", llama]) == 0
    assert "recipe thr, 4 rollouts" in capsys.readouterr().out


@pytest.mark.slow
def test_the_example_runs_by_itself(tmp_path: Path) -> None:
    """Without a file: weights of the bundled group, one step on the bundled model, no network."""
    environment = {"TOKENSCOPE_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "recipe thr" in done.stdout
    assert "raised: mean log p" in done.stdout


def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys, engine; known = engine.analyses();"
        "print([n for n in known if n.startswith('reward.')], 'torch' in sys.modules,"
        " 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False False")
    for name in RECIPES.values():
        assert name.analysis in done.stdout
