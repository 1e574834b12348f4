"""Dependences of right answers: as the generator has them, in characters and in tokens."""

import itertools
from pathlib import Path

import pytest

from demo import causes
from demo.chains import compute
from demo.stories import problems
from engine import Text, UserError, encode
from engine.attribution.cases import cases_of
from engine.records import iter_groups
from engine.workspace import Workspace

SAMPLE = [p for level in (1, 2, 4) for p in itertools.islice(problems("links", "test", level), 20)]


def test_links_are_the_generator_s() -> None:
    for problem in SAMPLE:
        found = causes.links(problem, problem.response)
        assert found is not None
        wanted = []
        for step in problem.steps:
            wanted += [causes.Link(o.copy, (o.source,)) for o in step.operands]
            wanted.append(causes.Link(step.span, tuple(o.copy for o in step.operands)))
        last = problem.steps[-1].span
        assert found == [*wanted, causes.Link(problem.answer_span, (last,))]


def test_operands_the_other_way_round() -> None:
    problem = next(p for p in SAMPLE if p.steps[0].op == "+" and p.level > 1)
    first, second = problem.steps[0].operands
    response = problem.response.replace(
        f"{first.value}+{second.value}=", f"{second.value}+{first.value}=", 1
    )
    found = causes.links(problem, response)
    assert found is not None
    text = problem.prompt + response
    assert [text[slice(*link.result)] for link in found[:2]] == [
        str(second.value),
        str(first.value),
    ]
    assert [link.causes for link in found[:2]] == [(second.source,), (first.source,)]


def test_only_answers_that_are_right_in_every_step() -> None:
    problem = SAMPLE[30]
    for old, new in (
        (f"Answer: {problem.answer}", f"Answer: {problem.answer + 1}"),
        (f"={problem.steps[0].result}", f"={problem.steps[0].result + 1}"),
        ("Solution: ", "Solution: 2+2=4. "),
    ):
        assert old in problem.response
        assert causes.links(problem, problem.response.replace(old, new, 1)) is None


@pytest.mark.parametrize("model", ["demo", "demo-multidigit"])
def test_rollouts_with_marks(tmp_path: Path, model: str) -> None:
    """Tokens of every mark read as the numbers they stand for, whatever the tokenizer."""
    with Workspace(tmp_path / "home") as workspace:
        file = causes.rollouts(model, 2, tmp_path / "causes.jsonl", workspace)
        groups = list(iter_groups(file))
        again = causes.rollouts(model, 2, tmp_path / "again.jsonl", workspace)
        problem = SAMPLE[0]
        plain = encode(Text(prompt=problem.prompt, response=problem.response), model, workspace)
    assert file.count == 2
    assert again.content == file.content
    assert causes.mark(problem, plain) is not None
    for group in groups:
        (trace,) = group.rollouts
        cases = cases_of(trace)
        assert [c.kind for c in cases[:3]] == ["copied", "copied", "computed"]
        assert cases[-1].kind == "copied"

        def number(name: str, trace=trace) -> int:
            span = trace.spans[name]
            return int(b"".join(trace.pieces[span.start : span.end]))

        results = [name for name in trace.spans if name.startswith("result.")]
        assert len(results) == len(cases)
        for name in results:
            place = name.removeprefix("result.")
            known = [number(n) for n in trace.spans if n.startswith(f"cause.{place}.")]
            if len(known) == 1:
                assert number(name) == known[0]
            else:
                possible = {compute(op, *known) for op in "+-*/" if op != "/" or known[1]}
                assert number(name) in possible
        assert number(results[-1]) == int(group.expected or "")


def test_a_model_that_is_never_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causes, "verify", lambda *_: type("V", (), {"correct": False})())
    monkeypatch.setattr(causes, "TRIES", 1)
    with (
        Workspace(tmp_path / "home") as workspace,
        pytest.raises(UserError, match="demo gave only 0 right answers: ask for fewer"),
    ):
        causes.rollouts("demo", 1, tmp_path / "causes.jsonl", workspace)
