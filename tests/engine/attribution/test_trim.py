"""TRIM in our form: saliency by eager attention, fingerprints and scores by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import write_rollouts
from engine.attribution.fingerprints import Fingerprints, Saliency, score
from engine.errors import UserError
from engine.records import open_rollouts
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group
from engine.workspace import Workspace
from tests.engine.attribution import toys

TRACE = toys.text("abc ab", "bad cab.")


def trim(workspace: Workspace, model: str, subject: object, **params: object) -> Result:
    return run(Request("attribution.trim", subject, model, params), workspace=workspace)[0]  # type: ignore[arg-type]


def test_saliency_by_hand() -> None:
    """Two heads, fed in blocks: sharp and even rows, what later positions give."""
    one = torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [1, 0, 0]])
    two = torch.tensor([[1, 0, 0], [1, 0, 0], [0.2, 0.2, 0.6]])
    both, found = torch.stack([one, two]), Saliency(3)
    found(7, 0, both[:, :2])
    found(7, 2, both[:, 2:])
    entropy = -(0.4 * np.log(0.2) + 0.6 * np.log(0.6))
    rows = [np.nan, (0 + 1) / 2, (1 + 1 - entropy / np.log(3)) / 2]
    np.testing.assert_allclose(found.rows, rows)
    received = np.array([(0.5 + 1 + 1 + 0.2) / 2 / 2, (0 + 0.2) / 2])
    np.testing.assert_allclose(found.columns, [1, received[1] / received[0], np.nan])
    np.testing.assert_allclose(found.both, (found.rows + found.columns) / 2)


def test_fingerprints() -> None:
    """One token of a kind compared with itself scores 1; the order of samples does not matter."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(5, 4))
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    ids, weights = [3, 9, 3, 1, 5], np.array([0.5, 0.2, 1.0, 0.1, np.nan])
    prints, other = Fingerprints(), Fingerprints()
    prints.add(ids, states, weights)
    for i in (3, 2, 4, 0, 1):
        other.add(ids[i : i + 1], states[i : i + 1], weights[i : i + 1])
    known, made = prints.made()
    assert known == [1, 3, 9]
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1)
    np.testing.assert_allclose(other.made()[1], made)
    together = 0.5 * states[0] + states[2]
    np.testing.assert_allclose(made[1], together / np.linalg.norm(together))
    embeddings = np.array([[1.0, 0], [0, 1], [-1, 0]])
    mine = np.array([[0, 1.0], [0, 1], [0.1, 3]])
    values, compared = score([9, 1, 5], states[[1, 3, 4]], known, made, mine, embeddings, 0.25)
    assert compared == [9, 1, 3]  # of 5, which has none, the nearest
    np.testing.assert_allclose(values, [1, 1, 0.25 * states[4] @ made[1]])


def test_a_trace_by_eager_attention(workspace: Workspace, llama: str) -> None:
    """The response makes the fingerprints, the prompt's tokens are scored."""
    from transformers import AutoModelForCausalLM

    found = trim(workspace, llama, TRACE, layers=2, penalty=0.25)
    network = AutoModelForCausalLM.from_pretrained(llama, attn_implementation="eager").eval()
    with torch.no_grad():
        out = network(torch.tensor([TRACE.ids]), output_attentions=True, output_hidden_states=True)
    weights = torch.cat(out.attentions[1:]).flatten(0, 1).double().numpy()
    length, cut = len(TRACE), TRACE.response_start
    logs = np.log(np.where(weights > 0, weights, 1))
    entropy = -(weights * logs).sum(-1).mean(0)
    rows = 1 - entropy[1:] / np.log(np.arange(2, length + 1))
    means = np.array([weights[:, i + 1 :, i].mean() for i in range(length - 1)])
    alpha = np.r_[np.nan, (rows[:-1] + means[1:] / means.max()) / 2, np.nan]
    tokens = found.table("tokens").to_pylist()
    sample = {r["position"]: r["saliency"] for r in tokens if r["part"] == "sample"}
    assert list(sample) == list(range(cut, length))
    assert sample[length - 1] is None
    np.testing.assert_allclose(
        [sample[p] for p in range(cut, length - 1)], alpha[cut:-1], atol=1e-5
    )

    states = out.hidden_states[-1][0].double().numpy()
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    scored = [r for r in tokens if r["part"] == "candidate"]
    assert [r["position"] for r in scored] == list(range(1, cut))
    for row in scored[:3]:  # a, b and c are in the response, too
        mine = [p for p in range(cut, length - 1) if TRACE.ids[p] == row["token_id"]]
        total = sum(alpha[p] * states[p] for p in mine)
        wanted = states[row["position"]] @ total / np.linalg.norm(total)
        assert row["score"] == pytest.approx(wanted, abs=1e-5)
        assert row["known"] is True
    table = found.table("attribution").to_pylist()
    assert [r["score"] for r in table] == [r["score"] for r in scored]
    assert {(r["target_position"], r["target_end"]) for r in table} == {(cut, length)}
    values = [r["score"] for r in scored]
    (whole,) = found.table("samples").to_pylist()
    assert whole["score"] == pytest.approx((np.mean(values) + max(values)) / 2)


def test_rollouts(workspace: Workspace, llama: str, tmp_path: Path) -> None:
    """A response that is a target sample itself scores 1 at ids that occur once in the samples."""
    texts = [toys.text("Q: ", response) for response in ("xyz.", "xyz.", "kkkk", "")]
    group = Group(rollouts=tuple(texts), prompt_id="q")
    found = trim(workspace, llama, group, samples=1)
    rows = [r for r in found.table("tokens").to_pylist() if r["rollout"] == 1]
    assert [r["score"] for r in rows[:3]] == pytest.approx([1, 1, 1], abs=1e-6)
    samples = found.table("samples").to_pylist()
    assert [s["rollout"] for s in samples] == [1, 2, 3]
    assert [s["known"] for s in samples] == [3, 0, 0]
    assert samples[2]["score"] is None
    assert samples[0]["score"] > samples[1]["score"]
    assert found.table("attribution").num_rows == 0
    file = tmp_path / "q.jsonl"
    write_rollouts(file, [group])
    again = trim(workspace, llama, open_rollouts(file), samples=1)
    assert again.table("tokens").equals(found.table("tokens"))
    with pytest.raises(UserError, match="All 4 rollouts are target samples: give more, or set"):
        trim(workspace, llama, group)
    with pytest.raises(UserError, match="no response tokens with a saliency"):
        trim(workspace, llama, toys.text("Q: ", ""))
