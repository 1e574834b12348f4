"""Leave-one-out on long texts: what gradients point at, then blocks and the insides of some.

After AttriBoT (Liu, Kandpal & Raffel 2024, arXiv 2411.15102): hierarchical attribution, with more
levels, and a cheap proxy that says which sources to read alone, here the model's own gradient. The
two make up for each other: sources of one block may cancel, and gradients vanish where a model is
sure.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.attribution.gradients import as_it_is, gradients
from engine.attribution.sampled import staged
from engine.attribution.work import Floats, Ints, Work
from engine.schema import Column, Progress, Table

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32
"""Sources of a first block, unless the budget allows for fewer blocks only."""

PARTS = 4
"""Blocks into which one is parted."""

HINTED = 0.5
"""Share of the budget for sources that gradients point at."""

FIRST = 0.25
"""Share of the budget, at most, for the first blocks."""

ROUND = 8
"""Blocks parted before the next ones are chosen; their versions are read together."""

BLOCKS = Table(
    doc="With strategy = hierarchical: one row per target and block that was taken away as one.",
    columns={
        "target_position": Column(pa.int64(), "First position of the target."),
        "start": Column(pa.int64(), "First position of the block."),
        "end": Column(pa.int64(), "Position after its last token."),
        "sources": Column(pa.int64(), "Sources in the block."),
        "score": Column(pa.float64(), "What the whole block adds to the explained value."),
    },
)

Block = tuple[int, int]
"""First source and the one after the last."""


@dataclass
class Search:
    """Which blocks are read next; knows no model.

    Args:
        count: sources.
        budget: versions that may be read in all.
        hints: [n, S] how much each source seems to matter for each target, at least 0.

    Attributes:
        effects: [n] of each block that was read.
    """

    count: int
    budget: int
    hints: Floats
    effects: dict[Block, Floats] = field(default_factory=dict)
    _open: set[Block] = field(default_factory=set)

    def first(self) -> list[Block]:
        """What to begin with: sources that are hinted at, and blocks of equal size."""
        hinted = max(1, int(self.budget * HINTED))
        most = max(1, int(self.budget * FIRST))
        blocks = _cut((0, self.count), min(self.count, max(-(-self.count // BLOCK), 2), most))
        largest = np.nan_to_num(self.hints).max(1, keepdims=True)
        seems = (np.nan_to_num(self.hints) / np.where(largest > 0, largest, 1)).max(0)
        best = np.argsort(-seems, kind="stable")[:hinted].tolist()
        singles = [(i, i + 1) for i in sorted(best) if seems[i] > 0]
        return [*singles, *(b for b in blocks if b not in singles)][: self.budget]

    def learn(self, blocks: list[Block], effects: Floats) -> None:
        """Keep the effects [N, n] of blocks that were read."""
        for block, effect in zip(blocks, effects, strict=True):
            self.effects[block] = effect
            if block[1] - block[0] > 1:
                self._open.add(block)

    def next(self) -> list[Block]:
        """The parts of the blocks that matter most; none when all is known or the budget is used.

        Each target counts alike: an effect is compared with the largest of its target.
        """
        left = self.budget - len(self.effects)
        scale = np.nanmax(np.abs(np.stack(list(self.effects.values()))), 0)
        scale = np.where(scale > 0, scale, 1.0)

        def matters(block: Block) -> tuple[float, int]:
            size = np.abs(self.effects[block]) / scale
            return (float(np.nan_to_num(size).max()), -block[0])

        found: list[Block] = []
        for block in sorted(self._open, key=matters, reverse=True)[:ROUND]:
            cut = _cut(block, min(PARTS, block[1] - block[0]))
            parts = [part for part in cut if part not in self.effects]
            if len(parts) > left:
                break
            self._open.discard(block)
            found += parts
            left -= len(parts)
        # All parts of those blocks were known: others may have some that are not.
        return found or (self.next() if self._open and left >= PARTS else found)

    def scores(self, targets: int) -> Floats:
        """Effects of the single sources [n, S], NaN for those never read alone."""
        found = np.full((targets, self.count), np.nan)
        for (start, end), effect in self.effects.items():
            if end - start == 1:
                found[:, start] = effect
        return found


def _cut(block: Block, number: int) -> list[Block]:
    edges = np.linspace(block[0], block[1], number + 1).round().astype(int).tolist()
    return list(pairwise(edges))


def search(
    work: Work, share: float, tables: Callable[[Search], Mapping[str, pa.Table]]
) -> Generator[Progress, None, Search]:
    """Read sources and blocks until the budget is used.

    Args:
        work: targets and sources.
        share: of the texts that reading every source alone would take; what was read before, and
            the gradients, are part of it.
        tables: makes the tables of what is known.
    """
    hints = yield from pointed_at(work)
    readers = [part.reader for part in work.parts]
    # A pass backwards takes about two forwards; sharing a prefix reads the text, and tries it out.
    spent = sum(r.forwards + 2 * r.backwards + 3 for r in readers) / len(readers)
    budget = max(4, int(share * len(work.sources) - spent))
    found = Search(len(work.sources), budget, hints)
    blocks = found.first()
    while blocks:
        keep = np.ones((len(blocks), len(work.sources)), bool)
        for row, (start, end) in enumerate(blocks):
            keep[row, start:end] = False
        done = len(found.effects)
        values = yield from staged(
            work.kept(keep, "Taking blocks away"), done / budget, len(blocks) / budget
        )
        found.learn(blocks, work.base - values)
        yield Progress(
            len(found.effects) / budget,
            f"{len(found.effects):,} of {budget:,} texts",
            so_far=lambda: tables(found),
        )
        blocks = found.next()
    return found


def pointed_at(work: Work) -> Generator[Progress, None, Floats]:
    """Length of the gradient times the way to the neutral embedding, summed over sources [n, S].

    An upper bound of the first-order effect of taking a source away. The product with its sign
    misses more: one direction of many decides.
    """
    embedded = work.parts[0].reader.embedded[: work.context].double()
    way = (embedded - work.parts[0].reader.mean_embedding().double()).norm(dim=-1).cpu().numpy()
    tokens = np.zeros((len(work.targets), work.context))

    def take(target: int, _: Ints, gradient: Tensor) -> None:
        norms = gradient[0].double().norm(dim=-1).cpu().numpy()
        tokens[target, : len(norms)] = norms * way[: len(norms)]

    yield from gradients(work, as_it_is(work), 1, take, "Following gradients back")
    return work.per_source(np.nan_to_num(tokens, posinf=0.0)) * work.applies


def blocks_table(work: Work, found: Search | None) -> pa.Table:
    """The table ``blocks``: what was read of more than one source before the target."""
    rows = [
        (target.start, work.sources[start], work.sources[end - 1], end - start, effect[i])
        for (start, end), effect in (found.effects.items() if found else ())
        for i, target in enumerate(work.targets)
        if end - start > 1 and work.applies[i, start]
    ]
    score = np.array([r[4] for r in rows], float)
    return pa.table(
        {
            "target_position": pa.array([r[0] for r in rows], pa.int64()),
            "start": pa.array([r[1].start for r in rows], pa.int64()),
            "end": pa.array([r[2].end for r in rows], pa.int64()),
            "sources": pa.array([r[3] for r in rows], pa.int64()),
            "score": pa.array(score, pa.float64(), mask=~np.isfinite(score)),
        }
    )
