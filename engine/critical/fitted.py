"""``critical.fitted``: the contrastive score of a pair that is made for this very prompt."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.critical.judging import Judging, expected_answer
from engine.critical.pairs import CAVEATS, COLUMNS, SOURCE, Side, compared
from engine.critical.sampling import SamplingParams
from engine.errors import UserError
from engine.limits.caps import DRAWS
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from engine.critical.fitting import Fitted
    from engine.sampling.generation import Continuation

MOST_PARAMETERS = 300_000_000
"""Of a model that is fitted here: beside two float32 copies stand gradients and Adam's state."""

SETS = ("positive", "negative")


class FittedParams(SamplingParams):
    """Settings of ``critical.fitted``."""

    n: int = Field(
        64,
        ge=2,
        le=1024,
        title="Samples",
        description="How many responses to this prompt are drawn and judged.",
        json_schema_extra=DRAWS,
    )
    most: int = Field(
        16,
        ge=1,
        le=1024,
        title="Responses fitted",
        description="Most responses a copy is fitted to; the first ones drawn are taken.",
    )
    steps: int = Field(
        6, ge=1, le=100, title="Steps", description="Adam steps, each over the whole set."
    )
    lr: float = Field(2e-4, gt=0, le=0.1, title="Learning rate", description="Of every step.")
    beta: float = Field(
        1.0, ge=0, le=100, title="β", description="How much the negative copy counts in the score."
    )
    leave_out: bool = Field(
        True,
        title="Leave this response out",
        description="Off: this response is fitted too, which makes the score circular.",
    )


TOKENS = Table(
    per_token=True,
    doc="One row per token; a value describes the prediction of that token.",
    columns=COLUMNS,
)


def _count(label: str, doc: str) -> Column:
    return Column(pa.int64(), doc, "", label)


FIT = Table(
    doc="What each of the two copies was fitted to: one row each.",
    columns={
        "set": Column(pa.string(), "positive: right responses; negative: wrong ones.", "", "set"),
        "rollouts": _count("responses", "Responses it was fitted to."),
        "tokens": _count("tokens", "Their tokens."),
        "left_out": _count("left out", "Samples left out because they equal this response."),
        "own": Column(
            pa.bool_(), "Whether this response is a response of that kind.", "", "this one"
        ),
        "loss_before": Column(
            pa.float64(), "Mean −log p of the tokens before fitting.", "nats", "loss before"
        ),
        "loss_after": Column(
            pa.float64(), "Mean −log p of the tokens after fitting.", "nats", "loss after"
        ),
    },
)


@analysis(
    "critical.fitted",
    version=1,
    subject=Trace,
    params=FittedParams,
    tables={"tokens": TOKENS, "fit": FIT},
    title="Which tokens set right and wrong answers to this prompt apart?",
    cite=(SOURCE, "Kingma and Ba (2015), Adam, arXiv 1412.6980: how the copies are fitted."),
    caveats=(
        *CAVEATS,
        "The pair knows this prompt only; with few samples it knows little.",
        "With leave_out off the response is judged by a copy that was fitted to it.",
        "A finished sample that gives no answer counts as wrong; one cut off is left out.",
    ),
)
def fitted(ctx: Context) -> Iterator[Progress | Tables]:
    """The contrastive score by two copies of the model, fitted to its own right and wrong samples.

    ``n`` responses to the trace's prompt are drawn and judged. The right ones fit the positive
    copy, the wrong ones the negative copy: ``steps`` full-batch Adam steps on the mean −log p over
    all response tokens of the set, all weights, float32, no dropout. The copies are then read as
    in ``critical.contrast``; the baselines are of the model itself.

    ``n`` is as large as in ``critical.value``, whose samples of the prompt are the same ones: where
    wrong answers are rare, fewer would hold none. Each copy is fitted to ``most`` of its kind.

    With ``leave_out``, samples that equal the analysed response (an end token aside) are not
    fitted. Without it that response is added to its set, unless a sample in the set equals it
    already: circular, and said so in the notes. Its own answer decides which set is its.
    """
    trace, params = ctx.subject, ctx.params
    judging = _judging(ctx)
    _check_size(ctx.plan.models["model"].located.parameters, ctx)
    yield Progress(None, "Loading the model")
    model = ctx.models["model"]
    _check_size(sum(p.numel() for p in model.model.parameters()), ctx)
    drawn = yield from _draw(ctx)
    sets = sort_samples(ctx, drawn, judging, model.eos_ids)
    _check_sets(ctx, sets)
    if not params.leave_out:
        reason = "circular: one of the two copies was fitted to this very response (leave_out)"
        ctx.note("tokens", None, reason)
    prompt = trace.ids[: trace.response_start]
    copies: dict[str, Fitted] = {}
    rows = []
    for name in SETS:
        copies[name] = yield from _fit(ctx, name, prompt, sets[name].responses)
        rows.append(_row(name, sets[name], copies[name]))
    positive, negative = (Side(copies[name].model, trace.ids) for name in SETS)
    columns = yield from compared(ctx, positive, negative)
    yield Tables(
        tokens=ctx.per_token({name: columns[name] for name in COLUMNS}),
        fit=pa.Table.from_pylist(rows, schema=FIT.schema()),
    )


@dataclass(slots=True)
class Set:
    """What a copy is fitted to.

    Attributes:
        responses: ids of each.
        left_out: samples that are not in it because they equal the analysed response.
        own: whether the analysed response is one of this kind.
    """

    responses: list[tuple[int, ...]]
    left_out: int = 0
    own: bool = False


def sort_samples(
    ctx: Context, drawn: Sequence[Continuation], judging: Judging, stops: Sequence[int]
) -> dict[str, Set]:
    """The samples by what they answer, the analysed response left out or added as asked.

    Args:
        ctx: whose subject is analysed.
        drawn: samples of its prompt.
        judging: says which are right.
        stops: ids that end a response; whether one stands at its end makes no difference.
    """
    trace: Trace = ctx.subject
    own = trace.ids[trace.response_start :]
    sets = {name: Set([]) for name in SETS}
    home = sets["positive" if judging.verdict is True else "negative"]
    home.own = True
    cut = 0
    for sample in drawn:
        if _same(sample.ids, own, stops):
            if ctx.params.leave_out:
                home.left_out += 1
            else:
                home.responses.append(sample.ids)
        elif sample.finish == "length":
            cut += 1
        else:
            right = judging.right(trace.response_start, sample)
            sets["positive" if right else "negative"].responses.append(sample.ids)
    if not ctx.params.leave_out and not any(_same(r, own, stops) for r in home.responses):
        home.responses.insert(0, own)
    for one in sets.values():
        del one.responses[ctx.params.most :]
    if cut:
        reason = f"{cut:,} of {len(drawn):,} samples were cut off: they are in neither set"
        ctx.note("fit", "rollouts", reason)
    return sets


def _same(one: Sequence[int], other: Sequence[int], stops: Sequence[int]) -> bool:
    return _without_end(one, stops) == _without_end(other, stops)


def _without_end(ids: Sequence[int], stops: Sequence[int]) -> tuple[int, ...]:
    return tuple(ids[:-1] if ids and ids[-1] in stops else ids)


def _judging(ctx: Context) -> Judging:
    """The checker with its answer.

    Raises:
        UserError: there is none, or the trace lacks a prompt or a response.
    """
    trace, params = ctx.subject, ctx.params
    expected = expected_answer("critical.fitted", params.answer)
    if not trace.response_start:
        raise UserError("critical.fitted samples responses to a prompt: give the prompt apart.")
    if trace.response_start == len(trace):
        raise UserError("There is no response to look at: give one with its prompt.")
    return Judging(ctx.tokenizer, trace, params.checker, expected)


def _check_size(parameters: int | None, ctx: Context) -> None:
    if parameters is not None and parameters > MOST_PARAMETERS:
        name = ctx.plan.models["model"].located.name
        raise UserError(
            f"{name} has {parameters:,} parameters; two copies of it with Adam's state take too "
            f"much memory here (at most {MOST_PARAMETERS:,}): choose a smaller model, or give a "
            "pair to critical.contrast."
        )


def _draw(ctx: Context) -> Generator[Progress, None, Sequence[Continuation]]:
    trace, params = ctx.subject, ctx.params
    drawn: Sequence[Continuation] = ()
    for drawn in ctx.samples(trace.ids[: trace.response_start], params.sampler, params.n):
        done = len(drawn)
        yield Progress(done / params.n / 2, f"Drew {done:,} of {params.n:,} responses")
    return drawn


def _check_sets(ctx: Context, sets: dict[str, Set]) -> None:
    """Refuse when one of the copies would have nothing to be fitted to."""
    for name, word in zip(SETS, ("right", "wrong"), strict=True):
        if not sets[name].responses:
            out = sets[name].left_out
            besides = f", but for {out:,} equal to this response" if out else ""
            raise UserError(
                f"Among {ctx.params.n:,} samples of this prompt none is {word}{besides}: raise n, "
                "raise temperature, or give another pair to critical.contrast."
            )


def _fit(
    ctx: Context, name: str, prompt: Sequence[int], responses: Sequence[Sequence[int]]
) -> Generator[Progress, None, Fitted]:
    from engine.critical.fitting import fit

    params = ctx.params
    steps = fit(ctx.models["model"], prompt, responses, steps=params.steps, rate=params.lr)
    begin = 0.5 + 0.25 * SETS.index(name)
    what = f"Fitting the {name} copy to {len(responses):,} responses"
    share = 0.0
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            made: Fitted = stop.value
            return made
        share = share if step.fraction is None else step.fraction
        yield Progress(begin + share / 4, f"{what}. {step.message}")


def _row(name: str, chosen: Set, made: Fitted) -> dict[str, Any]:
    return {
        "set": name,
        "rollouts": len(chosen.responses),
        "tokens": made.tokens,
        "left_out": chosen.left_out,
        "own": chosen.own,
        "loss_before": made.before,
        "loss_after": made.after,
    }
