"""Faithfulness measures of scores beside those of the same scores shuffled, for one target."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from engine.attribution.chance import Chance
from engine.attribution.curves import Curves, Grid, ranking
from engine.attribution.softmetrics import Scale, Soft, soft_nc, soft_ns, stay
from engine.schema import Progress

if TYPE_CHECKING:
    from engine.attribution.work import Bools, Floats, Ints, Work

BETTER = {
    "soft_ns": "up",
    "soft_nc": "up",
    "insertion": "up",
    "deletion": "down",
    "sufficiency": "down",
    "comprehensiveness": "up",
}
"""The measures, and in which direction each is better."""

RESAMPLES = 2000

T = TypeVar("T")


def within(
    steps: Generator[Progress, None, T], start: float, width: float
) -> Generator[Progress, None, T]:
    """The steps as a part of a longer work, which begins at ``start`` of it."""
    while True:
        try:
            said = next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
        yield replace(said, fraction=start + width * (said.fraction or 0))


@dataclass(frozen=True)
class Measured:
    """One measure of one method at one target.

    Attributes:
        own: [R] one for each mask, or a single one.
        shuffled: [K] one for each shuffle of its scores.
    """

    own: Floats
    shuffled: Floats


@dataclass(frozen=True)
class Judged:
    """All that is measured of one method at one target.

    Attributes:
        measures: by name.
        curves: of its own order; ``shuffled`` those of each random order.
    """

    measures: dict[str, Measured]
    curves: Curves
    shuffled: list[Curves]


def tells(scores: Floats) -> bool:
    """Whether scores say anything: not all equal, so not all zero either."""
    known = np.nan_to_num(scores)
    return bool(len(known) > 1 and known.max() > known.min())


@dataclass
class Bench:
    """What methods are measured with: one text, one set of masks, one set of random orders.

    Shuffle *k* gives a method's highest score to the first source of random order *k*, its second
    to the second, and so on: a uniformly random permutation of its own scores, and the same order
    for all methods. Each shuffle is seen through its share of the masks.

    Args:
        work: targets and sources.
        chance: values of changed texts.
        soft: softly masked texts.
        draws: masks, R.
        permutations: shuffles, K.
        steps: points of a curve besides the first.
        scale: of the soft measures.
        seed: of the random orders, and of the order of equal scores.
    """

    work: Work
    chance: Chance
    soft: Soft
    draws: int
    permutations: int
    steps: int
    scale: Scale
    seed: int

    def measure(self, target: int, scores: list[Floats]) -> Generator[Progress, None, list[Judged]]:
        """Measure several methods' scores [S] of one target, their texts read together."""
        own = np.flatnonzero(self.work.applies[target])
        rng = np.random.Generator(np.random.Philox(key=[self.seed, target]))
        ties = rng.random(len(own))
        random = [rng.permutation(len(own)) for _ in range(self.permutations)]
        orders = [ranking(one[own], ties) for one in scores]
        grid = Grid.of(len(own), self.steps)
        steps = self._curves(target, own, [*orders, *random], grid)
        curves = yield from within(steps, 0, 0.5)
        shuffled = curves[len(scores) :]
        pairs = [(one[own], order) for one, order in zip(scores, orders, strict=True)]
        soft = yield from within(self._soft(target, own, pairs, random), 0.5, 0.5)
        judged = []
        for mine, measures in zip(curves, soft, strict=False):
            hard = {
                name: Measured(
                    np.array([getattr(mine, name)]),
                    np.array([getattr(other, name) for other in shuffled]),
                )
                for name in ("insertion", "deletion", "sufficiency", "comprehensiveness")
            }
            judged.append(Judged(measures | hard, mine, shuffled))
        return judged

    def _curves(
        self, target: int, own: Ints, orders: list[Ints], grid: Grid
    ) -> Generator[Progress, None, list[Curves]]:
        tops = np.concatenate([grid.top(order) for order in orders])
        keep = np.concatenate([self._spread(own, tops), self._spread(own, ~tops)])
        values = (yield from self.chance.kept(keep, "Putting sources in and out"))[:, target]
        inside, without = values.reshape(2, len(orders), len(grid.counts))
        return [Curves(grid, *pair) for pair in zip(inside, without, strict=True)]

    def _soft(
        self,
        target: int,
        own: Ints,
        scores: list[tuple[Floats, Ints]],
        random: list[Ints],
    ) -> Generator[Progress, None, list[dict[str, Measured]]]:
        """Soft measures of methods given by their scores and the order of these."""
        each = -(-self.draws // self.permutations)
        # Of one method: its own scores through all masks, then each shuffle through its share.
        masks = [np.arange(self.draws)]
        masks += [(k * each + np.arange(each)) % self.draws for k in range(self.permutations)]
        seen = np.repeat(np.arange(len(masks)), [len(m) for m in masks])
        draws = np.concatenate(masks)
        versions = []
        for one, order in scores:
            a = stay(np.stack([one, *(_given(one[order], other) for other in random)]), self.scale)
            versions += [a[seen], 1 - a[seen]]
        stays = np.ones((len(draws) * len(versions) + 1, len(self.work.sources)))
        stays[:, own] = np.concatenate([*versions, np.zeros((1, len(own)))])
        asked = np.concatenate([np.tile(draws, len(versions)), [0]])
        found = (yield from self.soft.distances(stays, asked))[:, target]
        empty = found[-1:]  # the same through every mask
        pairs = found[:-1].reshape(len(scores), 2, len(draws))
        cut = self.draws
        return [
            {
                name: Measured(values[:cut], values[cut:].reshape(self.permutations, each).mean(1))
                for name, values in (
                    ("soft_ns", soft_ns(kept, empty)),
                    ("soft_nc", soft_nc(gone, empty)),
                )
            }
            for kept, gone in pairs
        ]

    def _spread(self, own: Ints, sets: Bools) -> Bools:
        """Sets of a target's sources as versions of the text; later sources stay."""
        keep = np.ones((len(sets), len(self.work.sources)), bool)
        keep[:, own] = sets
        return keep


def _given(falling: Floats, order: Ints) -> Floats:
    """Scores handed out along an order, the first of ``falling`` to its first source."""
    found = np.empty_like(falling)
    found[order] = falling
    return found


def interval(found: list[Measured], seed: int) -> tuple[float, float]:
    """95 % interval of the mean difference of a method's measure to its shuffles.

    Percentiles of a bootstrap that draws anew the targets (where there are several), the masks and
    the shuffles, independently of each other (Efron and Tibshirani 1993, chapter 13).
    """
    own = np.stack([one.own for one in found])
    shuffled = np.stack([one.shuffled for one in found])
    rng = np.random.default_rng(seed)
    targets, masks, orders = (
        rng.multinomial(size, np.full(size, 1 / size), size=RESAMPLES) / size
        for size in (len(found), own.shape[1], shuffled.shape[1])
    )
    means = ((targets @ own) * masks).sum(1) - ((targets @ shuffled) * orders).sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
