"""A backbone as a graph to take away: networkx, GraphML, JSON."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any

import orjson

from engine.errors import UserError
from engine.result import Result

if TYPE_CHECKING:
    import networkx as nx

SCHEMA_VERSION = 1
JSON_BYTES = 1_000_000
"""Most bytes of a JSON export; the lightest edges are left out, and counted."""

_DIGITS = 5
_NODE = (
    "token",
    "token_id",
    "role",
    "segment",
    "part",
    "log_reach",
    "inflow",
    "throughput",
    "in_backbone",
    "hub",
    "checkpoint",
)
_EDGE = ("weight", "flow", "in_backbone", "share_needed")
# What XML 1.0 cannot hold.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def graph_of(result: Result) -> nx.DiGraph:
    """The token graph of a ``flow.backbone`` result; nodes are positions.

    Nodes, edges and the graph carry the columns of ``nodes``, ``edges`` and ``summary``; what is
    empty is left out.

    Raises:
        UserError: the result is of another analysis.
    """
    import networkx as nx

    _check(result)
    graph = nx.DiGraph(schema_version=SCHEMA_VERSION, key=result.key, **_summary(result))
    nodes = result.table("nodes").select(["position", *_NODE]).to_pylist()
    for row in nodes:
        graph.add_node(row.pop("position"), **_known(row))
    edges = result.table("edges").select(["source_position", "target_position", *_EDGE])
    for row in edges.to_pylist():
        graph.add_edge(row.pop("source_position"), row.pop("target_position"), **_known(row))
    return graph


def to_graphml(result: Result) -> bytes:
    r"""GraphML of ``graph_of``, as Gephi, yEd and Cytoscape read it.

    Characters XML cannot hold are written ``\xNN``.

    Raises:
        UserError: the result is of another analysis.
    """
    import networkx as nx

    graph = graph_of(result)
    holders = [graph.graph, *(a for _, a in graph.nodes(data=True))]
    for attributes in holders:
        for name, value in attributes.items():
            if isinstance(value, str):
                attributes[name] = _NOT_XML.sub(_escaped, value)
    out = io.BytesIO()
    nx.write_graphml_xml(graph, out, encoding="utf-8")
    return out.getvalue()


def to_json(result: Result, *, limit: int = JSON_BYTES) -> bytes:
    """One JSON object: ``schema_version``, ``key``, ``summary``, ``nodes`` and ``edges``.

    Nodes and edges are columns of equal length; numbers have five significant digits. Beyond
    ``limit`` bytes the lightest edges are left out: ``edges_left_out`` and ``flow_left_out`` say
    how many, and how much of the listed edges' flow they hold.

    Raises:
        UserError: the result is of another analysis, or the tokens alone need more bytes.
    """
    _check(result)
    edges = result.table("edges")
    flow = edges["flow"].to_numpy()
    columns = _columns(edges, ("source_position", "target_position", *_EDGE))
    head = {
        "schema_version": SCHEMA_VERSION,
        "analysis": result.analysis,
        "key": result.key,
        "summary": _summary(result),
        "nodes": _columns(result.table("nodes"), ("position", *_NODE)),
    }

    def made(count: int) -> bytes:
        left = float(flow[count:].sum() / flow.sum()) if count < len(flow) else 0.0
        return orjson.dumps(
            {
                **head,
                "edges": {name: values[:count] for name, values in columns.items()},
                "edges_left_out": len(flow) - count,
                "flow_left_out": left,
            }
        )

    count, least = len(flow), len(made(0))
    data = made(count)
    per_edge = (len(data) - least) / max(count, 1)
    while len(data) > limit:
        if not count:
            raise UserError("The text is too long for this export: take the tables instead.")
        count = max(0, count - math.ceil((len(data) - limit) / per_edge))
        data = made(count)
    return data


def _check(result: Result) -> None:
    if result.analysis != "flow.backbone":
        raise UserError(f"A graph is made from flow.backbone, not from {result.analysis}.")


def _summary(result: Result) -> dict[str, Any]:
    return _known(result.table("summary").to_pylist()[0])


def _known(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _columns(table: Any, names: tuple[str, ...]) -> dict[str, list[Any]]:
    return {name: [_short(value) for value in table[name].to_pylist()] for name in names}


def _short(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _escaped(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"
