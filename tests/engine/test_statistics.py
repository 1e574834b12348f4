"""``statistics`` against the model's own logits in float64: positions, units, alternatives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine import statistics as module
from engine.encode import encode_text, trace_from_ids
from engine.modelref import ModelRef
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Text
from engine.tokenization import Tokenizer
from engine.workspace import Workspace
from tests.engine.tiny import FAMILIES, tiny_folder, tiny_model
from tests.ext.test_oracle import oracle

TEXT = Text(prompt="Wie groß? ", response="12 🤗 x")


def compute(workspace: Workspace, model: str | ModelRef, **params: object) -> Result:
    return run(Request("statistics", TEXT, model, params), workspace=workspace)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_against_its_own_logits(workspace: Workspace, family: str) -> None:
    folder = tiny_folder(family)
    result = compute(workspace, str(folder), top_k=7)
    trace = encode_text(TEXT, Tokenizer.load(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([trace.ids])).logits[0].double().numpy()
    y = np.array(trace.ids[1:])
    expected = oracle(logits[:-1], y)
    table = result.table("tokens")
    assert table["position"].to_pylist() == list(range(len(trace)))
    assert table["token_id"].to_pylist() == list(trace.ids)
    assert b"".join(table["token_bytes"].to_pylist()[1:]) == trace.text_bytes
    for name, values in expected.items():
        column = table[name].to_pylist()
        assert column[0] is None, name
        np.testing.assert_allclose(column[1:], values, atol=2e-4, rtol=1e-4, err_msg=name)
    surprisal = table["surprisal"].to_pylist()
    assert surprisal[1:] == [-v for v in table["logprob"].to_pylist()[1:]]
    # Perplexity is exp of the mean surprisal in nats: torch's cross entropy is its logarithm.
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits[:-1]), torch.tensor(y))
    assert np.mean(surprisal[1:]) == pytest.approx(loss.item(), abs=1e-4)

    alternatives = result.table("alternatives")
    assert alternatives.num_rows == 7 * (len(trace) - 1)
    first = [row for row in alternatives.to_pylist() if row["position"] == 3]
    order = np.lexsort((np.arange(logits.shape[1]), -logits[2]))[:7]
    assert [row["alternative_id"] for row in first] == order.tolist()
    assert [row["alternative_rank"] for row in first] == list(range(1, 8))
    peak = logits[2].max()
    log_z = peak + math.log(np.exp(logits[2] - peak).sum())
    np.testing.assert_allclose(
        [row["logprob"] for row in first], logits[2][order] - log_z, atol=2e-4
    )


def test_bfloat16_describes_the_bfloat16_models_logits(workspace: Workspace) -> None:
    folder = tiny_folder("llama")
    ref = ModelRef(source=str(folder), dtype="bfloat16")
    trace = encode_text(TEXT, Tokenizer.load(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = model(torch.tensor([trace.ids])).logits[0].double().numpy()
    expected = oracle(logits[:-1], np.array(trace.ids[1:]))
    table = compute(workspace, ref).table("tokens")
    for name in ("logprob", "entropy", "max_prob"):
        np.testing.assert_allclose(
            table[name].to_pylist()[1:], expected[name], atol=0.05, rtol=0.02
        )


def test_chunks_do_not_change_the_numbers(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny_folder("gpt2"))
    whole = compute(workspace, model, top_k=3)
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 259 * 4)  # four rows at a time
    other = Workspace(workspace.home.with_name("other"))
    with other:
        parts = compute(other, model, top_k=3)
    for name in module.TOKENS.columns:
        a, b = whole.table()[name].to_pylist()[1:], parts.table()[name].to_pylist()[1:]
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
    ids = "alternative_id"
    assert whole.table("alternatives")[ids].equals(parts.table("alternatives")[ids])


def test_one_token(workspace: Workspace) -> None:
    folder = tiny_folder("llama")
    one = trace_from_ids([97], Tokenizer.load(folder), response_start=0)
    result = run(Request("statistics", one, str(folder)), workspace=workspace)[0]
    table = result.table("tokens")
    assert table.num_rows == 1
    assert table["logprob"].to_pylist() == [None]
    assert result.table("alternatives").num_rows == 0
    assert result.notes.to_pylist() == [
        {
            "table": "tokens",
            "column": None,
            "position": 0,
            "rollout": None,
            "reason": "the first token has no prediction",
        }
    ]


def test_padded_vocabulary_rows_are_not_real_ids(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "padded"
    tiny_model("llama", vocab=320, path=folder)  # its tokenizer has 259 ids
    result = compute(workspace, str(folder), top_k=1000)
    assert max(result.table("alternatives")["alternative_id"].to_pylist()) == 258
    trace = encode_text(TEXT, Tokenizer.load(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([trace.ids])).logits[0].double().numpy()[:, :259]
    expected = oracle(logits[:-1], np.array(trace.ids[1:]))
    for name in ("logprob", "entropy", "self_certainty"):
        np.testing.assert_allclose(result.table()[name].to_pylist()[1:], expected[name], atol=2e-4)
