"""The logit lens: its last layer is the model, idle layers add nothing, depths by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.encode import trace_from_ids
from engine.errors import UserError
from engine.flow import lens
from engine.modelref import ModelRef
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Text
from engine.workspace import Workspace
from tests.engine.tiny import (
    FAMILIES,
    VOCABULARY,
    save_tokenizer,
    tiny_folder,
    tiny_ids,
    tiny_model,
)

TEXT = Text(prompt="Why?\n", response="So.")


def look(workspace: Workspace, folder: object, subject: object = TEXT, **params: object) -> Result:
    model = folder if isinstance(folder, ModelRef) else str(folder)
    return run(Request("flow.lens", subject, model, params), workspace=workspace)[0]


def layered(result: Result, name: str) -> np.ndarray:
    """A column of ``layers`` as [T − 1, L + 1], rows in order of the predicted token."""
    table = result.table("layers")
    depth = max(table["layer"].to_pylist()) + 1
    return np.array(table[name].to_pylist()).reshape(-1, depth)


def column(result: Result, name: str) -> list:
    return result.table("tokens")[name].to_pylist()


def model_logprobs(folder: object, ids: list[int]) -> np.ndarray:
    """Float64 log-probabilities of the model itself, [T, V]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :, :VOCABULARY]
    return logits.log_softmax(-1).numpy()


@pytest.mark.parametrize("family", [*FAMILIES, "cohere", "granite", "mamba"])
def test_the_last_layer_is_the_model(workspace: Workspace, family: str) -> None:
    """Soft-caps, scales, projections and final norms of every family count."""
    result = look(workspace, tiny_folder(family))
    ids = column(result, "token_id")
    logprobs = model_logprobs(tiny_folder(family), ids)[:-1]
    entropy = -(np.exp(logprobs) * logprobs).sum(-1)
    actual = np.array([logprobs[t - 1, ids[t]] for t in range(1, len(ids))])
    rank = 1 + (logprobs > actual[:, None]).sum(-1)
    np.testing.assert_allclose(layered(result, "entropy")[:, -1], entropy, atol=2e-4)
    np.testing.assert_allclose(layered(result, "logprob")[:, -1], actual, atol=5e-4)
    np.testing.assert_array_equal(layered(result, "rank_actual")[:, -1], rank)
    np.testing.assert_array_equal(layered(result, "top_id")[:, -1], logprobs.argmax(-1))
    np.testing.assert_allclose(layered(result, "kl")[:, -1], 0, atol=1e-6)
    np.testing.assert_array_equal(layered(result, "rank_final")[:, -1], 1)
    assert column(result, "final_id") == [None, *logprobs.argmax(-1)]
    # The layers below say something else, and a value is of the token itself, not of a neighbour.
    assert np.abs(layered(result, "logprob")[:, 0] - actual).max() > 0.1
    assert np.abs(layered(result, "logprob")[1:, -1] - actual[:-1]).max() > 0.1


@pytest.mark.parametrize("norm", [True, False])
def test_layers_by_hand(workspace: Workspace, norm: bool) -> None:
    """Stream by stream through norm and head in numpy float64, with and without the norm."""
    folder = tiny_folder("llama")
    result = look(workspace, folder, norm=norm, top_k=3)
    ids = column(result, "token_id")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        output = model.model(torch.tensor([ids]), output_hidden_states=True)
    streams = [s[0, :-1].numpy() for s in output.hidden_states[:-1]]
    with torch.no_grad():  # what transformers lists last is normed already
        final = model.lm_head(output.last_hidden_state)[0, :-1].log_softmax(-1).numpy()
    head, weight = model.lm_head.weight.detach().numpy(), model.model.norm.weight.detach().numpy()
    for layer, stream in enumerate(streams):
        if norm:
            stream = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-6) * weight
        z = stream @ head.T
        lp = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
        lp -= z.max(-1, keepdims=True)
        kl = (np.exp(final) * (final - lp)).sum(-1)
        rows = np.arange(len(lp))
        said = final.argmax(-1)
        np.testing.assert_allclose(layered(result, "kl")[:, layer], kl, rtol=2e-4, atol=1e-4)
        wanted = 1 + (lp > lp[rows, said][:, None]).sum(-1)
        np.testing.assert_array_equal(layered(result, "rank_final")[:, layer], wanted)
        top = np.sort(lp, -1)[:, ::-1][:, :3]
        table = result.table("alternatives").to_pylist()
        found = [r["logprob"] for r in table if r["layer"] == layer]
        np.testing.assert_allclose(found, top.reshape(-1), atol=5e-4)
    if not norm:
        assert np.abs(layered(result, "kl")[:, -1]).max() > 0.01


def test_idle_upper_layers_say_the_same(workspace: Workspace, tmp_path: Path) -> None:
    """When the upper two of three layers add nothing, the final token is settled after one."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        for block in model.transformer.h[1:]:
            for part in (block.attn.c_proj, block.mlp.c_proj):
                part.weight.zero_()
                part.bias.zero_()
    model.save_pretrained(tmp_path / "idle")
    save_tokenizer(tmp_path / "idle")
    result = look(workspace, tmp_path / "idle")
    np.testing.assert_allclose(layered(result, "kl")[:, 1:], 0, atol=1e-6)
    assert np.ptp(layered(result, "logprob")[:, 1:], axis=1).max() < 1e-6
    assert max(column(result, "exit_depth")[1:]) == 1
    assert max(column(result, "settled_depth")[1:]) == 1


def test_depths_by_hand() -> None:
    agrees = np.array([[0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1]], bool)
    assert lens.first(agrees) == [1, 0, None, 0]
    assert lens.last_from(agrees) == [1, 2, None, 0]
    assert lens.last_from(np.array([[1], [0]], bool)) == [None]


def test_depths_are_those_of_the_layers(workspace: Workspace) -> None:
    result = look(workspace, tiny_folder("opt"))
    said, ids = layered(result, "top_id"), column(result, "token_id")
    for t in range(1, len(ids)):
        row = said[t - 1]
        exits = [layer for layer in range(len(row)) if row[layer] == row[-1]]
        assert column(result, "exit_depth")[t] == exits[0]
        steady = [d for d in range(len(row)) if (row[d:] == row[-1]).all()]
        assert column(result, "settled_depth")[t] == steady[0]
        found = [layer for layer in range(len(row)) if row[layer] == ids[t]]
        assert column(result, "found_depth")[t] == (found[0] if found else None)
    assert [column(result, name)[0] for name in ("exit_depth", "final_id", "final")] == [None] * 3


def test_one_forward_in_chunks_and_listed_rows(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder("qwen2")
    whole = look(workspace, folder)
    model = workspace.load(workspace.plan_model(str(folder)))
    before = model.forwards
    monkeypatch.setattr(lens, "CHUNK_BYTES", 4 * VOCABULARY * 3)
    some = look(workspace, folder, positions=[2, 5])
    assert model.forwards == before + 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())
    np.testing.assert_allclose(
        layered(some, "kl"), layered(whole, "kl")[[1, 4]], rtol=1e-4, atol=1e-5
    )
    assert set(some.table("layers")["position"].to_pylist()) == {2, 5}
    assert column(some, "exit_depth") == column(whole, "exit_depth")
    monkeypatch.setattr(lens, "TABLE_ROWS", 8)
    short = look(workspace, folder, top_k=2)
    n = len(column(whole, "position"))
    assert set(short.table("layers")["position"].to_pylist()) == {n - 2, n - 1}
    assert any("only the last 2 tokens" in r["reason"] for r in short.notes.to_pylist())


def test_hooks_go_after_an_exception(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.flow.streams import read_streams

    model = workspace.load(workspace.plan_model(str(tiny_folder("phi"))))

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(model.model.model.layers[1].mlp, "forward", broken)
    with pytest.raises(RuntimeError, match="broken"):
        read_streams(model, tiny_ids(5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())


def test_what_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_folder("llama")
    with pytest.raises(UserError, match="there is no position 99"):
        look(workspace, folder, positions=[99])
    tokenizer = workspace.plan_model(str(folder)).tokenizer
    one = look(workspace, folder, trace_from_ids((256,), tokenizer, response_start=0))
    assert column(one, "exit_depth") == [None]
    assert one.table("layers").num_rows == 0
    # A model that changes its streams on the way to its head in a manner of its own.
    model = workspace.load(workspace.plan_model(str(folder)))
    own = model.model.model.forward

    def doubled(*args: object, **kwargs: object) -> object:
        output = own(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * 2
        return output

    monkeypatch.setattr(model.model.model, "forward", doubled)
    with pytest.raises(UserError, match="does something after its last layer"):
        look(workspace, folder, Text(prompt="a", response="b"))


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_half_precision(workspace: Workspace, family: str) -> None:
    """The last layer is the half-precision model's own opinion, not the wide one's."""
    ref = ModelRef(source=str(tiny_folder(family)), dtype="bfloat16")
    result = look(workspace, ref)
    ids = column(result, "token_id")
    own = workspace.load(workspace.plan_model(ref)).full_logits(ids)[:-1, :VOCABULARY]
    logprobs = own.log_softmax(-1)
    wanted = logprobs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()
    np.testing.assert_allclose(layered(result, "logprob")[:, -1], wanted, atol=0.05)
    np.testing.assert_array_equal(column(result, "final_id")[1:], own.argmax(-1).numpy())


@pytest.mark.cuda
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_agrees_with_the_cpu(workspace: Workspace, family: str) -> None:
    there = look(workspace, ModelRef(source=str(tiny_folder(family)), device="cuda"))
    here = look(workspace, tiny_folder(family))
    for name in ("kl", "entropy", "logprob"):
        np.testing.assert_allclose(layered(there, name), layered(here, name), atol=5e-3)
