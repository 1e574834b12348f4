"""Value curves: against exact enumeration, by counting, to the token, added to and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from transformers import AutoModelForCausalLM

from engine import generation
from engine.answers import answer_text, check
from engine.critical.curve import (
    Point,
    clopper_pearson,
    coarse_to_fine,
    critical_position,
    places,
)
from engine.critical.value import _largest, value_request
from engine.encode import encode_text
from engine.errors import UserError
from engine.generation import Sampler
from engine.result import Result
from engine.running import run
from engine.subjects import Group, Text, Trace
from engine.workspace import Workspace
from tests.engine.tiny import EOS, VOCABULARY, tiny_model

PROMPT = "Q?\n"
RESPONSE = "Answer: 8\n"


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that likes to say 7 or 8 and to stop; a bias makes both likely everywhere."""
    path = tmp_path_factory.mktemp("models") / "seven"
    model = tiny_model("phi", path=path)
    with torch.no_grad():
        model.lm_head.weight *= 0.4
        model.lm_head.bias[EOS] += 9
        model.lm_head.bias[ord("7")] += 9
        model.lm_head.bias[ord("8")] += 8
    model.save_pretrained(path)
    return str(path)


@pytest.fixture
def trace(workspace: Workspace, seven: str) -> Trace:
    tokenizer = workspace.plan_model(seven).tokenizer
    return encode_text(Text(prompt=PROMPT, response=RESPONSE), tokenizer)


def value_of(workspace: Workspace, trace: Trace, model: str, expected: str, **params) -> Result:
    return run(value_request(trace, model, expected, **params), workspace=workspace)[0]


def column(result: Result, name: str) -> list:
    return result.table("tokens")[name].to_pylist()


def exact_values(folder: str, trace: Trace, expected: str) -> dict[int, float]:
    """P(right) of at most two more tokens, by walking through all of them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    found = {}
    for position in range(trace.response_start - 1, len(trace)):
        ids = list(trace.ids[: position + 1])
        said = bytes(ids[trace.response_start :])

        def right(more: bytes, said: bytes = said) -> bool:
            return check((said + more).decode("utf-8", "replace"), expected) is True

        with torch.no_grad():
            first = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
            rows = torch.tensor([[*ids, i] for i in range(VOCABULARY)])
            second = model(rows).logits[:, -1].log_softmax(-1)[:, EOS]
        total = float(first[EOS]) * right(b"")
        for i in range(256):
            total += float(first[i] * second[i].exp()) * right(bytes([i]))
        found[position] = total
    return found


def test_against_exact_enumeration(workspace: Workspace, trace: Trace, seven: str) -> None:
    n = 400
    exact = exact_values(seven, trace, "7")
    values = column(value_of(workspace, trace, seven, "7", n=n, max_new_tokens=2), "value")
    assert set(exact) == {p for p, v in enumerate(values) if v is not None}
    assert max(exact.values()) > 0.1, "the model must be able to be right"

    def off(shift: int) -> float:
        errors = []
        for position, truth in exact.items():
            if position + shift in exact:
                spread = max((truth * (1 - truth) / n) ** 0.5, 0.5 / n)
                errors.append(abs(values[position + shift] - truth) / spread)
        return max(errors)

    assert off(0) < 4
    assert off(1) > 10
    assert off(-1) > 10


def test_every_number_is_counted_from_the_samples(
    workspace: Workspace, trace: Trace, seven: str
) -> None:
    result = value_of(workspace, trace, seven, "8", n=24, max_new_tokens=3, seed=5)
    model = workspace.plan_model(seven)
    sampler = Sampler(max_new_tokens=3, seed=5)
    rows = result.table("tokens").to_pylist()
    assert len(rows) == len(trace)
    seen_cut = 0
    for row in rows[trace.response_start - 1 :]:
        prefix = trace.ids[: row["position"] + 1]
        drawn = list(workspace.samples(model, prefix, sampler, 24))[-1]
        right = 0
        for c in drawn:
            if c.finish == "stop":
                whole = [*prefix[trace.response_start :], *c.ids[:-1]]
                text = bytes(i for i in whole if i < 256).decode("utf-8", "replace")
                right += answer_text(text) == "8"
        assert (row["samples"], row["correct"]) == (24, right)
        assert row["cut"] == sum(c.finish == "length" for c in drawn)
        assert row["value"] == right / 24
        low, high = clopper_pearson(right, 24)
        assert (row["low"], row["high"]) == (low, high)
        seen_cut += row["cut"]
    assert seen_cut > 0
    for row in rows[: trace.response_start - 1]:
        assert row["value"] is row["samples"] is row["critical"] is row["fall"] is None
    assert "inside the prompt" in result.notes["reason"].to_pylist()[0]


def test_the_planted_digit_is_the_one(workspace: Workspace, trace: Trace, seven: str) -> None:
    """Once an 8 stands there, no continuation answers 7; before it, many do."""
    result = value_of(workspace, trace, seven, "7", n=64, max_new_tokens=2)
    eight = trace.pieces.index(b"8")
    values, falls, critical = (column(result, c) for c in ("value", "fall", "critical"))
    assert values[eight - 1] > 0.1
    assert values[eight:] == [0.0] * (len(trace) - eight)
    assert falls[eight] == values[eight - 1] - values[eight]
    assert falls[trace.response_start - 1] is None
    (summary,) = result.table("summary").to_pylist()
    assert (summary["position"], summary["from_position"]) == (eight, eight - 1)
    assert (summary["before"], summary["after"]) == (values[eight - 1], 0.0)
    assert summary["fall"] == max(f for f in falls if f is not None)
    assert summary["token"] == "8"
    assert (summary["said"], summary["right"]) == ("8", False)
    assert summary["start"] == values[trace.response_start - 1]
    # Nothing this short can be right before "Answer:" is written, so the scan starts there, takes
    # that candidate back, and ends at the digit.
    assert values[trace.response_start] == 0
    assert summary["critical_position"] == eight
    assert [p for p, c in enumerate(critical) if c] == [eight]
    assert critical[: trace.response_start] == [None] * trace.response_start


@pytest.mark.parametrize(("expected", "value"), [("8", 1.0), ("7", 0.0)])
def test_after_the_end_nothing_is_left_to_chance(
    workspace: Workspace, seven: str, expected: str, value: float
) -> None:
    tokenizer = workspace.plan_model(seven).tokenizer
    ended = encode_text(Text(prompt=PROMPT, response="Answer: 8<eos>\nAnswer: 7"), tokenizer)
    end = ended.ids.index(EOS)
    result = value_of(workspace, ended, seven, expected, n=4, max_new_tokens=2)
    for row in result.table("tokens").to_pylist()[end:]:
        assert (row["value"], row["low"], row["high"]) == (value,) * 3
        assert (row["samples"], row["correct"], row["cut"]) == (0, 0, 0)
    assert column(result, "samples")[end - 1] == 4


def test_more_samples_add_to_the_old_ones(
    workspace: Workspace, trace: Trace, seven: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = _record(monkeypatch)
    few = value_of(workspace, trace, seven, "7", n=8, max_new_tokens=2)
    prefixes = len(RESPONSE) + 1
    assert sorted(drawn) == sorted(_all(trace, range(8)))
    drawn.clear()
    many = value_of(workspace, trace, seven, "7", n=20, max_new_tokens=2)
    assert sorted(drawn) == sorted(_all(trace, range(8, 20)))
    drawn.clear()
    assert value_of(workspace, trace, seven, "7", n=20, max_new_tokens=2).origin == "cache"
    assert value_of(workspace, trace, seven, "8", n=20, max_new_tokens=2).origin == "computed"
    assert drawn == [], "another right answer judges the same samples"
    assert prefixes == sum(v is not None for v in column(many, "value"))
    for a, b in zip(column(few, "correct"), column(many, "correct"), strict=True):
        assert a is b is None or a <= b


def test_cancel_and_resume_draw_nothing_twice(
    workspace: Workspace, trace: Trace, seven: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = _record(monkeypatch)
    request = value_request(trace, seven, "7", n=16, max_new_tokens=2)
    job = workspace.submit(request)
    while not job.done and len(drawn) < 16 * 4:
        job.wait(0.001)
    job.leave()
    partial = job.result()
    half = {p for p, v in enumerate(column(partial, "value")) if v is not None}
    if partial.status == "partial":  # it may have been quick
        assert 0 < len(half) <= len(RESPONSE) + 1
        assert column(partial, "critical") == [None] * len(trace)
    assert {column(partial, "samples")[p] for p in half} == {16}, "never a half-drawn prefix"
    whole = run(request, workspace=workspace)[0]
    assert whole.status == "complete"
    assert sorted(drawn) == sorted(_all(trace, range(16)))
    for position in half:
        assert column(partial, "value")[position] == column(whole, "value")[position]


def test_a_cancelled_run_keeps_what_it_showed(
    workspace: Workspace, trace: Trace, seven: str
) -> None:
    """Step by step, so that the moment of the cancelling is ours."""
    from engine.errors import Cancelled
    from engine.execute import execute
    from engine.plan import make_plan
    from engine.schema import Progress

    request = value_request(trace, seven, "7", n=6, max_new_tokens=2)
    steps = execute(make_plan(request, workspace), workspace)
    seen: list[Progress] = []
    for step in steps:
        seen.append(step)
        if step.message.startswith("Continued 4 of"):
            break
    with pytest.raises(StopIteration) as stop:
        steps.throw(Cancelled())
    partial = stop.value.value
    done = [p for p, v in enumerate(column(partial, "value")) if v is not None]
    order = coarse_to_fine(range(trace.response_start - 1, len(trace)))
    assert partial.status == "partial"
    assert done == sorted(order[:4])
    assert set(column(partial, "critical")) == {None}
    fractions = [s.fraction for s in seen if s.fraction is not None]
    assert fractions == sorted(fractions)
    assert any(s.eta for s in seen)


def test_greedy_is_certain_and_drawn_once(workspace: Workspace, trace: Trace, seven: str) -> None:
    result = value_of(workspace, trace, seven, "7", temperature=0, max_new_tokens=2)
    for row in result.table("tokens").to_pylist()[trace.response_start - 1 :]:
        assert row["samples"] == 1
        assert row["value"] in (0.0, 1.0)
        assert row["low"] == row["high"] == row["value"]


def test_every_third_token_and_the_last(workspace: Workspace, trace: Trace, seven: str) -> None:
    result = value_of(workspace, trace, seven, "7", n=4, every=3, max_new_tokens=2)
    start = trace.response_start - 1
    known = [p for p, v in enumerate(column(result, "value")) if v is not None]
    assert known == [*range(start, len(trace), 3)] + [len(trace) - 1] * ((len(RESPONSE) % 3) > 0)
    falls, values = column(result, "fall"), column(result, "value")
    assert falls[start + 3] == values[start] - values[start + 3]
    assert set(column(result, "critical")) == {None}
    reasons = " ".join(result.notes["reason"].to_pylist())
    assert "every 3th response token" in reasons
    assert "needs every token" in reasons


def test_another_checker(workspace: Workspace, trace: Trace, seven: str) -> None:
    result = value_of(workspace, trace, seven, "7", checker="contains", n=16, max_new_tokens=2)
    start = column(result, "value")[trace.response_start - 1]
    assert start > 0, "a 7 anywhere counts"
    assert result.table("summary")["right"].to_pylist() == [False]


def test_prompt_alone_and_response_alone(workspace: Workspace, seven: str) -> None:
    tokenizer = workspace.plan_model(seven).tokenizer
    prompt = encode_text(Text(prompt="Answer: "), tokenizer)
    asked = {"checker": "contains", "n": 32, "max_new_tokens": 2}
    result = value_of(workspace, prompt, seven, "7", **asked)
    assert [v is not None for v in column(result, "value")] == [False] * (len(prompt) - 1) + [True]
    (row,) = result.table("summary").to_pylist()
    assert row["start"] == column(result, "value")[-1] > 0
    assert row["position"] is row["critical_position"] is row["said"] is None
    assert row["right"] is False
    response = encode_text(Text(prompt="Answer: 7"), tokenizer).evolve(response_start=0)
    response = response.evolve(turns=(response.turns[0].evolve(role="assistant"),))
    result = value_of(workspace, response, seven, "7", n=4, max_new_tokens=2)
    assert None not in column(result, "value")
    assert result.table("summary")["start"].to_pylist() == [None]


def test_a_group_gives_a_curve_for_each_rollout(
    workspace: Workspace, trace: Trace, seven: str
) -> None:
    other = encode_text(
        Text(prompt=PROMPT, response="Answer: 7"), workspace.plan_model(seven).tokenizer
    )
    group = Group(rollouts=(trace, other))
    result = value_of(workspace, group, seven, "7", n=4, every=4, max_new_tokens=2)
    assert result.table("summary")["rollout"].to_pylist() == [0, 1]
    assert result.table("summary")["right"].to_pylist() == [False, True]
    assert result.table("tokens").num_rows == len(trace) + len(other)


@pytest.mark.parametrize(
    ("expected", "params", "sentence"),
    [
        (None, {}, "needs the right answer: give it as answer"),
        ("  ", {}, "needs the right answer"),
        ("7", {"n": 0}, "n: Input should be greater than or equal to 1"),
        ("7", {"checker": "gut feeling"}, "no answer checker 'gut feeling'; use one of answer"),
        ("7", {"samples": 3}, "has no parameter 'samples'"),
    ],
)
def test_bad_input_is_a_sentence(
    workspace: Workspace, trace: Trace, seven: str, expected: str, params: dict, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        value_of(workspace, trace, seven, expected, **params)


def test_a_number_may_be_given_as_a_number(workspace: Workspace, trace: Trace, seven: str) -> None:
    one = workspace.submit(value_request(trace, seven, 7, n=1, every=99, max_new_tokens=1))
    other = workspace.submit(value_request(trace, seven, "7", n=1, every=99, max_new_tokens=1))
    assert one.key == other.key


# -- pure parts ------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_solves_the_binomial_tails(pair: tuple[int, int]) -> None:
    c, n = pair
    low, high = map(float, clopper_pearson(c, n))
    assert 0 <= low <= c / n <= high <= 1
    if c:
        assert binom.sf(c - 1, n, low) == pytest.approx(0.025)
    if c < n:
        assert binom.cdf(c, n, high) == pytest.approx(0.025)


@pytest.mark.parametrize("n", [1, 2, 32, 64, 4096])
def test_the_interval_at_none_and_all(n: int) -> None:
    edge = 1 - 0.025 ** (1 / n)
    np.testing.assert_allclose(np.ravel(clopper_pearson(0, n)), [0, edge], rtol=1e-9)
    np.testing.assert_allclose(np.ravel(clopper_pearson(n, n)), [1 - edge, 1], rtol=1e-9)
    low, high = clopper_pearson([0, n], [n, n])
    assert (low.shape, high.shape) == ((2,), (2,))


@pytest.mark.parametrize(
    ("counts", "critical"),
    [
        ([9, 0, 0, 2, 5, 0, 0], 5),
        ([9, 0, 3, 0], 1),
        ([9, 0, 4, 0], 3),
        ([0, 0, 0], 0),
        ([5, 4, 1], None),
        ([0, 64], None),
        ([], None),
    ],
)
def test_the_scan_on_counts_of_64(counts: list[int], critical: int | None) -> None:
    assert critical_position({p: c / 64 for p, c in enumerate(counts)}) == critical


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 0, 0, 1, 3, 4, 40]), max_size=12))
def test_the_scan_by_its_definition(counts: list[int]) -> None:
    """The last restart is the last count above 3; the first zero after it is what is left."""
    restart = max((p for p, c in enumerate(counts) if c > 3), default=-1)
    zeros = (p for p in range(restart + 1, len(counts)) if counts[p] == 0)
    assert critical_position({p: c / 64 for p, c in enumerate(counts)}) == next(zeros, None)


def test_of_equal_falls_the_first_counts(trace: Trace) -> None:
    curve = {p: Point.counted(4, c, 0) for p, c in zip(range(4, 9), (4, 2, 2, 0, 3), strict=True)}
    falls = {5: (0.5, 4), 6: (0.0, 5), 7: (0.5, 6), 8: (-0.75, 7)}
    assert _largest(trace, curve, falls)["position"] == 5
    assert _largest(trace, curve, {6: falls[6], 8: falls[8]}) == {}


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 300), st.integers(1, 50))
def test_places_and_their_order(first: int, length: int, every: int) -> None:
    found = places(first, first + length, every)
    assert found == sorted(set(found))
    if length:
        assert (found[0], found[-1]) == (first, first + length - 1)
    order = coarse_to_fine(found)
    assert sorted(order) == found
    for part in (2, 4, 8):
        taken = [-1, *sorted(found.index(p) for p in order[: len(order) // part]), len(found)]
        assert max(np.diff(taken), default=0) <= 4 * part, "gaps stay even"


def _record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], int]]:
    """(prefix, number) of every sample that is really drawn."""
    drawn: list[tuple[tuple[int, ...], int]] = []
    real = generation.sample

    def sample(model, prefix, sampler, indices, **more) -> Iterator:
        for batch in real(model, prefix, sampler, indices, **more):
            drawn.extend((tuple(prefix), c.index) for c in batch)
            yield batch

    monkeypatch.setattr(generation, "sample", sample)
    return drawn


def _all(trace: Trace, numbers: range) -> list[tuple[tuple[int, ...], int]]:
    ends = range(trace.response_start, len(trace) + 1)
    return [(trace.ids[:end], number) for end in ends for number in numbers]


def test_it_opens_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from engine.critical.value import value_request; import engine;"
        "engine.analyses()['critical.value'].parse({});"
        "print('torch' in sys.modules, 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
