"""Graphs to take away: what goes out comes back, hostile tokens included, within a megabyte."""

from __future__ import annotations

import dataclasses
import io

import networkx as nx
import numpy as np
import orjson
import pytest

from engine.errors import UserError
from engine.flow.export import SCHEMA_VERSION, graph_of, to_graphml, to_json
from engine.result import Request
from engine.running import run
from engine.subjects import Text
from engine.workspace import Workspace
from tests.engine.flow.test_backbone import TEXT, flow, trace_of

HOSTILE = Text(prompt='Question: <script>&amp;"\x00\x0b\ufffe é?\n', response="]]>\x1f\nAnswer: 5<")


def test_graph(workspace: Workspace, llama: str) -> None:
    result = flow(workspace, trace_of(workspace, llama), llama)
    graph = graph_of(result)
    assert nx.is_directed_acyclic_graph(graph)
    assert graph.graph["schema_version"] == SCHEMA_VERSION
    assert graph.graph["reduce"] == "mean"
    assert graph.number_of_nodes() == 40
    assert graph.number_of_edges() == len(result.table("edges"))
    for node in range(5, 30):
        into = sum(d["flow"] for _, _, d in graph.in_edges(node, data=True))
        out = sum(d["flow"] for _, _, d in graph.out_edges(node, data=True))
        own = graph.nodes[node]
        assert own["throughput"] == pytest.approx(own["inflow"] + out, abs=1e-12)
        if own.get("part") == "between":
            assert into == pytest.approx(out, abs=1e-12)


def test_graphml_comes_back(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama, HOSTILE)
    result = flow(workspace, trace, llama)
    back = nx.read_graphml(io.BytesIO(to_graphml(result)), node_type=int)
    graph = graph_of(result)
    assert set(back.edges) == set(graph.edges)
    for edge in graph.edges:
        assert back.edges[edge]["flow"] == graph.edges[edge]["flow"]
    tokens = {n: d["token"] for n, d in back.nodes(data=True)}
    zero = trace.pieces.index(b"\x00")
    assert tokens[zero] == "\\x00"
    assert tokens[trace.pieces.index(b"<", 12)] == "<"
    assert b"<script>" not in to_graphml(result)


def test_json_comes_back(workspace: Workspace, llama: str) -> None:
    result = flow(workspace, trace_of(workspace, llama, HOSTILE), llama)
    data = orjson.loads(to_json(result))
    assert data["schema_version"] == SCHEMA_VERSION
    assert data["edges_left_out"] == 0
    edges = result.table("edges")
    assert data["edges"]["source_position"] == edges["source_position"].to_pylist()
    np.testing.assert_allclose(data["edges"]["flow"], edges["flow"].to_numpy(), rtol=1e-4)
    assert data["nodes"]["log_reach"][-1] == result.table("nodes")["log_reach"].to_pylist()[-1]


def test_a_megabyte_at_256_tokens(workspace: Workspace, llama: str) -> None:
    text = Text(prompt=TEXT.prompt, response="a b" * 72 + TEXT.response[:-3])
    trace = trace_of(workspace, llama, text)
    assert len(trace) > 250
    result = flow(workspace, trace, llama)
    data = to_json(result)
    assert len(data) <= 1_000_000
    assert len(result.table("edges")) > 25_000
    small = orjson.loads(to_json(result, limit=100_000))
    assert len(to_json(result, limit=100_000)) <= 100_000
    kept = len(small["edges"]["flow"])
    assert small["edges_left_out"] == len(result.table("edges")) - kept
    flows = result.table("edges")["flow"].to_numpy()
    assert small["flow_left_out"] == pytest.approx(flows[kept:].sum() / flows.sum())
    assert min(small["edges"]["flow"]) >= flows[kept] * (1 - 1e-4)
    assert kept > 1500
    with pytest.raises(UserError, match="too long for this export"):
        to_json(result, limit=1000)


def test_only_backbones(workspace: Workspace, llama: str) -> None:
    result = run(Request("statistics", TEXT, llama), workspace=workspace)[0]
    for export in (graph_of, to_graphml, to_json):
        with pytest.raises(UserError, match=r"made from flow\.backbone, not from statistics"):
            export(result)
    assert dataclasses.is_dataclass(result)
