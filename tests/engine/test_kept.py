"""sampler.kept: the same rule as generation, brute force, and transformers' own processors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as peer

import engine
from engine import Request, UserError
from engine.kept import LEAST, TOP
from engine.workspace import Workspace
from tests.engine.tiny import VOCABULARY, tiny_ids, tiny_model

TEXT = engine.Text(prompt="Tom has 3 pens", response=" and 4 more")
SETTINGS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 9_999},
    {"top_p": 0.5},
    {"top_p": 1.0},
    {"top_p": 1e-9},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 1.8, "top_k": 12, "top_p": 0.6},
]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, llama: str):
    with Workspace(tmp_path_factory.mktemp("kept")) as workspace:
        trace = engine.encode(TEXT, llama, workspace)

        def ask(position: int | None = 9, **params):
            request = Request("sampler.kept", trace, llama, {"position": position, **params})
            return engine.run(request, workspace=workspace)[0]

        ask.trace, ask.workspace, ask.model = trace, workspace, llama
        yield ask


@pytest.fixture(scope="module")
def logits(asked) -> np.ndarray:
    with torch.no_grad():
        model = tiny_model("llama")
        return model(torch.tensor([asked.trace.ids])).logits[0].double().numpy()


def brute(logits: np.ndarray, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """Plain probabilities and those drawn by, straight from the definitions."""
    plain = np.exp(logits - logits.max())
    plain /= plain.sum()
    if temperature == 0:
        return plain, np.eye(len(plain))[plain.argmax()]
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))
    left = order[:top_k] if top_k else order
    if top_p and top_p < 1:
        mass, total, chosen = 0.0, sum(p[i] for i in left), []
        for i in left:
            if chosen and mass >= top_p * total:
                break
            chosen.append(i)
            mass += p[i]
        left = chosen
    if min_p:
        left = [i for i in left if p[i] >= min_p * p[order[0]]]
    after = np.zeros_like(p)
    after[left] = p[left]
    return plain, after / after.sum()


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_it_is_what_the_definitions_say(asked, logits, params):
    result = asked(**params)
    table, summary = result.to_pandas("kept"), result.to_pandas("summary").iloc[0]
    plain, after = brute(logits[8], **params)
    ids = table["token_id"].to_numpy()
    np.testing.assert_allclose(table["probability"], plain[ids], rtol=1e-4)
    np.testing.assert_allclose(table["after"], after[ids], rtol=1e-3, atol=1e-12)
    assert set(ids[table["kept"]]) == set(np.flatnonzero(after > 0))
    assert (table["after"][~table["kept"]] == 0).all()
    assert summary["kept"] == (after > 0).sum()
    assert summary["vocabulary"] == len(plain)
    assert summary["kept_mass"] == pytest.approx(plain[after > 0].sum(), rel=1e-4)
    assert summary["entropy_before"] == pytest.approx(-(plain * np.log(plain)).sum(), rel=1e-4)
    positive = after[after > 0]
    expected = -(positive * np.log(positive)).sum()
    assert summary["entropy_after"] == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert table["rank"].tolist() == [1 + int((plain > plain[i]).sum()) for i in ids]
    assert table["probability"].is_monotonic_decreasing


def test_it_describes_the_prediction_of_the_token_at_the_position(asked, logits):
    for position in (1, 9, len(asked.trace)):
        table = asked(position, top_k=5).to_pandas("kept")
        plain, _ = brute(logits[position - 1])
        assert table["token_id"][0] == plain.argmax()
        assert table["probability"][0] == pytest.approx(plain.max(), rel=1e-4)
        said = table[table["said"]]
        if position == len(asked.trace):
            assert said.empty
        else:
            assert said["token_id"].item() == asked.trace.ids[position]
    nothing = asked(None).to_pandas("kept")
    assert nothing["position"][0] == len(asked.trace)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.7},
        {"top_k": 13},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"temperature": 1.6, "top_k": 30, "top_p": 0.85, "min_p": 0.02},
    ],
    ids=str,
)
def test_transformers_keeps_the_same(asked, logits, params):
    processors = peer.LogitsProcessorList()
    kinds = {
        "temperature": peer.TemperatureLogitsWarper,
        "top_k": peer.TopKLogitsWarper,
        "top_p": peer.TopPLogitsWarper,
        "min_p": peer.MinPLogitsWarper,
    }
    for name, value in params.items():
        processors.append(kinds[name](value))
    for position in range(1, len(asked.trace)):
        scores = processors(torch.zeros(1, 1).long(), torch.tensor(logits[position - 1 : position]))
        theirs = torch.softmax(scores, -1)[0].numpy()
        table = asked(position, **params).to_pandas("kept")
        mine = table[table["kept"]]
        assert set(mine["token_id"]) == set(np.flatnonzero(theirs > 0))
        np.testing.assert_allclose(mine["after"], theirs[mine["token_id"]], rtol=1e-3)


def test_what_is_drawn_is_kept_and_as_often_as_it_says(asked):
    settings = {"temperature": 1.4, "top_k": 20, "top_p": 0.8}
    result = asked(None, **settings)
    table = result.to_pandas("kept")
    n = 1500
    params = {**settings, "n": n, "max_new_tokens": 1}
    request = Request("generate", asked.trace, asked.model, params)
    (drawn,) = engine.run(request, workspace=asked.workspace)
    ids = np.array([row[0] for row in drawn.table("samples")["ids"].to_pylist()])
    counts = np.bincount(ids, minlength=VOCABULARY)
    after = np.zeros(VOCABULARY)
    after[table["token_id"]] = table["after"]
    assert set(ids) <= set(table["token_id"][table["kept"]])
    spread = np.sqrt(n * after * (1 - after)) + 1
    assert (np.abs(counts - n * after) < 4.5 * spread).all()
    assert len(set(ids)) > 5


def test_a_long_tail_is_left_out_and_said(tmp_path, monkeypatch):
    import engine.kept

    monkeypatch.setattr(engine.kept, "LEAST", 0.05)
    folder = tmp_path / "m"
    tiny_model("llama", path=folder)
    with Workspace(tmp_path / "home") as workspace:
        trace = engine.trace_from_ids(
            tiny_ids(12), workspace.plan_model(str(folder)).tokenizer, response_start=1
        )
        request = Request("sampler.kept", trace, str(folder), {"position": 6, "top_k": 3})
        (result,) = engine.run(request, workspace=workspace)
    table = result.to_pandas("kept")
    assert TOP <= len(table) <= TOP + 1  # and the one that was said
    assert table["said"].sum() == 1
    left = VOCABULARY - len(table)
    note = result.notes.to_pylist()[0]
    assert note["reason"].startswith(f"{left:,} less probable ids")
    assert note["position"] == 6
    missing = 1 - table["probability"].sum()
    assert f"{missing:.2g} of the probability before and 0 after" in note["reason"]
    assert LEAST == 1e-6


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"position": 0}, "position"),
        ({"position": 99}, "choose one from 1 to 26"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"top_k": 0}, "top_k"),
        ({"temperature": math.nan}, "temperature"),
    ],
    ids=str,
)
def test_bad_settings_get_one_sentence(asked, params, says):
    with pytest.raises(UserError, match=says):
        asked(**params)


def test_the_end_of_an_underflow_is_not_called_kept(asked, logits):
    table = asked(9, temperature=0.001, top_k=5).to_pandas("kept")
    kept = table[table["kept"]]
    assert (kept["after"] > 0).all()
    assert table["after"].sum() == pytest.approx(1)
