"""Information Flow Routes: parts that add up, contributions by brute force, edges by search."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from engine.encode import encode_text
from engine.errors import UserError
from engine.flow import contributions, routes
from engine.flow.layerparts import read_parts
from engine.loaded import LoadedModel
from engine.modelref import ModelRef
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Span, Text, Trace
from engine.workspace import Workspace
from tests.engine.tiny import FAMILIES, save_tokenizer, tiny_folder, tiny_ids, tiny_model

TEXT = Text(prompt="Two?\n", response="It is so.")
PARALLEL = ("gpt_neox", "phi", "cohere")


def look(workspace: Workspace, family: str, subject: Any = TEXT, **params: Any) -> Result:
    folder = str(tiny_folder(family))
    return run(Request("flow.routes", subject, folder, params), workspace=workspace)[0]


def loaded(workspace: Workspace, family: str) -> LoadedModel:
    return workspace.load(workspace.plan_model(str(tiny_folder(family))))


@functools.cache
def eager(family: str, ids: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    """Attention [L, H, T, T] and streams after each layer but the last, by transformers."""
    model = tiny_model(family)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model.base_model(
            torch.tensor([ids]), output_attentions=True, output_hidden_states=True
        )
    return torch.stack([a[0] for a in output.attentions]), [h[0] for h in output.hidden_states]


@pytest.mark.parametrize("family", [*FAMILIES, "cohere", "granite"])
def test_parts_add_up_to_the_streams(workspace: Workspace, family: str) -> None:
    """Heads, keys, biases, norms and factors of every family; attention is eager's own."""
    ids = tiny_ids(14)
    model = loaded(workspace, family)
    layers = read_parts(model, ids)
    attention, streams = eager(family, tuple(ids))
    for number, parts in enumerate(layers):
        assert parts.parallel == (family in PARALLEL)
        rows = list(range(14))
        torch.testing.assert_close(parts.attended.weights(rows), attention[number])
        torch.testing.assert_close(parts.before, streams[number])
        for shares in contributions.attention_shares(parts, rows):
            assert shares.error <= 1e-4 * max(1.0, shares.scale)
            total = shares.residual + shares.heads.sum() + shares.bias + shares.mlp
            assert total == pytest.approx(1)
            assert (shares.bias > 0) == (family in ("gpt2", "gpt_neox", "phi", "opt"))
            assert (shares.mlp > 0) == parts.parallel
            if not parts.parallel:
                later = contributions.mlp_shares(parts, shares.position)
                assert later.error <= 1e-4 * max(1.0, later.scale)
                assert later.residual + later.mlp == pytest.approx(1)
    assert not any(
        m._forward_hooks or m._forward_pre_hooks
        for network in (model.model, model.twin)
        for m in network.modules()
    )


def test_contributions_by_hand() -> None:
    """A part along the sum, one across it, one against it."""
    whole = torch.tensor([3.0, 1.0, 0.0])
    parts = torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    found = contributions.gains(whole, parts)
    torch.testing.assert_close(found, torch.tensor([4.0 - 2.0, 1.0, 1e-5]))


def brute(family: str, ids: list[int]) -> nx.MultiDiGraph:
    """Every edge of the model over a text: all parts of all heads and keys, held at once."""
    attention, _ = eager(family, tuple(ids))
    model = tiny_model(family)
    config = model.config
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    caught: dict[str, list[Tensor]] = {"x": [], "value": [], "mlp": [], "out": [], "post": []}

    def keep(name: str, given: bool = False) -> Any:
        def hook(_: Any, args: Any, output: Any) -> None:
            made = args[0] if given else output
            made = made[0] if isinstance(made, tuple) else made
            caught[name].append(made.reshape(len(ids), -1).double())

        return hook

    neox = family == "gpt_neox"
    blocks = model.gpt_neox.layers if neox else model.model.layers
    for block in blocks:
        block.register_forward_hook(keep("x", given=True))
        block.register_forward_hook(keep("out"))
        block.mlp.register_forward_hook(keep("mlp"))
        if neox:
            block.attention.query_key_value.register_forward_hook(keep("value"))
        else:
            block.self_attn.v_proj.register_forward_hook(keep("value"))
        if family == "gemma2":
            block.post_attention_layernorm.register_forward_hook(keep("post", given=True))
            block.post_feedforward_layernorm.register_forward_hook(keep("mlp"))
    with torch.no_grad():
        model(torch.tensor([ids]))
    if family == "gemma2":
        caught["mlp"] = caught["mlp"][1::2]
    graph = nx.MultiDiGraph()
    for layer, block in enumerate(blocks):
        x, out, mlp = (caught[name][layer] for name in ("x", "out", "mlp"))
        if neox:
            value = caught["value"][layer].reshape(len(ids), heads, 3, dim)[:, :, 2]
            linear = block.attention.dense
        else:
            value = caught["value"][layer].reshape(len(ids), -1, dim)
            value = value.repeat_interleave(heads // value.shape[1], 1)
            linear = block.self_attn.o_proj
        matrix = linear.weight.double().reshape(-1, heads, dim)
        bias = None if linear.bias is None else linear.bias.double()
        # [query, key, head, D], all at once
        z = torch.einsum("hqk,khd,ohd->qkho", attention[layer].double(), value, matrix).detach()
        if family == "gemma2":
            raw = caught["post"][layer]
            scale = torch.rsqrt(raw.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps)
            z = z * (scale * (1 + block.post_attention_layernorm.weight.double()))[:, None, None]
        z = z.detach()
        for q in range(len(ids)):
            parts = {("residual", q): x[q]}
            parts |= {("a", k, h): z[q, k, h] for k in range(q + 1) for h in range(heads)}
            parts = {n: p for n, p in parts.items() if n[0] != "a" or float(p.abs().max()) > 0}
            if bias is not None:
                parts["bias", q] = bias.detach()
            if neox:
                parts["mlp", q] = mlp[q]
            whole = sum(parts.values())
            node = f"I{layer}_{q}" if neox else f"A{layer}_{q}"
            below = f"I{layer - 1}_" if layer else "X0_"
            shares = share(parts, whole)
            for k in range(q + 1):
                weight = sum(s for n, s in shares.items() if n[:2] == ("a", k))
                if weight:
                    graph.add_edge(f"{below}{k}", node, key="attention", weight=weight)
            graph.add_edge(f"{below}{q}", node, key="residual", weight=shares["residual", q])
            if bias is not None:
                graph.add_edge("bias", node, key="bias", weight=shares["bias", q])
            middle = f"{below}{q}"
            if not neox:
                both = share({"mlp": mlp[q], "residual": whole}, whole + mlp[q])
                torch.testing.assert_close(whole + mlp[q], out[q], rtol=1e-4, atol=1e-4)
                middle = node
                graph.add_edge(node, f"I{layer}_{q}", key="residual", weight=both["residual"])
                shares["mlp", q] = both["mlp"]
            for a, b in ((middle, f"M{layer}_{q}"), (f"M{layer}_{q}", f"I{layer}_{q}")):
                graph.add_edge(a, b, key="mlp", weight=shares["mlp", q])
    return graph


def share(parts: dict[Any, Tensor], whole: Tensor) -> dict[Any, float]:
    found = {
        name: max(float(whole.abs().sum() - (whole - part).abs().sum()), 1e-5)
        for name, part in parts.items()
    }
    return {name: value / sum(found.values()) for name, value in found.items()}


def reached(graph: nx.MultiDiGraph, start: str, threshold: float) -> dict[tuple, float]:
    """Edges above the threshold that lead to ``start``, by networkx."""
    kept = nx.subgraph_view(
        graph, filter_edge=lambda u, v, k: graph[u][v][k]["weight"] > threshold
    ).reverse()
    return {
        (source, target, kind): graph[source][target][kind]["weight"]
        for target, source, kind in nx.edge_dfs(kept, start)
    }


def edges_of(result: Result) -> dict[tuple, float]:
    return {
        (e["source"] or "bias", e["target"], e["kind"]): e["weight"]
        for e in result.table("edges").to_pylist()
    }


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("threshold", [0.0, 0.04])
def test_routes_by_brute_force(workspace: Workspace, family: str, threshold: float) -> None:
    result = look(workspace, family, threshold=threshold)
    ids = [256, *b"Two?\nIt is so."]
    wanted = reached(brute(family, ids), f"I2_{len(ids) - 1}", threshold)
    found = edges_of(result)
    assert set(found) == set(wanted)
    for edge, weight in wanted.items():
        assert found[edge] == pytest.approx(weight, abs=2e-5)
    nodes = result.table("nodes").to_pylist()
    passed = {n["node"] for n in nodes if n["in_route"]}
    assert passed == {node for edge in wanted for node in edge[:2]} - {"bias"}
    for node in nodes:
        if node["in_route"] and node["kind"] in "AI":
            entering = sum(w for (_, t, _), w in wanted.items() if t == node["node"])
            assert node["explained"] == pytest.approx(entering, abs=1e-4)
            if threshold == 0:
                assert node["explained"] == pytest.approx(1)
    if threshold == 0 and family == "llama":
        # Nothing is left out: every earlier token, at every layer below.
        assert sum(n["kind"] == "X0" and n["in_route"] for n in nodes) == len(ids)
    summary = result.table("summary").to_pylist()[0]
    assert summary["edges"] == len(wanted)
    assert summary["relative_error"] < 1e-5


def test_head_of_an_edge_and_one_pass(workspace: Workspace) -> None:
    model = loaded(workspace, "qwen2")
    before = model.forwards
    result = look(workspace, "qwen2", threshold=0.01, position=6)
    assert model.forwards == before + 1
    layers = read_parts(model, [256, *b"Two?\nIt is so."])
    for edge in result.table("edges").to_pylist():
        if edge["kind"] != "attention":
            assert edge["head"] is None
            continue
        row = [edge["target_position"]]
        (shares,) = contributions.attention_shares(layers[edge["layer"]], row)
        column = shares.heads[:, edge["source_position"]]
        assert edge["head"] == column.argmax()
        assert edge["head_weight"] == pytest.approx(column.max(), abs=1e-5)
        assert edge["weight"] == pytest.approx(column.sum(), abs=1e-5)


def test_renormalised(workspace: Workspace) -> None:
    result = look(workspace, "opt", threshold=0.03, renormalise=True)
    for node in result.table("nodes").to_pylist():
        if node["in_route"] and node["kind"] in "AI":
            assert node["explained"] == pytest.approx(1)
    shares = contributions.Shares(2, 0.5, np.array([[0.2, 0.05], [0.05, 0.1]]), 0.1, 0.0, 0, 1)
    left = shares.above(0.09)
    assert left.residual == pytest.approx(0.5 / 0.9)
    np.testing.assert_allclose(left.heads, np.array([[0.2, 0], [0, 0.1]]) / 0.9)
    assert left.bias == pytest.approx(0.1 / 0.9)
    nothing = shares.above(0.9)
    assert (nothing.residual, nothing.bias, nothing.heads.sum()) == (0, 0, 0)


def test_chunks_and_half_precision(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = edges_of(look(workspace, "qwen3", threshold=0.02))
    monkeypatch.setattr(contributions, "CHUNK_BYTES", 1)
    monkeypatch.setattr(routes, "ROWS", 1)
    parts = edges_of(look(workspace, "qwen3", threshold=0.020000001))
    assert set(parts) == set(whole)
    assert all(parts[edge] == pytest.approx(weight, abs=1e-6) for edge, weight in whole.items())
    for family in ("llama", "phi", "gemma2"):
        half = ModelRef(source=str(tiny_folder(family)), dtype="bfloat16")
        result = run(Request("flow.routes", TEXT, half, {}), workspace=workspace)[0]
        summary = result.table("summary").to_pylist()[0]
        assert summary["relative_error"] < 0.02
        assert summary["parallel"] == (family == "phi")


def test_where_the_route_ends(workspace: Workspace) -> None:
    tokenizer = workspace.plan_model(str(tiny_folder("llama"))).tokenizer
    trace: Trace = encode_text(TEXT, tokenizer)
    last = look(workspace, "llama", trace).table("summary")["position"][0].as_py()
    assert last == len(trace) - 1
    marked = trace.evolve(spans={"answer": Span(start=9, end=11)})
    assert look(workspace, "llama", marked).table("summary")["position"][0].as_py() == 8
    targets = look(workspace, "llama", marked).table("edges")["target_position"].to_pylist()
    assert max(targets) == 8


def test_what_is_refused(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="there is no position 99"):
        look(workspace, "llama", position=99)
    with pytest.raises(UserError, match="cannot be read"):
        look(workspace, "gptj")
    with pytest.raises(UserError, match=r"no attention|cannot be read"):
        look(workspace, "mamba")
    monkeypatch.setattr(routes, "MOST_EDGES", 10)
    with pytest.raises(UserError, match="raise the threshold"):
        look(workspace, "llama", threshold=0.001)
    # OPT-350m puts its norms behind the sums.
    model = tiny_model("opt")
    model.config.do_layer_norm_before = False
    type(model)(model.config).save_pretrained(tmp_path / "post")
    save_tokenizer(tmp_path / "post")
    with pytest.raises(UserError, match="cannot be taken apart"):
        run(Request("flow.routes", TEXT, str(tmp_path / "post"), {}), workspace=workspace)


@pytest.mark.cuda
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_agrees_with_the_cpu(workspace: Workspace, family: str) -> None:
    ref = ModelRef(source=str(tiny_folder(family)), device="cuda")
    request = Request("flow.routes", TEXT, ref, {"threshold": 0.0})
    there = edges_of(run(request, workspace=workspace)[0])
    here = edges_of(look(workspace, family, threshold=0.0))
    assert set(there) == set(here)
    assert all(there[edge] == pytest.approx(weight, abs=2e-3) for edge, weight in here.items())
