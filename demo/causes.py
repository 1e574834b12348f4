"""What each number of a right answer truly depends on, marked in the trace.

The generator knows it: a result depends on the operands of its equation, an operand on the place it
was copied from (in the question, or an earlier result), the answer on the last result. Each of
these is a span ``result.N``; its causes are the spans ``cause.N.0``, ``cause.N.1``. The analysis
``attribution.precision`` asks which methods find them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from demo.stories import Problem, problems
from demo.verify import Equation, equations, verify
from engine import (
    Group,
    Request,
    Text,
    Trace,
    UserError,
    group_from_samples,
    open_rollouts,
    run,
)
from engine import write_rollouts as write
from engine.answers import response_text
from engine.subjects import Rollouts, Span
from engine.workspace import Workspace

LEVELS = (2, 3)
"""Steps of the stories, in turn."""

LONGEST = 300
"""Characters of a question, at most."""

TRIES = 10
"""Stories tried for each answer that is wanted."""

_NUMBER = re.compile("[0-9]+")
_ANSWER = re.compile("Answer: ([0-9]+)")

Place = tuple[int, int]  # characters of prompt and response together


@dataclass(frozen=True)
class Link:
    """A number and what it depends on, as characters of prompt and response."""

    result: Place
    causes: tuple[Place, ...]


def links(problem: Problem, response: str) -> list[Link] | None:
    """All dependences of a response, in the order of the text; None if it is not all right."""
    verdict = verify(problem, response)
    if not verdict.correct or verdict.step_errors:
        return None
    found: list[Link] = []
    start = len(problem.prompt)
    before: Place | None = None
    for step, equation in zip(problem.steps, equations(response), strict=True):
        left, right, result = _numbers(response, equation, start)
        sources = [before or step.operands[0].source, step.operands[1].source]
        if equation.operands[1] != step.operands[1].value:  # the other way round
            sources.reverse()
        found += [Link(left, (sources[0],)), Link(right, (sources[1],))]
        found.append(Link(result, (left, right)))
        before = result
    answer = list(_ANSWER.finditer(response))
    if answer and before is not None:
        at = answer[-1].span(1)
        found.append(Link((start + at[0], start + at[1]), (before,)))
    return found


def _numbers(response: str, equation: Equation, start: int) -> tuple[Place, Place, Place]:
    """Both operands and the result of an equation."""
    places = [
        (start + m.start(), start + m.end()) for m in _NUMBER.finditer(response, *equation.span)
    ]
    left, right, result = places
    return left, right, result


def mark(problem: Problem, trace: Trace) -> Trace | None:
    """The trace with its dependences as spans; None if the answer is not right in every step.

    A number that shares a token with one of its causes is left out.

    Args:
        problem: what was asked.
        trace: prompt and response as some model wrote it.
    """
    response = response_text(trace)
    text = problem.prompt + response
    found = links(problem, response)
    if found is None or not trace.text_bytes.startswith(text.encode()):
        return None

    def tokens(place: Place) -> Span:
        return trace.positions_of(*(len(text[:at].encode()) for at in place))

    spans = dict(trace.spans)
    number = 0
    for link in found:
        result, causes = tokens(link.result), [tokens(cause) for cause in link.causes]
        if any(cause.end > result.start for cause in causes):
            continue
        spans[f"result.{number}"] = result
        spans |= {f"cause.{number}.{i}": cause for i, cause in enumerate(causes)}
        number += 1
    return trace.evolve(spans=spans)


def rollouts(model: str, n: int, path: Path, workspace: Workspace) -> Rollouts:
    """Write n short right answers of a model, with their dependences marked, as a rollouts file.

    The most probable answer to each story is taken, so the file is always the same.

    Args:
        model: for example ``demo``.
        n: how many.
        path: the file.
        workspace: keeps what the model wrote.

    Raises:
        UserError: the model is right too seldom.
    """
    found = list(islice(_right(model, n * TRIES, workspace), n))
    if len(found) < n:
        raise UserError(f"{model} gave only {len(found)} right answers: ask for fewer.")
    write(path, found)
    return open_rollouts(path)


def _right(model: str, tries: int, workspace: Workspace) -> Iterator[Group]:
    streams = [problems("causes", "test", level) for level in LEVELS]
    mixed = (problem for together in zip(*streams, strict=True) for problem in together)
    for problem in islice(mixed, tries):
        if len(problem.prompt) > LONGEST:
            continue
        settings = {"n": 1, "temperature": 0, "max_new_tokens": 160}
        asked = Request("generate", Text(prompt=problem.prompt), model, settings)
        (trace,) = group_from_samples(run(asked, workspace=workspace)[0]).rollouts
        marked = mark(problem, trace)
        finished = trace.sampling is not None and trace.sampling.finish == "stop"
        if marked is not None and finished:
            yield Group(rollouts=(marked,), rewards=(1.0,), expected=str(problem.answer))
