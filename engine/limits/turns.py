"""Whose computation is worked on next.

Some take turns on the worker, the others wait in line. A visitor may be held to one of each; a
second one then joins the line in earnest when the first has ended, so that visitors alternate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from engine.errors import UserError


class Asked(Protocol):
    """Something visitors ask for; several may ask for the same."""

    @property
    def who(self) -> Sequence[str | None]:
        """Who waits for it; None is a program, which no limit holds."""


J = TypeVar("J", bound=Asked)


class Turns(Generic[J]):
    """The line and those at work; not thread-safe, the runner holds its lock around every call.

    Args:
        running: how many take turns; None is all.
        waiting: how many visitors' jobs may wait; None is any number.
        one_each: whether a visitor has at most one running and one waiting.
    """

    def __init__(
        self, running: int | None = None, waiting: int | None = None, one_each: bool = False
    ) -> None:
        self._running: deque[J] = deque()
        self._waiting: list[J] = []
        self._slots = running
        self._places = waiting
        self._one_each = one_each

    @property
    def busy(self) -> bool:
        """Whether any job is to be worked on."""
        return bool(self._running)

    def next(self) -> J:
        """The job whose turn it is; its next turn comes after everybody else's."""
        job = self._running[0]
        self._running.rotate(-1)
        return job

    def own(self, who: str | None, but: J | None = None) -> J | None:
        """The visitor's job in the line, other than ``but``, that a further one replaces."""
        if not self._one_each or who is None:
            return None
        return next((job for job in self._waiting if job is not but and who in job.who), None)

    def check(self, who: str | None) -> None:
        """Refuse a visitor for whom there is no place in the line.

        Raises:
            UserError: It is full.
        """
        if who is None or self._places is None or len(self._waiting) < self._places:
            return
        own = self.own(who)
        alone = own is not None and set(own.who) == {who}
        if not alone and not self._free([who]):
            count = len(self._waiting)
            raise UserError(
                f"{count} {'computation' if count == 1 else 'computations'} of others are waiting "
                "here already: try again in a minute."
            )

    def enter(self, job: J, instead: J | None = None) -> None:
        """A new job: to work at once if there is room, else into the line or ``instead``'s place.

        ``instead`` is left in the line when somebody else waits for it.
        """
        if instead is not None and instead in self._waiting and not instead.who:
            self._waiting[self._waiting.index(instead)] = job
        else:
            self._waiting.append(job)
        self.settle()

    def start(self, job: J) -> None:
        """Put a job to work whatever the limits: another one cannot go on without it."""
        if job in self._waiting:
            self._waiting.remove(job)
        if job not in self._running:
            self._running.append(job)

    def leave(self, job: J) -> None:
        """A job has ended or is given up."""
        if job in self._waiting:
            self._waiting.remove(job)
        elif job in self._running:
            self._running.remove(job)
            if self._one_each:
                names = {who for who in job.who if who is not None}
                self._waiting.sort(key=lambda other: not names.isdisjoint(other.who))
        self.settle()

    def is_waiting(self, job: J) -> bool:
        """Whether it is in the line."""
        return job in self._waiting

    def ahead(self, job: J, who: str | None) -> int | None:
        """Jobs of others that come before a waiting one; None when it is not in the line."""
        if job not in self._waiting:
            return None
        before = self._waiting
        if self._allowed(job.who):  # else it goes behind everybody who waits now
            before = [j for j in before[: before.index(job)] if self._allowed(j.who)]
        others = [other for other in (*self._running, *before) if other is not job]
        return sum(1 for other in others if who is None or who not in other.who)

    def settle(self) -> None:
        """Put to work whoever may."""
        for job in list(self._waiting):
            if self._free(job.who):
                self._waiting.remove(job)
                self._running.append(job)

    def _free(self, names: Sequence[str | None]) -> bool:
        room = self._slots is None or len(self._running) < self._slots
        return room and self._allowed(names)

    def _allowed(self, names: Sequence[str | None]) -> bool:
        """Whether one of those who ask has nothing running yet."""
        if not self._one_each or not names:
            return True
        return any(n is None or all(n not in job.who for job in self._running) for n in names)
