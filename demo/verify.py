"""Checks a response: is the answer right, and which of its equations go wrong in which way?"""

import re
from dataclasses import dataclass

from demo.chains import compute
from demo.stories import Problem, Span

# Eighteen digits are far beyond the corpus and keep junk from turning into huge integers.
_EQUATION = re.compile(
    r"(?<![\d.])([0-9]{1,18}) ?([-+*/]) ?([0-9]{1,18}) ?= ?(-?[0-9]{1,18})(?![\d])"
)
_ANSWER = re.compile(r"Answer:[ \t]*(-?[0-9]{1,18})(?![\d]|[.,]\d)")


@dataclass(frozen=True)
class Equation:
    """One equation of a response; ``span`` is in the response's characters."""

    op: str
    operands: tuple[int, int]
    result: int
    span: Span

    @property
    def right(self) -> bool:
        """Whether the arithmetic holds, as exact integers."""
        a, b = self.operands
        if self.op == "/":
            return b != 0 and a % b == 0 and a // b == self.result
        return compute(self.op, a, b) == self.result


@dataclass(frozen=True)
class StepError:
    """What is wrong with one step.

    Attributes:
        step: index of the step, from 0.
        kind: "operation" (not the one the story asks for), "operands" (right operation on wrong
            numbers), "arithmetic" (right operation on right numbers, wrong result), "missing" (no
            equation for a step of the story), "extra" (an equation too many) or "answer" (not the
            last result).
        span: characters of the response, None where nothing is there to point at.
    """

    step: int
    kind: str
    span: Span | None


@dataclass(frozen=True)
class Verdict:
    """``correct`` is about the answer alone: a right answer may follow from steps with errors."""

    correct: bool
    answer: int | None
    step_errors: tuple[StepError, ...]


def answer_of(text: str) -> int | None:
    """The integer after the last ``Answer:``, or None."""
    found = _ANSWER.findall(text)
    return int(found[-1]) if found else None


def equations(text: str) -> list[Equation]:
    """All equations ``a op b=c`` of a text, in order."""
    return [
        Equation(m[2], (int(m[1]), int(m[3])), int(m[4]), m.span())
        for m in _EQUATION.finditer(text)
    ]


def verify(problem: Problem, response: str) -> Verdict:
    """Compares a response with the problem, step by step.

    A step that correctly goes on from an earlier wrong result counts as right: each error is
    reported where it is made, not where it is carried. Any text is accepted.
    """
    answer = answer_of(response)
    found = equations(response)
    errors: list[StepError] = []
    for i, (step, equation) in enumerate(zip(problem.steps, found, strict=False)):
        first = found[i - 1].result if i else step.operands[0].value
        expected = (first, step.operands[1].value)
        swapped = step.op in "+*" and equation.operands == expected[::-1]
        if equation.op != step.op:
            errors.append(StepError(i, "operation", equation.span))
        elif equation.operands != expected and not swapped:
            errors.append(StepError(i, "operands", equation.span))
        # A wrong sum is reported next to a wrong operation or operand: these are two errors.
        if not equation.right:
            errors.append(StepError(i, "arithmetic", equation.span))
    errors += [StepError(i, "missing", None) for i in range(len(found), problem.level)]
    errors += [StepError(i, "extra", found[i].span) for i in range(problem.level, len(found))]
    if found and answer is not None and answer != found[-1].result:
        last = list(_ANSWER.finditer(response))[-1]
        errors.append(StepError(problem.level, "answer", last.span(1)))
    return Verdict(answer == problem.answer, answer, tuple(errors))
