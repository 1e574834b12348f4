"""``tokenizer.premium``: how many more tokens one language pays than another for the same text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Corpus, TokenizerRef
from engine.tokenizer.corpus import tokenizer_of
from engine.tokenizer.spec import TokenizerSpec

MOST_UNKNOWN = 0.1
"""Languages with a larger share of unknown tokens get no premium (Petrov et al. 2023)."""
LEVELS = (0.025, 0.975)

_I, _F, _S = pa.int64(), pa.float64(), pa.string()


class PremiumParams(Params):
    """Settings of ``tokenizer.premium``."""

    languages: tuple[str, ...] = Field(
        (),
        title="Languages",
        description="Names of the languages: the documents are all sentences of the first, then "
        "those of the second in the same order, and so on.",
    )
    tokenizer: TokenizerRef | None = Field(
        None, title="Tokenizer", description="Whose tokens; the model's if there is a model."
    )
    resamples: int = Field(
        2000, ge=100, le=100_000, title="Resamples", description="Bootstrap draws of sentences."
    )
    seed: int = Field(0, ge=0, lt=2**31, title="Seed", description="Of the bootstrap.")


PREMIUM = Table(
    {
        "language": Column(_S, "The language."),
        "reference": Column(_S, "The language it is compared with."),
        "premium": Column(_F, "Its tokens over those of the reference, all sentences together.",
                          "ratio"),
        "low": Column(_F, "Lower end of the 95 % interval.", "ratio"),
        "high": Column(_F, "Upper end of the 95 % interval.", "ratio"),
        "byte_premium": Column(_F, "The same ratio of UTF-8 bytes.", "ratio"),
        "sentences": Column(_I, "How many parallel sentences."),
    },
    doc="One row for each ordered pair of languages.",
)  # fmt: skip
LANGUAGES = Table(
    {
        "language": Column(_S, "The language."),
        "tokens": Column(_I, "Tokens of its sentences.", "tokens"),
        "bytes": Column(_I, "Bytes of its sentences.", "bytes"),
        "characters": Column(_I, "Characters of its sentences.", "characters"),
        "tokens_per_byte": Column(_F, "Tokens per byte."),
        "tokens_per_character": Column(_F, "Tokens per character."),
        "unknown_share": Column(_F, "Share of tokens that are unknown.", "share"),
    },
    doc="One row for each language.",
)


@analysis(
    "tokenizer.premium",
    version=1,
    subject=Corpus,
    models=("model",),
    optional_models=("model",),
    params=PremiumParams,
    tables={"premium": PREMIUM, "languages": LANGUAGES},
    title="How much more does a language cost in this tokenizer?",
    cite=(
        (
            "Petrov et al. 2023, Language model tokenizers introduce unfairness between languages, "
            "arXiv 2305.15425, section 3"
        ),
        "Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13",
    ),
    caveats=(
        "The texts must say the same: a premium of texts that are no translations means nothing.",
        "Intervals say how sure it is over sentences like these, not over other kinds of text.",
    ),
)
def premium(ctx: Context) -> Iterator[Progress | Tables]:
    """Ratio of sums of tokens over parallel sentences, without special tokens.

    premium(a, b) · premium(b, a) = 1. Intervals resample sentences, the same for both languages.
    """
    yield Progress(None, "Encoding the sentences")
    spec = tokenizer_of(ctx)
    sides = _sides(ctx, spec)
    rows: list[dict[str, Any]] = []
    pairs = list(itertools.permutations(sides, 2))
    for number, (side, reference) in enumerate(pairs):
        yield Progress(number / len(pairs), f"{side.name} against {reference.name}")
        rows.append(_row(ctx, side, reference))
    yield Tables(
        premium=pa.Table.from_pylist(rows, schema=PREMIUM.schema()),
        languages=pa.Table.from_pylist([s.row() for s in sides], schema=LANGUAGES.schema()),
    )


@dataclass(frozen=True, slots=True)
class _Side:
    name: str
    tokens: npt.NDArray[np.int64]
    bytes: int
    characters: int
    unknown: int

    @property
    def unknown_share(self) -> float:
        return self.unknown / max(1, int(self.tokens.sum()))

    def row(self) -> dict[str, Any]:
        tokens = int(self.tokens.sum())
        return {
            "language": self.name,
            "tokens": tokens,
            "bytes": self.bytes,
            "characters": self.characters,
            "tokens_per_byte": tokens / self.bytes if self.bytes else None,
            "tokens_per_character": tokens / self.characters if self.characters else None,
            "unknown_share": self.unknown_share,
        }


def _sides(ctx: Context, spec: TokenizerSpec) -> list[_Side]:
    names: Sequence[str] = ctx.params.languages
    documents: Sequence[str] = ctx.subject.documents
    if len(names) < 2 or len(set(names)) != len(names):
        raise UserError("Name two or more different languages, as languages=en,de.")
    each, rest = divmod(len(documents), len(names))
    if rest or not each:
        raise UserError(
            f"{len(documents):,} documents cannot be shared by {len(names)} languages: give as "
            "many sentences in each, all of the first language first."
        )
    sides: list[_Side] = []
    for number, name in enumerate(names):
        texts = documents[number * each : (number + 1) * each]
        rows = spec.encode_ids(texts)
        sides.append(
            _Side(
                name,
                np.array([len(row) for row in rows], np.int64),
                sum(len(text.encode()) for text in texts),
                sum(map(len, texts)),
                sum(row.count(spec.unknown) for row in rows) if spec.unknown is not None else 0,
            )
        )
    return sides


def _row(ctx: Context, side: _Side, reference: _Side) -> dict[str, Any]:
    row: dict[str, Any] = {
        "language": side.name,
        "reference": reference.name,
        "premium": None,
        "low": None,
        "high": None,
        "byte_premium": side.bytes / reference.bytes if reference.bytes else None,
        "sentences": len(side.tokens),
    }
    for one in (side, reference):
        if one.unknown_share > MOST_UNKNOWN:
            reason = (
                f"{one.unknown_share:.0%} of the tokens of {one.name} are unknown, more than "
                f"{MOST_UNKNOWN:.0%}: a premium would say nothing."
            )
            ctx.note("premium", "premium", reason)
            return row
    if not reference.tokens.sum():
        ctx.note("premium", "premium", f"{reference.name} has no tokens.")
        return row
    row["premium"] = float(side.tokens.sum() / reference.tokens.sum())
    if len(side.tokens) < 2:
        ctx.note("premium", "low", "One sentence gives no interval.")
        return row
    row["low"], row["high"] = interval(
        side.tokens, reference.tokens, ctx.params.resamples, ctx.params.seed
    )
    return row


def interval(
    tokens: npt.NDArray[np.int64], reference: npt.NDArray[np.int64], resamples: int, seed: int
) -> tuple[float, float] | tuple[None, None]:
    """95 % percentile interval of the ratio of sums, sentences drawn with replacement."""
    rng = np.random.default_rng(seed)
    ratios: list[npt.NDArray[np.float64]] = []
    step = max(1, 4_000_000 // len(tokens))
    for start in range(0, resamples, step):
        size = (min(step, resamples - start), len(tokens))
        drawn = rng.integers(0, len(tokens), size)
        below = reference[drawn].sum(axis=1)
        above = tokens[drawn].sum(axis=1)
        ratios.append(above[below > 0] / below[below > 0])
    joined = np.concatenate(ratios)
    if not len(joined):
        return None, None
    low, high = np.quantile(joined, LEVELS)
    return float(low), float(high)
