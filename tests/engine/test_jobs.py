"""Jobs: fairness, one computation per key, cancelling at yields, nesting, visitors, deadlines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator

import pytest

from engine.errors import Cancelled, UserError
from engine.jobs import Handle, Job, Replaced, Steps
from engine.limits.turns import Turns
from engine.runner import Runner
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


# -- visitors --------------------------------------------------------------------------------------


class Stage:
    """A runner with one place at work, its worker held back until ``play``."""

    def __init__(self, running: int = 1, waiting: int | None = None) -> None:
        turns: Turns[Job[object]] = Turns(running, waiting, one_each=True)
        self.runner = Runner(turns=turns)
        self.log: list[str] = []
        self.gate = threading.Event()
        # It takes the first place, so that everything after it waits until the play begins.
        self.first = self.runner.submit("0", counted(self.log, "0", 1, self.gate), who="nobody")
        while not self.log:
            time.sleep(0.001)

    def ask(self, who: str | None, name: str, steps: int = 1) -> Handle[str]:
        return self.runner.submit(name, counted(self.log, name, steps), who=who)

    def close(self) -> None:
        self.gate.set()
        self.runner.close()

    def play(self, *handles: Handle[str]) -> list[str]:
        self.gate.set()
        for handle in handles:
            handle.result(10)
        return [line.removesuffix(" starts") for line in self.log if line.endswith("starts")][1:]


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def test_visitors_alternate(stage: Stage) -> None:
    back = stage.ask("nobody", "back")  # whose first computation is at work
    a1, b1, c1 = (stage.ask(who, f"{who}1") for who in "abc")
    assert [h.ahead for h in (stage.first, a1, b1, c1, back)] == [None, 1, 2, 3, 3]
    assert stage.play(a1, b1, c1, back) == ["a1", "b1", "c1", "back"]
    assert back.ahead is None


def test_a_second_one_waits_for_the_first_of_the_same_visitor() -> None:
    stage = Stage(running=3)
    gate = threading.Event()
    try:
        a1 = stage.runner.submit("a1", counted(stage.log, "a1", 2, gate), who="a")
        a2 = stage.ask("a", "a2")
        b1 = stage.ask("b", "b1")
        assert (a1.ahead, a2.ahead, b1.ahead) == (None, 2, None)
        gate.set()
        stage.play(a1, a2, b1)
        assert stage.log.index("a2 starts") > stage.log.index("a11")
    finally:
        stage.close()


def test_a_further_request_takes_the_place_of_the_one_that_waits(stage: Stage) -> None:
    a1 = stage.ask("a", "a1")
    b1 = stage.ask("b", "b1")
    a2 = stage.ask("a", "a2")
    assert a1.done
    assert a1.wait(0)
    with pytest.raises(Replaced, match="took this one's place in the line: ask again"):
        a1.result(0)
    assert isinstance(Replaced(), Cancelled), "pages treat it as cancelled"
    a1.leave()
    assert (a2.ahead, b1.ahead) == (1, 2), "the place in the line is kept"
    assert stage.play(a2, b1) == ["a2", "b1"]
    assert stage.ask("a", "a1").result(10) == "a1", "and can be asked for again"


def test_replacing_one_that_others_want_leaves_it_to_them(stage: Stage) -> None:
    mine, theirs = stage.ask("a", "k"), stage.ask("b", "k")
    own = stage.ask("a", "a2")
    with pytest.raises(Replaced):
        mine.result(0)
    assert stage.play(theirs, own) == ["k", "a2"]


def test_two_visitors_one_job_and_one_leaves(stage: Stage) -> None:
    mine, theirs = stage.ask("a", "k", 3), stage.ask("b", "k", 3)
    assert mine.ahead == theirs.ahead == 1
    mine.leave()
    with pytest.raises(Cancelled):
        mine.result(0)
    assert stage.play(theirs) == ["k"]
    assert theirs.result(0) == "k"


def test_one_left_by_all_makes_room_at_once(stage: Stage) -> None:
    a1, b1 = stage.ask("a", "a1"), stage.ask("b", "b1")
    a1.leave()
    assert a1.done
    with pytest.raises(Cancelled):
        a1.result(0)
    assert b1.ahead == 1
    assert stage.play(b1) == ["b1"]


def test_a_full_line_is_one_sentence() -> None:
    stage = Stage(waiting=2)
    try:
        a1, b1 = stage.ask("a", "a1"), stage.ask("b", "b1")
        refused: list[str] = []
        with pytest.raises(UserError, match="2 computations of others are waiting here already"):
            stage.runner.submit("c1", counted(stage.log, "c1", 1), "c", lambda: refused.append("c"))
        assert refused == [], "who finds no place is not counted"
        shared = stage.ask("c", "b1")
        a2 = stage.ask("a", "a2")
        program = stage.ask(None, "p1")
        assert stage.play(a2, b1, shared, program) == ["a2", "b1", "p1"]
        assert a1.done
    finally:
        stage.close()


def test_who_may_not_ask_starts_nothing(stage: Stage) -> None:
    def admit() -> None:
        raise UserError("Too many.")

    for _ in range(2):
        with pytest.raises(UserError, match="Too many"):
            stage.runner.submit("a1", counted(stage.log, "a1", 1), "a", admit)
    b1 = stage.ask("b", "b1")
    joined = stage.runner.submit("b1", counted(stage.log, "b1", 1), "a", admit)
    assert stage.play(b1, joined) == ["b1"]


def test_a_nested_one_is_taken_out_of_the_line(stage: Stage) -> None:
    def outer() -> Generator[Progress, None, str]:
        yield Progress(None, "")
        return stage.runner.inline("inner", counted(stage.log, "inner", 2))

    first = stage.runner.submit("outer", outer, who="a")
    between = stage.ask("b", "b1")
    inner = stage.ask("c", "inner", 2)
    assert stage.play(first, between, inner) == ["inner", "b1"]


# -- deadlines -------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def short(clock: Clock) -> Iterator[Runner]:
    made = Runner(seconds=10, clock=clock)
    yield made
    made.close()


def ticking(clock: Clock, log: list[str], keeps: bool) -> Callable[[], Steps[str]]:
    def start() -> Generator[Progress, None, str]:
        try:
            while True:
                clock.now += 4
                log.append(f"{clock.now:g}")
                yield Progress(None, "")
        except Cancelled as stop:
            if not keeps:
                raise
            return str(stop)

    return start


def test_a_job_that_takes_too_long_is_stopped_at_a_yield(short: Runner, clock: Clock) -> None:
    log: list[str] = []
    kept = short.submit("k", ticking(clock, log, keeps=True))
    assert kept.result(10).startswith("Stopped after 10 seconds, the most a computation may take")
    assert log == ["4", "8", "12"]
    lost = short.submit("j", ticking(clock, log, keeps=False))
    with pytest.raises(UserError, match=r"longer than the 10 seconds .* shorten the text"):
        lost.result(10)


def test_time_in_the_line_does_not_count(clock: Clock) -> None:
    runner = Runner(turns=Turns(1), seconds=10, clock=clock)
    try:
        first = runner.submit("a", ticking(clock, [], keeps=True))
        second = runner.submit("b", counted([], "b", 2))
        first.result(10)
        assert second.result(10) == "b"
    finally:
        runner.close()


def test_the_deadline_of_the_outer_job_stops_the_inner_one(short: Runner, clock: Clock) -> None:
    log: list[str] = []
    told: list[str] = []

    def outer() -> Generator[Progress, None, str]:
        clock.now += 1
        yield Progress(None, "")
        try:
            return short.inline("inner", ticking(clock, log, keeps=True))
        except Cancelled as stop:
            told.append(str(stop))
            raise

    handle = short.submit("outer", outer)
    with pytest.raises(UserError, match="longer than the 10 seconds"):
        handle.result(10)
    assert told[0].startswith("Stopped after 10 seconds")
    assert log == ["5", "9", "13"]
