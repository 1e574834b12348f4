"""``flow.causal``: does hiding the tokens that carry the flow change the answer?"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.answers import answer_text, same_answer
from engine.checkers import expected_of, judge
from engine.context import Context
from engine.errors import UserError
from engine.flow.causaltables import (
    CASES,
    CONDITIONS,
    MASKING,
    SUMMARY,
    Case,
    CausalParams,
    case_table,
    condition_rows,
)
from engine.flow.masked import Masked, continue_masked
from engine.flow.reanswer import answer_said, decoded, spans_of, words_before
from engine.plan import check_trace
from engine.records import iter_groups
from engine.registry import analysis
from engine.result import Request
from engine.schema import Progress, Tables
from engine.subjects import Group, Rollouts, Span, Trace


@analysis(
    "flow.causal",
    version=1,
    subject=(Trace, Group, Rollouts),
    params=CausalParams,
    tables={"conditions": CONDITIONS, "cases": CASES, "summary": SUMMARY},
    title="Does hiding the tokens that carry the flow change the answer?",
    cite=(
        "Dong et al. (2026), FlowTracer, arXiv 2606.10646: top, random and bottom throughput.",
        "Clopper and Pearson (1934), The use of confidence or fiducial limits.",
        "Newcombe (1998), Interval estimation for the difference between independent proportions.",
    ),
    caveats=(
        "Changed is meant against the greedy answer with nothing hidden, not the trace's own.",
        "Hiding a token cuts attention to it; what its neighbours took from it before may stay.",
        "How the paper masks is not public: its numbers need not be comparable with these.",
        "Random choices of one trace are not independent: intervals count traces, not choices.",
        "Conditions are tried on the same traces; Newcombe's interval takes them as independent.",
    ),
)
def causal(ctx: Context) -> Iterator[Progress | Tables]:
    """Hide reasoning tokens, make the answer anew, and count how often it changes.

    ``top`` hides the ``share`` of the reasoning's tokens with the highest throughput of
    ``flow.backbone``, ``bottom`` those with the lowest, ``random`` any of them (``draws`` choices
    per trace), ``none`` hides nothing. What hiding means is said in ``summary``. The answer begins
    where the trace's answer began. Without a temperature every answer is greedy; with one, *n* are
    drawn for each choice of tokens, and ``none`` shows how often drawing alone changes the answer.

    The right answer is the param ``answer``, else the group's, else that of a rollout whose reward
    is 1 or more; where nobody knows it, flips are empty.
    """
    judge(ctx.params.checker, ctx.params.answer or "")
    if ctx.params.n > 1 and ctx.params.temperature == 0:
        raise UserError("All greedy answers are the same one: set a temperature, or n=1.")
    yield Progress(None, "Loading the model")
    run = _Run(ctx)
    total = min(ctx.params.most, getattr(ctx.subject, "count", None) or _size(ctx.subject))
    for index, (trace, expected) in enumerate(_traces(ctx)):
        if index >= ctx.params.most:
            ctx.note("summary", "traces", f"only the first {ctx.params.most:,} traces are tried")
            break
        yield from run.trace(index, trace, expected, total)
        if run.cases:
            yield Tables(run.tables())
    if not run.cases:
        raise UserError(run.reason or "There is no trace to try: give some.")
    run.explain()
    yield Tables(run.tables())


def _size(subject: Any) -> int:
    return len(subject.rollouts) if isinstance(subject, Group) else 1


def _traces(ctx: Context) -> Iterator[tuple[Trace, str]]:
    """The traces, each with its right answer; empty where nobody knows it."""
    checker, answer = ctx.params.checker, ctx.params.answer
    if isinstance(ctx.subject, Trace):
        yield ctx.subject, expected_of(checker, answer, None)
        return
    groups = iter_groups(ctx.subject) if isinstance(ctx.subject, Rollouts) else [ctx.subject]
    for group in groups:
        logged = group.expected or (_rewarded(group) if checker == "answer" else None)
        expected = expected_of(checker, answer, logged)
        for trace in group.rollouts:
            yield trace, expected


def _rewarded(group: Group) -> str | None:
    """The answer of the first rollout that was rewarded in full."""
    for trace, reward in zip(group.rollouts, group.rewards, strict=True):
        if reward is not None and reward >= 1:
            said = answer_text(trace)
            if said is not None:
                return said
    return None


@dataclass(frozen=True)
class _Choice:
    """A condition, and the tokens it hides."""

    condition: str
    draw: int
    hidden: tuple[int, ...]


class _Run:
    """The check over all traces so far."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.cases: list[Case] = []
        self.reason: str | None = None
        self._tried = 0
        self._skipped = 0
        self._reproduced = 0
        self._known = 0

    def trace(
        self, index: int, trace: Trace, expected: str, total: int
    ) -> Generator[Progress, None, None]:
        """Try one trace; one that cannot be is skipped with its reason."""
        ctx = self._ctx
        at = f"trace {index + 1:,} of {total:,}"
        yield Progress(index / total, f"Following the flow of {at}")
        try:
            check_trace(trace, ctx.plan.models["model"])
            answer, reasoning = spans_of(trace)
            choices = self._choices(trace, answer, reasoning)
            rows = [
                Masked(frozenset(c.hidden), self._draws(trace, c, sample))
                for c in choices
                for sample in range(ctx.params.n)
            ]
            greedy = Masked(frozenset())
            steps = continue_masked(
                ctx.models["model"],
                trace.ids[: answer.start],
                [greedy, *rows],
                first=0 if ctx.params.mask == "later" else answer.start - 1,
                limit=ctx.params.max_new_tokens,
                temperature=ctx.params.temperature,
            )
            made = yield from _told(steps, index, total, at)
        except UserError as error:
            self._skipped += 1
            self.reason = self.reason or str(error)
            ctx.note("cases", None, f"skipped: {error}", rollout=index)
            return
        self._tried += 1
        self._known += bool(expected)
        self._judge(index, trace, answer, expected, choices, made)

    def _choices(self, trace: Trace, answer: Span, reasoning: list[int]) -> list[_Choice]:
        """What each condition hides, ``none`` first."""
        count = max(1, round(self._ctx.params.share * len(reasoning)))
        flow = self._throughput(trace)
        # Of tokens with equal flow the earlier ones are taken.
        falling = sorted(reasoning, key=lambda p: (-flow[p], p))
        rising = sorted(reasoning, key=lambda p: (flow[p], p))
        choices = [
            _Choice("none", 0, ()),
            _Choice("top", 0, tuple(sorted(falling[:count]))),
        ]
        for draw in range(self._ctx.params.draws):
            taken = self._generator(trace, "tokens", draw).choice(reasoning, count, replace=False)
            choices.append(_Choice("random", draw, tuple(sorted(map(int, taken)))))
        return [*choices, _Choice("bottom", 0, tuple(sorted(rising[:count])))]

    def _throughput(self, trace: Trace) -> list[float]:
        """Throughput of every token, 0 where no flow comes by."""
        ref = self._ctx.plan.models["model"].ref
        nodes = self._ctx.run(Request("flow.backbone", trace, {"model": ref})).table("nodes")
        return [value or 0.0 for value in nodes["throughput"].to_pylist()]

    def _draws(self, trace: Trace, choice: _Choice, sample: int) -> np.random.Generator | None:
        if self._ctx.params.temperature == 0:
            return None
        return self._generator(trace, choice.condition, choice.draw, sample)

    def _generator(self, trace: Trace, *what: object) -> np.random.Generator:
        """Random numbers that depend on the trace and on what they are for, not on their order."""
        text = "|".join(map(str, (self._ctx.params.seed, trace.digest, *what)))
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
        return np.random.Generator(np.random.Philox(key=key))

    def _judge(
        self,
        index: int,
        trace: Trace,
        answer: Span,
        expected: str,
        choices: list[_Choice],
        made: list[tuple[int, ...]],
    ) -> None:
        """Turn what was said into cases; the first of ``made`` is the greedy answer."""
        before = words_before(trace, answer.start)
        texts = [self._text(ids) for ids in made]
        said = [answer_said(before, text) for text in texts]
        verdicts: list[bool | None] = [None] * len(texts)
        if expected:
            right = judge(self._ctx.params.checker, expected)
            verdicts = [right(decoded(before, text)) is True for text in texts]
        own = answer_text(trace)
        self._reproduced += own is not None and same_answer(own, said[0])
        n = self._ctx.params.n
        for number in range(1, len(made)):
            choice, verdict = choices[(number - 1) // n], verdicts[number]
            self.cases.append(
                Case(
                    rollout=index,
                    condition=choice.condition,
                    draw=choice.draw,
                    sample=(number - 1) % n,
                    masked=choice.hidden,
                    answer=said[number],
                    greedy_answer=said[0],
                    trace_answer=own,
                    changed=not same_answer(said[number], said[0]),
                    right=verdict,
                    flipped=None if verdict is None else verdict != verdicts[0],
                    generated=texts[number].decode("utf-8", "replace"),
                )
            )

    def _text(self, ids: tuple[int, ...]) -> bytes:
        """The bytes of new tokens, special ones left out."""
        tokenizer = self._ctx.tokenizer
        return b"".join(tokenizer.pieces([i for i in ids if not tokenizer.is_special(i)]))

    def explain(self) -> None:
        """Notes on what is empty."""
        note = self._ctx.note
        for name in ("minus_random", "minus_random_low", "minus_random_high"):
            note("conditions", name, "only top and bottom are compared with random")
        if any(case.trace_answer is None for case in self.cases):
            note("cases", "trace_answer", "the trace gives no answer that could be read")
        if any(case.right is None for case in self.cases):
            for table, names in (
                ("cases", ("right", "flipped")),
                ("conditions", ("flip_rate", "flip_low", "flip_high")),
            ):
                for name in names:
                    note(table, name, "nobody knows the right answer: give it as answer")

    def tables(self) -> dict[str, pa.Table]:
        """All tables so far."""
        params = self._ctx.params
        rows = condition_rows(self.cases)
        summary = {
            "masking": MASKING[params.mask],
            "share": params.share,
            "traces": self._tried,
            "skipped": self._skipped,
            "reproduced": self._reproduced,
            "known": self._known,
            "draws": params.draws,
            "samples": params.n,
            "temperature": params.temperature,
            "seed": params.seed,
        }
        return {
            "conditions": pa.Table.from_pylist(rows, CONDITIONS.schema()),
            "cases": case_table(self.cases),
            "summary": pa.Table.from_pylist([summary], SUMMARY.schema()),
        }


def _told(
    steps: Generator[int, None, list[tuple[int, ...]]], index: int, total: int, at: str
) -> Generator[Progress, None, list[tuple[int, ...]]]:
    """Run ``steps``, saying how far they are."""
    while True:
        try:
            count = next(steps)
        except StopIteration as stop:
            made: list[tuple[int, ...]] = stop.value
            return made
        yield Progress((index + 0.5) / total, f"Answering anew, {at}: {count:,} tokens")
