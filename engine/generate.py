"""``generate``: sampled continuations of a prompt, each with a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import orjson
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.encode import with_spans
from engine.errors import UserError
from engine.limits.caps import DRAWS, NEW_TOKENS
from engine.registry import Params, analysis
from engine.result import Result
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Parent, Sampling, Trace, Turn
from engine.tokenization import show

if TYPE_CHECKING:
    from engine.sampling.generation import Continuation


class GenerateParams(Params):
    """Settings of ``generate``."""

    n: int = Field(
        1,
        ge=1,
        le=4096,
        title="Samples",
        description="How many continuations.",
        json_schema_extra=DRAWS,
    )
    temperature: float = Field(
        1.0, ge=0, le=100, title="Temperature", description="0 takes the most probable token."
    )
    top_k: int | None = Field(None, ge=1, title="Top-k")
    top_p: float | None = Field(None, gt=0, le=1, title="Top-p")
    min_p: float | None = Field(None, ge=0, le=1, title="Min-p")
    max_new_tokens: int = Field(
        256, ge=1, le=32_768, title="At most tokens", json_schema_extra=NEW_TOKENS
    )
    seed: int = Field(0, ge=0, lt=2**63, title="Seed")


SAMPLES = Table(
    doc="One continuation a row.",
    columns={
        "index": Column(pa.int64(), "Number of the sample; with the seed it fixes the draw."),
        "text": Column(pa.string(), "Its text; bytes that are no UTF-8 as \\xNN."),
        "tokens": Column(pa.int64(), "Tokens drawn, the end token included."),
        "logprob": Column(
            pa.float64(), "Log-probability of all of it under the plain model.", "nats"
        ),
        "finish": Column(pa.string(), "stop: the model ended it; length: it was cut off."),
        "ids": Column(pa.list_(pa.int64()), "Token ids."),
        "token_bytes": Column(pa.list_(pa.binary()), "Exact bytes of each token."),
        "special": Column(pa.list_(pa.bool_()), "Whether each token is a special one."),
        "logprobs": Column(
            pa.list_(pa.float32()), "Log-probability of each token at temperature 1.", "nats"
        ),
    },
)

PROMPT = Table(
    doc="What was continued, as a tokenscope.trace/1 object.",
    columns={"trace": Column(pa.string(), "JSON.")},
)


@analysis(
    "generate",
    version=1,
    subject=Trace,
    params=GenerateParams,
    tables={"samples": SAMPLES, "prompt": PROMPT},
    title="What does the model answer?",
    caveats=("Log-probabilities are the plain model's (temperature 1, nothing cut off).",),
)
def generate(ctx: Context) -> Iterator[Progress | Tables]:
    """Continue a text *n* times.

    Sample *i* draws from its own counter-based random stream, so asking for more adds samples and
    changes none; they are kept and never drawn twice.
    """
    from engine.sampling.generation import Sampler

    prompt: Trace = ctx.subject
    n = ctx.params.n
    model = ctx.plan.models["model"]
    context = model.located.context
    if context is not None and len(prompt) >= context:
        raise UserError(
            f"The prompt fills {model.located.name}'s whole context of {context:,} tokens: "
            "shorten it."
        )
    sampler = Sampler(**ctx.params.model_dump(exclude={"n"}))
    yield Progress(None, "Loading the model")
    shown = 0
    for drawn in ctx.samples(prompt.ids, sampler, n):
        if len(drawn) == n or len(drawn) > 1.1 * shown:
            yield Tables(_tables(ctx, drawn))
            shown = len(drawn)
        yield Progress(len(drawn) / n, f"{len(drawn):,} of {n:,} continuations finished")


def _tables(ctx: Context, drawn: list[Continuation]) -> dict[str, pa.Table]:
    tokenizer = ctx.tokenizer
    rows = []
    for c in drawn:
        pieces = tokenizer.pieces(c.ids)
        special = [tokenizer.is_special(i) for i in c.ids]
        said = b"".join(p for p, s in zip(pieces, special, strict=True) if not s)
        rows.append(
            {
                "index": c.index,
                "text": show(said),
                "tokens": len(c.ids),
                "logprob": float(sum(c.logprobs)),
                "finish": c.finish,
                "ids": list(c.ids),
                "token_bytes": list(pieces),
                "special": special,
                "logprobs": list(c.logprobs),
            }
        )
    trace = orjson.dumps(ctx.subject.model_dump(mode="json")).decode()
    return {
        "samples": pa.Table.from_pylist(rows, schema=SAMPLES.schema()),
        "prompt": pa.table({"trace": [trace]}, schema=PROMPT.schema()),
    }


def group_from_samples(result: Result) -> Group:
    """The continuations of a ``generate`` result as a ``Group``; needs neither model nor torch.

    A continuation of a text that already had a response remembers it as its parent.
    """
    prompt = Trace.model_validate_json(result.table("prompt")["trace"][0].as_py())
    params = result.provenance["params"]
    model = result.provenance["models"]["model"]
    rollouts = []
    for row in result.table("samples").to_pylist():
        start, end = len(prompt), len(prompt) + row["tokens"]
        turns = list(prompt.turns)
        if end > start:
            if turns and turns[-1].role == "assistant":
                turns[-1] = turns[-1].evolve(end=end)
            else:
                turns.append(Turn(role="assistant", start=start, end=end))
        special = prompt.special + tuple(start + p for p, s in enumerate(row["special"]) if s)
        sampling = Sampling(
            model=model["name"],
            fingerprint=model["fingerprint"],
            index=row["index"],
            finish=row["finish"],
            logprobs=tuple(row["logprobs"]),
            **{k: params[k] for k in Sampling.model_fields.keys() & params.keys()},
        )
        branched = prompt.response_start < len(prompt)
        trace = Trace(
            ids=prompt.ids + tuple(row["ids"]),
            pieces=prompt.pieces + tuple(row["token_bytes"]),
            tokenizer=prompt.tokenizer,
            ids_origin="generated",
            response_start=prompt.response_start,
            turns=tuple(turns),
            special=special,
            added=prompt.added,
            exact=prompt.exact,
            sampling=sampling,
            parent=Parent(digest=prompt.digest, position=start) if branched else None,
            title=prompt.title,
        )
        rollouts.append(with_spans(trace))
    return Group(rollouts=tuple(rollouts), prompt_id=prompt.digest[:16], title=prompt.title)
