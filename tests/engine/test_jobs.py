"""Jobs: fairness, one computation per key, cancelling at yields, nesting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator

import pytest

from engine.errors import Cancelled
from engine.jobs import Runner, Steps
from engine.schema import Progress


@pytest.fixture
def runner() -> Iterator[Runner]:
    made = Runner()
    yield made
    made.close()


def counted(
    log: list[str], name: str, steps: int, gate: threading.Event | None = None
) -> Callable[[], Steps[str]]:
    def start() -> Generator[Progress, None, str]:
        log.append(f"{name} starts")
        if gate is not None:
            assert gate.wait(10)
        for step in range(steps):
            log.append(f"{name}{step}")
            yield Progress((step + 1) / steps, name)
        return name

    return start


def test_two_jobs_take_turns(runner: Runner) -> None:
    log: list[str] = []
    gate = threading.Event()
    a = runner.submit("a", counted(log, "a", 3, gate))
    b = runner.submit("b", counted(log, "b", 3))
    gate.set()
    assert (a.result(10), b.result(10)) == ("a", "b")
    assert log.index("b0") < log.index("a2"), "b must not wait for all of a"


def test_many_askers_one_computation(runner: Runner) -> None:
    log: list[str] = []
    gate = threading.Event()
    start = counted(log, "k", 2, gate)
    handles = [runner.submit("k", start) for _ in range(20)]
    gate.set()
    assert {handle.result(10) for handle in handles} == {"k"}
    assert log.count("k starts") == 1


def test_a_waiter_who_leaves_does_not_cancel_others(runner: Runner) -> None:
    log: list[str] = []
    gate = threading.Event()
    first = runner.submit("k", counted(log, "k", 3, gate))
    second = runner.submit("k", counted(log, "k", 3, gate))
    first.leave()
    gate.set()
    assert second.result(10) == "k"
    assert first.done


def test_left_by_all_it_is_cancelled_at_a_yield_and_unwinds(runner: Runner) -> None:
    unwound: list[bool] = []
    inside = threading.Event()

    def start() -> Generator[Progress, None, str]:
        try:
            while True:
                inside.set()
                yield Progress(None, "on")
        except Cancelled:
            unwound.append(True)
            raise

    handle = runner.submit("k", start)
    assert inside.wait(10)
    handle.leave()
    with pytest.raises(Cancelled):
        handle.result(10)
    assert unwound == [True]
    again = runner.submit("k", counted([], "k", 1))
    assert again.result(10) == "k", "a cancelled key can be asked for again"


def test_an_error_reaches_every_asker_and_the_worker_lives_on(runner: Runner) -> None:
    def start() -> Generator[Progress, None, str]:
        yield Progress(None, "")
        raise ValueError("boom")

    handles = [runner.submit("k", start) for _ in range(2)]
    for handle in handles:
        with pytest.raises(ValueError, match="boom"):
            handle.result(10)
    assert runner.submit("j", counted([], "j", 1)).result(10) == "j"


def test_nested_runs_inline_and_joins_a_suspended_job(runner: Runner) -> None:
    log: list[str] = []
    gate = threading.Event()

    def outer() -> Generator[Progress, None, str]:
        yield Progress(None, "")
        inner = runner.inline("inner", counted(log, "inner", 3))
        return f"outer of {inner}"

    blocker = runner.submit("blocker", counted(log, "blocker", 1, gate))
    inner = runner.submit("inner", counted(log, "inner", 3))
    handle = runner.submit("outer", outer)
    gate.set()
    assert handle.result(10) == "outer of inner"
    assert inner.result(10) == "inner"
    assert blocker.result(10) == "blocker"
    assert log.count("inner starts") == 1


def test_cancelling_the_outer_stops_the_inner_but_not_for_others(runner: Runner) -> None:
    log: list[str] = []
    running = threading.Event()
    go = threading.Event()

    def slow() -> Generator[Progress, None, str]:
        for step in range(200):
            running.set()
            if step == 1:
                assert go.wait(10)
            log.append(f"slow{step}")
            yield Progress(None, "")
        return "slow"

    def outer() -> Generator[Progress, None, str]:
        yield Progress(None, "")
        return runner.inline("slow", slow)

    handle = runner.submit("outer", outer)
    assert running.wait(10)
    other = runner.submit("slow", slow)
    handle.leave()
    go.set()
    with pytest.raises(Cancelled):
        handle.result(10)
    assert other.result(10) == "slow"
    assert log == [f"slow{step}" for step in range(200)], "continued, not started again"


def test_asking_for_itself_is_an_error_not_a_deadlock(runner: Runner) -> None:
    def start() -> Generator[Progress, None, str]:
        yield Progress(None, "")
        return runner.inline("k", start)

    with pytest.raises(RuntimeError, match="asks for itself"):
        runner.submit("k", start).result(10)


def test_eta_follows_from_the_fraction(runner: Runner) -> None:
    gate = threading.Event()

    def start() -> Generator[Progress, None, str]:
        time.sleep(0.05)
        yield Progress(0.5, "half")
        assert gate.wait(10)
        return ""

    handle = runner.submit("k", start)
    while handle.progress is None:
        time.sleep(0.005)
    assert handle.progress.eta is not None
    assert 0.04 < handle.progress.eta < 5
    gate.set()
    handle.result(10)


def test_close_ends_the_thread(runner: Runner) -> None:
    def forever() -> Generator[Progress, None, str]:
        while True:
            yield Progress(None, "")

    handle = runner.submit("k", forever)
    runner.close()
    with pytest.raises(Cancelled):
        handle.result(10)
    with pytest.raises(RuntimeError, match="closed"):
        runner.submit("j", forever)
