"""A flow as paths: the most probable way first, its bottleneck subtracted, and so on.

The standard decomposition of a flow on a graph without cycles: each path takes all that its
narrowest place still holds, so every path ends one edge, and the paths add up to the flow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.flow.recurrences import Floats, Reach, Rows, inflow, transitions

_DUST = 1e-13
"""What is left of an edge below this part of its flow is rounding."""


@dataclass(frozen=True)
class Path:
    """One way from the question to the answer.

    Attributes:
        nodes: tokens from the first to the last.
        flow: what it carries.
        log_weight: Σ log W' along it, nats: how probable the way is from its first token on.
    """

    nodes: tuple[int, ...]
    flow: float
    log_weight: float


def paths(rows: Rows, reached: Reach, source: Floats, most: int | None) -> Iterator[Path]:
    """The paths of a flow, the most probable first among those that still hold flow.

    Probable is source · Π W' · sink share, with the W' of the whole flow.

    Args:
        rows: the weights.
        reached: reach of every node.
        source: what is injected, [n].
        most: how many to give; None goes on until nothing is left.
    """
    left = _Left(rows, reached, source)
    count = 0
    while most is None or count < most:
        path = left.take()
        if path is None:
            return
        count += 1
        yield path


class _Left:
    """The flow that no path has taken yet, over the nodes from the first source on."""

    def __init__(self, rows: Rows, reached: Reach, source: Floats) -> None:
        entered = inflow(rows, reached, source)
        self.first = int(np.flatnonzero(source)[0])
        here = slice(self.first, None)
        n = len(source) - self.first
        self.log = np.full((n, n), -np.inf)
        self.flow = np.zeros((n, n))
        with np.errstate(divide="ignore"):
            for start, block in transitions(rows, reached, self.first):
                at = start - self.first
                self.log[at : at + len(block), : block.shape[1]] = np.log(block)
                block *= entered[self.first : self.first + block.shape[1]]
                self.flow[at : at + len(block), : block.shape[1]] = block
            self.log_source = np.log(source[here])
            self.log_sink = np.log(reached.sink[here])
        self.source = np.where(reached.mantissa > 0, source, 0.0)[here]
        self.sink = (entered * reached.sink)[here]
        for log, flow in (
            (self.log, self.flow),
            (self.log_source, self.source),
            (self.log_sink, self.sink),
        ):
            log[flow <= 0] = -np.inf

    def take(self) -> Path | None:
        """The best path, its flow subtracted; None when nothing is left."""
        nodes, log = self._best()
        if not nodes:
            return None
        pairs = list(zip(nodes[1:], nodes[:-1], strict=True))
        held = [self.source[nodes[0]], *(self.flow[p] for p in pairs), self.sink[nodes[-1]]]
        flow = float(min(held))
        for array, logs, places in (
            (self.source, self.log_source, [nodes[0]]),
            (self.flow, self.log, pairs),
            (self.sink, self.log_sink, [nodes[-1]]),
        ):
            for place in places:
                rest = array[place] - flow
                if rest <= _DUST * array[place]:
                    rest, logs[place] = 0.0, -np.inf
                array[place] = rest
        return Path(tuple(self.first + i for i in nodes), flow, log)

    def _best(self) -> tuple[list[int], float]:
        n = len(self.source)
        best, came = self.log_source.copy(), np.full(n, -1)
        for k in range(1, n):
            ways = best[:k] + self.log[k, :k]
            i = int(ways.argmax())
            if ways[i] > best[k]:
                best[k], came[k] = ways[i], i
        end = int((best + self.log_sink).argmax())
        total = best[end] + self.log_sink[end]
        if total == -np.inf:
            return [], 0.0
        nodes = [end]
        while came[nodes[-1]] >= 0:
            nodes.append(int(came[nodes[-1]]))
        nodes.reverse()
        return nodes, float(total - self.log_source[nodes[0]])
