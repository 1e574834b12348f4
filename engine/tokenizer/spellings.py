"""``tokenizer.spellings``: how many token sequences stand for one string, and which."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from engine.context import Context
from engine.limits.caps import DRAWS as COST
from engine.registry import Params, analysis
from engine.schema import Progress, Tables
from engine.subjects import Text
from engine.tokenizer import spellingtables as tables
from engine.tokenizer.spelled import spelled
from engine.tokenizer.spellingdraws import drawn, share
from engine.tokenizer.spellingwork import Made


class SpellingsParams(Params):
    """Settings of ``tokenizer.spellings``."""

    part: Literal["text", "words"] = Field(
        "text", title="Of", description="The whole text, or each different word of it."
    )
    k: int = Field(10, ge=0, le=1000, title="Best", description="How many spellings to list.")
    order: Literal["length", "score", "probability"] = Field(
        "length",
        title="Best by",
        description="Fewest tokens, the tokenizer's own scores, or the model's probability.",
    )
    drawn: int = Field(
        1000, ge=0, le=100_000, title="Random", description="Random spellings drawn; 0 for none."
    )
    dropout: float = Field(
        0.1, ge=0, le=1, title="Dropout", description="Probability of leaving a merge out."
    )
    proportion: float = Field(
        0.1, ge=0, le=10, title="Splits", description="StochasTok's splits for each token."
    )
    samples: int = Field(
        64,
        ge=0,
        le=100_000,
        title="Samples",
        description="Spellings drawn to estimate the canonical share; 0 for none.",
        json_schema_extra=COST,
    )
    seed: int = Field(0, ge=0, lt=2**31, title="Seed", description="Of all draws.")


@analysis(
    "tokenizer.spellings",
    version=1,
    subject=Text,
    models=("model",),
    optional_models=("model",),
    params=SpellingsParams,
    tables={
        "spellings": tables.SPELLINGS,
        "best": tables.BEST,
        "draws": tables.DRAWS,
        "share": tables.SHARE,
        "lattice": tables.LATTICE,
    },
    title="In how many ways can this text be written in tokens?",
    cite=(
        "Cao and Rimell 2021, Marginal likelihood over tokenisations, EMNLP",
        "Geh et al. 2024, Where is the signal in tokenization space?, arXiv 2408.08541",
        "Provilkov, Emelianenko and Voita 2020, BPE-dropout, arXiv 1910.13267, algorithm 1",
        "Sims, Foster, Kaleb, Nguyen, Lee, Foerster and Teh 2025, StochasTok, arXiv 2506.01687",
    ),
    caveats=(
        "Another spelling is a risk, not an error: models often read them well (arXiv 2506.19004).",
        "Special tokens are left out; special tokens written in the text are read as text.",
        "Spelled are the bytes that the canonical tokens stand for, which may not be the text's.",
    ),
)
def spellings(ctx: Context) -> Iterator[Progress | Tables]:
    """All token sequences that spell a text: their number, the best ones, and random ones.

    With N(s) the number of id sequences whose bytes join to s: N is a sum over the ways through
    the lattice of matching tokens, ``c[e] = Σ c[s]`` over tokens that span s to e; exact up to
    4,096 bytes, its logarithm beyond. ``best`` lists the k shortest spellings (or those of the
    best scores, or of the highest probability under the model) and the canonical one. ``draws``
    are spellings as BPE-dropout and StochasTok draw them. With a model, ``share`` says how much
    of the string's probability, summed over all spellings, the canonical one holds. A response is
    spelled after the prompt; without a response the prompt is what is spelled. Up to 4,096
    spellings are all read; of more, the shortest are, and the rest is estimated by importance
    sampling.
    """
    yield Progress(None, "Cutting the text")
    made = Made(ctx, spelled(ctx))
    _say(made)
    yield from made.counts()
    yield Tables(made.tables())
    if ctx.params.part == "text":
        made.lattice()
        yield from made.best(made.text.data, made.text.ids, 0)
        yield Tables(made.tables())
        yield from drawn(made)
        yield from share(made)
    yield Tables(made.tables())


def _say(made: Made) -> None:
    ctx, text = made.ctx, made.text
    if not text.known:
        ctx.note(
            "spellings",
            "canonical_length",
            f"{text.spec.name} cannot spell all of the text: some of it becomes its unknown token.",
        )
    elif text.changed:
        ctx.note(
            "spellings",
            "text",
            f"{text.spec.name} changes the text: what is spelled are the "
            f"{len(text.data):,} bytes its tokens stand for, not the {len(text.text.encode()):,} "
            "that were typed.",
        )
