"""Contrastive scores: by brute force in float64, to the position, at their limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine import cli, gallery
from engine.critical import pairs
from engine.critical.pairs import BASE, COLUMNS, PAIR
from engine.encode import encode_text, trace_from_ids
from engine.errors import UserError
from engine.registry import Params, analyses, analysis
from engine.result import Request, Result
from engine.running import run
from engine.schema import Table
from engine.subjects import Group, Text, Trace
from engine.workspace import Workspace
from tests.engine.tiny import BOS, VOCABULARY, save_tokenizer, tiny_folder, tiny_model

TEXT = Text(prompt="Why?\n", response="Because it is so.")


def folders(family: str) -> dict[str, str]:
    return {
        "positive": str(tiny_folder(family)),
        "negative": str(tiny_folder(family, 1)),
        "model": str(tiny_folder(family, 2)),
    }


def contrast(workspace: Workspace, subject, models, **params) -> Result:
    return run(Request("critical.contrast", subject, models, params), workspace=workspace)[0]


def column(result: Result, name: str) -> np.ndarray:
    values = result.table("tokens")[name].to_pylist()
    return np.array([np.nan if v is None else v for v in values])


def logits64(folder: str, ids) -> np.ndarray:
    """Float64 logits of a model, [T, V] over real ids."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0, :, :VOCABULARY].numpy()


def brute(pos: np.ndarray, neg: np.ndarray, ids, beta: float) -> np.ndarray:
    """log of p⁺^(1 + β) / p⁻^β, normalised over all ids, of each token from 1 on."""
    p = np.exp(pos - pos.max(-1, keepdims=True))
    q = np.exp(neg - neg.max(-1, keepdims=True))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    odds = p ** (1 + beta) / q**beta
    share = odds / odds.sum(-1, keepdims=True)
    return np.log([share[t - 1, ids[t]] for t in range(1, len(ids))])


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_by_brute_force(workspace: Workspace, family: str, beta: float) -> None:
    """Among them a model with soft-caps, whose logits are no plain matrix product."""
    models = folders(family)
    result = contrast(workspace, TEXT, models, beta=beta)
    ids = result.table("tokens")["token_id"].to_pylist()
    pos, neg = (logits64(models[role], ids) for role in ("positive", "negative"))
    wanted = brute(pos, neg, ids, beta)
    found = column(result, "log_contrast")
    np.testing.assert_allclose(found[1:], wanted, atol=2e-4)
    np.testing.assert_allclose(column(result, "contrast")[1:], np.exp(wanted), atol=2e-5)
    own, other = brute(pos, pos, ids, 0), brute(neg, neg, ids, 0)
    np.testing.assert_allclose(column(result, "positive_logprob")[1:], own, atol=2e-4)
    np.testing.assert_allclose(column(result, "negative_logprob")[1:], other, atol=2e-4)
    np.testing.assert_allclose(column(result, "log_ratio")[1:], own - other, atol=2e-4)
    # The value is of the prediction of a token, not of the one after it.
    assert np.abs(found[2:] - wanted[:-1]).max() > 0.5
    assert np.isnan(found[0])
    assert np.isnan([column(result, name)[0] for name in COLUMNS]).all()


def test_limits(workspace: Workspace) -> None:
    """A model against itself gives p(y), β = 0 the positive model alone."""
    models = folders("llama")
    alone = run(Request("statistics", TEXT, models["positive"]), workspace=workspace)[0]
    logprob = column(alone, "logprob")
    same = dict.fromkeys(models, models["positive"])
    for beta in (0, 1, 7.5):
        result = contrast(workspace, TEXT, same, beta=beta)
        np.testing.assert_allclose(column(result, "log_contrast"), logprob, atol=1e-5)
        np.testing.assert_allclose(column(result, "contrast"), np.exp(logprob), rtol=1e-5)
        assert set(column(result, "log_ratio")[1:]) == {0.0}
    zero = contrast(workspace, TEXT, models, beta=0)
    np.testing.assert_allclose(column(zero, "log_contrast"), logprob, atol=1e-5)
    np.testing.assert_allclose(column(zero, "positive_logprob"), logprob, atol=1e-5)


def test_baselines_are_the_statistics(workspace: Workspace) -> None:
    models = folders("llama")
    result = contrast(workspace, TEXT, models)
    stats = run(Request("statistics", TEXT, models["model"]), workspace=workspace)[0]
    assert stats.origin == "cache"
    for name in BASE:
        np.testing.assert_array_equal(column(result, name), column(stats, name))
    pair = {role: models[role] for role in ("positive", "negative")}
    without = contrast(workspace, TEXT, pair)
    assert without.key != result.key
    for name in PAIR:
        np.testing.assert_array_equal(column(without, name), column(result, name))
    for name in BASE:
        assert np.isnan(column(without, name)).all()
        reasons = [r["reason"] for r in without.notes.to_pylist() if r["column"] == name]
        assert len(reasons) == 1
        assert "no base model was given" in reasons[0]


def test_where_the_score_is_too_small_its_logarithm_is_not(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Two sure models of opposite opinions."""
    models = {}
    for role, sign in (("positive", -1), ("negative", 1)):
        model = tiny_model("phi")
        with torch.no_grad():
            model.lm_head.weight *= 0
            model.lm_head.bias.zero_()
            model.lm_head.bias[ord("x")] = 60.0 * sign
        model.save_pretrained(tmp_path / role)
        save_tokenizer(tmp_path / role)
        models[role] = str(tmp_path / role)
    result = contrast(workspace, Text(prompt="a", response="xy"), models, beta=9)
    # 258 equal ids against one: β times −120 less than their common −log 258 and a little.
    z_pos, z_neg = np.zeros(VOCABULARY), np.zeros(VOCABULARY)
    z_pos[ord("x")], z_neg[ord("x")] = -60, 60
    mixed = 10 * z_pos - 9 * z_neg
    wanted = mixed - np.log(np.exp(mixed).sum())
    found = column(result, "log_contrast")
    assert wanted[ord("x")] == pytest.approx(-1140 - np.log(258))
    assert found[2] == pytest.approx(wanted[ord("x")], rel=1e-6)
    assert found[3] == pytest.approx(wanted[ord("y")], rel=1e-5)
    assert column(result, "contrast")[2] == 0.0
    assert np.isfinite(found[2])


def test_chunks_make_no_difference(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = folders("llama")
    whole = contrast(workspace, TEXT, models)
    monkeypatch.setattr(pairs, "CHUNK_BYTES", 8 * VOCABULARY * 4)
    widest = 0
    real = pairs.Side.logits

    def logits(self, start: int, end: int, width: int) -> torch.Tensor:
        nonlocal widest
        widest = max(widest, end - start)
        return real(self, start, end, width)

    monkeypatch.setattr(pairs.Side, "logits", logits)
    with Workspace(tmp_path / "other") as other:
        parts = contrast(other, TEXT, models)
    assert parts.origin == "computed"
    assert widest == 4
    for name in COLUMNS:
        np.testing.assert_allclose(column(parts, name), column(whole, name), atol=1e-6)


def test_only_ids_real_in_both(workspace: Workspace, tmp_path: Path) -> None:
    """One of the two pads its vocabulary, with rows that would take all of the probability."""
    padded = tiny_model("llama", vocab=VOCABULARY + 5, path=tmp_path / "padded")
    with torch.no_grad():
        padded.lm_head.weight[VOCABULARY:] = padded.lm_head.weight[:5] * 50
    padded.save_pretrained(tmp_path / "padded")
    models = {"positive": str(tmp_path / "padded"), "negative": str(tiny_folder("llama", 1))}
    result = contrast(workspace, TEXT, models)
    ids = result.table("tokens")["token_id"].to_pylist()
    pos, neg = (logits64(models[role], ids) for role in models)
    assert pos.shape == neg.shape
    np.testing.assert_allclose(
        column(result, "log_contrast")[1:], brute(pos, neg, ids, 1), atol=2e-4
    )


def test_a_single_token_has_no_prediction(workspace: Workspace) -> None:
    models = folders("llama")
    tokenizer = workspace.plan_model(models["positive"]).tokenizer
    one = trace_from_ids((BOS,), tokenizer, response_start=0)
    assert len(one) == 1
    result = contrast(workspace, one, models)
    assert np.isnan([column(result, name) for name in COLUMNS]).all()


def test_roles(workspace: Workspace) -> None:
    """Siblings fill the pair of a bundled model, which is its own baseline."""
    text = Text(prompt="Question: 2 and 3?\n", response="Answer: 5")
    given = contrast(workspace, text, "demo")
    roles = given.provenance["models"]
    assert {role: m["name"] for role, m in roles.items()} == {
        "positive": "demo-positive",
        "negative": "demo-negative",
        "model": "demo",
    }
    assert not np.isnan(column(given, "logprob")[1:]).any()
    pair = {"positive": "demo-positive", "negative": "demo-negative"}
    assert contrast(workspace, text, {**pair, "model": "demo"}).origin == "cache"
    assert set(contrast(workspace, text, pair).provenance["models"]) == set(pair)


@pytest.mark.parametrize(
    ("models", "params", "sentence"),
    [
        (None, {}, "critical.contrast needs a model: name one"),
        ({"positive": "demo-positive"}, {}, "needs a model for negative: name it as negative=NAME"),
        ({"positive": "demo", "negative": "demo", "base": "demo"}, {}, "has no role 'base'"),
        (
            {"positive": "demo", "negative": "demo-multidigit"},
            {},
            "demo and demo-multidigit have different tokenizers: choose models with one tokenizer",
        ),
        (
            {"positive": "demo", "negative": "demo", "model": "demo-multidigit"},
            {},
            "choose models with one tokenizer",
        ),
        ("demo", {"beta": -0.1}, "beta: Input should be greater than or equal to 0"),
        ("demo", {"beta": 1e6}, "beta: Input should be less than or equal to 100"),
    ],
)
def test_bad_input_is_a_sentence(workspace: Workspace, models, params, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        contrast(workspace, Text(prompt="a", response="b"), models, **params)


def test_text_of_another_tokenizer_is_refused(workspace: Workspace) -> None:
    trace = gallery()[0].trace
    with pytest.raises(UserError, match="belong to another tokenizer"):
        contrast(workspace, trace, "demo-multidigit")


def test_models_it_can_do_without() -> None:
    known = analyses()
    assert known["critical.contrast"].optional_models == ("model",)
    for name in ("summary", "grouped"):
        assert known[name].models == known[name].optional_models == ("model",)
    assert all(set(a.optional_models) <= set(a.models) for a in known.values())
    with pytest.raises(ValueError, match="can do without models it does not have"):
        analysis(
            "test.none",
            version=1,
            subject=Trace,
            tables={"t": Table({})},
            title="",
            params=Params,
            optional_models=("other",),
        )(lambda ctx: iter(()))


def test_a_model_that_is_optional_is_still_asked_for_text(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="summary needs a model: name one"):
        run(Request("summary", TEXT, None), workspace=workspace)
    with pytest.raises(UserError, match="summary needs a model for model"):
        run(Request("summary", TEXT, {}), workspace=workspace)


def test_a_group_gives_each_rollout_its_scores(workspace: Workspace) -> None:
    models = folders("llama")
    tokenizer = workspace.plan_model(models["positive"]).tokenizer
    two = [encode_text(Text(prompt="Q\n", response=r), tokenizer) for r in ("yes", "no, no")]
    result = contrast(workspace, Group(rollouts=tuple(two)), models)
    singles = [column(contrast(workspace, t, models), "contrast") for t in two]
    np.testing.assert_array_equal(column(result, "contrast"), np.concatenate(singles))
    assert result.table("tokens")["rollout"].to_pylist() == [0] * len(two[0]) + [1] * len(two[1])


@pytest.mark.parametrize(
    "models",
    [["demo"], ["positive=demo-positive", "negative=demo-negative"]],
    ids=["siblings", "pair"],
)
def test_command_line(tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    out = tmp_path / "x.parquet"
    argv = ["run", "critical.contrast", "--out", str(out), "--quiet", "--set", "beta=1"]
    argv += [part for m in models for part in ("--model", m)]
    assert cli.main([*argv, "--prompt", "Question: 2 and 3?\n", "--response", "Answer: 5"]) == 0
    table = pyarrow.parquet.read_table(out)
    assert {"position", "token_id", "contrast", "log_ratio"} <= set(table.column_names)
    values = table["contrast"].to_pylist()
    assert values[0] is None
    assert all(0 <= v <= 1 for v in values[1:])


def test_it_opens_without_torch() -> None:
    code = (
        "import sys, engine; known = engine.analyses();"
        "[known['critical.' + n].parse({}) for n in ('contrast', 'fitted', 'prompted')];"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
