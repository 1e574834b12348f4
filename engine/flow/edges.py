"""Flow on every edge, what must hold of it, and which edges are the backbone.

The flow of all edges is walked through in blocks; only the heaviest edges are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.flow.recurrences import Floats, Ints, Reach, Rows, inflow, transitions

_TOGETHER = 64
"""Edges whose shares are found at a time."""


@dataclass(frozen=True)
class Edges:
    """Edges that carry flow, the heaviest first (ties: by source, then target).

    Attributes:
        source, target: their nodes.
        weight: aggregated attention.
        flow: what they carry.
    """

    source: Ints
    target: Ints
    weight: Floats
    flow: Floats

    def __len__(self) -> int:
        return len(self.flow)

    def at_least(self, least: float) -> Edges:
        """Those that carry at least so much."""
        n = int((self.flow >= least).sum())
        return Edges(self.source[:n], self.target[:n], self.weight[:n], self.flow[:n])


@dataclass(frozen=True)
class Flow:
    """What passes through every node and edge.

    Attributes:
        inflow: [n] all that enters a node, what the source injects included.
        outflow: [n] all that leaves it along edges.
        edges: the heaviest edges.
        count: edges that carry flow.
        total: flow of all of them, summed.
        injected: [n] from the source, where the answer is reached.
        absorbed: [n] into the sink.
        conservation: largest |Σ W' + sink share − 1| of a node that reaches the answer.
        cut: largest |flow over a cut − (injected before − absorbed before)|.
    """

    inflow: Floats
    outflow: Floats
    edges: Edges
    count: int
    total: float
    injected: Floats
    absorbed: Floats
    conservation: float
    cut: float

    @property
    def sink_inflow(self) -> float:
        """All that arrives; 1 if every question token reaches the answer."""
        return float(self.absorbed.sum())

    @property
    def throughput(self) -> Floats:
        """τ: what enters plus what leaves along edges."""
        return self.inflow + self.outflow

    @property
    def crossing(self) -> Floats:
        """Flow over the cut after each node, [n]: injected up to it, minus absorbed up to it.

        Summed from the nearer end, so that what is left before the last answer token is exact.
        """
        before = np.cumsum(self.injected)
        after = np.cumsum(self.absorbed[::-1])[::-1]
        first = int(np.flatnonzero(self.absorbed)[0]) if self.absorbed.any() else len(after)
        return np.where(np.arange(len(after)) < first, before, np.append(after[1:], 0.0))


def flow_of(rows: Rows, reached: Reach, source: Floats, most: int) -> Flow:
    """Go through all edges once.

    Args:
        rows: the weights.
        reached: reach of every node.
        source: what is injected, [n].
        most: how many edges to keep.
    """
    entered = inflow(rows, reached, source)
    n = len(entered)
    alive = reached.mantissa > 0
    shares, outflow, entering = reached.sink.copy(), np.zeros(n), np.zeros(n)
    kept = _Heaviest(most)
    total, count = 0.0, 0
    for start, block in transitions(rows, reached):
        width = block.shape[1]
        shares[:width] += block.sum(0)
        block *= entered[:width]
        outflow[:width] += block.sum(0)
        entering[start : start + len(block)] = block.sum(1)
        total += float(block.sum())
        count += kept.offer(start, block)
    injected = np.where(alive, source, 0.0)
    absorbed = entered * reached.sink
    balance = np.cumsum(outflow - entering) - np.cumsum(injected - absorbed)
    residual = np.abs(shares - 1)[alive]
    return Flow(
        entered,
        outflow,
        kept.edges(rows),
        count,
        total,
        injected,
        absorbed,
        float(residual.max(initial=0.0)),
        float(np.abs(balance).max(initial=0.0)),
    )


@dataclass
class _Heaviest:
    """Keeps the ``most`` heaviest edges of those it is offered."""

    most: int
    least: float = 0.0
    flows: list[Floats] = field(default_factory=list)
    places: list[tuple[Ints, Ints]] = field(default_factory=list)
    held: int = 0

    def offer(self, start: int, block: Floats) -> int:
        """Look at a block of rows; returns how many of its edges carry flow."""
        target, source = np.nonzero(block > self.least)
        if len(target):
            self.flows.append(block[target, source])
            self.places.append((source, target + start))
            self.held += len(target)
        if self.held > max(2 * self.most, 4096):
            self._prune()
        return int(np.count_nonzero(block > 0)) if self.least else len(target)

    def _joined(self) -> tuple[Floats, Ints, Ints]:
        if not self.flows:
            return np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
        source, target = (np.concatenate(part) for part in zip(*self.places, strict=True))
        return np.concatenate(self.flows), source, target

    def _prune(self) -> None:
        flow, source, target = self._joined()
        if len(flow) <= self.most:
            return
        best = np.argpartition(-flow, self.most - 1)[: self.most]
        # An edge as heavy as the lightest that is kept may still come first in the order.
        self.least = float(np.nextafter(flow[best].min(), 0))
        keep = flow > self.least
        self.flows, self.places = [flow[keep]], [(source[keep], target[keep])]
        self.held = int(keep.sum())

    def edges(self, rows: Rows) -> Edges:
        """The heaviest, in order."""
        flow, source, target = self._joined()
        order = np.lexsort((target, source, -flow))[: self.most]
        source, target = source[order], target[order]
        weight = rows[target, source].astype(np.float64)
        return Edges(source, target, weight, flow[order])


def shares_needed(edges: Edges, crossing: Floats) -> tuple[Floats, Floats]:
    """The share of flow from which on each edge belongs to the backbone.

    Over every cut between neighbouring tokens the backbone of share ρ keeps the smallest set of
    edges, the heaviest first, that carries at least ρ of what crosses. An edge belongs to it if
    ρ is above the share that the heavier edges of some cut carry without it: this number is the
    smallest such share over its cuts, 0 for the heaviest edge of a cut. Exact for every edge
    given, because only heavier ones count.

    Args:
        edges: the heaviest first; lighter ones may be missing.
        crossing: [n] flow over the cut after each node.

    Returns:
        One share per edge, and the flow these edges carry over the cut after each node, [n].
    """
    n = len(crossing)
    carried = np.zeros(n)
    changes = np.flatnonzero(np.diff(crossing, prepend=np.nan) != 0)
    needed = np.empty(len(edges))
    for at in range(0, len(edges), _TOGETHER):
        here = slice(at, at + _TOGETHER)
        source, target = edges.source[here], edges.target[here]
        # Between these points neither the sums of this block nor the crossing flow change.
        points = np.unique(np.concatenate((source, target, changes)))
        left, right = np.searchsorted(points, source), np.searchsorted(points, target)
        column = np.arange(len(points))
        over = (column >= left[:, None]) & (column < right[:, None])
        # Row e becomes what the edges before the block's e-th carry; the last row is all of them.
        before = np.empty((len(source) + 1, len(points)))
        before[0] = np.minimum.reduceat(carried, points)
        np.multiply(over, edges.flow[here, None], out=before[1:])
        np.cumsum(before, axis=0, out=before)
        carried += np.repeat(before[-1] - before[0], np.diff(points, append=n))
        before *= 1 / np.maximum(crossing[points], np.finfo(float).tiny)
        # Every second stretch of the rows laid end to end is the one an edge goes over.
        row = np.arange(len(source)) * len(points)
        stretches = np.stack((row + left, row + right), axis=1).ravel()
        needed[here] = np.minimum.reduceat(before.ravel(), stretches)[::2]
    return np.clip(needed, 0.0, 1.0), carried


def listed_share(carried: Floats, crossing: Floats) -> float:
    """The smallest share of a cut's flow that is carried, 0 where nothing crosses anywhere."""
    crossed = crossing > 0
    if not crossed.any():
        return 0.0
    return float(np.clip((carried[crossed] / crossing[crossed]).min(), 0.0, 1.0))
