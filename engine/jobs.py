"""Jobs: generators advanced by one worker thread, one computation per key.

The worker switches between jobs at their yields and cancels only there, so never inside a hook or
a gradient context. Whoever asks for a key that is already being computed waits for that job; a
waiter who leaves does not cancel the others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Generic, TypeVar

from engine.errors import Cancelled
from engine.schema import Progress

T = TypeVar("T")
Steps = Generator[Progress, None, T]


class Job(Generic[T]):
    """One computation and everybody who waits for it."""

    def __init__(self, key: str, start: Callable[[], Steps[T]]) -> None:
        self.key = key
        self.progress: Progress | None = None
        self._start = start
        self._steps: Steps[T] | None = None
        self._started = 0.0
        self._done = threading.Event()
        self._cancelled = threading.Event()
        self._waiters = 0
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

    def _advance(self) -> bool:
        """Run to the next yield; True when the job has ended."""
        try:
            if self._steps is None:
                if self._cancelled.is_set():
                    raise Cancelled
                self._started = time.monotonic()
                self._steps = self._start()
            if self._cancelled.is_set():
                step = self._steps.throw(Cancelled())
            else:
                step = next(self._steps)
        except StopIteration as stop:
            self._value = stop.value
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
        spent = time.monotonic() - self._started
        return replace(step, eta=spent * (1 - step.fraction) / step.fraction)


class Handle(Generic[T]):
    """One asker's view of a job."""

    def __init__(self, job: Job[T], runner: Runner) -> None:
        self._job = job
        self._runner = runner
        self._dropped = False
        self._left = False

    @property
    def key(self) -> str:
        """The key of the computation."""
        return self._job.key

    @property
    def done(self) -> bool:
        """Whether ``result`` answers at once."""
        return self._job.done or self._left

    @property
    def progress(self) -> Progress | None:
        """The last thing the job said."""
        return self._job.progress

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False when ``timeout`` seconds passed first."""
        return self._left or self._job.wait(timeout)

    def leave(self) -> None:
        """Stop waiting; the job is cancelled when nobody else waits for it."""
        if not self._dropped and not self._job.done:
            self._dropped = True
            # The last one out still sees what the cancelled job leaves behind.
            self._left = not self._runner.drop(self._job)

    cancel = leave

    def result(self, timeout: float | None = None) -> T:
        """The result.

        Raises:
            Cancelled: when the job was cancelled without a partial result, or this asker left.
            TimeoutError: after ``timeout`` seconds.
        """
        if self._left and not self._job.done:
            raise Cancelled
        if not self._job.wait(timeout):
            raise TimeoutError(f"no result after {timeout} s")
        return self._job.value()


class Runner:
    """The worker thread and its jobs."""

    def __init__(self, name: str = "tokenscope-jobs") -> None:
        self._name = name
        self._lock = threading.Condition()
        self._queue: deque[Job[object]] = deque()
        self._jobs: dict[str, Job[object]] = {}
        self._stack: list[Job[object]] = []
        self._thread: threading.Thread | None = None
        self._closing = False

    def submit(self, key: str, start: Callable[[], Steps[T]]) -> Handle[T]:
        """Join the job of ``key``, or start one."""
        with self._lock:
            if self._closing:
                raise RuntimeError("the workspace is closed")
            job = self._join(key, start)
            self._lock.notify_all()
            return Handle(job, self)

    def finished(self, key: str, value: T) -> Handle[T]:
        """A handle to something that is there already."""
        return Handle(Job.ended(key, value), self)

    def _join(self, key: str, start: Callable[[], Steps[T]]) -> Job[T]:
        job = self._jobs.get(key)
        if job is None or job.done or (job._cancelled.is_set() and not job._waiters):
            job = Job(key, start)
            self._jobs[key] = job
            self._queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
        job._waiters += 1
        return job  # type: ignore[return-value]

    def drop(self, job: Job[T]) -> bool:
        """One waiter leaves; True when that was the last one and the job is cancelled."""
        with self._lock:
            job._waiters -= 1
            if job._waiters <= 0:
                job._cancelled.set()
                return True
            return False

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
            known = self._jobs.get(key)
            if known is not None and known in self._stack:
                raise RuntimeError(f"the computation {key} asks for itself")
            job: Job[T] = self._join(key, start)
            if job in self._queue:
                self._queue.remove(job)  # type: ignore[arg-type]
        outer = self._stack[0]
        self._stack.append(job)  # type: ignore[arg-type]
        try:
            while not job._advance():
                outer.progress = job.progress
                if outer._cancelled.is_set():
                    self.drop(job)
                    if job._waiters > 0:  # somebody else wants it: hand it back
                        with self._lock:
                            self._queue.append(job)  # type: ignore[arg-type]
                        raise Cancelled
        finally:
            self._stack.pop()
            self._forget(job)
        return job.value()

    def close(self, timeout: float = 10.0) -> None:
        """Cancel everything at the next yield and end the thread."""
        with self._lock:
            self._closing = True
            for job in self._jobs.values():
                job._cancelled.set()
            self._lock.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _forget(self, job: Job[T]) -> None:
        with self._lock:
            if job.done and self._jobs.get(job.key) is job:
                del self._jobs[job.key]

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._queue and not self._closing:
                    self._lock.wait()
                if not self._queue:
                    return
                job = self._queue.popleft()
            self._stack[:] = [job]
            ended = job._advance()
            self._stack.clear()
            if ended:
                self._forget(job)
            else:
                with self._lock:
                    self._queue.append(job)
