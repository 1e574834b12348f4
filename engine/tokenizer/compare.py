"""``tokenizer.compare``: two to four tokenizers on the same texts, and where they differ."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import regex  # type: ignore[import-untyped]
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Corpus, Text, TokenizerRef
from engine.tokenizer.corpus import tokenizer_of
from engine.tokenizer.counting import Reader, texts_of
from engine.tokenizer.resolve import load
from engine.tokenizer.spec import TokenizerSpec

_I, _F, _S = pa.int64(), pa.float64(), pa.string()
_WORD = regex.compile(r" ?\S+|\s+")
_STEP = 20_000
MOST_BYTES = 1_000_000
"""Bytes of text in which disagreeing spans are listed."""


class CompareParams(Params):
    """Settings of ``tokenizer.compare``."""

    others: tuple[TokenizerRef, ...] = Field(
        (), max_length=3, title="Others", description="Tokenizers to compare with, one to three."
    )
    tokenizer: TokenizerRef | None = Field(
        None, title="Tokenizer", description="The first one; the text's or model's if not given."
    )
    words: int = Field(500, ge=0, le=100_000, title="Words", description="Most words listed.")
    spans: int = Field(5_000, ge=0, le=1_000_000, title="Spans", description="Most spans listed.")


SUMMARY = Table(
    {
        "tokenizer": Column(_S, "Its name."),
        "digest": Column(_S, "Digest of its content."),
        "vocabulary": Column(_I, "Its ids.", "ids"),
        "tokens": Column(_I, "Tokens of all texts.", "tokens"),
        "bytes_per_token": Column(_F, "Compression.", "bytes"),
        "fertility": Column(_F, "Tokens per word.", "tokens"),
        "ids_used": Column(_I, "Ids that occur.", "ids"),
        "against_first": Column(_F, "Tokens over those of the first tokenizer.", "ratio"),
    },
    doc="One row for each tokenizer, the first one first.",
)
IMPACT = Table(
    {
        "tokenizer": Column(_S, "The other tokenizer."),
        "word": Column(_S, "A word, with the space before it if there is one."),
        "count": Column(_I, "How often it occurs."),
        "first_tokens": Column(_I, "Its tokens in the first tokenizer.", "tokens"),
        "other_tokens": Column(_I, "Its tokens in the other.", "tokens"),
        "impact": Column(_I, "Tokens the other needs more in all; negative for fewer.", "tokens"),
    },
    doc="Words on which they differ, the largest impact on this corpus first.",
)
SPANS = Table(
    {
        "tokenizer": Column(_S, "The other tokenizer."),
        "document": Column(_I, "Number of the document, from 0."),
        "start_byte": Column(_I, "First byte in the document.", "bytes"),
        "end_byte": Column(_I, "Byte after the last one.", "bytes"),
        "text": Column(_S, "The text."),
        "first": Column(pa.list_(_S), "Tokens of the first tokenizer."),
        "other": Column(pa.list_(_S), "Tokens of the other."),
    },
    doc="Stretches between two places where both cut, inside of which they cut differently.",
)


@analysis(
    "tokenizer.compare",
    version=1,
    subject=(Corpus, Text),
    models=("model",),
    optional_models=("model",),
    params=CompareParams,
    tables={"summary": SUMMARY, "impact": IMPACT, "spans": SPANS},
    title="Where do these tokenizers cut the same texts differently?",
    cite=("Rust et al. 2021, How good is your tokenizer?, arXiv 2012.15613, section 4",),
    caveats=(
        (
            "Words in the table of impacts are cut at white space and encoded alone: their sum is "
            "near the difference of the totals, not equal to it."
        ),
    ),
)
def compare(ctx: Context) -> Iterator[Progress | Tables]:
    """Totals of each tokenizer, words by their impact, and disagreeing spans."""
    yield Progress(None, "Reading the texts")
    if not ctx.params.others:
        raise UserError("There is nothing to compare with: name another tokenizer as others.")
    specs = [tokenizer_of(ctx), *(load(ref) for ref in ctx.params.others)]
    texts = list(texts_of(ctx.subject))
    if not texts:
        raise UserError("There is no text: type one, or give documents.")
    readers = [Reader(spec) for spec in specs]
    seen: Counter[str] = Counter()
    for number, text in enumerate(texts):
        for reader in readers:
            reader.read(text)
        seen.update(_WORD.findall(text))
        if number % 200 == 0:
            yield Progress(0.6 * number / len(texts), f"Document {number:,} of {len(texts):,}")
    for reader in readers:
        reader.flush()
    yield Progress(0.6, "Comparing words")
    impact: list[dict[str, Any]] = []
    for spec in specs[1:]:
        impact += _impact(ctx, specs[0], spec, seen)
    yield Progress(0.9, "Comparing spans")
    yield Tables(
        summary=_table(SUMMARY, _summary(readers)),
        impact=_table(IMPACT, impact),
        spans=_table(SPANS, list(_spans(ctx, specs, texts))),
    )


def _table(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=table.schema())


def _summary(readers: Sequence[Reader]) -> list[dict[str, Any]]:
    first = readers[0].counts.tokens
    rows: list[dict[str, Any]] = []
    for reader in readers:
        counts = reader.counts
        rows.append(
            {
                "tokenizer": reader.spec.name,
                "digest": reader.spec.digest,
                "vocabulary": reader.spec.size,
                "tokens": counts.tokens,
                "bytes_per_token": counts.bytes / counts.tokens if counts.tokens else None,
                "fertility": counts.tokens / counts.words if counts.words else None,
                "ids_used": int((counts.ids > 0).sum()),
                "against_first": counts.tokens / first if first else None,
            }
        )
    return rows


def _impact(
    ctx: Context, first: TokenizerSpec, other: TokenizerSpec, seen: Counter[str]
) -> list[dict[str, Any]]:
    words = list(seen)
    found: list[tuple[int, str, int, int]] = []
    for start in range(0, len(words), _STEP):
        part = words[start : start + _STEP]
        rows = zip(part, first.encode_ids(part), other.encode_ids(part), strict=True)
        for word, a, b in rows:
            if len(a) != len(b):
                found.append(((len(b) - len(a)) * seen[word], word, len(a), len(b)))
    found.sort(key=lambda row: (-abs(row[0]), row[1]))
    most = ctx.params.words
    if len(found) > most:
        ctx.note("impact", None, f"Only the {most:,} words of the largest impact are listed.")
    return [
        {
            "tokenizer": other.name,
            "word": word,
            "count": seen[word],
            "first_tokens": a,
            "other_tokens": b,
            "impact": impact,
        }
        for impact, word, a, b in found[:most]
    ]


def _spans(
    ctx: Context, specs: Sequence[TokenizerSpec], texts: Sequence[str]
) -> Iterator[dict[str, Any]]:
    listed = read = 0
    for number, text in enumerate(texts):
        read += len(text.encode())
        if read > MOST_BYTES:
            ctx.note("spans", None, f"Only the first {MOST_BYTES:,} bytes are looked at.")
            return
        for other in specs[1:]:
            for start, end, first, second in disagreements(specs[0], other, text):
                if listed == ctx.params.spans:
                    ctx.note("spans", None, f"Only the first {listed:,} spans are listed.")
                    return
                listed += 1
                yield {
                    "tokenizer": other.name,
                    "document": number,
                    "start_byte": start,
                    "end_byte": end,
                    "text": text.encode()[start:end].decode(errors="backslashreplace"),
                    "first": [specs[0].token(i) for i in first],
                    "other": [other.token(i) for i in second],
                }


Span = tuple[int, int, tuple[int, ...], tuple[int, ...]]
"""First byte, byte after the last one, ids of both tokenizers."""


def disagreements(first: TokenizerSpec, other: TokenizerSpec, text: str) -> Iterator[Span]:
    """Maximal stretches between common cuts in which one of the two cuts and the other does not."""
    cut = [spec.encode(text) for spec in (first, other)]
    ends = [sorted({0, *(end for _, end in e.bounds)}) for e in cut]
    common = sorted(set(ends[0]) & set(ends[1]) | {0, len(text.encode())})
    places = [0, 0]
    for start, end in itertools.pairwise(common):
        held: list[tuple[int, ...]] = []
        for which, encoded in enumerate(cut):
            begin = places[which]
            at = begin
            while at < len(encoded) and encoded.bounds[at][1] <= end:
                at += 1
            held.append(encoded.ids[begin:at])
            places[which] = at
        inside = [any(start < e < end for e in own) for own in ends]
        if any(inside) or len(held[0]) != len(held[1]):
            yield start, end, held[0], held[1]
