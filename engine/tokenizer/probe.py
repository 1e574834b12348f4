"""``tokenizer.probe``: questions about letters and digits, by how the tokenizer cuts the words."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from engine.context import Context
from engine.critical.curve import clopper_pearson
from engine.errors import UserError
from engine.limits.caps import DRAWS
from engine.registry import Params, analysis
from engine.schema import Progress, Tables
from engine.subjects import Text
from engine.tokenizer.probeanswers import chosen, written
from engine.tokenizer.probetables import CASES, TASKS
from engine.tokenizer.puzzles import (
    CHARACTER_TASKS,
    NUMBER_TASKS,
    WORDS,
    Puzzle,
    Task,
    character_puzzles,
    number_puzzles,
)
from engine.tokenizer.resolve import spec_of
from engine.tokenizer.spec import TokenizerSpec


class ProbeParams(Params):
    """Settings of ``tokenizer.probe``."""

    questions: int = Field(
        24,
        ge=1,
        le=2000,
        title="Questions",
        description="For each task, and for each number of digits.",
        json_schema_extra=DRAWS,
    )
    tasks: tuple[Task, ...] = Field(
        (*CHARACTER_TASKS, *NUMBER_TASKS),
        min_length=1,
        title="Tasks",
        description="What is asked; on the command line with commas.",
    )
    shots: int = Field(
        2, ge=0, le=16, title="Examples", description="Worked questions before one about letters."
    )
    digits: int = Field(3, ge=1, le=12, title="Digits", description="Of the largest numbers.")
    frame: str = Field(
        "{a}{op}{b}=",
        max_length=2000,
        title="Sums",
        description="How a sum is written; {a}, {op} and {b} are filled in.",
    )
    answers: Literal["choice", "written"] = Field(
        "choice",
        title="Answers",
        description="The most probable of those offered, or what the model writes.",
    )
    seed: int = Field(0, ge=0, lt=2**31, title="Seed", description="Of the questions.")

    @field_validator("tasks", mode="before")
    @classmethod
    def _with_commas(cls, tasks: Any) -> Any:
        # As the command line gives them.
        return tuple(tasks.split(",")) if isinstance(tasks, str) else tasks

    @field_validator("frame")
    @classmethod
    def _has_both(cls, frame: str) -> str:
        if "{a}" not in frame or "{b}" not in frame:
            raise ValueError("write {a} and {b} where the numbers go")
        return frame


@analysis(
    "tokenizer.probe",
    version=1,
    subject=Text,
    params=ProbeParams,
    tables={"tasks": TASKS, "cases": CASES},
    title="Does the model see the letters and digits inside its tokens?",
    cite=(
        (
            "Uzan and Pinter 2025, CharBench: evaluating the role of tokenization in "
            "character-level tasks, arXiv 2508.02591"
        ),
        (
            "Hou, Hu and Zhang 2026, SubTokenTest: a practical benchmark for real-world sub-token "
            "understanding, arXiv 2601.09089"
        ),
        "Singh and Strouse 2024, Tokenization counts, arXiv 2402.14903",
        "Clopper and Pearson (1934), The use of confidence or fiducial limits.",
    ),
    caveats=(
        "The questions are ours, of the kinds these benchmarks ask; scores cannot be compared.",
        "Choosing among answers asks less than writing one; compare with chance.",
        "How a sum is written matters too: the bundled models know other contexts better.",
        "Groups hold different words: a difference between them need not come from the cut.",
    ),
)
def probe(ctx: Context) -> Iterator[Progress | Tables]:
    """Generated questions about letters in words and about sums, scored against the cut.

    The words are those of the text, or a list of ours when the text is empty. ``count`` asks how
    often a letter occurs, ``locate`` at which place, ``compare`` which of two words is longer,
    ``reverse`` and ``spell`` for the word backwards and letter by letter; ``add`` and
    ``subtract`` for sums by number of digits. The answer is the offered one of the highest
    log-probability (all offered answers are equally long), or what the model writes greedily.
    """
    params, spec = ctx.params, spec_of(ctx)
    puzzles = _puzzles(ctx)
    answer = chosen if params.answers == "choice" else written
    answers = yield from answer(ctx, spec, puzzles)
    seen = [
        _Seen(puzzle, *given, _Cut.of(spec, puzzle))
        for puzzle, given in zip(puzzles, answers, strict=True)
    ]
    if params.answers == "written":
        ctx.note("cases", "margin", "Written answers are not compared with others.")
        ctx.note("tasks", "chance", "Written answers cannot be guessed among a few.")
    yield Tables(tasks=_tasks(seen, params.answers), cases=_cases(seen))


def _puzzles(ctx: Context) -> list[Puzzle]:
    params, words = ctx.params, _words(ctx.subject)
    made: list[Puzzle] = []
    for task in dict.fromkeys(params.tasks):
        if task in CHARACTER_TASKS:
            found = character_puzzles(task, words, params.questions, params.shots, params.seed)
            wanted = params.questions
        else:
            found = []
            for digits in range(1, params.digits + 1):
                found += number_puzzles(task, digits, params.questions, params.frame, params.seed)
            wanted = params.questions * params.digits
        if len(found) < wanted:
            reason = f"{task}: only {len(found):,} different questions could be made."
            ctx.note("tasks", "n", reason)
        made += found
    if not made:
        raise UserError(
            "No question could be made from these words: give longer ones, or leave the text empty."
        )
    return made


def _words(text: Text) -> tuple[str, ...]:
    if text.messages is not None:
        raise UserError("tokenizer.probe takes words from plain text: give them as a prompt.")
    given = f"{text.prompt} {text.response}".strip()
    if not given:
        return WORDS
    found = tuple(dict.fromkeys(re.findall(r"[^\W\d_]{3,20}", given)))
    if len(found) < 2:
        raise UserError(
            "The text has fewer than two words of at least three letters: give more, or leave it "
            "empty for a list of common words."
        )
    return found


@dataclass(frozen=True, slots=True)
class _Cut:
    """Tokens of the word or the numbers a question is about."""

    pieces: tuple[str, ...]
    length: int
    kind: str

    @classmethod
    def of(cls, spec: TokenizerSpec, puzzle: Puzzle) -> _Cut:
        prompt = puzzle.prompt
        encoded = spec.encode(prompt)
        pieces: list[str] = []
        lengths: list[int] = []
        asked: int | None = None
        for first, last in puzzle.subjects:
            a, b = (len(prompt[:n].encode()) for n in (first, last))
            for token_id, (start, end) in zip(encoded.ids, encoded.bounds, strict=True):
                inside = prompt.encode()[max(a, start) : min(b, end)]
                if start < b and end > a and inside:
                    pieces.append(spec.token(token_id))
                    lengths.append(len(inside.decode("utf-8", "ignore")) or 1)
                    at = len(prompt[: puzzle.letter].encode()) if puzzle.letter else -1
                    if start <= at < end:
                        asked = lengths[-1]
        kind = "pieces"
        if len(pieces) == len(puzzle.subjects):
            kind = "whole"
        elif max(lengths, default=0) == 1:
            kind = "single"
        return cls(tuple(pieces), max(lengths, default=0) if asked is None else asked, kind)


@dataclass(frozen=True, slots=True)
class _Seen:
    puzzle: Puzzle
    given: str
    correct: bool
    margin: float | None
    cut: _Cut

    def groups(self) -> Iterator[tuple[str, str]]:
        """(by, group) of every group the question belongs to."""
        yield "all", "all"
        words = len(self.puzzle.subjects)
        tokens = len(self.cut.pieces) / words
        each = "" if words == 1 else " each"
        most = 4
        name = f"{most} or more" if tokens >= most else f"{int(tokens)}"
        if tokens != int(tokens) and tokens < most:
            name = f"{int(tokens)} to {int(tokens) + 1}"
        yield "tokens", f"{name}{each}"
        yield "cut", self.cut.kind
        if self.puzzle.digits is not None:
            yield "digits", str(self.puzzle.digits)
        else:
            length = self.cut.length
            yield "token_length", f"{length}" if length < 6 else "6 or more"


def _tasks(seen: Sequence[_Seen], answers: str) -> pa.Table:
    found: dict[tuple[str, str, str], list[_Seen]] = defaultdict(list)
    for one in seen:
        for by, group in one.groups():
            found[one.puzzle.task, by, group].append(one)
    order = ["all", "tokens", "cut", "token_length", "digits"]
    tasks = list(dict.fromkeys(one.puzzle.task for one in seen))
    rows: list[dict[str, Any]] = []
    for task, by, group in sorted(
        found, key=lambda k: (tasks.index(k[0]), order.index(k[1]), k[2])
    ):
        members = found[task, by, group]
        right, n = sum(one.correct for one in members), len(members)
        low, high = map(float, clopper_pearson(right, n))
        chance = sum(1 / len(one.puzzle.options) for one in members) / n
        rows.append(
            {
                "task": task,
                "by": by,
                "group": group,
                "n": n,
                "correct": right,
                "accuracy": right / n,
                "low": low,
                "high": high,
                "chance": chance if answers == "choice" else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=TASKS.schema())


def _cases(seen: Sequence[_Seen]) -> pa.Table:
    rows = [
        {
            "task": one.puzzle.task,
            "prompt": one.puzzle.prompt,
            "expected": one.puzzle.options[one.puzzle.answer].strip(),
            "given": one.given.strip(),
            "correct": one.correct,
            "margin": one.margin,
            "pieces": list(one.cut.pieces),
            "tokens": len(one.cut.pieces),
            "token_length": one.cut.length,
            "cut": one.cut.kind,
            "digits": one.puzzle.digits,
        }
        for one in seen
    ]
    return pa.Table.from_pylist(rows, schema=CASES.schema())
