"""Chooses the gallery's stories among what the bundled models answer, by rules only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp
from typing import Any

from demo.blame import blame
from demo.phrases import NAMES, SETTINGS
from demo.stories import Problem, problems
from demo.verify import Verdict, verify
from engine import Group, Request, Text, Trace, group_from_samples, run
from engine.answers import check
from engine.gallery import Culprit
from engine.workspace import Workspace

MODELS = ("demo", "demo-multidigit")
SAMPLES = 16
STORIES = 200
"""Stories of each length that are tried."""

CHOSEN = "Chosen for its sharp fall: it shows what can happen, not how often."
"""Said of every wrong story: only those are kept that fall at one token and can be mended."""

SHORT = 300
"""Characters of a story's question, at most."""


@dataclass(frozen=True)
class Pick:
    """One kind of example: the first sample that fits becomes the item.

    Attributes:
        level: steps of the story.
        fits: what the verdict must be.
        blames: for wrong ones, what the culprit must be.
        look: a cheap look at the trace before its curve is computed.
        needed: whether the gallery is nothing without it.
    """

    name: str
    model: str
    level: int
    description: str
    fits: Callable[[Verdict], bool]
    blames: Callable[[Culprit], bool] | None = None
    look: Callable[[Trace], bool] = lambda trace: True
    needed: bool = False

    @property
    def said(self) -> str:
        """The description, and how the story was chosen where that bends its figures."""
        return self.description if self.blames is None else f"{self.description} {CHOSEN}"


def _solved(verdict: Verdict) -> bool:
    return verdict.correct and not verdict.step_errors


def _wrong(*kinds: str) -> Callable[[Verdict], bool]:
    """Wrong with one error, of one of these kinds."""
    return partial(_one_error, kinds)


def _one_error(kinds: Sequence[str], verdict: Verdict) -> bool:
    errors = [error.kind for error in verdict.step_errors]
    return not verdict.correct and len(errors) == 1 and errors[0] in kinds


def _clear(culprit: Culprit) -> bool:
    best = culprit.best
    return culprit.before - culprit.after >= 0.5 and best is not None and best.value >= 0.6


def _sharp(culprit: Culprit) -> bool:
    best = culprit.best
    return (
        culprit.token.strip().isdigit()
        and culprit.before >= 0.7
        and culprit.after <= 0.05
        and best is not None
        and best.value >= 0.8
    )


def _word(culprit: Culprit) -> bool:
    return _clear(culprit) and culprit.after <= 0.25 and culprit.token.strip().isalpha()


def _slip(trace: Trace) -> bool:
    """Whether the least likely token of the reasoning is a digit the model hardly believed in."""
    span, sampling = trace.spans.get("reasoning"), trace.sampling
    if span is None or sampling is None or sampling.logprobs is None:
        return False
    logprobs = {p: sampling.logprobs[p - trace.response_start] or 0.0 for p in _inside(span)}
    least = min(logprobs, key=lambda p: logprobs[p])
    return trace.pieces[least].strip().isdigit() and exp(logprobs[least]) < 0.2


def _inside(span: Any) -> range:
    return range(span.start, span.end)


PICKS = (
    Pick(
        "start",
        "demo",
        2,
        "Solved wrongly: all goes well until a single digit. Which one?",
        _wrong("arithmetic", "operands"),
        _sharp,
        _slip,
        needed=True,
    ),
    Pick(
        "solved",
        "demo",
        3,
        "Three steps, all of them right: see where the model hesitated all the same.",
        _solved,
        needed=True,
    ),
    Pick(
        "wrong-sum",
        "demo",
        3,
        "Every step is the right one, but one result is miscalculated.",
        _wrong("arithmetic"),
        _clear,
    ),
    Pick(
        "wrong-number",
        "demo",
        3,
        "One step calculates with a number that does not belong there.",
        _wrong("operands"),
        _clear,
    ),
    Pick(
        "wrong-step",
        "demo",
        3,
        "A harmless word decides that the next step does what the story does not ask for.",
        _wrong("operation"),
        _word,
    ),
    Pick(
        "solved-multidigit",
        "demo-multidigit",
        3,
        "Solved by the sibling, which reads and writes most numbers in one piece.",
        _solved,
        needed=True,
    ),
    Pick(
        "wrong-sum-multidigit",
        "demo-multidigit",
        3,
        "With numbers in one piece a miscalculation is one token, wrong as a whole.",
        _wrong("arithmetic"),
        _clear,
    ),
    Pick(
        "wrong-number-multidigit",
        "demo-multidigit",
        3,
        "The sibling's favourite mistake: it takes a number that stands nowhere in the story.",
        _wrong("operands"),
        _clear,
    ),
)


def choose(
    workspace: Workspace, used: set[str], tell: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """An item for each pick; one that is not needed may be missing, which is told.

    Args:
        workspace: keeps what was drawn.
        used: prompts taken so far; new ones are added.
        tell: hears what is tried.
    """
    for pick in PICKS:
        item = _find(workspace, pick, used, tell)
        if item is not None:
            yield item
        elif pick.needed:
            raise SystemExit(f"No sample fits {pick.name!r}: raise STORIES or SAMPLES.")
        else:
            tell(f"{pick.name}: nothing fits, left out")


def _find(
    workspace: Workspace, pick: Pick, used: set[str], tell: Callable[[str], None]
) -> dict[str, Any] | None:
    for problem in _stories(pick.level):
        if problem.prompt in used:
            continue
        expected = str(problem.answer)
        title = name_of(problem)
        group, verdicts = _answers(workspace, problem, pick.model)
        for answer, verdict in zip(group.rollouts, verdicts, strict=True):
            trace = answer.evolve(title=title)
            if not (pick.fits(verdict) and _ended(trace) and pick.look(trace)):
                continue
            if (check(trace, expected) is True) != verdict.correct:
                raise SystemExit(f"Checker and verifier disagree about {trace.response_text!r}.")
            culprit = branch = None
            if pick.blames is not None:
                culprit, branch = blame(workspace, trace, pick.model, expected)
                tell(f"{pick.name}? {title}: {culprit.why if culprit else 'no fall'}")
                if culprit is None or branch is None or not pick.blames(culprit):
                    break  # another answer to this story would fall at the same place
            used.add(problem.prompt)
            return {
                "name": pick.name,
                "title": title,
                "description": pick.said,
                "model": pick.model,
                "expected": expected,
                "trace": trace,
                "culprit": culprit,
                "branch": branch,
            }
    return None


def groups(workspace: Workspace, used: set[str]) -> Iterator[dict[str, Any]]:
    """One story, answered 16 times by each of the two models, with right and wrong answers."""
    for problem in _stories(2):
        if problem.prompt in used:
            continue
        expected = str(problem.answer)
        found: list[Group] = []
        for model in MODELS:
            group, _ = _answers(workspace, problem, model)
            rewards = tuple(float(check(t, expected) is True) for t in group.rollouts)
            if not 4 <= sum(rewards) <= SAMPLES - 4 or not all(map(_ended, group.rollouts)):
                break
            found.append(group.evolve(rewards=rewards, expected=expected))
        if len(found) == len(MODELS):
            yield from map(partial(_group, problem), MODELS, found)
            return
    raise SystemExit("No story is answered both ways by both models: raise STORIES.")


def _group(problem: Problem, model: str, group: Group) -> dict[str, Any]:
    digits = model == MODELS[0]
    title = f"{name_of(problem)}, {SAMPLES} answers"
    title += "" if digits else " by the sibling"
    rollouts = tuple(
        trace.evolve(title=f"Answer {number}, {'right' if reward else 'wrong'}")
        for number, (trace, reward) in enumerate(
            zip(group.rollouts, group.rewards, strict=True), start=1
        )
    )
    right = int(sum(reward or 0 for reward in group.rewards))
    return {
        "name": "group" if digits else "group-multidigit",
        "title": title,
        "description": f"Answered {SAMPLES} times, {right} times right: see where the ways part.",
        "model": model,
        "expected": group.expected,
        "group": group.evolve(rollouts=rollouts, title=title),
        "shown": group.rewards.index(0.0),
    }


def _stories(level: int) -> Iterator[Problem]:
    """Stories that are in no training set, short ones only."""
    stream = problems("gallery", "test", level)
    for _ in range(STORIES):
        problem = next(stream)
        if len(problem.prompt) <= SHORT:
            yield problem


def _answers(
    workspace: Workspace, problem: Problem, model: str
) -> tuple[Group, tuple[Verdict, ...]]:
    request = Request("generate", Text(prompt=problem.prompt), model, {"n": SAMPLES, "seed": 0})
    result = run(request, workspace=workspace)[0]
    said = result.table("samples")["text"].to_pylist()
    return group_from_samples(result), tuple(verify(problem, text) for text in said)


def _ended(trace: Trace) -> bool:
    return trace.sampling is not None and trace.sampling.finish == "stop"


def name_of(problem: Problem) -> str:
    """Whose story of how many what: "Maya’s 24 dollars"."""
    number = str(problem.steps[0].operands[0].value)
    who = next(word for word in problem.question.replace(".", " ").split() if word in NAMES)
    after = problem.question.split(f"{number} ", 1)[1]
    nouns = {plural for setting in SETTINGS for _, plural in setting.objects}
    known = [noun for noun in nouns if after.startswith(noun)]
    what = max(known, key=len) if known else after.split()[0].strip(".,")
    return f"{who}’s {number} {what}"
