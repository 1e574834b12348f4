"""Steering: the vector by hand, what is turned and what stays, and the way through the engine."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from engine.attribution.reading import private
from engine.attribution.steered import Steered, layers_of, turn, turned, watched
from engine.attribution.steeringvector import direction
from engine.errors import UserError
from engine.result import Request
from engine.running import run
from engine.sampling.generation import Sampler, sample
from engine.workspace import Workspace
from tests.engine.attribution import toys
from tests.engine.tiny import FAMILIES, VOCABULARY, save_tokenizer, tiny_folder, tiny_ids

NAME = "attribution.steering"
ASKED = {
    "targets": "16:18", "contrast": "xyz", "steps": 4, "n": 2, "max_new_tokens": 5, "top": 2,
    "layers": "1", "alpha": 3.0,
}  # fmt: skip


def steer(workspace: Workspace, model: str, **params):
    trace = toys.text()
    return run(Request(NAME, trace, model, {**ASKED, **params}), workspace=workspace)[0]


def column(result, name: str, table: str = "continuations") -> list:
    return result.table(table)[name].to_pylist()


def test_turning_keeps_the_length() -> None:
    states, vector = torch.randn(3, 4, 8), torch.randn(8)
    found = turn(states, vector, 2.5)
    wanted = states + 2.5 * vector
    wanted *= states.norm(dim=-1, keepdim=True) / wanted.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.norm(dim=-1), states.norm(dim=-1))
    assert turn(states, vector, 0.0).equal(turn(states, 0 * vector, 1.0))
    torch.testing.assert_close(turn(states, vector, 0.0), states)
    assert turn(torch.zeros(1, 8), -vector, 1.0).abs().max() == 0
    assert turn(states.bfloat16(), vector, 1.0).dtype == torch.bfloat16


def test_directions() -> None:
    """The mean within and then over branches; the component along the longest spread from 0."""
    one, two = torch.tensor([[4.0, 0.1], [2.0, -0.1]]), torch.tensor([[5.0, 0.0]])
    torch.testing.assert_close(direction([one, two], "mean"), torch.tensor([4.0, 0.0]))
    for sign in (1, -1):
        found = direction([sign * one.double(), sign * two.double()], "pca")
        torch.testing.assert_close(found, torch.tensor([sign, 0.0]).double(), atol=0.01, rtol=0)
    single = torch.tensor([[3.0, -4.0]])
    torch.testing.assert_close(direction([single], "pca"), torch.tensor([0.6, -0.8]))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_every_family(family: str) -> None:
    """States of the middle layer are the network's own; only later tokens are turned."""
    model, ids = toys.loaded(family, torch.float32), torch.tensor([tiny_ids(12)])
    network = private(model)
    with torch.no_grad():
        own = model.model(ids, output_hidden_states=True)
        with watched(model, [1]) as found:
            network(ids)
        torch.testing.assert_close(found[1], own.hidden_states[2])
        vector = torch.randn(found[1].shape[-1])
        with turned(model, {1: vector}, 5.0, 8):
            after = network(ids).logits
        torch.testing.assert_close(after[:, :8], own.logits[:, :8])
        assert all((after[:, t] - own.logits[:, t]).abs().max() > 1e-3 for t in range(8, 12))
    with pytest.raises(ZeroDivisionError), turned(model, {1: vector}, 5.0, 0):
        raise ZeroDivisionError
    with torch.no_grad():
        torch.testing.assert_close(network(ids).logits, own.logits)
    assert not toys.left_behind(network)
    assert len(layers_of(model)) == model.layers


def test_writing_is_turned_from_the_prompts_last_token_on() -> None:
    """With and without kept keys and values the same: by reading the whole text each time."""
    model, prefix = toys.loaded("qwen3", torch.float32), tuple(tiny_ids(10))
    vector = torch.randn(32)
    steered = Steered(model, {1: vector}, 4.0, len(prefix) - 1)
    sampler = Sampler(temperature=0, max_new_tokens=6, stop_ids=())
    before = model.forwards
    (said,) = [c for done in sample(steered, prefix, sampler, [0]) for c in done]
    assert model.forwards - before == 6
    ids, logps = list(prefix), []
    for _ in range(6):
        with torch.no_grad(), turned(model, {1: vector}, 4.0, len(prefix) - 1):
            logits = private(model)(torch.tensor([ids])).logits[0, -1, :VOCABULARY]
        ids.append(int(logits.argmax()))
        logps.append(float(logits.log_softmax(-1).max()))
    assert said.ids == tuple(ids[len(prefix) :])
    np.testing.assert_allclose(said.logprobs, logps, atol=1e-4)
    (plain,) = [c for done in sample(model, prefix, sampler, [0]) for c in done]
    assert plain.ids != said.ids


def test_vector_by_hand(workspace: Workspace) -> None:
    """Mean change of the states that predict, of both branches, for minus against."""
    folder = str(tiny_folder("llama"))
    result = steer(workspace, folder)
    model = workspace.load(workspace.plan_model(folder))
    trace = toys.text()
    chosen = result.table("chosen").to_pylist()
    assert [c["direction"] for c in chosen] == ["for", "for", "against", "against"]
    grains = {k: ASKED[k] for k in ("targets", "contrast", "steps", "top")}
    scored = run(Request("attribution.grains", trace, folder, grains), workspace=workspace)[0]
    rows = scored.table("branches").to_pylist()
    named = {(r["direction"], r["rank"]): r["source_position"] for r in rows if r["direction"]}
    assert {(c["direction"], c["rank"]): c["source_position"] for c in chosen} == named
    table = model.model.get_input_embeddings().weight.detach()

    def states(said: tuple[int, ...], gone: list[int]) -> torch.Tensor:
        ids = (*trace.ids[:16], *said)
        embeds = table[list(ids)].clone()
        embeds[gone] = table[:VOCABULARY].mean(0)
        with torch.no_grad():
            out = model.model(inputs_embeds=embeds[None], output_hidden_states=True)
        return out.hidden_states[2][0, 15 : 15 + len(said)]

    wanted = torch.zeros(32)
    for direction_, sign in (("for", 1), ("against", -1)):
        gone = [p for (d, _), p in named.items() if d == direction_]
        for said in (trace.ids[16:18], tuple(b"xyz")):
            wanted += sign * (states(said, []) - states(said, gone)).mean(0) / 2
    assert column(result, "dimension", "vector") == list(range(32))
    np.testing.assert_allclose(column(result, "value", "vector"), wanted.numpy(), atol=1e-5)
    hidden = np.mean([h.norm().item() for s in (trace.ids[16:18], tuple(b"xyz")) for h in
                      states(s, [])])  # fmt: skip
    row = result.table("layers").to_pylist()[0]
    assert row["layer"] == 1
    assert row["hidden_norm"] == pytest.approx(hidden, rel=1e-5)
    assert row["push"] == pytest.approx(3 * row["vector_norm"] / row["hidden_norm"])


def test_continuations(workspace: Workspace) -> None:
    """Before is the plain model's own; pushed, the target gains against the other one."""
    folder = str(tiny_folder("llama"))
    result = steer(workspace, folder)
    assert column(result, "when") == ["before"] * 3 + ["after"] * 3
    assert column(result, "kind") == ["greedy", "sample", "sample"] * 2
    assert column(result, "index") == [0, 0, 1] * 2
    trace = toys.text()
    model = workspace.load(workspace.plan_model(folder))
    sampler = Sampler(temperature=1, max_new_tokens=5)
    plain = sorted(
        (c for done in sample(model, trace.ids[:16], sampler, range(2)) for c in done),
        key=lambda c: c.index,
    )
    assert column(result, "ids")[1:3] == [list(c.ids) for c in plain]
    assert column(result, "logprob")[1] == pytest.approx(sum(plain[0].logprobs))
    with torch.no_grad():
        logp = model.model(torch.tensor([trace.ids])).logits[0, :, :VOCABULARY].log_softmax(-1)
    said = float(logp[15, trace.ids[16]] + logp[16, trace.ids[17]])
    assert column(result, "target_logprob")[:3] == pytest.approx([said] * 3, rel=1e-5)
    assert column(result, "target_logprob")[3] != pytest.approx(said, rel=1e-3)
    still = steer(workspace, folder, alpha=0.0)
    assert column(still, "ids")[:3] == column(still, "ids")[3:]
    assert column(still, "target_logprob") == pytest.approx([said] * 6, rel=1e-5)
    again = steer(workspace, folder, memory=16)
    assert column(again, "ids") == column(result, "ids")
    assert column(steer(workspace, folder, seed=1), "ids") != column(result, "ids")
    assert steer(workspace, folder).origin == "cache"
    forwards = column(result, "forwards", "cost")[0]
    assert forwards > 2 * 4


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 4.0])
def test_linear_model_in_closed_form(workspace: Workspace, tmp_path, alpha: float) -> None:
    """The vector carries what its tokens add, and the push changes the odds by exactly that."""
    model = copy.deepcopy(toys.linear()).float()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    trace = toys.text()
    asked = {"targets": "16", "contrast": "x", "baseline": "mean", "layers": "last", "n": 0}
    result = steer(workspace, str(tmp_path), **{**asked, "alpha": alpha})
    vector = np.array(column(result, "value", "vector"))
    with torch.no_grad():
        words = model.lm_head.weight[[trace.ids[16], ord("x")]].numpy().astype(float)
        states = model(torch.tensor([trace.ids[:16]]), output_hidden_states=True).hidden_states
        h = states[-1][0, -1].numpy().astype(float)  # the final norm changes nothing
    odds = words[0] - words[1]
    sign = {"for": 1, "against": -1}
    carried = sum(sign[c["direction"]] * c["score"] for c in result.table("chosen").to_pylist())
    assert odds @ vector == pytest.approx(carried, rel=1e-4)
    assert carried > 0.01
    moved = h + alpha * vector
    moved *= np.linalg.norm(h) / np.linalg.norm(moved)
    ahead = np.array(column(result, "target_logprob")) - column(result, "contrast_logprob")
    np.testing.assert_allclose(ahead, [odds @ h, odds @ moved], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"layers": "3"}, "has layers 0 to 2: there is no layer 3"),
        ({"layers": "one"}, "Write layers as last, all, or numbers"),
        ({"contrast": None}, "contrast is missing"),
        ({"ablation": "token"}, "ablation=token belong together"),
        ({"ablation": "token", "ablation_token": "ab"}, "ablation_token has 2 tokens"),
        ({"contrast": " f"}, "says the same as the target"),
        ({"n": -1}, "greater than or equal to 0"),
        ({"alpha": 1e9}, "less than or equal to 1000"),
    ],
)
def test_bad_input_is_a_sentence(workspace: Workspace, params, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        steer(workspace, str(tiny_folder("llama")), **params)


def test_nothing_to_push(workspace: Workspace, tmp_path) -> None:
    """A model that reads only the last token is changed by taking that one away, no other."""
    toys.deaf().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    asked = {"granularity": "spans", "spans": "3:5", "layers": "all", "contrast": "x"}
    with pytest.raises(UserError, match="changes nothing at these layers"):
        steer(workspace, str(tmp_path), **asked)
    result = steer(workspace, str(tmp_path), layers="all", contrast="x", vector="pca", n=0)
    assert column(result, "layer", "layers") == [0, 1, 2]
    assert column(result, "source_position", "chosen") == [15]
    np.testing.assert_allclose(column(result, "vector_norm", "layers"), 1, rtol=1e-9)
    assert "No source speaks" in result.notes.to_pylist()[0]["reason"]
