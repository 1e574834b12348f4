"""The runner: one worker thread that advances jobs in turn, one computation per key.

Whoever asks for a key that is already being computed waits for that job. ``engine.limits.turns``
says whose job is next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from engine.jobs import Ask, Clock, Handle, Job, Steps
from engine.limits.turns import Turns

T = TypeVar("T")


class Runner:
    """The worker thread and its jobs.

    Args:
        name: of the thread.
        turns: whose job is next; default: all take turns.
        seconds: how long a job may run; what it has yielded then is its result.
        clock: seconds from anywhere.
    """

    def __init__(
        self,
        name: str = "tokenscope-jobs",
        *,
        turns: Turns[Job[Any]] | None = None,
        seconds: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._name = name
        self._lock = threading.Condition()
        self._turns: Turns[Job[Any]] = Turns() if turns is None else turns
        self._seconds = seconds
        self._clock = clock
        self._jobs: dict[str, Job[Any]] = {}
        self._stack: list[Job[Any]] = []
        self._thread: threading.Thread | None = None
        self._closing = False

    def submit(
        self,
        key: str,
        start: Callable[[], Steps[T]],
        who: str | None = None,
        admit: Callable[[], None] | None = None,
    ) -> Handle[T]:
        """Join the job of ``key``, or start one.

        Args:
            key: names the computation.
            start: makes its generator.
            who: the visitor who asks; None for a program, which no limit holds.
            admit: called when a job has to be started; it refuses by raising.

        Raises:
            UserError: when there is no place in the line for this visitor.
        """
        with self._lock:
            if self._closing:
                raise RuntimeError("the workspace is closed")
            job = self._known(key)
            if job is None:
                self._turns.check(who)
                if admit is not None:
                    admit()
                job = self._made(key, start)
                ask = self._ask(job, who)
                self._turns.enter(job, self._replace(job, who))
            else:
                ask = self._ask(job, who)
                if self._turns.is_waiting(job):
                    self._replace(job, who)
                self._turns.settle()
            self._lock.notify_all()
            return Handle(job, self, ask)

    def finished(self, key: str, value: T) -> Handle[T]:
        """A handle to something that is there already."""
        return Handle(Job.ended(key, value), self, Ask(None))

    def ahead(self, job: Job[T], ask: Ask) -> int | None:
        """Jobs of others before a waiting one; None when it is not in the line."""
        with self._lock:
            return self._turns.ahead(job, ask.who)

    def _known(self, key: str) -> Job[Any] | None:
        """The job to join; one that is being stopped is left to itself."""
        job = self._jobs.get(key)
        return None if job is None or job.done or job._stop is not None else job

    def _made(self, key: str, start: Callable[[], Steps[T]]) -> Job[T]:
        job = Job(key, start, self._seconds, self._clock)
        self._jobs[key] = job
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return job

    @staticmethod
    def _ask(job: Job[T], who: str | None) -> Ask:
        ask = Ask(who)
        job.asks.append(ask)
        return ask

    def _replace(self, job: Job[T], who: str | None) -> Job[Any] | None:
        """The visitor's other job in the line, given up for ``job``."""
        other = self._turns.own(who, job)
        if other is None:
            return None
        for ask in [ask for ask in other.asks if ask.who == who]:
            ask.replaced = True
            other.asks.remove(ask)
        if not other.asks:
            other._abandon()
            self._jobs.pop(other.key, None)
        return other

    def drop(self, job: Job[T], ask: Ask) -> bool:
        """One waiter leaves; True when that was the last one and the job is cancelled."""
        with self._lock:
            if ask in job.asks:
                job.asks.remove(ask)
            if job.asks:
                return False
            job._cancel()
            if self._turns.is_waiting(job):
                job._abandon()
                self._forget(job)
            return True

    @property
    def inside(self) -> bool:
        """Whether the caller is a job of this runner (then nested runs execute inline)."""
        return threading.current_thread() is self._thread

    def inline(self, key: str, start: Callable[[], Steps[T]]) -> T:
        """Compute ``key`` now, inside the running job; joins a suspended job of the same key.

        Raises:
            Cancelled: when the job around it was cancelled.
        """
        assert self.inside
        with self._lock:
            job: Job[T] | None = self._known(key)
            if job is not None and job in self._stack:
                raise RuntimeError(f"the computation {key} asks for itself")
            job = job or self._made(key, start)
            ask = self._ask(job, None)
            self._turns.start(job)
        outer = self._stack[0]
        self._stack.append(job)
        try:
            while not job._advance():
                inner = job.progress
                # The tables so far are the inner computation's own.
                outer.progress = None if inner is None else replace(inner, so_far=None)
                outer._watch()
                # When somebody else wants it, they go on with it in their own turn.
                if outer._stop is not None and not self.drop(job, ask):
                    raise outer._stop()
        finally:
            self._stack.pop()
            self._forget(job)
        if outer._stop is not None:
            raise outer._stop()
        return job.value()

    def close(self, timeout: float = 10.0) -> None:
        """Cancel everything at the next yield and end the thread."""
        with self._lock:
            self._closing = True
            for job in self._jobs.values():
                job._cancel()
            self._lock.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _forget(self, job: Job[T]) -> None:
        with self._lock:
            if job.done:
                self._turns.leave(job)
                if self._jobs.get(job.key) is job:
                    del self._jobs[job.key]

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._turns.busy and not self._closing:
                    self._lock.wait()
                if not self._turns.busy:
                    return
                job = self._turns.next()
            self._stack[:] = [job]
            ended = job._advance()
            self._stack.clear()
            if ended:
                self._forget(job)
            else:
                job._watch()
