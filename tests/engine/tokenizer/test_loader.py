"""The file against the loaded tokenizer, and tokens a model never saw: both with planted faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.errors import UserError
from engine.result import Request, Result
from engine.running import run
from engine.subjects import TokenizerRef
from engine.tokenizer import load_spec, reference
from engine.tokenizer.embeddings import PROMPTS, indicators, repeated
from engine.tokenizer.loader import files_digest
from engine.tokenizer.undertrained import verdict
from engine.workspace import Workspace
from tests.engine.tiny import FAMILIES, tiny_folder, tiny_model
from tests.engine.tokenizer.test_vocabulary import byte_level
from tests.engine.tokenizer.toys import save, toy


def loaded(workspace: Workspace, folder: Path, ref: TokenizerRef | None = None) -> Result:
    ref = ref or reference(folder)
    params = {"files": files_digest(folder)}
    return run(Request("tokenizer.loader", ref, None, params), workspace=workspace)[0]


def named(folder: Path, name: str, **more: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **more}))
    return folder


def test_the_silent_swap_of_a_pre_tokenizer(workspace: Workspace, tmp_path: Path) -> None:
    """GPT2Tokenizer puts its own rule in place of the file's (transformers 5.23); the general
    class does not."""
    spec = byte_level(r"\p{N}|\P{N}+", [(b"2", b"0"), (b"20", b"2")])
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(spec.tree), "utf-8")
    good = loaded(workspace, named(folder, "PreTrainedTokenizerFast"))
    summary = good.table("summary").to_pylist()[0]
    assert summary["same"]
    assert summary["different_probes"] == 0
    assert all(row["same"] for row in good.table("probes").to_pylist())
    bad = loaded(workspace, named(folder, "GPT2Tokenizer"))
    summary = bad.table("summary").to_pylist()[0]
    assert not summary["same"]
    assert summary["named_class"] == "GPT2Tokenizer"
    assert any(r["path"] == "pre_tokenizer" for r in bad.table("differences").to_pylist())
    for row in bad.table("probes").to_pylist():
        assert row["file_ids"] == spec.encode_ids([row["text"]], "parse")[0]
        assert row["same"] == (row["file_ids"] == row["loaded_ids"])
    digits = next(r for r in bad.table("probes").to_pylist() if "2023" in r["text"])
    assert not digits["same"]
    assert "202" in digits["loaded_tokens"]


def test_folders_that_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    folder = save("byte_bpe", tmp_path).parent
    ref = reference(folder)
    named(folder, "PreTrainedTokenizerFast", auto_map={"AutoTokenizer": ["x.Y", None]})
    with pytest.raises(UserError, match="asks to run code"):
        loaded(workspace, folder, ref)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        loaded(workspace, folder, ref)
    request = Request("tokenizer.loader", ref, None, {"files": "0"})
    with pytest.raises(UserError, match="have changed"):
        run(request, workspace=workspace)


PLANTED = (300, 310, 320, 330, 340)
"""Tokens of the toy that a text gives, with rows as if never trained."""


def planted(folder: Path, family: str) -> str:
    """A tiny model whose rows of never-seen ids lie close together and near zero."""
    spec = toy("byte_bpe")
    tiny_model(family, vocab=spec.size + 12, path=folder)
    save("byte_bpe", folder.parent)
    (folder / "tokenizer.json").write_text(
        (folder.parent / "byte_bpe" / "tokenizer.json").read_text("utf-8"), "utf-8"
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(5)
    unseen = [spec.by_bytes[bytes([b])] for b in (0xC0, 0xC1, *range(0xF5, 0x100))]
    rows = [*unseen, *range(spec.size, spec.size + 12), *PLANTED]
    with torch.no_grad():
        for weight in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            width = weight.shape[1]
            centre = torch.randn(width, generator=generator) * 0.02
            noise = torch.randn(len(rows), width, generator=generator) * 0.002
            weight[rows] = centre + noise
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("gpt2", True)])
def test_planted_tokens_are_found(
    workspace: Workspace, tmp_path: Path, family: str, tied: bool
) -> None:
    """By the norm where the matrices are apart, by the distance to untrained rows where not."""
    path = planted(tmp_path / family, family)
    params = {"share": 0.05, "confirm": 3}
    request = Request("tokenizer.undertrained", reference(path), path, params)
    result = run(request, workspace=workspace)[0]
    rows = result.table("tokens").to_pylist()
    spec = load_spec(path)
    model = workspace.load(workspace.plan_model(path))
    assert len(rows) == model.vocab_size
    assert sum(r["reference"] for r in rows) == 13 + 12
    looked = [r for r in rows if r["reachable"] == "yes" and r["category"] != "control_tokens"]
    own = np.array([r["indicator"] for r in looked if r["token_id"] in PLANTED])
    others = np.array([r["indicator"] for r in looked if r["token_id"] not in PLANTED])
    assert (own[:, None] < others[None]).mean() == 1.0  # AUC
    candidates = result.table("candidates").to_pylist()
    assert {r["token_id"] for r in candidates[:5]} == set(PLANTED)
    values = [r["indicator"] for r in candidates]
    assert values == sorted(values)
    assert [r["verdict"] is None for r in candidates] == [False] * 3 + [True] * (len(values) - 3)
    name = "output_cosine" if tied else "input_norm"
    assert any(f"Used is {name}; 25 rows" in n["reason"] for n in result.notes.to_pylist())
    # Closed form, in float64.
    weight = model.model.get_output_embeddings().weight.detach().double().numpy()
    mean = weight[[r["token_id"] for r in rows if r["reference"]]].mean(0)
    cosine = 1 - weight @ mean / np.linalg.norm(weight, axis=1) / np.linalg.norm(mean)
    np.testing.assert_allclose([r["output_cosine"] for r in rows], cosine, atol=1e-9)
    into = model.model.get_input_embeddings().weight.detach().double().numpy()
    np.testing.assert_allclose([r["input_norm"] for r in rows], np.linalg.norm(into, axis=1))
    assert indicators(model, np.array([], int)).output_cosine is None
    # The prompts, one by one.
    first = candidates[0]["token_id"]
    best = 0.0
    for prompt in PROMPTS:
        parts = spec.encode_ids(prompt)
        ids = [*spec.around[0], *parts[0]]
        for part in parts[1:]:
            ids += [first, *part]
        with torch.no_grad():
            logits = model.model(torch.tensor([ids])).logits[0, -1, : model.real_vocab]
        best = max(best, float(logits.double().softmax(-1)[first]))
    assert candidates[0]["probability"] == pytest.approx(best, rel=1e-5)
    chances: dict[int, float] = {}
    list(repeated(model, spec, [first], chances))
    assert chances[first] == pytest.approx(best, rel=1e-5)


def test_verdicts() -> None:
    names = [verdict(p) for p in (0.0, 0.00099, 0.001, 0.1, 0.5, 0.9, 0.91)]
    assert names == ["strong", "strong", "weak", "weak", "unclear", "unclear", "rejected"]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_and_prompts_of_every_family(workspace: Workspace, family: str) -> None:
    path = str(tiny_folder(family))
    model = workspace.load(workspace.plan_model(path))
    found = indicators(model, np.array([1, 2]))
    own = model.model.get_input_embeddings().weight is model.model.get_output_embeddings().weight
    assert found.tied == own
    assert len(found.input_norm) == len(found.output_norm) == model.vocab_size
    assert found.output_cosine is not None
    assert np.isfinite(found.output_cosine).all()
    chances: dict[int, float] = {}
    before = model.forwards
    list(repeated(model, load_spec(path), [65, 200], chances))
    assert model.forwards - before == len(PROMPTS)
    assert set(chances) == {65, 200}
    assert all(0 <= chance <= 1 for chance in chances.values())
