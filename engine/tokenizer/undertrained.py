"""``tokenizer.undertrained``: ids the model hardly saw in training, by its embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.limits.caps import DRAWS as COST
from engine.registry import Params, analysis
from engine.result import Request
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import TokenizerRef
from engine.tokenizer.embeddings import Indicators, indicators, repeated
from engine.tokenizer.resolve import spec_of

if TYPE_CHECKING:
    from engine.tokenizer.spec import TokenizerSpec

STRONG, WEAK, REJECTED = 0.001, 0.1, 0.9
"""Largest probability in the confirming prompts (Land and Bartolo 2024, section 2.3)."""

_I, _F, _S, _B = pa.int64(), pa.float64(), pa.string(), pa.bool_()
_TRAINED = ("alpha", "other", "errors")


class UndertrainedParams(Params):
    """Settings of ``tokenizer.undertrained``."""

    indicator: Literal["auto", "input_norm", "output_cosine"] = Field(
        "auto",
        title="Indicator",
        description="auto: the norm of the input row, or with tied embeddings the distance of the "
        "output row to those never trained.",
    )
    share: float = Field(
        0.02, gt=0, le=1, title="Share", description="Ids with the lowest indicator to look at."
    )
    confirm: int = Field(
        50,
        ge=0,
        le=10_000,
        title="Confirm",
        description="Candidates the model is asked to repeat; 0 for none.",
        json_schema_extra=COST,
    )


TOKENS = Table(
    {
        "token_id": Column(_I, "The id."),
        "token": Column(_S, "Its text; bytes that are no UTF-8 as \\xNN."),
        "category": Column(_S, "What kind of string it is."),
        "reachable": Column(_S, "Whether some text gives it."),
        "reference": Column(_B, "Whether it is one of the rows surely never trained."),
        "input_norm": Column(_F, "Length of its input embedding."),
        "output_norm": Column(_F, "Length of its row of the output matrix."),
        "output_cosine": Column(_F, "Cosine distance of its output row to the mean of the "
                                "reference rows; low means alike."),
        "indicator": Column(_F, "The one used; low means little trained."),
        "candidate": Column(_B, "Whether it is among the lowest."),
    },
    doc="One row for each id.",
)  # fmt: skip
CANDIDATES = Table(
    {
        "place": Column(_I, "Place in the order, the lowest indicator first."),
        "token_id": Column(_I, "The id."),
        "token": Column(_S, "Its text; bytes that are no UTF-8 as \\xNN."),
        "indicator": Column(_F, "Its indicator."),
        "probability": Column(_F, "Largest probability of repeating it, over three prompts.",
                              "probability"),
        "verdict": Column(_S, "strong (below 0.001), weak (to 0.1), unclear, rejected (above "
                          "0.9)."),
    },
    doc="The ids with the lowest indicator, and whether the model can repeat them.",
)  # fmt: skip


@analysis(
    "tokenizer.undertrained",
    version=1,
    subject=TokenizerRef,
    models=("model",),
    params=UndertrainedParams,
    tables={"candidates": CANDIDATES, "tokens": TOKENS},
    title="Which tokens did this model hardly see in training?",
    cite=("Land and Bartolo 2024, Fishing for Magikarp, arXiv 2405.05417, sections 2.2 and 2.3",),
    caveats=(
        "A low indicator makes a suspect; the confirming prompts decide.",
        "The prompts are ours: three ways to make a model repeat a token it has just read.",
    ),
)
def undertrained(ctx: Context) -> Iterator[Progress | Tables]:
    """Suspects by their embeddings, confirmed by asking the model to repeat them.

    Rows that were never trained are known from the audit of the vocabulary: ids that no text can
    give, and rows without a token. The indicator is the norm of the input embedding, or, where
    input and output share their weights, the cosine distance of the output row to the mean of
    those rows. Looked at are ids some text gives that are no parts of characters.
    """
    yield Progress(None, "Auditing the vocabulary")
    spec = spec_of(ctx)
    ref = ctx.plan.models["model"].ref
    audit = ctx.run(Request("tokenizer.vocabulary", ctx.subject, {"model": ref}, {"bigrams": 0}))
    listed = audit.table("ids").to_pydict()
    yield Progress(0.3, "Reading the embeddings")
    model = ctx.models["model"]
    never = np.array([r == "no" for r in listed["reachable"]])[: model.vocab_size]
    found = indicators(model, np.flatnonzero(never))
    name, values = _chosen(ctx, found)
    rows = model.vocab_size
    looked = np.array(
        [
            r == "yes" and c.rpartition("_")[2] in _TRAINED
            for r, c in zip(listed["reachable"], listed["category"], strict=True)
        ]
    )[:rows]
    order = _lowest(values, looked, ctx.params.share)
    _say(ctx, name, int(never.sum()), len(listed["token_id"]) > rows)
    columns = _columns(listed, rows, never, found, values, order)
    candidates = _candidates(spec, order, values, {})
    yield Tables(candidates=candidates, tokens=columns)
    chances: dict[int, float] = {}
    asked = order[: ctx.params.confirm]
    yield from repeated(model, spec, asked, chances)
    if len(asked) < len(order):
        ctx.note("candidates", "probability", f"Asked for the first {len(asked):,} candidates.")
    yield Tables(candidates=_candidates(spec, order, values, chances), tokens=columns)


def _chosen(ctx: Context, found: Indicators) -> tuple[str, npt.NDArray[np.float64]]:
    wanted = ctx.params.indicator
    if wanted == "auto":
        wanted = "output_cosine" if found.tied else "input_norm"
    if wanted == "output_cosine" and found.output_cosine is None:
        reason = "No row is known to be untrained: the norm of the input row is used."
        ctx.note("tokens", "output_cosine", reason)
        wanted = "input_norm"
    values = found.output_cosine if wanted == "output_cosine" else found.input_norm
    assert values is not None
    return wanted, values


def _say(ctx: Context, name: str, never: int, cut: bool) -> None:
    reason = f"Used is {name}; {never:,} rows are known to be untrained."
    ctx.note("tokens", "indicator", reason)
    if cut:
        ctx.note("tokens", None, "The model has fewer rows than the tokenizer has ids.")


def _lowest(
    values: npt.NDArray[np.float64], looked: npt.NDArray[np.bool_], share: float
) -> list[int]:
    ids = np.flatnonzero(looked)
    count = int(np.ceil(share * len(ids)))
    return [int(i) for i in ids[np.argsort(values[ids], kind="stable")][:count]]


def _columns(
    listed: dict[str, list[Any]],
    rows: int,
    never: npt.NDArray[np.bool_],
    found: Indicators,
    values: npt.NDArray[np.float64],
    order: Sequence[int],
) -> pa.Table:
    among = set(order)
    columns: dict[str, Any] = {
        **{n: listed[n][:rows] for n in ("token_id", "token", "category", "reachable")},
        "reference": never,
        "input_norm": found.input_norm,
        "output_norm": found.output_norm,
        "output_cosine": [None] * rows if found.output_cosine is None else found.output_cosine,
        "indicator": values,
        "candidate": [i in among for i in range(rows)],
    }
    size = len(columns["token_id"])
    types = {name: column.type for name, column in TOKENS.columns.items()}
    return pa.table({n: pa.array(list(columns[n])[:size], types[n]) for n in types})


def _candidates(
    spec: TokenizerSpec,
    order: Sequence[int],
    values: npt.NDArray[np.float64],
    chances: dict[int, float],
) -> pa.Table:
    rows = [
        {
            "place": place,
            "token_id": i,
            "token": spec.token(i),
            "indicator": float(values[i]),
            "probability": chances.get(i),
            "verdict": verdict(chances[i]) if i in chances else None,
        }
        for place, i in enumerate(order, 1)
    ]
    return pa.Table.from_pylist(rows, schema=CANDIDATES.schema())


def verdict(probability: float) -> str:
    """What the largest probability of repeating a token says."""
    if probability < STRONG:
        return "strong"
    if probability <= WEAK:
        return "weak"
    return "rejected" if probability > REJECTED else "unclear"
