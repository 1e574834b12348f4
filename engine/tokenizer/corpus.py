"""``tokenizer.corpus``: what a tokenizer makes of my texts, and which of its ids they use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.pieces import show
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Corpus, Text, TokenizerRef
from engine.tokenizer.corpusfindings import Findings
from engine.tokenizer.counting import Counts, Reader, texts_of
from engine.tokenizer.loading import load_spec
from engine.tokenizer.resolve import load, spec_of
from engine.tokenizer.saving import Saved, savings
from engine.tokenizer.spec import TokenizerSpec

_I, _F, _S = pa.int64(), pa.float64(), pa.string()


class CorpusParams(Params):
    """Settings of ``tokenizer.corpus``."""

    tokenizer: TokenizerRef | None = Field(
        None, title="Tokenizer", description="Whose tokens; the model's if there is a model."
    )
    add: tuple[str, ...] = Field(
        (),
        max_length=20,
        title="Add",
        description="Strings that might become tokens: what would they save?",
    )


SUMMARY = Table(
    {
        "measure": Column(_S, "What is measured."),
        "value": Column(_F, "Its value."),
        "unit": Column(_S, "Its unit."),
    },
    doc="The corpus in numbers.",
)
USAGE = Table(
    {
        "token_id": Column(_I, "The id."),
        "token": Column(_S, "Its text; bytes that are no UTF-8 as \\xNN."),
        "count": Column(_I, "How often the corpus has it."),
        "share": Column(_F, "Its share of all tokens.", "share"),
    },
    doc="Use of each id in the corpus, unused ones included.",
)
FINDINGS = Table(
    {
        "finding": Column(_S, "What was found in pre-tokens."),
        "detail": Column(_S, "Which kind of it."),
        "occurrences": Column(_I, "How often."),
        "tokens": Column(_I, "Tokens spent on it; null where only the text shows it.", "tokens"),
        "example": Column(_S, "The most frequent one."),
    },
    doc="Detectors over the different pre-tokens, weighted by how often each occurs.",
)
WORDS = Table(
    {
        "text": Column(_S, "A pre-token."),
        "count": Column(_I, "How often it occurs."),
        "tokens": Column(_I, "How many tokens it has.", "tokens"),
        "above_one": Column(_I, "What it costs above one token each, in all.", "tokens"),
    },
    doc="Pre-tokens that cost most.",
)
ADDED = Table(
    {
        "token": Column(_S, "The string that might be added; null for all together."),
        "documents": Column(_I, "Documents that contain it."),
        "occurrences": Column(_I, "How often they contain it."),
        "saved": Column(_I, "Fewer tokens with it; negative when it costs some.", "tokens"),
        "share": Column(_F, "Share of the corpus's tokens that is saved.", "share"),
    },
    doc="What adding tokens would save; measured by encoding with them.",
)


def tokenizer_of(ctx: Context) -> TokenizerSpec:
    """The tokenizer of a corpus: the param's, the text's, or the model's.

    Raises:
        UserError: when there is none.
    """
    ref = ctx.params.tokenizer
    if ref is not None:
        return load(ref)
    if isinstance(ctx.subject, Text):
        return spec_of(ctx)
    model = next(iter(ctx.plan.models.values()), None)
    if model is None:
        raise UserError(f"{ctx.plan.analysis.name} needs a tokenizer: set tokenizer, or a model.")
    return load_spec(model.located.tokenizer_path)


@analysis(
    "tokenizer.corpus",
    version=1,
    subject=(Corpus, Text),
    models=("model",),
    optional_models=("model",),
    params=CorpusParams,
    tables={
        "summary": SUMMARY,
        "usage": USAGE,
        "findings": FINDINGS,
        "words": WORDS,
        "added": ADDED,
    },
    title="What does this tokenizer make of my texts?",
    cite=(
        "Rust et al. 2021, How good is your tokenizer?, arXiv 2012.15613, section 4 (fertility)",
        "Petrov et al. 2023, Language model tokenizers introduce unfairness, arXiv 2305.15425",
    ),
    caveats=(
        "Words are stretches without white space: fertility means little where none is written.",
        "Special tokens written in the texts are read as text; nothing is put around documents.",
    ),
)
def corpus(ctx: Context) -> Iterator[Progress | Tables]:
    """Compression (bytes per token), fertility (tokens per word) and the use of each id.

    Each document is split into pre-tokens once; ids and detectors are then worked out once for
    each different pre-token and weighted by its count, which gives the same numbers as encoding
    everything.
    """
    yield Progress(None, "Reading the texts")
    spec = tokenizer_of(ctx)
    findings = Findings(spec)
    reader = Reader(spec, (findings,))
    texts = list(texts_of(ctx.subject))
    if not texts:
        raise UserError("There is no text: type one, or give documents.")
    total, done = sum(map(len, texts)), 0
    told = 0
    for text in texts:
        reader.read(text)
        findings.document(text)
        done += len(text)
        if done - told > 500_000:
            told = done
            yield Progress(0.9 * done / total, f"{done:,} of {total:,} characters")
    reader.flush()
    if getattr(spec.backend, "_library", None) is None:
        ctx.note("findings", None, "SentencePiece cuts nothing before the model: no detectors.")
    saved: list[Saved] = []
    if ctx.params.add:
        yield from savings(spec, texts, [token for token in ctx.params.add if token], saved)
    counts = reader.counts
    yield Tables(
        summary=_summary(spec, counts),
        usage=_usage(spec, counts),
        findings=_table(FINDINGS, findings.rows()),
        words=_table(WORDS, findings.words()),
        added=_table(ADDED, [_added(row, counts.tokens) for row in saved]),
    )


def _table(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=table.schema())


def _summary(spec: TokenizerSpec, counts: Counts) -> pa.Table:
    tokens, used = counts.tokens, int((counts.ids > 0).sum())
    unknown = int(counts.ids[spec.unknown]) if spec.unknown is not None else 0
    rows: list[tuple[str, float | None, str]] = [
        ("documents", counts.documents, ""),
        ("bytes", counts.bytes, "bytes"),
        ("characters", counts.characters, "characters"),
        ("words", counts.words, "words"),
        ("tokens", tokens, "tokens"),
        ("different_pretokens", counts.forms, ""),
        ("bytes_per_token", _over(counts.bytes, tokens), "bytes"),
        ("characters_per_token", _over(counts.characters, tokens), "characters"),
        ("fertility", _over(tokens, counts.words), "tokens per word"),
        ("ids_used", used, "ids"),
        ("vocabulary_used", _over(used, spec.size), "share"),
        ("unknown_share", _over(unknown, tokens), "share"),
    ]
    return _table(SUMMARY, [dict(zip(SUMMARY.columns, row, strict=True)) for row in rows])


def _over(value: float, by: float) -> float | None:
    return value / by if by else None


def _usage(spec: TokenizerSpec, counts: Counts) -> pa.Table:
    total = max(1, counts.tokens)
    return pa.table(
        {
            "token_id": pa.array(np.arange(spec.size), _I),
            "token": pa.array([show(piece.data) for piece in spec.pieces], _S),
            "count": pa.array(counts.ids, _I),
            "share": pa.array(counts.ids / total, _F),
        }
    )


def _added(row: Saved, tokens: int) -> dict[str, Any]:
    return {
        "token": row.token,
        "documents": row.documents,
        "occurrences": row.occurrences,
        "saved": row.tokens,
        "share": _over(row.tokens, tokens),
    }
