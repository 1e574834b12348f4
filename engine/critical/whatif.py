"""``critical.whatif``: how likely a right answer is when another token stands at a position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from engine.context import Context
from engine.critical.curve import Point
from engine.critical.instead import Instead, listed, prediction, replacements
from engine.critical.judging import Judging, end_of, expected_answer
from engine.critical.sampling import SamplingParams
from engine.critical.whatiftables import TABLES, pairs, tables
from engine.errors import UserError
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from engine.sampling.generation import Continuation


class WhatIfParams(SamplingParams):
    """Settings of ``critical.whatif``: each thing tried is continued n times."""

    position: int = Field(
        ge=0, title="Position", description="The response token in whose place others are tried."
    )
    alternatives: int = Field(
        5,
        ge=0,
        le=256,
        title="Likeliest others",
        description="How many of the most probable other tokens are tried.",
    )
    ids: tuple[int, ...] = Field(
        (), title="Further ids", description="Token ids to try too.", max_length=256
    )
    text: str | None = Field(
        None,
        title="Typed text",
        description="Text to put there instead; the tokenizer cuts it.",
    )


@analysis(
    "critical.whatif",
    version=1,
    subject=Trace,
    params=WhatIfParams,
    tables=TABLES,
    title="What if another token had stood there?",
    cite=(
        "Lin et al. (2025), Critical Tokens Matter, arXiv 2411.19943: with and without the token.",
        "Chen et al. (2021), arXiv 2107.03374: Pass@k without bias.",
        "Clopper and Pearson (1934), The use of confidence or fiducial limits.",
        "Abdin et al. (2024), Phi-4 Technical Report: preference pairs of pivotal tokens.",
    ),
    caveats=(
        "Each interval is for one alternative; the best of many looks better than it is.",
        "It is this model's chance under this sampler: another model may go on otherwise.",
        "Continuations that were cut off count as wrong.",
        "Without the token, others are drawn as the sampler would; a rare one hardly counts.",
        "A trainer cuts the text of a pair into tokens anew, perhaps otherwise than here.",
        "A pair holds single tokens: a trainer must put no end token after them.",
    ),
)
def whatif(ctx: Context) -> Iterator[Progress | Tables]:
    """P(right answer | prefix, token) for the token that was said and for others in its place.

    Tried are the token that stands at ``position``, the most probable others (special tokens left
    out), further ``ids`` and typed ``text``; each is continued *n* times, with the samples that
    ``critical.value`` draws for the same prefix. An alternative that ends the response is not
    continued: its value is 1 or 0 with ``samples`` 0.

    ``conditions`` compares keeping the token with drawing another: *n* tokens from p(· | prefix)
    in which the said one has probability 0, with the sampler's temperature and filters applied to
    what is left, each continued once. Number *i* of these draws is always the same token, and a
    token drawn *m* times is followed by its first *m* samples. At temperature 0 everything is
    certain: one continuation says it all, and the second most probable token is the replacement.
    """
    trace, params = ctx.subject, ctx.params
    judging = Judging(
        ctx.tokenizer, trace, params.checker, expected_answer("critical.whatif", params.answer)
    )
    yield Progress(None, "Loading the model")
    stops = ctx.models["model"].eos_ids
    _check_position(trace, params.position, end_of(trace, stops))
    if params.text == "":
        raise UserError("There is no text to put there: type some, or leave text out.")
    work = _Work(ctx, judging, frozenset(stops))
    logs = prediction(ctx, params.position)
    things = listed(ctx, params.position, logs, params.alternatives, params.ids, params.text)
    work.total = (len(things) + 1) * work.n
    tried: list[tuple[Instead, Point]] = []
    for thing in things:
        drawn = yield from work.continued(thing.ids, work.n)
        tried.append((thing, work.point(thing.ids, drawn)))
        yield Tables(tables(trace, params.position, tried, None))
    said = trace.ids[params.position]
    prefix = trace.ids[: params.position]
    replaced = replacements(logs, said, params.sampler, prefix, work.n)
    without = None
    if replaced is None:
        reason = "the model gives every other token probability 0"
        ctx.note("conditions", "value", reason)
        ctx.note("pass_at_k", "without", reason)
    else:
        without = yield from work.without(replaced)
    _explain(ctx, tried)
    yield Tables(tables(trace, params.position, tried, without))


class _Work:
    """Samples after the prefix with something put at the position."""

    def __init__(self, ctx: Context, judging: Judging, stops: frozenset[int]) -> None:
        self._ctx = ctx
        self._judging = judging
        self._stops = stops
        self._sampler = ctx.params.sampler
        self._exact = not self._sampler.temperature
        self._position = ctx.params.position
        self._prefix = ctx.subject.ids[: self._position]
        # All greedy continuations are the same one.
        self.n = 1 if self._exact else ctx.params.n
        self.total = self.n
        self._done = 0

    def continued(
        self, ids: tuple[int, ...], count: int
    ) -> Generator[Progress, None, list[Continuation]]:
        """The first ``count`` continuations after ``ids``; none after the response's end."""
        drawn: list[Continuation] = []
        if not self._stops.intersection(ids):
            for so_far in self._ctx.samples((*self._prefix, *ids), self._sampler, count):
                drawn = so_far
                yield self._progress(len(drawn))
        self._done += count
        yield self._progress(0)
        return drawn

    def point(self, ids: tuple[int, ...], drawn: Sequence[Continuation]) -> Point:
        """What is known after ``ids``."""
        if not drawn:
            return Point.certain(self._ended_right(ids))
        right = sum(self._right(ids, c) for c in drawn)
        cut = sum(c.finish == "length" for c in drawn)
        return Point.counted(len(drawn), right, cut, exact=self._exact)

    def without(self, replaced: Sequence[int]) -> Generator[Progress, None, Point]:
        """What is known when each of ``replaced`` is continued once."""
        correct = cut = 0
        for token_id, times in Counter(replaced).items():
            drawn = yield from self.continued((token_id,), times)
            if not drawn:
                correct += times * self._ended_right((token_id,))
            correct += sum(self._right((token_id,), c) for c in drawn)
            cut += sum(c.finish == "length" for c in drawn)
        return Point.counted(len(replaced), correct, cut, exact=self._exact)

    def _right(self, ids: tuple[int, ...], continuation: Continuation) -> bool:
        if continuation.finish == "length":
            return False
        return self._judging.says(self._judging.words(self._position), (*ids, *continuation.ids))

    def _ended_right(self, ids: tuple[int, ...]) -> bool:
        """Whether the response is right that ends with the first end token of ``ids``."""
        end = next(at for at, token_id in enumerate(ids) if token_id in self._stops)
        return self._judging.says(self._judging.words(self._position), ids[:end])

    def _progress(self, more: int) -> Progress:
        done = self._done + more
        message = f"{done:,} of {self.total:,} continuations"
        return Progress(done / self.total, message)


def _check_position(trace: Trace, position: int, end: int) -> None:
    if trace.response_start >= len(trace):
        raise UserError("There is no response in which another token could stand: give one.")
    if position >= len(trace):
        raise UserError(
            f"Position {position} is outside the text of {len(trace):,} tokens: choose a response "
            f"token, {trace.response_start} to {len(trace) - 1}."
        )
    if position < trace.response_start:
        raise UserError(
            f"Position {position} is in the prompt: choose a response token, from "
            f"{trace.response_start} on."
        )
    if position >= end:
        raise UserError(
            f"The response has ended at position {end}, nothing goes on from position {position}: "
            "choose an earlier token."
        )
    if position == 0:
        raise UserError("The first token is predicted by nothing: choose a later one.")


def _explain(ctx: Context, tried: Sequence[tuple[Instead, Point]]) -> None:
    position = ctx.params.position
    if any(len(thing.ids) > 1 for thing, _ in tried):
        reason = "typed text of several tokens has no id of its own"
        ctx.note("alternatives", "alternative_id", reason, position=position)
    if not all(thing.exact for thing, _ in tried):
        reason = "the tokenizer cannot spell the typed text exactly; what it spells was tried"
        ctx.note("alternatives", "alternative", reason, position=position)
    found = [problem for _, problem in pairs(ctx.subject, position, tried)]
    for problem in dict.fromkeys(filter(None, found)):
        ctx.note("pairs", None, f"a pair was left out: {problem}", position=position)
    if not found:
        ctx.note("pairs", None, "no alternative is clearly better or worse", position=position)
