"""``tokenizer.vocabulary``: which ids can ever occur, what they are, and what is odd about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.pieces import show
from engine.registry import Params, analysis
from engine.schema import Progress, Tables
from engine.subjects import TokenizerRef
from engine.tokenizer import vocabularytables as tables
from engine.tokenizer.bigrams import bigrams
from engine.tokenizer.categories import Sort, sorts
from engine.tokenizer.certificates import Prover
from engine.tokenizer.reach import Verdict, verdicts
from engine.tokenizer.resolve import spec_of
from engine.tokenizer.spec import TokenizerSpec

PADDED = "The model has a row for this id, the tokenizer has no token."


class VocabularyParams(Params):
    """Settings of ``tokenizer.vocabulary``."""

    tries: int = Field(
        512,
        ge=0,
        le=10_000,
        title="Tries",
        description="Texts tried for an id that nothing forbids before it stays undecided.",
    )
    bigrams: int = Field(
        100, ge=0, le=10_000, title="Bigrams", description="Most improbable bigrams listed."
    )


@analysis(
    "tokenizer.vocabulary",
    version=1,
    subject=TokenizerRef,
    models=("model",),
    optional_models=("model",),
    params=VocabularyParams,
    tables={
        "ids": tables.IDS,
        "summary": tables.SUMMARY,
        "bigrams": tables.BIGRAMS,
        "scripts": tables.SCRIPTS,
        "duplicates": tables.DUPLICATES,
    },
    title="Which tokens of this vocabulary can ever occur?",
    cite=(
        "Land and Bartolo 2024, Fishing for Magikarp, arXiv 2405.05417, section 2.1",
        "Chelombitko et al. 2024, Qtok, arXiv 2410.12989, section 3 (classes of tokens)",
        "Jang, Kim, Kim and Oh 2024, Improbable bigrams, arXiv 2410.23684, section 3",
    ),
    caveats=(
        "An id that text cannot give may still be put in by a program, or be generated.",
        "Undecided means that neither a text nor a proof was found, not that there is none.",
        "Special tokens count as themselves when a text contains them, as in most programs.",
    ),
)
def vocabulary(ctx: Context) -> Iterator[Progress | Tables]:
    """A verdict with its proof on every id of a tokenizer.

    *Reachable: yes* comes with a text (the witness), which has been encoded and gives the id. *No*
    comes with a certificate: the bytes are part of no text; normalization changes them; the
    pre-tokenizer's rules, as an automaton over all characters, let them lie inside no piece; or
    the merges (scores) never make the token, because they do not make it of its own bytes alone.
    Everything else is *undecided*. Tokens that are parts of characters get a text with the
    character completed. With a model, rows of its embedding without a token are listed as padded.
    """
    yield Progress(None, "Reading the rules")
    spec = spec_of(ctx)
    prover = Prover.of(spec)
    for reason in prover.cuts.unread:
        ctx.note("ids", "reachable", f"Not used in proofs: {reason}.")
    found = yield from verdicts(spec, prover, ctx.params.tries)
    yield Progress(0.9, "Sorting the tokens")
    kinds = sorts(spec)
    rows = ctx.models["model"].vocab_size if ctx.models else spec.size
    padded = max(0, rows - spec.size)
    found += [Verdict("no", PADDED, "certificate")] * padded
    kinds += [Sort("padded", None, "whole")] * padded
    if not ctx.models:
        ctx.note("ids", "category", "No model was given: rows without a token are not known.")
    yield Progress(0.95, "Looking for improbable bigrams")
    yield Tables(
        ids=_ids(spec, kinds, found),
        summary=_summary(kinds, found),
        bigrams=_bigrams(ctx, spec, kinds),
        scripts=_scripts(kinds),
        duplicates=_duplicates(spec),
    )


def _ids(spec: TokenizerSpec, kinds: Sequence[Sort], found: Sequence[Verdict]) -> pa.Table:
    data = [piece.data for piece in spec.pieces]
    data += [b""] * (len(kinds) - spec.size)
    columns = {
        "token_id": range(len(kinds)),
        "token": [show(d) for d in data],
        "category": [k.category for k in kinds],
        "reachable": [v.reachable for v in found],
        "proof": [v.proof for v in found],
        "proof_kind": [v.kind for v in found],
        "script": [k.script for k in kinds],
        "utf8": [k.utf8 for k in kinds],
        "token_bytes": data,
    }
    types = {name: column.type for name, column in tables.IDS.columns.items()}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


def _summary(kinds: Sequence[Sort], found: Sequence[Verdict]) -> pa.Table:
    counts: list[tuple[str, str, int]] = [("all", "ids", len(kinds))]
    groups: dict[str, Counter[str]] = {
        "reachable": Counter(v.reachable for v in found),
        "category": Counter(k.category for k in kinds),
        "utf8": Counter(k.utf8 for k in kinds),
        "certificate": Counter(_short(v.proof) for v in found if v.kind == "certificate"),
    }
    for group, counter in groups.items():
        counts += [(group, name, count) for name, count in counter.most_common()]
    rows = [
        {"group": group, "name": name, "ids": count, "share": count / len(kinds)}
        for group, name, count in counts
    ]
    return pa.Table.from_pylist(rows, schema=tables.SUMMARY.schema())


def _short(proof: str) -> str:
    """A certificate without what it says of this one token."""
    return proof.split(":")[0].rstrip(".")


def _bigrams(ctx: Context, spec: TokenizerSpec, kinds: Sequence[Sort]) -> pa.Table:
    most = ctx.params.bigrams
    listed, more = bigrams(spec, kinds[: spec.size], most) if most else ([], False)
    if more:
        ctx.note("bigrams", None, f"Only the first {most:,} are listed.")
    rows = [
        {
            "text": pair.text,
            "first_id": pair.first,
            "second_id": pair.second,
            "first": spec.token(pair.first),
            "second": spec.token(pair.second),
            "first_script": pair.scripts[0],
            "second_script": pair.scripts[1],
        }
        for pair in listed
    ]
    return pa.Table.from_pylist(rows, schema=tables.BIGRAMS.schema())


def _scripts(kinds: Sequence[Sort]) -> pa.Table:
    counts = Counter(k.script for k in kinds if k.script is not None)
    total = sum(counts.values())
    rows = [
        {"script": script, "ids": count, "share": count / total}
        for script, count in counts.most_common()
    ]
    return pa.Table.from_pylist(rows, schema=tables.SCRIPTS.schema())


def _duplicates(spec: TokenizerSpec) -> pa.Table:
    listed = [i for i, p in enumerate(spec.pieces) if p.kind not in ("special", "unused")]
    counts = Counter([spec.pieces[i].data for i in listed])
    by_bytes: dict[bytes, list[int]] = {data: [] for data, count in counts.items() if count > 1}
    for i in listed if by_bytes else ():
        if spec.pieces[i].data in by_bytes:
            by_bytes[spec.pieces[i].data].append(i)
    rows = [
        {"token": show(data), "ids": ids, "raw": [spec.raw[i] for i in ids]}
        for data, ids in by_bytes.items()
    ]
    return pa.Table.from_pylist(rows, schema=tables.DUPLICATES.schema())
