"""``critical.value``: how likely a right answer still is after each token of a response.

The value of a prefix is P(right | prefix): the share of sampled continuations whose answer is
right. Row *t* is about the prefix that **ends with** token *t*, so the row of the prompt's last
token is the value before the response began, and the fall at *t* is what token *t* did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from engine.context import Context
from engine.critical import places
from engine.critical.curve import Point, decides
from engine.critical.drawing import Counting, Points, points
from engine.critical.judging import Judging, end_of, expected_answer
from engine.critical.sampling import SamplingParams
from engine.critical.valuetables import SENTENCES, SUMMARY, TOKENS, Drawn, tables
from engine.errors import UserError
from engine.registry import analysis
from engine.result import Request
from engine.schema import Progress, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from engine.modelref import ModelRef

Where = Literal["every", "sentence", "surprisal", "entropy", "contrast", "search"]


class ValueParams(SamplingParams):
    """Settings of ``critical.value``."""

    where: Where = Field(
        "every",
        title="Prefixes",
        description=(
            "every token; sentence ends; the tokens of highest surprisal, entropy or lowest "
            "contrast of a pair fitted to this prompt; or a search that halves what changes."
        ),
    )
    every: int = Field(
        1, ge=1, title="Every k-th token", description="1 continues after every response token."
    )
    share: float = Field(
        0.2,
        gt=0,
        le=1,
        title="Share of tokens",
        description="How many of the tokens are looked at, chosen by a score.",
    )
    least: float = Field(
        0.2,
        gt=0,
        le=1,
        title="Least change",
        description="A search halves a stretch over which the value changes at least so much.",
    )
    stop: int | None = Field(
        None,
        ge=2,
        title="Stop after",
        description="So many right continuations of a prefix are enough; none draws all.",
    )
    second_checker: str | None = Field(
        None,
        title="Second checker",
        description="Judges the same continuations a second time, say for a forbidden word.",
    )
    second_answer: str = Field(
        "",
        title="Looked for",
        description="What the second checker looks for.",
        coerce_numbers_to_str=True,
    )


@analysis(
    "critical.value",
    version=2,
    subject=Trace,
    params=ValueParams,
    tables={"tokens": TOKENS, "sentences": SENTENCES, "summary": SUMMARY},
    title="Which token broke it?",
    cite=(
        "Lin et al. (2025), Critical Tokens Matter, arXiv 2411.19943: rollouts of prefixes, scan.",
        "Clopper and Pearson (1934), The use of confidence or fiducial limits.",
        "Girshick, Mosteller and Savage (1946), Unbiased estimates: value after an early stop.",
        "Newcombe (1998), Interval estimation for the difference between independent proportions.",
        "Abdin et al. (2024), Phi-4 Technical Report: search of pivotal tokens by subdivision.",
    ),
    caveats=(
        "A row is about the prefix that ends with its token, not about the prediction of it.",
        "Each interval is for one token, not for all of them at once.",
        "The largest of many noisy falls looks larger than it is.",
        "It is this model's chance under this sampler: another model may still recover.",
        "Continuations that were cut off count as wrong.",
        "A critical token need not be the mistake a person would mark.",
        "A search does not see what falls and rises again between two places of equal value.",
    ),
)
def value(ctx: Context) -> Iterator[Progress | Tables]:
    """P(right answer | prefix) after each response token, by continuing it *n* times.

    Row *t* describes the prefix that ends with token *t*; the row of the last prompt token is the
    value before the response. Once the response holds the model's end token nothing is sampled:
    the value is 1 or 0 by what it answers, with ``samples`` 0 and ``low = high = value``. At
    temperature 0 one continuation says it all, and the value is exact too. Intervals are exact
    (Clopper and Pearson). Samples are kept: a larger *n* adds to them, and a cancelled run goes
    on where it stopped. All prefixes share keys and values. They are taken coarse to fine, so that
    half a run shows the whole curve; one with only some of its samples is not shown, because the
    short ones finish first.

    With ``stop`` a prefix is left as soon as so many continuations, in the order of their numbers,
    were right; its value is then (c − 1)/(n − 1), which is unbiased.

    ``critical`` is the source's scan: from left to right, the first prefix that no continuation
    saves is the candidate, and it is taken back as soon as a later prefix is saved in more than
    3 of 64; at most one token is left. (The source draws 64.) A ``stop`` of 4 at 64 samples
    changes none of its verdicts.
    """
    trace, params = ctx.subject, ctx.params
    expected = expected_answer("critical.value", params.answer)
    judging = Judging(ctx.tokenizer, trace, params.checker, expected)
    second = None
    if params.second_checker is not None:
        if not params.second_answer.strip():
            raise UserError("The second checker looks for nothing: give second_answer.")
        second = Judging(ctx.tokenizer, trace, params.second_checker, params.second_answer)
    first = max(trace.response_start - 1, 0)
    yield Progress(None, "Loading the model")
    end = end_of(trace, ctx.models["model"].eos_ids)
    curve: Points = {}
    if end < len(trace):
        over = Point.certain(judging.so_far(end), None if second is None else second.so_far(end))
        curve = dict.fromkeys(range(end, len(trace)), over)
    counting = Counting(
        judging,
        # All greedy continuations are the same one.
        params.n if params.temperature else 1,
        params.stop if params.temperature else None,
        exact=not params.temperature,
        second=second,
    )
    _say_what_is_empty(ctx, first, counting.n)
    work = _Work(ctx, first, end, counting, curve)
    for progress, fresh in work.steps():
        if fresh:
            yield Tables(tables(ctx, judging, work.drawn(whole=False)))
        yield progress
    made = tables(ctx, judging, work.drawn(whole=True))
    _say_why_empty(ctx, made["summary"].to_pylist()[0])
    yield Tables(made)


def value_request(trace: Trace, model: str | ModelRef, expected: str, **params: Any) -> Request:
    """The request by which pages and the gallery ask for a trace's value curve.

    Args:
        trace: whose response is looked at.
        model: which model continues it.
        expected: the right answer.
        params: others of ``ValueParams``; left out, the gallery's results are found.
    """
    return Request("critical.value", trace, {"model": model}, {"answer": expected, **params})


@dataclass
class _Work:
    """The prefixes of one trace, and what is known about them so far."""

    ctx: Context
    first: int
    end: int
    counting: Counting
    curve: Points
    continued: int = 0
    continuations: int = 0

    def drawn(self, *, whole: bool) -> Drawn:
        """What the tables are made of."""
        params = self.ctx.params
        every = params.where == "every" and params.every == 1
        counting = self.counting
        return Drawn(
            self.curve,
            n=counting.n,
            end=self.end,
            first=self.first,
            scanned=whole and every and decides(counting.stop, counting.n),
        )

    def steps(self) -> Iterator[tuple[Progress, bool]]:
        """Progress, and whether it brought points."""
        if self.ctx.params.where != "search":
            order = places.coarse_to_fine(self._places())
            yield from self._points(order, len(order))
            return
        search = places.Search(self.first, self.end, self.ctx.params.least)
        while wanted := search.wanted({p: q.value for p, q in self.curve.items()}):
            yield from self._points(wanted, None)

    def _places(self) -> list[int]:
        params, ctx = self.ctx.params, self.ctx
        if params.where == "every":
            return places.every(self.first, self.end, params.every)
        if params.where == "sentence":
            ends = (s.end - 1 for s in places.sentences(ctx.subject, self.end))
            return sorted({self.first, *ends} if self.end > self.first else ())
        return places.around(self._scores(), self.first, self.end, params.share)

    def _scores(self) -> Mapping[int, float]:
        """How suspect each token is."""
        params, ctx = self.ctx.params, self.ctx
        if params.where == "contrast":
            ref = ctx.plan.models["model"].ref
            asked = {"answer": params.answer, "checker": params.checker}
            fitted = ctx.run(Request("critical.fitted", ctx.subject, {"model": ref}, asked))
            values = fitted.table("tokens")["log_contrast"].to_pylist()
            return {p: -v for p, v in enumerate(values) if v is not None}
        values = ctx.stats().table("tokens")[params.where].to_pylist()
        return {p: v for p, v in enumerate(values) if v is not None}

    def _points(self, order: list[int], total: int | None) -> Iterator[tuple[Progress, bool]]:
        n, before = self.counting.n, self.continuations
        known = 0
        for at_hand, found in points(self.ctx, order, self.ctx.params.sampler, self.counting):
            self.curve.update(found)
            known += len(found)
            self.continued += len(found)
            self.continuations = before + at_hand
            fraction = None
            if total:
                # With early stop nobody knows how many more there will be.
                share = known / total if self.counting.stop else at_hand / (total * n)
                fraction = min(1.0, share)
            yield Progress(fraction, self._message(total)), bool(found)

    def _message(self, total: int | None) -> str:
        of = f" of {total:,}" if total else ""
        return f"Continued {self.continued:,}{of} prefixes, {self.continuations:,} continuations"


def _say_what_is_empty(ctx: Context, first: int, n: int) -> None:
    params = ctx.params
    if first:
        ctx.note("tokens", None, "inside the prompt nothing is sampled; its last token has a row")
    whole = params.where == "every" and params.every == 1
    if params.where == "every" and params.every > 1:
        ctx.note("tokens", None, f"only every {params.every}th response token is continued")
    elif params.where == "search":
        ctx.note("tokens", None, "only the places a search asked for are continued")
    elif params.where == "sentence":
        ctx.note("tokens", None, "only the ends of sentences are continued")
    elif params.where != "every":
        reason = f"only the {params.share:.0%} of tokens chosen by {params.where} are continued"
        ctx.note("tokens", None, reason)
    if not whole:
        ctx.note("tokens", "critical", "the source's rule needs every token")
        ctx.note("sentences", None, "a sentence whose ends were not continued has no value")
    elif not decides(params.stop, n):
        ctx.note("tokens", "critical", "a stop after so few right ones does not decide the rule")
    if params.second_checker is None:
        ctx.note("tokens", "second", "no second checker was asked for")
    ctx.note("tokens", "fall", "the first value has none before it", position=first)


def _say_why_empty(ctx: Context, row: Mapping[str, Any]) -> None:
    if row["said"] is None:
        ctx.note("summary", "said", "the response gives no answer")
    if row["right"] is None:
        ctx.note("summary", "right", "there is nothing to judge")
    if row["position"] is None:
        ctx.note("summary", "position", "the value falls nowhere")
    if row["critical_position"] is None and row["scanned"]:
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
