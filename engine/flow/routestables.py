"""Tables of ``flow.routes``."""

from __future__ import annotations

import pyarrow as pa

from engine.schema import Column, Table

NODES = Table(
    doc="One row per place in the model: a layer's stream or MLP at one token.",
    columns={
        "node": Column(pa.string(), "Kind and layer, then the position.", "", "node"),
        "layer": Column(pa.int64(), "Layer from 0; −1 for what enters the first one.", "", "layer"),
        "kind": Column(
            pa.string(), "X0 enters, A is after attention, M the MLP, I after the layer."
        ),
        "position": Column(pa.int64(), "Token at which it stands."),
        "in_route": Column(pa.bool_(), "Whether the route passes it.", "", "in route"),
        "explained": Column(
            pa.float64(), "Share of it that edges of the route bring; the rest is left out."
        ),
    },
)

EDGES = Table(
    doc="One row per edge of the route.",
    columns={
        "layer": Column(pa.int64(), "Layer the edge belongs to, from 0.", "", "layer"),
        "source": Column(pa.string(), "Node it starts from; empty for a bias.", "", "from"),
        "target": Column(pa.string(), "Node it leads to.", "", "to"),
        "source_position": Column(pa.int64(), "Token it starts from; empty for a bias."),
        "target_position": Column(pa.int64(), "Token it leads to."),
        "kind": Column(pa.string(), "attention, residual, mlp or bias."),
        "weight": Column(pa.float64(), "Contribution to the target: all that enter add up to 1."),
        "head": Column(pa.int64(), "Head that contributes most to an attention edge.", "", "head"),
        "head_weight": Column(pa.float64(), "Contribution of that head."),
    },
)

SUMMARY = Table(
    doc="One row: how the route was made, and how well the parts add up.",
    columns={
        "position": Column(pa.int64(), "Token whose stream the route ends in."),
        "threshold": Column(pa.float64(), "Edges up to this are left out."),
        "renormalise": Column(pa.bool_(), "Whether what is left was made to add up to 1."),
        "layers": Column(pa.int64(), "Layers of the model."),
        "parallel": Column(pa.bool_(), "Whether attention and MLP work side by side."),
        "nodes": Column(pa.int64(), "Nodes of the route."),
        "edges": Column(pa.int64(), "Edges of the route."),
        "sources": Column(pa.int64(), "Tokens at which the route begins."),
        "sums": Column(pa.int64(), "Streams that were taken apart."),
        "error": Column(pa.float64(), "Largest difference between the parts' sum and a stream."),
        "relative_error": Column(pa.float64(), "The same as a share of the stream's largest."),
    },
)
