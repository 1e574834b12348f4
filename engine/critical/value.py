"""``critical.value``: how likely a right answer still is after each token of a response.

The value of a prefix is P(right | prefix): the share of sampled continuations whose answer is
right. Row *t* is about the prefix that **ends with** token *t*, so the row of the prompt's last
token is the value before the response began, and the fall at *t* is what token *t* did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from engine.answers import answer_text, checker
from engine.caps import DRAWS, NEW_TOKENS
from engine.context import Context
from engine.critical.curve import Point, coarse_to_fine, critical_position, places
from engine.errors import UserError
from engine.registry import Params, analysis
from engine.result import Request
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace
from engine.tokenization import show

if TYPE_CHECKING:
    from engine.generation import Continuation
    from engine.modelref import ModelRef


Judge = Callable[[str | Trace], bool | None]


class ValueParams(Params):
    """Settings of ``critical.value``."""

    answer: str | None = Field(
        None,
        title="Right answer",
        description="What a right continuation answers.",
        coerce_numbers_to_str=True,
    )
    checker: str = Field("answer", title="Checker", description="How an answer is judged.")
    n: int = Field(
        32,
        ge=1,
        le=4096,
        title="Samples",
        description="How many continuations of each prefix.",
        json_schema_extra=DRAWS,
    )
    every: int = Field(
        1, ge=1, title="Every k-th token", description="1 continues after every response token."
    )
    temperature: float = Field(
        1.0, ge=0, le=100, title="Temperature", description="0 takes the most probable token."
    )
    top_k: int | None = Field(None, ge=1, title="Top-k")
    top_p: float | None = Field(None, gt=0, le=1, title="Top-p")
    min_p: float | None = Field(None, ge=0, le=1, title="Min-p")
    max_new_tokens: int = Field(
        256,
        ge=1,
        le=32_768,
        title="At most tokens",
        description="Longest continuation; one cut off there counts as wrong.",
        json_schema_extra=NEW_TOKENS,
    )
    seed: int = Field(0, ge=0, lt=2**63, title="Seed")


def _chance(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "probability", label)


TOKENS = Table(
    per_token=True,
    doc="One row per token; a value is about the prefix that ends with this token.",
    columns={
        "samples": Column(
            pa.int64(), "Continuations judged; 0 where the response has ended.", "", "samples"
        ),
        "correct": Column(pa.int64(), "How many of them are right.", "", "right"),
        "cut": Column(
            pa.int64(), "How many were cut off at the limit; they count as wrong.", "", "cut off"
        ),
        "value": _chance("chance of a right answer", "Share of continuations that are right."),
        "low": _chance("at least", "Lower end of the exact 95 % interval of the value."),
        "high": _chance("at most", "Upper end of the exact 95 % interval of the value."),
        "fall": _chance("fall", "Value after the sampled token before, minus this value."),
        "critical": Column(
            pa.bool_(),
            "After this token none is right, and after no later one more than 3 in 64.",
            "",
            "critical",
        ),
    },
)

SUMMARY = Table(
    doc="One row: the token with the largest fall. It is a maximum over noisy falls.",
    columns={
        "position": Column(pa.int64(), "The token at which the value falls most."),
        "from_position": Column(pa.int64(), "The sampled token before it."),
        "token": Column(pa.string(), "Its text; bytes that are no UTF-8 as \\xNN."),
        "samples": Column(pa.int64(), "Continuations after it."),
        "fall": _chance("fall", "before − after."),
        "before": _chance("before", "Value after the sampled token before."),
        "before_low": _chance("before, at least", "Lower end of its 95 % interval."),
        "before_high": _chance("before, at most", "Upper end of its 95 % interval."),
        "after": _chance("after", "Value after the token."),
        "after_low": _chance("after, at least", "Lower end of its 95 % interval."),
        "after_high": _chance("after, at most", "Upper end of its 95 % interval."),
        "start": _chance("at the start", "Value before the response."),
        "critical_position": Column(pa.int64(), "The source's critical token, if there is one."),
        "said": Column(pa.string(), "The answer the response itself gives."),
        "right": Column(pa.bool_(), "Whether the response itself is right."),
    },
)


@analysis(
    "critical.value",
    version=1,
    subject=Trace,
    params=ValueParams,
    tables={"tokens": TOKENS, "summary": SUMMARY},
    title="Which token broke it?",
    cite=(
        "Lin et al. (2025), Critical Tokens Matter, arXiv 2411.19943: rollouts of prefixes, scan.",
        "Clopper and Pearson (1934), The use of confidence or fiducial limits.",
        "Abdin et al. (2024), Phi-4 Technical Report: pivotal tokens.",
    ),
    caveats=(
        "A row is about the prefix that ends with its token, not about the prediction of it.",
        "Each interval is for one token, not for all of them at once.",
        "The largest of many noisy falls looks larger than it is.",
        "It is this model's chance under this sampler: another model may still recover.",
        "Continuations that were cut off count as wrong.",
        "A critical token need not be the mistake a person would mark.",
    ),
)
def value(ctx: Context) -> Iterator[Progress | Tables]:
    """P(right answer | prefix) after each response token, by continuing it *n* times.

    Row *t* describes the prefix that ends with token *t*; the row of the last prompt token is the
    value before the response. Once the response holds the model's end token nothing is sampled:
    the value is 1 or 0 by what it answers, with ``samples`` 0 and ``low = high = value``. At
    temperature 0 one continuation says it all, and the value is exact too. Intervals are exact
    (Clopper and Pearson). Samples are kept: a larger *n* adds to them, and a cancelled run goes
    on where it stopped. Prefixes are taken coarse to fine, so that half a run shows the whole
    curve; one with only some of its samples is not shown, because the short ones finish first.

    ``critical`` is the source's scan: from left to right, the first prefix that no continuation
    saves is the candidate, and it is taken back as soon as a later prefix is saved in more than
    3 of 64; at most one token is left. (The source draws 64.)
    """
    trace, params = ctx.subject, ctx.params
    expected = (params.answer or "").strip()
    if not expected:
        raise UserError(
            "critical.value needs the right answer: give it as answer, for example answer=42."
        )
    judge = partial(checker(params.checker), expected=expected)
    first = max(trace.response_start - 1, 0)
    _say_what_is_empty(ctx, first)
    yield Progress(None, "Loading the model")
    stops = set(ctx.models["model"].eos_ids)
    ends = (p for p in range(trace.response_start, len(trace)) if trace.ids[p] in stops)
    end = next(ends, len(trace))
    curve: dict[int, Point] = {}
    if end < len(trace):
        said = _said(trace, end).decode("utf-8", "replace")
        curve = dict.fromkeys(range(end, len(trace)), Point.certain(judge(said) is True))
    common = ctx.per_token({})
    order = coarse_to_fine(places(first, end, params.every))
    for progress, found in _sampled(ctx, order, judge):
        curve.update(found)
        if found:
            yield Tables(_tables(ctx, common, curve, judge, whole=False))
        yield progress
    tables = _tables(ctx, common, curve, judge, whole=True)
    _say_why_empty(ctx, tables["summary"].to_pylist()[0])
    yield Tables(tables)


def value_request(trace: Trace, model: str | ModelRef, expected: str, **params: Any) -> Request:
    """The request by which pages and the gallery ask for a trace's value curve.

    Args:
        trace: whose response is looked at.
        model: which model continues it.
        expected: the right answer.
        params: others of ``ValueParams``; left out, the gallery's results are found.
    """
    return Request("critical.value", trace, {"model": model}, {"answer": expected, **params})


def _say_what_is_empty(ctx: Context, first: int) -> None:
    every = ctx.params.every
    if first:
        ctx.note("tokens", None, "inside the prompt nothing is sampled; its last token has a row")
    if every > 1:
        ctx.note("tokens", None, f"only every {every}th response token is continued")
        ctx.note("tokens", "critical", "the source's rule needs every token")
    ctx.note("tokens", "fall", "the first value has none before it", position=first)


def _say_why_empty(ctx: Context, row: Mapping[str, Any]) -> None:
    if row["said"] is None:
        ctx.note("summary", "said", "the response gives no answer")
    if row["right"] is None:
        ctx.note("summary", "right", "there is nothing to judge")
    if row["position"] is None:
        ctx.note("summary", "position", "the value falls nowhere")
    if row["critical_position"] is None and ctx.params.every == 1:
        ctx.note(
            "summary", "critical_position", "after every token the answer could still be right"
        )
    if row["start"] is None:
        ctx.note("summary", "start", "there is no prompt: the response is all there is")
    elif row["start"] == 0:
        reason = (
            "no continuation of the prompt itself was right: the rule then names the first token"
        )
        ctx.note("tokens", "critical", reason)


def _sampled(
    ctx: Context, order: Sequence[int], judge: Judge
) -> Iterator[tuple[Progress, dict[int, Point]]]:
    """Progress, now and then with the point of a prefix whose samples are complete."""
    from engine.generation import Sampler

    trace, params = ctx.subject, ctx.params
    settings = params.model_dump(include=set(Sampler.model_fields))
    sampler = Sampler(**settings)
    # All greedy continuations are the same one.
    n = params.n if sampler.temperature else 1
    # A continuation costs about what is left of the response, and a little in any case.
    work = {p: len(trace) - p + 8 for p in order}
    total, done, fresh, spent = sum(work.values()), 0, 0, 0.0
    for number, position in enumerate(order):
        began = time.monotonic()
        drawn: list[Continuation] = []
        steps = 0
        for so_far in ctx.samples(trace.ids[: position + 1], sampler, n):
            drawn = so_far
            steps += 1
            share = (done + work[position] * len(drawn) / n) / total
            left = total * (1 - share) * spent / fresh if fresh else None
            yield Progress(share, _message(number, len(order), n), left), {}
        done += work[position]
        if steps > 1:  # not read from the store
            fresh += work[position]
            spent += time.monotonic() - began
        left = (total - done) * spent / fresh if fresh else None
        progress = Progress(done / total, _message(number + 1, len(order), n), left)
        point = _point(ctx, position, drawn, judge, exact=not sampler.temperature)
        yield progress, {position: point}


def _message(number: int, of: int, n: int) -> str:
    times = f"{n:,} times" if n > 1 else "once"
    return f"Continued {number:,} of {of:,} prefixes, each {times}"


def _point(
    ctx: Context,
    position: int,
    drawn: Sequence[Continuation],
    judge: Judge,
    *,
    exact: bool,
) -> Point:
    tokenizer = ctx.tokenizer
    before = _said(ctx.subject, position + 1)
    correct = cut = 0
    for c in drawn:
        if c.finish == "length":
            cut += 1
            continue
        ids = [i for i in c.ids if not tokenizer.is_special(i)]
        text = (before + b"".join(tokenizer.pieces(ids))).decode("utf-8", "replace")
        correct += judge(text) is True
    return Point.counted(len(drawn), correct, cut, exact=exact)


def _said(trace: Trace, end: int) -> bytes:
    """The response's bytes before position ``end``, without special tokens."""
    hidden = {*trace.special, *trace.added}
    return b"".join(trace.pieces[p] for p in range(trace.response_start, end) if p not in hidden)


def _tables(
    ctx: Context, common: pa.Table, curve: Mapping[int, Point], judge: Judge, *, whole: bool
) -> dict[str, pa.Table]:
    trace, n = ctx.subject, len(ctx.subject)
    columns: dict[str, list[Any]] = {name: [None] * n for name in TOKENS.columns}
    falls: dict[int, tuple[float, int]] = {}
    previous: int | None = None
    for position in sorted(curve):
        point = curve[position]
        for name in ("samples", "correct", "cut", "value", "low", "high"):
            columns[name][position] = getattr(point, name)
        if previous is not None:
            falls[position] = curve[previous].value - point.value, previous
            columns["fall"][position] = falls[position][0]
        previous = position
    critical = None
    if whole and ctx.params.every == 1:
        # The response's own tokens only: the prompt's last one broke nothing.
        values = {p: q.value for p, q in curve.items() if p >= trace.response_start}
        critical = critical_position(values)
        for position in values:
            columns["critical"][position] = position == critical
    table = common
    for name, column in TOKENS.columns.items():
        table = table.append_column(name, pa.array(columns[name], column.type))
    row = dict.fromkeys(SUMMARY.columns)
    row["said"] = answer_text(trace)
    row["right"] = judge(trace)
    if trace.response_start and trace.response_start - 1 in curve:
        row["start"] = curve[trace.response_start - 1].value
    row["critical_position"] = critical
    row |= _largest(trace, curve, falls)
    return {"tokens": table, "summary": pa.Table.from_pylist([row], schema=SUMMARY.schema())}


def _largest(
    trace: Trace, curve: Mapping[int, Point], falls: Mapping[int, tuple[float, int]]
) -> dict[str, Any]:
    position = max(falls, key=lambda p: (falls[p][0], -p), default=None)
    if position is None or falls[position][0] <= 0:
        return {}
    fall, previous = falls[position]
    before, after = curve[previous], curve[position]
    return {
        "position": position,
        "from_position": previous,
        "token": show(trace.pieces[position]),
        "samples": after.samples,
        "fall": fall,
        "before": before.value,
        "before_low": before.low,
        "before_high": before.high,
        "after": after.value,
        "after_low": after.low,
        "after_high": after.high,
    }
