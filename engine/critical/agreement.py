"""``critical.agreement``: does a cheap score find the token that sampling proves?

Of every wrong response the truth is measured (``critical.value``), and each cheap score is asked
where it would have looked. Most tokens have no fall, so correlations over all of them say nothing:
what counts is whether the token with the largest fall is first, or among the first three, and how
well tokens that fall are told from those that do not (the area under the ROC curve).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from engine import catalogue
from engine.checkers import expected_of
from engine.context import Context
from engine.critical.curve import clopper_pearson
from engine.critical.judging import Judging, end_of
from engine.critical.sampling import SamplingParams
from engine.errors import UserError
from engine.records import iter_groups
from engine.registry import analysis
from engine.result import Request
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Rollouts, Trace
from engine.texts import bootstrap
from engine.tokenization import show

Floats = npt.NDArray[np.float64]

FEW = 3
RESAMPLES = 2000

SCORES: Mapping[str, tuple[str, str, float]] = {
    "surprisal": ("statistics", "surprisal", 1.0),
    "entropy": ("statistics", "entropy", 1.0),
    "contrast, siblings": ("critical.contrast", "log_contrast", -1.0),
    "log-ratio, siblings": ("critical.contrast", "log_ratio", -1.0),
    "contrast, fitted": ("critical.fitted", "log_contrast", -1.0),
    "log-ratio, fitted": ("critical.fitted", "log_ratio", -1.0),
}
"""Score: the analysis it is read from, its column, and the sign that makes high suspect."""


class AgreementParams(SamplingParams):
    """Settings of ``critical.agreement``: how the truth is measured."""

    answer: str | None = Field(
        None,
        title="Right answer",
        description="Of a single text; groups and files of rollouts bring their own.",
        coerce_numbers_to_str=True,
    )
    least: float = Field(
        0.25,
        gt=0,
        le=1,
        title="A fall is",
        description="Tokens at which the value falls by more than this are what should be found.",
    )


def _share(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "probability", label)


SCORES_TABLE = Table(
    doc="One row per score, over all wrong responses that fall.",
    columns={
        "score": Column(pa.string(), "Which score, and whose."),
        "traces": Column(pa.int64(), "Wrong responses with a fall that have the score."),
        "first": _share("first", "Share of them where the largest fall has the top score."),
        "first_low": _share("first, at least", "Lower end of its exact 95 % interval."),
        "first_high": _share("first, at most", "Upper end of its exact 95 % interval."),
        "first_three": _share("first three", "Share where it is among the top three."),
        "first_three_low": _share("first three, at least", "Lower end of its 95 % interval."),
        "first_three_high": _share("first three, at most", "Upper end of its 95 % interval."),
        "auc": _share(
            "area under the curve",
            "Mean over responses of P(a token that falls scores higher than one that does not).",
        ),
        "auc_low": _share("area, at least", "Lower end of the interval, responses drawn anew."),
        "auc_high": _share("area, at most", "Upper end of the interval, responses drawn anew."),
        "by_chance_first": _share("by chance, first", "What a random order would reach."),
        "by_chance_three": _share("by chance, first three", "What a random order would reach."),
    },
)

TRACES_TABLE = Table(
    doc="One row per wrong response and score.",
    columns={
        "group": Column(pa.string(), "Name of its prompt."),
        "rollout": Column(pa.int64(), "Number of the response."),
        "position": Column(pa.int64(), "Where its value falls most."),
        "token": Column(pa.string(), "The token there; bytes that are no UTF-8 as \\xNN."),
        "fall": _share("fall", "By how much."),
        "tokens": Column(pa.int64(), "Tokens that were compared."),
        "falls": Column(pa.int64(), "Of them, tokens that fall by more than the least."),
        "score": Column(pa.string(), "Which score, and whose."),
        "rank": Column(pa.int64(), "Rank of the token by this score; equal ones count before it."),
        "auc": _share("area under the curve", "Of this response alone."),
    },
)


@analysis(
    "critical.agreement",
    version=1,
    subject=(Trace, Group, Rollouts),
    params=AgreementParams,
    tables={"scores": SCORES_TABLE, "traces": TRACES_TABLE},
    title="Does the cheap score find the costly truth here?",
    cite=(
        "Lin et al. (2025), Critical Tokens Matter, arXiv 2411.19943: the contrastive score.",
        "Hanley and McNeil (1982): area under the ROC curve as a probability.",
    ),
    caveats=(
        "The truth is itself sampled: a largest fall among noisy ones may be another token's.",
        "Only wrong responses whose value falls by the least are counted.",
        "Small models err by unlikely tokens, so surprisal is strong on them; large ones may not.",
        "The fitted pair has seen other answers to the same prompt, never the one it judges.",
    ),
)
def agreement(ctx: Context) -> Iterator[Progress | Tables]:
    """Top-1, top-3 and ROC area of every cheap score against the measured fall.

    A response counts when it ends, its answer is wrong, and its value falls at some token by more
    than ``least``. The truth is the token with the largest fall; for the area, tokens that fall by
    more than ``least`` are told from the others. Scores of one response are compared among
    its sampled tokens only. Shares have exact intervals (Clopper and Pearson), areas intervals
    from drawing responses anew.
    """
    rows: list[dict[str, Any]] = []
    left = _Left()
    total = _count(ctx.subject)
    for number, (group, rollout, trace, expected) in enumerate(_traces(ctx)):
        yield Progress(number / total, f"Response {number + 1:,} of {total:,}")
        found = _rows(ctx, trace, expected, left)
        rows += [{"group": group, "rollout": rollout, **row} for row in found]
        if found:
            yield Tables(_tables(rows))
    left.say(ctx)
    if not rows:
        ctx.note("scores", None, "no wrong response here falls at a token: nothing to compare")
    yield Progress(1.0, "Comparing")
    yield Tables(_tables(rows))


@dataclass
class _Left:
    """Responses that were left out, by reason, and scores that could not be had."""

    right: int = 0
    unjudged: int = 0
    unfallen: int = 0
    unfinished: int = 0
    refused: dict[str, str] | None = None

    def say(self, ctx: Context) -> None:
        for count, why in (
            (self.right, "are right"),
            (self.unjudged, "give no answer or have none to compare with"),
            (self.unfinished, "never ended"),
            (self.unfallen, "fall nowhere by the least"),
        ):
            if count:
                ctx.note("scores", None, f"{count:,} responses were left out: they {why}")
        for score, reason in (self.refused or {}).items():
            ctx.note("scores", None, f"{score}: {reason}")

    def refuse(self, score: str, reason: str) -> None:
        self.refused = {**(self.refused or {}), score: reason}


def _count(subject: Any) -> int:
    if isinstance(subject, Rollouts):
        return max(subject.count, 1)
    return len(subject.rollouts) if isinstance(subject, Group) else 1


def _traces(ctx: Context) -> Iterator[tuple[str | None, int, Trace, str | None]]:
    """Group, number, trace and right answer of every response."""
    subject, answer = ctx.subject, ctx.params.answer
    if isinstance(subject, Trace):
        if not (answer or "").strip():
            raise UserError(
                "critical.agreement needs the right answer: give it as answer, for example "
                "answer=42."
            )
        yield None, 0, subject, answer
        return
    groups = iter_groups(subject) if isinstance(subject, Rollouts) else [subject]
    number = 0
    for group in groups:
        for trace in group.rollouts:
            # A program is only what was typed, never what a file expects.
            expected = expected_of(ctx.params.checker, answer, group.expected)
            yield group.prompt_id, number, trace, expected
            number += 1


def _rows(ctx: Context, trace: Trace, expected: str | None, left: _Left) -> list[dict[str, Any]]:
    params = ctx.params
    if not (expected or "").strip():
        left.unjudged += 1
        return []
    assert expected is not None
    verdict = Judging(ctx.tokenizer, trace, params.checker, expected).verdict
    if verdict is not False:
        left.right += verdict is True
        left.unjudged += verdict is None
        return []
    end = end_of(trace, ctx.models["model"].eos_ids)
    if end == len(trace):
        left.unfinished += 1
        return []
    ref = {"model": ctx.plan.models["model"].ref}
    asked = params.model_dump(exclude={"answer", "least"}) | {"answer": expected}
    measured = ctx.run(Request("critical.value", trace, ref, asked))
    falls = _column(measured.table("tokens"), "fall")
    falls[end + 1 :] = np.nan
    falls[: trace.response_start] = np.nan
    if not np.nanmax(falls, initial=-1.0) > params.least:
        left.unfallen += 1
        return []
    position = int(np.nanargmax(falls))
    common = {
        "position": position,
        "token": show(trace.pieces[position]),
        "fall": float(falls[position]),
    }
    found = []
    for score, values in _scores(ctx, trace, expected, left).items():
        row = compare(falls, values, params.least)
        if row is not None:
            found.append({**common, "score": score, **row})
    return found


def _scores(ctx: Context, trace: Trace, expected: str, left: _Left) -> dict[str, Floats]:
    """Every score there is for a trace, high = suspect, NaN where it has none."""
    model = ctx.plan.models["model"]
    ref = {"model": model.ref}
    found: dict[str, Floats] = {}
    tables: dict[str, pa.Table | None] = {}
    for score, (name, column, sign) in SCORES.items():
        if name not in tables:
            tables[name] = None
            asked: dict[str, Any] = {}
            if name == "critical.fitted":
                asked = {"answer": expected, "checker": ctx.params.checker}
            if name == "critical.contrast" and not catalogue.siblings(model.ref.source):
                left.refuse(score, f"{model.located.name} has no tuned siblings")
                continue
            try:
                tables[name] = ctx.run(Request(name, trace, ref, asked)).table("tokens")
            except UserError as error:
                left.refuse(score, str(error))
        table = tables[name]
        if table is not None:
            found[score] = sign * _column(table, column)
    return found


def _column(table: pa.Table, name: str) -> Floats:
    values = table[name].to_pylist()
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def compare(falls: Floats, scores: Floats, least: float) -> dict[str, Any] | None:
    """Where a score puts the largest fall, and how well it tells falls from the rest.

    Args:
        falls: per token, NaN where not measured.
        scores: per token, high = suspect, NaN where missing.
        least: tokens that fall by more than this are what should be found.

    Returns:
        ``tokens``, ``falls``, ``rank`` (1 is best; tokens of the same score count before it) and
        ``auc`` (None when all tokens fall or none does); None where the largest fall itself has
        no score.
    """
    both = ~np.isnan(falls) & ~np.isnan(scores)
    top = int(np.nanargmax(falls))
    if not both[top]:
        return None
    rank = int((scores[both] >= scores[top]).sum())
    inside, value = falls[both] > least, scores[both]
    auc = None
    if inside.any() and not inside.all():
        high, low = value[inside][:, None], value[~inside][None, :]
        auc = float((high > low).mean() + 0.5 * (high == low).mean())
    return {"tokens": int(both.sum()), "falls": int(inside.sum()), "rank": rank, "auc": auc}


def _tables(rows: list[dict[str, Any]]) -> dict[str, pa.Table]:
    scores = [_summed(score, [r for r in rows if r["score"] == score]) for score in SCORES]
    return {
        "scores": pa.Table.from_pylist(
            [row for row in scores if row is not None], schema=SCORES_TABLE.schema()
        ),
        "traces": pa.Table.from_pylist(rows, schema=TRACES_TABLE.schema()),
    }


def _summed(score: str, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    n = len(rows)
    if not n:
        return None
    row: dict[str, Any] = {"score": score, "traces": n}
    for name, most in (("first", 1), ("first_three", FEW)):
        hits = sum(r["rank"] <= most for r in rows)
        low, high = map(float, clopper_pearson(hits, n))
        row |= {name: hits / n, f"{name}_low": low, f"{name}_high": high}
    areas = np.array([r["auc"] for r in rows if r["auc"] is not None])
    row["auc"] = float(areas.mean()) if areas.size else None
    row["auc_low"] = row["auc_high"] = None
    if areas.size > 1:
        zero = np.zeros(areas.size, np.int64)
        low_end, high_end = bootstrap.over_traces(
            areas, zero, np.arange(areas.size), 1, resamples=RESAMPLES, seed=0
        )
        row |= {"auc_low": float(low_end[0]), "auc_high": float(high_end[0])}
    tokens = np.array([r["tokens"] for r in rows])
    row["by_chance_first"] = float((1 / tokens).mean())
    row["by_chance_three"] = float(np.minimum(1, FEW / tokens).mean())
    return row
