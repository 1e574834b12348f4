"""Rollout sums to one and multiplies layers; maximum flow is the minimum cut."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch

from engine import twin
from engine.errors import UserError
from engine.flow.maxflow import SCALE, capacities, max_flow
from engine.flow.rolled import Rolling, rollout, rollout_of, with_residual
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Text
from engine.workspace import Workspace
from tests.engine.flow.oracle import random_rows
from tests.engine.flow.test_backbone import TEXT, attention, trace_of


def ask(workspace: Workspace, analysis: str, subject, model: str, **params) -> Result:
    return run(Request(analysis, subject, model, params), workspace=workspace)[0]


def test_rollout_by_paths() -> None:
    """Rows sum to 1, the mask stays causal, and an entry is a sum over ways through the layers."""
    n = 6
    layers = [random_rows(n, seed) for seed in range(3)]
    rolled = rollout(layers)
    np.testing.assert_allclose(rolled.sum(1), 1, atol=1e-14)
    assert not np.triu(rolled, 1).any()
    first, second, third = (
        [[(layer[t, s] + (s == t)) / 2 for s in range(n)] for t in range(n)] for layer in layers
    )
    ways = sum(third[5][a] * second[a][b] * first[b][2] for a in range(n) for b in range(n))
    assert rolled[5, 2] == pytest.approx(ways, rel=1e-12)
    weights = np.random.default_rng(0).random((2, n))
    np.testing.assert_allclose(rollout_of(layers, weights), weights @ rolled, rtol=1e-12)
    with pytest.raises(ValueError, match="at least one layer"):
        rollout([])
    # Rows that a cut left empty keep the token itself.
    np.testing.assert_array_equal(with_residual(np.zeros((2, 2))), np.eye(2))


def test_rolling_while_a_forward_goes_by() -> None:
    n = 20
    maps = torch.tensor(np.array([[random_rows(n, s + 3 * l) for s in range(3)] for l in range(2)]))  # noqa: E741
    rolling = Rolling(n, [0, 2])
    for layer in range(2):
        for start in range(0, n, 7):
            rolling(layer, start, maps[layer, :, start : start + 7].float())
    wanted = rollout(maps[:, [0, 2]].mean(1).numpy())
    np.testing.assert_allclose(rolling.rolled.numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("row", ["self", "predicting"])
def test_influence_on_the_answer(
    workspace: Workspace, llama: str, row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = trace_of(workspace, llama)
    a = trace.spans["answer"]
    result = ask(workspace, "flow.rollout", trace, llama, answer_row=row)
    rolled = rollout(attention(workspace, trace, llama, keep="layers"))
    shift = row == "predicting"
    wanted = rolled[a.start - shift : a.end - shift].mean(0)
    influence = result.table("tokens")["influence"].to_numpy()
    np.testing.assert_allclose(influence, wanted, atol=1e-12)
    assert influence.sum() == pytest.approx(1, abs=1e-6)
    assert np.flatnonzero(influence).max() == a.end - 1 - shift
    pairs = ask(workspace, "flow.rollout", trace, llama, answer_row=row, pairs=True)
    np.testing.assert_allclose(pairs.table("tokens")["influence"].to_numpy(), influence, atol=1e-14)
    table = pairs.to_pandas("pairs")
    np.testing.assert_allclose(table.weight, rolled[table.target_position, table.source_position])
    assert len(table) == len(trace) * (len(trace) + 1) // 2
    # A text too long to keep every layer is rolled out while the forward goes by.
    monkeypatch.setattr(twin, "KEEP_BYTES", 100)
    other = ask(workspace, "flow.rollout", trace, llama, answer_row=row, layers="0-2")
    np.testing.assert_allclose(other.table("tokens")["influence"].to_numpy(), influence, atol=1e-6)
    assert other.key != result.key


def test_one_layer_lets_through_its_own_attention() -> None:
    layer = random_rows(7, 1)
    network = capacities([layer])
    for t in range(7):
        for s in range(t + 1):
            assert max_flow(network, s, t) == pytest.approx((layer[t, s] + (s == t)) / 2, abs=1e-6)
    assert max_flow(network, 5, 3) == 0


def test_maximum_flow_is_the_minimum_cut() -> None:
    n = 5
    network = capacities([random_rows(n, seed, 2.0) for seed in range(3)])
    graph = nx.DiGraph()
    for layer, capacity in enumerate(network):
        for t in range(n):
            for s in range(t + 1):
                graph.add_edge((layer, s), (layer + 1, t), capacity=int(capacity[t, s]))
    for t in range(n):
        for s in range(t + 1):
            found = max_flow(network, s, t)
            cut, (side, _) = nx.minimum_cut(graph, (0, s), (3, t))
            assert found == cut / SCALE
            crossing = sum(
                d["capacity"] for u, v, d in graph.edges(data=True) if u in side and v not in side
            )
            assert crossing == cut
            out = network[0][:, s].sum() / SCALE
            into = network[2][t, : t + 1].sum() / SCALE
            assert found <= min(out, into) + 1e-12


def test_maxflow_table(workspace: Workspace, llama: str) -> None:
    text = Text(prompt="Question: 3?\n", response="Answer: 55")
    trace = trace_of(workspace, llama, text)
    a = trace.spans["answer"]
    kept = attention(workspace, trace, llama, keep="layers")
    network = capacities(list(kept[:, : a.end, : a.end]))
    for row in ("self", "predicting"):
        shift = row == "predicting"
        result = ask(workspace, "flow.maxflow", trace, llama, answer_row=row)
        table = result.to_pandas("pairs")
        for t, own in table.groupby("target_position"):
            assert own.source_position.tolist() == list(range(t + 1 - shift))
            assert own.share.sum() == pytest.approx(1)
            for s in (0, 5, t - 1):
                flow = own.flow[own.source_position == s].item()
                assert flow == max_flow(network, s, t - shift)
    assert set(table.target_position) == set(range(a.start, a.end))


def test_bad_input_is_a_sentence(workspace: Workspace, llama: str) -> None:
    long = Text(prompt=TEXT.prompt, response="a" * 30 + TEXT.response)
    trace = trace_of(workspace, llama, long)
    with pytest.raises(UserError, match="computed up to 48 tokens; the answer ends at 66"):
        ask(workspace, "flow.maxflow", trace, llama)
    longer = trace_of(workspace, llama, Text(prompt="a" * 240, response="\nAnswer: 5"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.flow.rollout.PAIRS", 200)
        with pytest.raises(UserError, match="All pairs are listed up to 200 tokens; here are 251"):
            ask(workspace, "flow.rollout", longer, llama, pairs=True)
    for name in ("flow.maxflow", "flow.rollout"):
        with pytest.raises(UserError, match="No answer was found"):
            ask(workspace, name, trace_of(workspace, llama, Text(prompt="a", response="b")), llama)
