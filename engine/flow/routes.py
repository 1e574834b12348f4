"""``flow.routes``: which parts of which layers a prediction is made of."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.flow.contributions import Shares, attention_shares, mlp_shares
from engine.flow.routestables import EDGES, NODES, SUMMARY
from engine.registry import Params, analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from engine.flow.layerparts import LayerParts

MOST_EDGES = 200_000
"""Of a route; a graph of more is for no eye, and no table."""

NODE_ROWS = 50_000
"""Above so many nodes only those of the route are listed."""

ROWS = 16
"""Query rows looked at between two yields."""


class RoutesParams(Params):
    """Settings of ``flow.routes``."""

    threshold: float = Field(
        0.04,
        ge=0,
        lt=1,
        title="Threshold",
        description="Edges that contribute no more than this are not followed.",
    )
    renormalise: bool = Field(
        False,
        title="Renormalise",
        description="Drop parts below the threshold first and let the rest add up to 1.",
    )
    position: int | None = Field(
        None,
        ge=0,
        title="From",
        description="Whose stream the route ends in; none: where the answer is predicted, "
        "else the last token.",
    )


@analysis(
    "flow.routes",
    version=1,
    subject=Trace,
    params=RoutesParams,
    tables={"nodes": NODES, "edges": EDGES, "summary": SUMMARY},
    title="Through which layers did this prediction come together?",
    cite=(
        "Ferrando and Voita (2024), Information Flow Routes, arXiv 2403.00824.",
        "Tufanov et al. (2024), LM Transparency Tool, arXiv 2404.07004: defaults and node names.",
    ),
    caveats=(
        "A node is a place, not a prediction: the stream at a token makes the token after it.",
        "A contribution says how much of a sum a part is, not what would change without it.",
        "Attention of a token to itself and the stream itself are two edges; the tool adds them.",
        "The bias of attention's output is a part of its own; that of the values goes with them.",
        "A norm behind attention (Gemma 2) is held fixed, so that its input can be taken apart.",
        "Where attention and MLP work side by side there are no A nodes.",
    ),
)
def routes(ctx: Context) -> Iterator[Progress | Tables]:
    """The edges that make the last layer's stream at one token, followed backwards.

    Every stream is a sum: what was there, what each head brings from each key, what the MLP adds.
    A part z of a sum y contributes max(‖y‖₁ − ‖y − z‖₁, 1e−5), divided by the sum over all parts;
    an attention edge adds its heads up. From the chosen token's stream after the last layer, edges
    above ``threshold`` are followed down to the embeddings. With ``renormalise`` the parts above
    the threshold are made to add up to 1 first, head by head, and every edge left is followed.
    Only streams the route passes are taken apart.
    """
    from engine.flow.layerparts import read_parts

    start = _start(ctx)
    yield Progress(None, "Loading the model")
    model = ctx.models["model"]
    layers = read_parts(model, ctx.subject.ids)
    route = _Route(ctx.params.threshold, ctx.params.renormalise)
    yield from route.follow(layers, start)
    route.check(model.name, 1e-3 if model.dtype.itemsize >= 4 else 0.05)
    yield Tables(_tables(ctx, route, layers, start))


def _start(ctx: Context) -> int:
    """The position whose last stream the route ends in."""
    trace, asked = ctx.subject, ctx.params.position
    if not len(trace):
        raise UserError("The text has no tokens: enter at least one character.")
    if asked is None:
        answer = trace.spans.get("answer")
        return answer.start - 1 if answer is not None and answer.start else len(trace) - 1
    if asked >= len(trace):
        raise UserError(
            f"flow.routes: the text has {len(trace):,} tokens, so there is no position {asked:,}: "
            f"choose one from 0 to {len(trace) - 1:,}."
        )
    return int(asked)


@dataclass
class _Route:
    """A route as it grows from the last layer down."""

    threshold: float
    renormalise: bool
    edges: list[dict[str, Any]] = field(default_factory=list)
    passed: dict[tuple[int, str, int], float | None] = field(default_factory=dict)
    sums: int = 0
    error: float = 0.0
    relative: float = 0.0

    def follow(self, layers: list[LayerParts], start: int) -> Generator[Progress, None, None]:
        """Walk from the last layer's stream at ``start`` to the embeddings."""
        frontier = {start}
        for layer in range(len(layers) - 1, -1, -1):
            parts = layers[layer]
            rows = sorted(frontier) if parts.parallel else self._mlp(parts, layer, frontier)
            below: set[int] = set()
            for at in range(0, len(rows), ROWS):
                below |= self._attention(parts, layer, rows[at : at + ROWS])
                done = (len(layers) - layer - 1 + (at + ROWS) / max(len(rows), ROWS)) / len(layers)
                yield Progress(min(done, 1.0), f"Followed {len(self.edges):,} edges to {layer}")
            frontier = below
        for position in frontier:
            self.passed[-1, "X0", position] = None

    def check(self, name: str, tolerance: float) -> None:
        """Refuse a model whose parts do not add up to its streams.

        Raises:
            UserError: if so.
        """
        if self.relative > tolerance:
            raise UserError(
                f"The attention of {name} is no sum over heads and keys that is known here (the "
                f"parts miss {self.relative:.2g} of a stream): choose another model."
            )

    def _taken(self, shares: Shares) -> tuple[Shares, float]:
        """The contributions to be followed, and the threshold they must pass."""
        self.sums += 1
        self.error = max(self.error, shares.error)
        self.relative = max(self.relative, shares.error / max(shares.scale, 1e-30))
        return (shares.above(self.threshold), 0.0) if self.renormalise else (shares, self.threshold)

    def _mlp(self, parts: LayerParts, layer: int, frontier: set[int]) -> list[int]:
        """Edges into the streams after a serial layer; returns where its A nodes are passed."""
        found = []
        for row in sorted(frontier):
            shares, least = self._taken(mlp_shares(parts, row))
            node = (layer, "I", row)
            middle = (layer, "A", row)
            self.passed[node] = 0.0
            if shares.mlp > least:
                self._through_mlp(layer, middle, node, shares.mlp)
            if shares.residual > least:
                self._edge(layer, middle, node, "residual", shares.residual)
            if shares.mlp > least or shares.residual > least:
                found.append(row)
        return found

    def _through_mlp(
        self, layer: int, source: tuple[int, str, int], node: tuple[int, str, int], weight: float
    ) -> None:
        inner = (layer, "M", node[2])
        self.passed[inner] = None
        self._edge(layer, source, inner, "mlp", weight)
        self._edge(layer, inner, node, "mlp", weight)

    def _attention(self, parts: LayerParts, layer: int, rows: list[int]) -> set[int]:
        """Edges into the streams behind the attention; returns the tokens they come from."""
        import torch

        below: set[int] = set()
        with torch.no_grad():
            made = list(attention_shares(parts, rows))
        for given in made:
            shares, least = self._taken(given)
            row = shares.position
            node = (layer, "I" if parts.parallel else "A", row)
            self.passed[node] = 0.0
            by_key = shares.heads.sum(0)
            for key in (by_key > least).nonzero()[0].tolist():
                source = _below(layer, key)
                self._edge(layer, source, node, "attention", float(by_key[key]))
                head = int(shares.heads[:, key].argmax())
                self.edges[-1] |= {"head": head, "head_weight": float(shares.heads[head, key])}
                below.add(key)
            if shares.bias > least:
                self._edge(layer, None, node, "bias", shares.bias)
            if shares.mlp > least:
                self._through_mlp(layer, _below(layer, row), node, shares.mlp)
                below.add(row)
            if shares.residual > least:
                self._edge(layer, _below(layer, row), node, "residual", shares.residual)
                below.add(row)
        return below

    def _edge(
        self,
        layer: int,
        source: tuple[int, str, int] | None,
        target: tuple[int, str, int],
        kind: str,
        weight: float,
    ) -> None:
        if len(self.edges) >= MOST_EDGES:
            raise UserError(
                f"The route has more than {MOST_EDGES:,} edges: raise the threshold "
                f"(it is {self.threshold:g})."
            )
        self.edges.append(
            {
                "layer": layer,
                "source": None if source is None else _name(source),
                "target": _name(target),
                "source_position": None if source is None else source[2],
                "target_position": target[2],
                "kind": kind,
                "weight": weight,
            }
        )
        if self.passed.get(target) is not None:
            self.passed[target] = (self.passed[target] or 0.0) + weight


def _below(layer: int, position: int) -> tuple[int, str, int]:
    """The stream that enters a layer."""
    return (layer - 1, "I", position) if layer else (-1, "X0", position)


def _name(node: tuple[int, str, int]) -> str:
    layer, kind, position = node
    return f"X0_{position}" if kind == "X0" else f"{kind}{layer}_{position}"


def _tables(
    ctx: Context, route: _Route, layers: list[LayerParts], start: int
) -> dict[str, pa.Table]:
    parallel = layers[0].parallel
    nodes = _nodes(ctx, route, layers)
    ctx.note("nodes", "explained", "X0 and M nodes are no sums; outside the route nothing is said")
    if any(edge["kind"] == "bias" for edge in route.edges):
        ctx.note("edges", "source", "a bias comes from no token")
        ctx.note("edges", "source_position", "a bias comes from no token")
    ctx.note("edges", "head", "only attention edges have heads")
    ctx.note("edges", "head_weight", "only attention edges have heads")
    summary = {
        "position": start,
        "threshold": ctx.params.threshold,
        "renormalise": ctx.params.renormalise,
        "layers": len(layers),
        "parallel": parallel,
        "nodes": len(route.passed),
        "edges": len(route.edges),
        "sources": sum(kind == "X0" for _, kind, _ in route.passed),
        "sums": route.sums,
        "error": route.error,
        "relative_error": route.relative,
    }
    return {
        "nodes": pa.Table.from_pylist(nodes, NODES.schema()),
        "edges": pa.Table.from_pylist(route.edges, EDGES.schema()),
        "summary": pa.Table.from_pylist([summary], SUMMARY.schema()),
    }


def _nodes(ctx: Context, route: _Route, layers: list[LayerParts]) -> list[dict[str, Any]]:
    """All nodes of the model over this text, or only the route's where those are too many."""
    length = len(ctx.subject)
    every = [(-1, "X0", position) for position in range(length)]
    for layer, parts in enumerate(layers):
        kinds = "MI" if parts.parallel else "AMI"
        every += [(layer, kind, position) for kind in kinds for position in range(length)]
    if len(every) > NODE_ROWS:
        ctx.note("nodes", None, "only the nodes of the route are listed")
        every = [node for node in every if node in route.passed]
    return [
        {
            "node": _name(node),
            "layer": node[0],
            "kind": node[1],
            "position": node[2],
            "in_route": node in route.passed,
            "explained": route.passed.get(node),
        }
        for node in every
    ]
