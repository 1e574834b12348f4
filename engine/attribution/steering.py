"""``attribution.steering``: push the model towards the target while it writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

import pyarrow as pa
from pydantic import Field, model_validator

from engine.attribution.grains import DIFFERENCES, SOURCE, GrainsParams, strongest, two_sides
from engine.attribution.paths import Baseline, standing_in
from engine.attribution.segments import texts
from engine.attribution.settings import COST
from engine.attribution.steered import Steered, turned
from engine.attribution.steeringvector import read_layers, sizes, vectors_of
from engine.attribution.targets import measured
from engine.attribution.work import MODELS, Floats, Ints, Work
from engine.context import Context
from engine.limits.caps import DRAWS, NEW_TOKENS
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace
from engine.tokenization import show

if TYPE_CHECKING:
    from torch import Tensor

    from engine.loaded import LoadedModel
    from engine.sampling.generation import Continuation


class SteeringParams(GrainsParams):
    """Also: the vector, how it is applied, and how the text is continued."""

    layers: str = Field(
        "last",
        max_length=200,
        title="layers",
        description="Behind which states are turned: last, all, or numbers such as 2,3 (from 0).",
    )
    alpha: float = Field(
        1.0,
        ge=-1000,
        le=1000,
        title="strength",
        description="How often the vector is added; below 0 it pushes the other way.",
    )
    vector: Literal["mean", "pca"] = Field(
        "mean",
        title="vector",
        description=(
            "mean of the differences that taking the tokens away makes, or their first principal "
            "component (of length 1)."
        ),
    )
    mode: Literal["both", "for"] = Field(
        "both",
        title="from",
        description="both: the tokens for the target minus those against it; or the former alone.",
    )
    ablation: Baseline = Field(
        "mean",
        title="taken away by",
        description="What stands for a token taken away: the mean of all, zero, or a token's.",
    )
    ablation_token: str | None = Field(
        None, max_length=200, title="mask token", description="With token: one, as it is written."
    )
    n: int = Field(
        4,
        ge=0,
        le=256,
        title="samples",
        description="Continuations drawn before and after, beside the most probable one.",
        json_schema_extra=DRAWS,
    )
    temperature: float = Field(1.0, gt=0, le=100, title="temperature")
    max_new_tokens: int = Field(
        48,
        ge=1,
        le=4096,
        title="at most tokens",
        description="Longest continuation.",
        json_schema_extra=NEW_TOKENS,
    )
    seed: int = Field(0, ge=0, lt=2**63, title="seed")

    @model_validator(mode="after")
    def _masked(self) -> SteeringParams:
        if (self.ablation == "token") != (self.ablation_token is not None):
            raise ValueError("ablation_token and ablation=token belong together: give both or none")
        return self


CONTINUATIONS = Table(
    doc="One row per continuation of the text before the target, before and after steering.",
    columns={
        "when": Column(pa.string(), "before or after."),
        "kind": Column(pa.string(), "greedy (always the most probable token) or sample."),
        "index": Column(pa.int64(), "Number of the sample; the same draws before and after."),
        "text": Column(pa.string(), "What was written; special tokens left out."),
        "ids": Column(pa.list_(pa.int64()), "Its ids."),
        "finish": Column(pa.string(), "stop or length."),
        "logprob": Column(pa.float64(), "Its own log-probability, steered where it was.", "nats"),
        "target_logprob": Column(pa.float64(), "log p of the target, steered or not.", "nats"),
        "contrast_logprob": Column(pa.float64(), "log p of the other one, likewise.", "nats"),
    },
)
CHOSEN = Table(
    doc="One row per source that was taken away to find the vector.",
    columns={
        "direction": Column(pa.string(), "for or against the target."),
        "rank": Column(pa.int64(), "1 for the strongest of its direction."),
        "source": Column(pa.string(), "The source, readable."),
        "source_position": Column(pa.int64(), "Its first position."),
        "source_end": Column(pa.int64(), "Position after its last token."),
        "score": Column(pa.float64(), "Its integrated gradient, both sides together.", "nats"),
    },
)
VECTOR = Table(
    doc="One row per layer and dimension.",
    columns={
        "layer": Column(pa.int64(), "The layer behind which it is added, from 0."),
        "dimension": Column(pa.int64(), "Dimension of the hidden state."),
        "value": Column(pa.float64(), "The vector there."),
    },
)
LAYERS = Table(
    doc="One row per layer: how hard it is pushed.",
    columns={
        "layer": Column(pa.int64(), "The layer, from 0."),
        "vector_norm": Column(pa.float64(), "Length of the vector."),
        "hidden_norm": Column(pa.float64(), "Mean length of the hidden states that predict."),
        "push": Column(pa.float64(), "Strength × vector's length ÷ hidden state's length."),
    },
)


@analysis(
    "attribution.steering",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=SteeringParams,
    tables={
        "continuations": CONTINUATIONS,
        "chosen": CHOSEN,
        "layers": LAYERS,
        "vector": VECTOR,
        "cost": COST,
    },
    title="What does the model say when pushed towards the target?",
    cite=(SOURCE,),
    caveats=(
        "A vector from one text need not mean the same in another.",
        *DIFFERENCES,
        (
            "The released code takes states at the continuation's last token and turns those of "
            "the whole prompt; here they are taken, and turned, where a token is predicted."
        ),
        (
            "The released code multiplies the strength by ten; here alpha is what is multiplied "
            "with. Its principal component is of centred differences and has an arbitrary sign; "
            "here they are not centred, and it points along their mean."
        ),
        (
            "The strength and the mean vector are our defaults; three tokens of each sign and the "
            "last layer are those of the released scripts."
        ),
    ),
)
def steering(ctx: Context) -> Iterator[Progress | Tables]:
    """A vector from the strongest tokens (GrAInS), added while the model writes.

    v is the mean change of the hidden states when the k strongest tokens for the target are taken
    away, minus the same for those against it. While writing, h becomes (h + αv)·‖h‖/‖h + αv‖ at
    each position that predicts a new token. Greedy and seeded continuations before and after.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    params: SteeringParams = ctx.params
    numbers = read_layers(params.layers, work.model)
    sides = yield from two_sides(work, params)
    scores = work.per_source(sides).sum(0)
    chosen = dict(zip(("for", "against"), strongest(scores, params.top), strict=True))
    yield Progress(None, "Taking the strongest tokens away")
    empty = standing_in(work, params.ablation, params.ablation_token, "ablation_token")
    vectors, hidden = vectors_of(work, numbers, chosen, empty, params.vector, params.mode)
    tables = {
        "chosen": _chosen(work, chosen, scores),
        "layers": pa.table(sizes(vectors, hidden, params.alpha)),
        "vector": _vector(vectors),
    }
    rows: list[dict[str, Any]] = []
    for when in ("before", "after"):
        turning = vectors if when == "after" else {}
        said = dict(zip(("target", "contrast"), _log_probs(work, turning), strict=True))
        for kind, drawn in _continuations(ctx, work, turning):
            rows += [_row(ctx, when, kind, c, said) for c in drawn]
            yield Progress(None, f"Writing on, {when} steering: {len(rows):,} texts so far")
    rows.sort(key=lambda r: (r["when"] == "after", r["kind"] == "sample", r["index"]))
    tables["continuations"] = pa.Table.from_pylist(rows, schema=CONTINUATIONS.schema())
    tables["cost"] = work.tables(scores[None])["cost"]
    yield Tables(tables)


def _log_probs(work: Work, turning: dict[int, Tensor]) -> tuple[float, float]:
    """Σ log p of the target, and of what it is compared with."""
    import torch

    found = {1: 0.0, -1: 0.0}
    alpha, first = work.params.alpha, work.context - 1
    for part in work.parts:
        with (
            torch.no_grad(),
            torch.inference_mode(False),
            turned(work.model, turning, alpha, first),
        ):
            logits = part.reader.logits(part.reader.embedded[None], part.rows)[0]
        for labels, sign in part.said:
            found[sign] += float(measured(logits, labels, "logprob").double().sum())
    return found[1], found[-1]


def _continuations(
    ctx: Context, work: Work, turning: dict[int, Tensor]
) -> Iterator[tuple[str, list[Continuation]]]:
    """Greedy and drawn continuations of the context; those of the plain model are kept ones."""
    from engine.sampling.generation import Sampler, sample

    params, prefix = work.params, work.trace.ids[: work.context]
    for kind, count, temperature in (("greedy", 1, 0.0), ("sample", params.n, params.temperature)):
        if not count:
            continue
        settings = {"max_new_tokens": params.max_new_tokens, "seed": params.seed}
        sampler = Sampler.model_validate({"temperature": temperature, **settings})
        if not turning:
            drawn: list[Continuation] = []
            for so_far in ctx.samples(prefix, sampler, count):
                drawn = so_far
                yield kind, []
            yield kind, drawn
            continue
        turnable = Steered(work.model, turning, params.alpha, work.context - 1)
        for done in sample(cast("LoadedModel", turnable), prefix, sampler, range(count)):
            yield kind, done


def _row(
    ctx: Context, when: str, kind: str, one: Continuation, said: dict[str, float]
) -> dict[str, Any]:
    pieces = ctx.tokenizer.pieces(one.ids)
    plain = [p for p, i in zip(pieces, one.ids, strict=True) if not ctx.tokenizer.is_special(i)]
    return {
        "when": when,
        "kind": kind,
        "index": one.index,
        "text": show(b"".join(plain)),
        "ids": list(one.ids),
        "finish": one.finish,
        "logprob": float(sum(one.logprobs)),
        "target_logprob": said["target"],
        "contrast_logprob": said["contrast"],
    }


def _chosen(work: Work, chosen: dict[str, Ints], scores: Floats) -> pa.Table:
    names = texts(work.trace, work.sources)
    rows = [
        {
            "direction": direction,
            "rank": place + 1,
            "source": names[source],
            "source_position": work.sources[source].start,
            "source_end": work.sources[source].end,
            "score": float(scores[source]),
        }
        for direction, sources in chosen.items()
        for place, source in enumerate(sources)
    ]
    return pa.Table.from_pylist(rows, schema=CHOSEN.schema())


def _vector(vectors: dict[int, Tensor]) -> pa.Table:
    rows = [
        (layer, d, value)
        for layer, vector in vectors.items()
        for d, value in enumerate(vector.tolist())
    ]
    return pa.table(dict(zip(VECTOR.columns, zip(*rows, strict=True), strict=True)))
