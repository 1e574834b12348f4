"""``critical.contrast``: what a better and a worse model think of every token, in one score."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from engine.context import Context
from engine.critical.pairs import CAVEATS, COLUMNS, SOURCE, Side, compared
from engine.registry import Params, analysis
from engine.schema import Progress, Table, Tables
from engine.subjects import Trace


class ContrastParams(Params):
    """Settings of ``critical.contrast``."""

    beta: float = Field(
        1.0,
        ge=0,
        le=100,
        title="β",
        description="How much the negative model counts; 0 is the positive model alone.",
    )


TOKENS = Table(
    per_token=True,
    doc="One row per token; a value describes the prediction of that token.",
    columns=COLUMNS,
)


@analysis(
    "critical.contrast",
    version=1,
    subject=Trace,
    models=("positive", "negative", "model"),
    optional_models=("model",),
    params=ContrastParams,
    tables={"tokens": TOKENS},
    title="Which tokens does only the worse model expect?",
    cite=(SOURCE,),
    caveats=(
        *CAVEATS,
        "A pair trained on other problems often fails here: critical.fitted makes one on the spot.",
    ),
)
def contrast(ctx: Context) -> Iterator[Progress | Tables]:
    """The contrastive score of every token: softmax((1 + β) z⁺ − β z⁻)[y], renormalised.

    ``positive`` is a model trained on right solutions, ``negative`` one trained on wrong ones (any
    two models with one tokenizer will do). Row *t* is about the prediction of token *t*, made at
    position *t* − 1; a low score marks a token as critical. ``log_contrast`` is exact where the
    score itself is too small for a number. Only ids that are real in both models take part.
    ``logprob`` and ``entropy`` are those of the role ``model``, if one is given.
    """
    yield Progress(None, "Loading the models")
    positive, negative = (Side(ctx.models[r], ctx.subject.ids) for r in ("positive", "negative"))
    columns = yield from compared(ctx, positive, negative)
    yield Tables(tokens=ctx.per_token({name: columns[name] for name in COLUMNS}))
