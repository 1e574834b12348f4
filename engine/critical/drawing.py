"""Continuing many prefixes of a trace and counting what comes out right, with early stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.context import Context
from engine.critical.curve import Point, stopping_index
from engine.critical.judging import Judging

if TYPE_CHECKING:
    from engine.sampling.generation import Continuation, Sampler

Points = dict[int, Point]


@dataclass(frozen=True)
class Counting:
    """How samples become points.

    Attributes:
        judging: says which are right.
        n: samples of a prefix.
        stop: right ones after which no more are drawn; None draws all.
        exact: one sample says it all (temperature 0).
        second: another judge of the same samples, which also hears what was cut off.
    """

    judging: Judging
    n: int
    stop: int | None = None
    exact: bool = False
    second: Judging | None = None

    def sizes(self) -> list[int]:
        """How many samples a prefix has after each round."""
        if self.stop is None:
            return [self.n]
        found, size = [], max(8, 2 * self.stop)
        while size < self.n:
            found.append(size)
            size *= 2
        return [*found, self.n]

    def point(self, end: int, drawn: Sequence[Continuation]) -> Point | None:
        """The point of the tokens before position ``end``; None when more samples are needed."""
        right = [self.judging.right(end, c) for c in drawn]
        last = stopping_index(right, self.stop) if self.stop is not None else None
        if last is None and len(drawn) < self.n:
            return None
        taken = drawn if last is None else drawn[:last]
        return Point.counted(
            len(taken),
            sum(right[: len(taken)]),
            sum(c.finish == "length" for c in taken),
            exact=self.exact,
            stopped=last is not None,
            second=self._seconded(end, taken, stopped=last is not None),
        )

    def _seconded(self, end: int, taken: Sequence[Continuation], *, stopped: bool) -> float | None:
        """Share that the second judge accepts.

        The sample that ended the drawing is right by construction; without it the share is
        unbiased (the others come in random order).
        """
        if self.second is None:
            return None
        counted = taken[:-1] if stopped else taken
        before = self.second.words(end)
        return sum(self.second.says(before, c.ids) for c in counted) / len(counted)


def points(
    ctx: Context, positions: Sequence[int], sampler: Sampler, counting: Counting
) -> Iterator[tuple[int, Points]]:
    """Continue the prefixes that end with each of ``positions``, in this order.

    Yields:
        Continuations at hand so far, and the points that became known since the last yield.
    """
    open_ends = [position + 1 for position in positions]
    before = 0
    for size in counting.sizes():
        wanted = dict.fromkeys(open_ends, size)
        if not wanted:
            return
        at_hand = 0
        known: set[int] = set()
        for at_hand, complete in ctx.samples_after(ctx.subject.ids, wanted, sampler):
            found = _counted(complete, counting)
            known |= {position + 1 for position in found}
            yield before + at_hand, found
        before += sum(size for end in known)
        open_ends = [end for end in open_ends if end not in known]


def _counted(complete: Mapping[int, Sequence[Continuation]], counting: Counting) -> Points:
    found = {end - 1: counting.point(end, drawn) for end, drawn in complete.items()}
    return {position: point for position, point in found.items() if point is not None}
