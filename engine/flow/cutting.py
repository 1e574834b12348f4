"""Edges as people write them, as attention entries to cut, and what attention they hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import UserError
from engine.flow.graph import AnswerRow, row_of
from engine.flow.recurrences import Floats
from engine.subjects import Span

if TYPE_CHECKING:
    from torch import Tensor

_EDGE = re.compile(r"\s*(\d{1,9})\s*>\s*(\d{1,9})\s*")
Edge = tuple[int, int]


def edges_of(text: str, length: int) -> list[Edge]:
    """Edges ``(source, target)`` written ``12>40,13>40``, each once.

    Raises:
        UserError: one is written otherwise, is outside the text, or does not lead forwards.
    """
    found: dict[Edge, None] = {}
    for part in filter(str.strip, text.split(",")):
        match = _EDGE.fullmatch(part)
        if match is None:
            raise UserError("Write edges as SOURCE>TARGET in token positions, such as 12>40,13>40.")
        source, target = int(match[1]), int(match[2])
        if target >= length:
            raise UserError(
                f"The edge {source}>{target} is not in the text: positions go from 0 to "
                f"{length - 1}."
            )
        if source >= target:
            raise UserError(
                f"The edge {source}>{target} does not lead forwards: the source stands before the "
                "target."
            )
        found[source, target] = None
    return list(found)


def mask_of(
    edges: Sequence[Edge],
    nodes: Sequence[int],
    length: int,
    answer: Span | None,
    answer_row: AnswerRow,
) -> Tensor:
    """Boolean [T, T] of attention entries (query, key) that make these edges and nodes.

    A node is every later position's view of it.
    """
    import torch

    mask = torch.zeros(length, length, dtype=torch.bool)
    for source, target in edges:
        mask[row_of(target, answer, answer_row), source] = True
    for node in nodes:
        mask[node + 1 :, node] = True
    return mask


class Watched:
    """Adds up the attention that edges and nodes hold while a forward goes by.

    Attributes:
        edges: [edges], mean over the chosen layers and heads.
        nodes: [nodes], the same, summed over all later positions.
    """

    def __init__(
        self,
        rows: Sequence[int],
        sources: Sequence[int],
        nodes: Sequence[int],
        heads: Sequence[int],
    ) -> None:
        self._rows, self._sources = np.array(rows, np.int64), np.array(sources, np.int64)
        self._nodes, self._heads = np.array(nodes, np.int64), list(heads)
        self._edge_sums, self._node_sums = np.zeros(len(rows)), np.zeros(len(nodes))
        self._layers: set[int] = set()

    def __call__(self, layer: int, start: int, weights: Tensor) -> None:
        """One block of attention weights, [H, rows, T]."""
        self._layers.add(layer)
        end = start + weights.shape[1]
        here = (self._rows >= start) & (self._rows < end)
        if here.any():
            held = weights[:, self._rows[here] - start, self._sources[here]]
            self._edge_sums[here] += held[self._heads].double().sum(0).cpu().numpy()
        if len(self._nodes):
            # Their columns only: the whole block is large.
            columns = weights[:, :, self._nodes][self._heads].double().sum(0).cpu().numpy()
            later = np.arange(start, end)[:, None] > self._nodes
            self._node_sums += (columns * later).sum(0)

    @property
    def edges(self) -> Floats:
        """Mean over layers and heads, one per edge."""
        return self._edge_sums / max(1, len(self._layers) * len(self._heads))

    @property
    def nodes(self) -> Floats:
        """Mean over layers and heads, one per node, summed over later positions."""
        return self._node_sums / max(1, len(self._layers) * len(self._heads))
