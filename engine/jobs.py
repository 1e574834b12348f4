"""Jobs: generators that are advanced step by step, each with everybody who waits for it.

They are cancelled only at their yields, so never inside a hook or a gradient context. A waiter who
leaves does not cancel the others. ``engine.runner`` advances them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from engine.errors import Cancelled, UserError
from engine.schema import Progress

if TYPE_CHECKING:
    from engine.runner import Runner

T = TypeVar("T")
Steps = Generator[Progress, None, T]
Clock = Callable[[], float]


class Overdue(Cancelled):
    """A job ran longer than jobs may; what it has yielded is kept."""


class Replaced(Cancelled):
    """A visitor's later request took the place of this one before it was begun."""


@dataclass(slots=True, eq=False)
class Ask:
    """One asker of a job: a visitor, or a program (None)."""

    who: str | None
    replaced: bool = False


class Job(Generic[T]):
    """One computation and everybody who waits for it."""

    def __init__(
        self,
        key: str,
        start: Callable[[], Steps[T]],
        seconds: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.key = key
        self.progress: Progress | None = None
        self.asks: list[Ask] = []
        self._start = start
        self._seconds = seconds
        self._clock = clock
        self._steps: Steps[T] | None = None
        self._started = 0.0
        self._done = threading.Event()
        self._stop: Callable[[], Cancelled] | None = None
        self._value: T | None = None
        self._error: BaseException | None = None

    @classmethod
    def ended(cls, key: str, value: T) -> Job[T]:
        """A job with nothing left to do."""

        def start() -> Steps[T]:
            raise AssertionError("an ended job is never started")

        job = cls(key, start)
        job._value = value
        job._done.set()
        return job

    @property
    def who(self) -> list[str | None]:
        """Who waits for it."""
        return [ask.who for ask in self.asks]

    @property
    def done(self) -> bool:
        """Finished, failed or cancelled."""
        return self._done.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False when ``timeout`` seconds passed first."""
        return self._done.wait(timeout)

    def value(self) -> T:
        """The result, or the exception the job ended with."""
        if self._error is not None:
            raise self._error
        assert self.done, "the job is still running"
        return self._value  # type: ignore[return-value]

    def _cancel(self) -> None:
        self._stop = self._stop or Cancelled

    def _watch(self) -> None:
        """Cancel a job that has run long enough."""
        if self._seconds is None or self._stop is not None or self._steps is None:
            return
        if self._clock() - self._started >= self._seconds:
            self._stop = partial(
                Overdue,
                f"Stopped after {self._seconds:g} seconds, the most a computation may take here: "
                "the rest has no values.",
            )

    def _abandon(self) -> None:
        """End a job that was never begun."""
        self._cancel()
        self._error = Cancelled()
        self._done.set()

    def _advance(self) -> bool:
        """Run to the next yield; True when the job has ended."""
        try:
            if self._steps is None:
                if self._stop is not None:
                    raise self._stop()
                self._started = self._clock()
                self._steps = self._start()
            step = next(self._steps) if self._stop is None else self._steps.throw(self._stop())
        except StopIteration as stop:
            self._value = stop.value
        except Overdue:
            self._error = UserError(
                f"This takes longer than the {self._seconds:g} seconds a computation may take "
                "here: shorten the text, or ask for less."
            )
        except BaseException as error:
            self._error = error
        else:
            self.progress = self._with_eta(step)
            return False
        self._done.set()
        return True

    def _with_eta(self, step: Progress) -> Progress:
        if step.eta is not None or not step.fraction:
            return step
        spent = self._clock() - self._started
        return replace(step, eta=spent * (1 - step.fraction) / step.fraction)


class Handle(Generic[T]):
    """One asker's view of a job."""

    def __init__(self, job: Job[T], runner: Runner, ask: Ask) -> None:
        self._job = job
        self._runner = runner
        self._ask = ask
        self._dropped = False
        self._left = False

    @property
    def key(self) -> str:
        """The key of the computation."""
        return self._job.key

    @property
    def done(self) -> bool:
        """Whether ``result`` answers at once."""
        return self._job.done or self._left or self._ask.replaced

    @property
    def progress(self) -> Progress | None:
        """The last thing the job said."""
        return self._job.progress

    @property
    def ahead(self) -> int | None:
        """Computations of others that come first; None when it does not wait in line.

        0 for one that is next, or that follows another one of the same visitor.
        """
        return self._runner.ahead(self._job, self._ask)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False when ``timeout`` seconds passed first."""
        return self._left or self._ask.replaced or self._job.wait(timeout)

    def leave(self) -> None:
        """Stop waiting; the job is cancelled when nobody else waits for it."""
        if not self._dropped and not self._job.done:
            self._dropped = True
            # The last one out still sees what the cancelled job leaves behind.
            self._left = not self._runner.drop(self._job, self._ask)

    cancel = leave

    def result(self, timeout: float | None = None) -> T:
        """The result.

        Raises:
            Cancelled: when the job was cancelled without a partial result, or this asker left.
            Replaced: when a later request of the same visitor took its place in the line.
            UserError: when it took longer than a computation may, and had nothing to show.
            TimeoutError: after ``timeout`` seconds.
        """
        if self._ask.replaced:
            raise Replaced(
                "A later request of yours took this one's place in the line: "
                "ask again when that one is done."
            )
        if self._left and not self._job.done:
            raise Cancelled
        if not self._job.wait(timeout):
            raise TimeoutError(f"no result after {timeout} s")
        return self._job.value()
