"""Value curves: against exact enumeration, by counting, to the token, added to and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.answers import answer_text, check
from engine.critical.curve import clopper_pearson, difference
from engine.critical.judging import Judging
from engine.critical.places import coarse_to_fine
from engine.critical.value import value_request
from engine.encode import encode_text
from engine.errors import UserError
from engine.result import Result
from engine.running import run
from engine.sampling import generation
from engine.sampling.generation import Sampler
from engine.subjects import Group, Text, Trace
from engine.workspace import Workspace
from tests.engine.tiny import EOS, VOCABULARY

PROMPT = "Q?\n"
RESPONSE = "Answer: 8\n"
NO_EIGHT = r"\A[^8]*\Z"
"""Right for the checker ``regex`` is a response without any 8."""


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
    curve = {row["position"]: row for row in result.table("tokens").to_pylist()}
    before, after = _point(curve[eight - 1]), _point(curve[eight])
    assert (curve[eight]["fall_low"], curve[eight]["fall_high"]) == difference(before, after)
    assert curve[eight]["since"] == eight - 1
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
        if step.message.startswith("Continued ") and not step.message.startswith("Continued 0 "):
            break
    with pytest.raises(StopIteration) as stop:
        steps.throw(Cancelled())
    partial = stop.value.value
    done = {p for p, v in enumerate(column(partial, "value")) if v is not None}
    assert partial.status == "partial"
    assert f"Continued {len(done)} of" in seen[-1].message
    assert done <= set(coarse_to_fine(range(trace.response_start - 1, len(trace))))
    assert set(column(partial, "critical")) == {None}
    fractions = [s.fraction for s in seen if s.fraction is not None]
    assert fractions == sorted(fractions)


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
        ("\ud800", {}, "answer holds half of a character"),
        ("7", {"second_answer": "a\udfffb"}, "second_answer holds half of a character"),
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


def test_early_stop_looks_at_the_first_samples_only(
    workspace: Workspace, trace: Trace, seven: str
) -> None:
    """Every number again from the samples in the order of their numbers; the same verdicts."""
    asked = {"n": 64, "max_new_tokens": 2, "checker": "regex"}
    whole = value_of(workspace, trace, seven, NO_EIGHT, **asked)
    early = value_of(workspace, trace, seven, NO_EIGHT, stop=4, **asked)
    judging = Judging(workspace.plan_model(seven).tokenizer, trace, "regex", NO_EIGHT)
    model, sampler = workspace.plan_model(seven), Sampler(max_new_tokens=2)
    stopped = 0
    for full, row in zip(
        whole.table("tokens").to_pylist(), early.table("tokens").to_pylist(), strict=True
    ):
        if row["value"] is None:
            continue
        end = row["position"] + 1
        drawn = list(workspace.samples(model, trace.ids[:end], sampler, 64))[-1]
        right = [judging.right(end, c) for c in drawn]
        assert full["correct"] == sum(right)
        if sum(right) < 4:
            assert {k: row[k] for k in ("samples", "correct", "value", "low", "high")} == {
                k: full[k] for k in ("samples", "correct", "value", "low", "high")
            }
            continue
        stopped += 1
        places = [number for number, one in enumerate(right, start=1) if one]
        assert (row["samples"], row["correct"]) == (places[3], 4)
        assert row["value"] == 3 / (places[3] - 1)
        low, high = clopper_pearson(4, places[3])
        assert (row["low"], row["high"]) == (low, high)
        assert row["critical"] == full["critical"]
    assert stopped > 2
    (a,), (b,) = (r.table("summary").to_pylist() for r in (whole, early))
    assert a["critical_position"] == b["critical_position"] is not None
    assert b["drawn"] < a["drawn"] == a["full"] == b["full"] == 64 * (len(RESPONSE) + 1)
    undecided = value_of(workspace, trace, seven, NO_EIGHT, stop=2, **asked)
    assert set(column(undecided, "critical")) == {None}
    assert "does not decide the rule" in " ".join(undecided.notes["reason"].to_pylist())


def test_a_search_finds_the_planted_digit_with_fewer_samples(
    workspace: Workspace, seven: str
) -> None:
    """Right is a response without any 8: what one of them broke, nothing mends."""
    tokenizer = workspace.plan_model(seven).tokenizer
    text = Text(prompt=PROMPT, response="7" * 22 + "8" + "7" * 9)
    trace = encode_text(text, tokenizer)
    asked = {"checker": "regex", "n": 64, "max_new_tokens": 2, "least": 0.1}
    found = {}
    for where in ("every", "search"):
        result = value_of(workspace, trace, seven, NO_EIGHT, where=where, **asked)
        (found[where],) = result.table("summary").to_pylist()
    eight = trace.pieces.index(b"8")
    assert found["every"]["position"] == found["search"]["position"] == eight
    assert found["search"]["from_position"] == eight - 1
    assert found["search"]["after"] == 0 < found["search"]["before"]
    assert found["every"]["drawn"] == found["every"]["full"] == found["search"]["full"]
    assert found["search"]["drawn"] <= 12 * 64 < found["every"]["drawn"] == 33 * 64
    assert found["every"]["critical_position"] == eight
    assert found["search"]["critical_position"] is None


def test_prefixes_that_a_score_chooses(workspace: Workspace, trace: Trace, seven: str) -> None:
    from engine.result import Request

    result = value_of(
        workspace, trace, seven, "7", n=4, max_new_tokens=1, where="surprisal", share=0.2
    )
    stats = run(Request("statistics", trace, seven), workspace=workspace)[0]
    surprisal = stats.table("tokens")["surprisal"].to_pylist()
    own = range(trace.response_start, len(trace))
    best = sorted(own, key=lambda p: (-surprisal[p], p))[:2]
    known = {p for p, v in enumerate(column(result, "value")) if v is not None}
    assert known == {trace.response_start - 1, len(trace) - 1, *best, *(p - 1 for p in best)}
    assert "chosen by surprisal" in " ".join(result.notes["reason"].to_pylist())


def test_sentences_have_values_of_their_own(workspace: Workspace, seven: str) -> None:
    tokenizer = workspace.plan_model(seven).tokenizer
    told = encode_text(Text(prompt=PROMPT, response="So. It is.\nAnswer: 8"), tokenizer)
    every = value_of(workspace, told, seven, "7", n=8, max_new_tokens=2)
    ends = value_of(workspace, told, seven, "7", n=8, max_new_tokens=2, where="sentence")
    rows = every.table("sentences").to_pylist()
    assert [row["text"] for row in rows] == ["So.", " It is.", "\nAnswer: 8"]
    assert rows == ends.table("sentences").to_pylist(), "the same samples"
    values = column(every, "value")
    for row in rows:
        assert row["before"] == values[row["start_position"] - 1]
        assert row["after"] == values[row["end_position"]]
        assert row["fall"] == row["before"] - row["after"]
        assert row["fall_low"] <= row["fall"] <= row["fall_high"]
    known = [p for p, v in enumerate(column(ends, "value")) if v is not None]
    assert known == [told.response_start - 1, *(row["end_position"] for row in rows)]


def test_a_second_checker_hears_the_same_samples(
    workspace: Workspace, trace: Trace, seven: str
) -> None:
    asked = {"second_checker": "contains", "second_answer": "8", "max_new_tokens": 2, "n": 24}
    for stop in (None, 3):
        result = value_of(workspace, trace, seven, "7", stop=stop, **asked)
        model, sampler = workspace.plan_model(seven), Sampler(max_new_tokens=2)
        for row in result.table("tokens").to_pylist()[trace.response_start - 1 :]:
            end = row["position"] + 1
            drawn = list(workspace.samples(model, trace.ids[:end], sampler, 24))[-1]
            drawn = drawn[: row["samples"]]
            if stop is not None and row["correct"] == stop:
                drawn = drawn[:-1]  # the one that stopped it is right by construction
            before = bytes(trace.ids[trace.response_start : end])
            said = [b"8" in before + bytes(i for i in c.ids if i < 256) for c in drawn]
            assert row["second"] == sum(said) / len(said)
    with pytest.raises(UserError, match="give second_answer"):
        value_of(workspace, trace, seven, "7", second_checker="contains")


def _point(row: dict):
    from engine.critical.curve import Point

    names = ("samples", "correct", "cut", "value", "low", "high")
    return Point(**{name: row[name] for name in names})


def _record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], int]]:
    """(prefix, number) of every sample that is really drawn."""
    drawn: list[tuple[tuple[int, ...], int]] = []
    real = generation.sample_after

    def sample_after(model, ids, wanted, sampler, **more) -> Iterator:
        for batch in real(model, ids, wanted, sampler, **more):
            drawn.extend((tuple(ids[:end]), c.index) for end, c in batch)
            yield batch

    monkeypatch.setattr(generation, "sample_after", sample_after)
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
