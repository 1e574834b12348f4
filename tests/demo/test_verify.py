"""The verifier: accepts the true solutions, finds each kind of error, survives any text."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.stories import Problem, problems
from demo.verify import answer_of, equations, verify

SAMPLE = [
    p for level in (1, 2, 3, 5) for p in itertools.islice(problems("verify", "test", level), 60)
]
THREE = next(problems("verify", "test", 3))


def test_accepts_true_solutions() -> None:
    for p in SAMPLE:
        verdict = verify(p, p.response)
        assert verdict.correct
        assert verdict.answer == p.answer
        assert verdict.step_errors == ()


def changed(p: Problem, at: tuple[int, int], new: str) -> str:
    return (p.text[: at[0]] + new + p.text[at[1] :])[len(p.prompt) :]


def test_finds_a_wrong_answer() -> None:
    for p in SAMPLE:
        verdict = verify(p, changed(p, p.answer_span, str(p.answer + 1)))
        assert not verdict.correct
        assert [(e.step, e.kind) for e in verdict.step_errors] == [(p.level, "answer")]


def test_finds_a_wrong_result_where_it_is_made() -> None:
    for p in SAMPLE:
        step = p.steps[0]
        verdict = verify(p, changed(p, step.span, str(step.result + 1)))
        assert (0, "arithmetic") in [(e.step, e.kind) for e in verdict.step_errors]


def test_a_carried_error_is_reported_once() -> None:
    p = next(q for q in SAMPLE if [s.op for s in q.steps] == ["+", "-"])
    (a, b), (_, c) = [[o.value for o in s.operands] for s in p.steps]
    wrong = a + b + 1
    text = f"Solution: {a}+{b}={wrong}. Then {wrong}-{c}={wrong - c}.\nAnswer: {wrong - c}"
    assert [(e.step, e.kind) for e in verify(p, text).step_errors] == [(0, "arithmetic")]


def test_finds_wrong_operand_operation_missing_and_extra() -> None:
    p = next(q for q in SAMPLE if q.steps[0].op == "-" and q.level == 1)
    a, b = (o.value for o in p.steps[0].operands)

    def kinds(text: str) -> list[str]:
        return [e.kind for e in verify(p, text).step_errors]

    assert kinds(f"{a}-{b + 1}={a - b - 1}\nAnswer: {a - b - 1}") == ["operands"]
    assert kinds(f"{a}+{b}={a + b}\nAnswer: {a + b}") == ["operation"]
    assert kinds(f"Answer: {a - b}") == ["missing"]
    assert verify(p, f"Answer: {a - b}").correct
    assert kinds(f"{a}-{b}={a - b} {a}-{b}={a - b}\nAnswer: {a - b}") == ["extra"]
    verdict = verify(p, f"so {a}-{b}={a - b + 1}!")
    assert verdict.step_errors[0].span == (3, 3 + len(f"{a}-{b}={a - b + 1}"))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 12", 12),
        ("Answer: 12<|end|>", 12),
        ("Answer: 12.", 12),
        ("Answer: 12.5", None),
        ("Answer: -3", -3),
        ("Answer: 1\nAnswer: 2", 2),
        ("Answer:", None),
        ("12", None),
        ("Answer: " + "9" * 5000, None),
        ("", None),
    ],
)
def test_answer_of(text: str, answer: int | None) -> None:
    assert answer_of(text) == answer


def test_division_must_be_exact() -> None:
    assert not equations("7/2=3")[0].right
    assert not equations("7/0=0")[0].right
    assert equations("8/2=4")[0].right


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="0123456789+-*/= \nAnswer:.")))
def test_survives_any_text(text: str) -> None:
    verdict = verify(THREE, text)
    assert verdict.correct == (verdict.answer == THREE.answer)
    assert verify(replace(THREE, answer=-1), text).answer == verdict.answer
