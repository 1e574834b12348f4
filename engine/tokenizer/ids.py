"""``tokenizer.ids``: are these ids what the tokenizer gives for their text, and where not?"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Text, TokenizerRef, Trace
from engine.tokenizer.artifacts import artifacts, region_class
from engine.tokenizer.canonical import Region, canonical, edits, ends_of, regions
from engine.tokenizer.resolve import spec_of
from engine.tokenizer.scoring import logprobs
from engine.tokenizer.spec import TokenizerSpec

MOST_IDS = 200_000
MOST_SCORED = 32
"""Regions whose own effect on the log-probability is computed."""


class IdsParams(Params):
    """Settings of ``tokenizer.ids``."""

    ids: tuple[int, ...] | None = Field(
        None,
        max_length=MOST_IDS,
        title="Ids",
        description="The ids to look at; of a trace, its own.",
    )
    other: tuple[int, ...] | None = Field(
        None,
        max_length=MOST_IDS,
        title="Other ids",
        description="Compared with these (the source of an edit) instead of the canonical ids.",
    )
    tokenizer: TokenizerRef | None = Field(
        None, title="Tokenizer", description="Whose ids a trace holds, when no model says so."
    )


_I, _F, _S, _B = pa.int64(), pa.float64(), pa.string(), pa.bool_()

REGIONS = Table(
    {
        "start_byte": Column(_I, "First byte, in what the given ids stand for.", "bytes"),
        "end_byte": Column(_I, "Byte after the last one.", "bytes"),
        "given": Column(pa.list_(_S), "The given tokens; bytes that are no UTF-8 as \\xNN."),
        "canonical": Column(pa.list_(_S), "What the tokenizer gives (or the other ids are)."),
        "artifact": Column(_S, "Type of 'Say Anything but This', by our rules; the primary one."),
        "artifacts": Column(pa.list_(_S), "All of its types that apply."),
        "region_class": Column(_S, "Our class: what the differing boundaries lie between."),
        "relation": Column(_S, "The given cutting is finer, coarser, shifted, or the same."),
        "crosses_cut": Column(_B, "Whether a given token spans a cut of the pre-tokenizer."),
        "start": Column(_I, "Position of the first given token."),
        "end": Column(_I, "Position after the last one."),
        "given_ids": Column(pa.list_(_I), "The given ids."),
        "canonical_ids": Column(pa.list_(_I), "The canonical (or other) ids."),
        "delta_logprob": Column(
            _F, "What the canonical tokens here alone would add to the log-probability.", "nats"
        ),
    },
    doc="One row for each stretch between two common boundaries where the ids differ.",
)

SUMMARY = Table(
    {
        "canonical": Column(_B, "Whether the given ids are those they are compared with."),
        "regions": Column(_I, "Stretches that differ, the text being the same."),
        "replaced": Column(_I, "Stretches whose text differs (only against other ids)."),
        "given_tokens": Column(_I, "How many ids were given.", "tokens"),
        "canonical_tokens": Column(_I, "How many the tokenizer gives (or the other list has).",
                                   "tokens"),
        "bytes": Column(_I, "Bytes the given ids stand for.", "bytes"),
        "given_logprob": Column(_F, "Log-probability of the given ids after the first.", "nats"),
        "canonical_logprob": Column(_F, "The same of the canonical ids.", "nats"),
        "delta_logprob": Column(_F, "Canonical less given: what retokenizing would change.",
                                "nats"),
    },
    doc="One row.",
)  # fmt: skip


@analysis(
    "tokenizer.ids",
    version=1,
    subject=(Trace, Text, TokenizerRef),
    models=("model",),
    optional_models=("model",),
    params=IdsParams,
    tables={"regions": REGIONS, "summary": SUMMARY},
    title="Are these ids what the tokenizer would give for their text?",
    cite=(
        "Ayoobi, Armstrong and Mukherjee 2026, Say Anything but This, arXiv 2601.14658",
        "vLLM 2025, No more retokenization drift (blog, 22 October)",
    ),
    caveats=(
        "The paper gives its eight types by example; the rules that tell them apart are ours.",
        "Ids that are not canonical are a risk, not an error: read the change in log-probability.",
        "Text between special tokens, and prompt and response, are encoded on their own.",
    ),
)
def ids(ctx: Context) -> Iterator[Progress | Tables]:
    """Encode the text of some ids again, E(D(ids)), and show where the result differs.

    A region is a stretch between two byte boundaries that both cuttings have, in which their
    tokens differ. With ``other`` the ids are compared with that list instead: a region where
    both spell the same (white space apart) is a phantom edit. With a model, the log-probabilities
    of both lists are compared, and those of the first regions one by one.
    """
    yield Progress(None, "Encoding the text again")
    compared = _compared(ctx)
    rows = _rows(ctx, compared)
    summary = _summary(compared)
    yield Tables(_tables(rows, summary))
    if ctx.models:
        yield from _score(ctx, compared, rows, summary)
    else:
        ctx.note("summary", "delta_logprob", "No model was given.")
    yield Tables(_tables(rows, summary))


@dataclass(frozen=True, slots=True)
class _Compared:
    spec: TokenizerSpec
    given: tuple[int, ...]
    other: tuple[int, ...]
    found: tuple[Region, ...]
    replaced: int


def _compared(ctx: Context) -> _Compared:
    spec = spec_of(ctx)
    given, cuts = _given(ctx, spec)
    spec.check_ids(given)
    if ctx.params.other is not None:
        other = tuple(ctx.params.other)
        spec.check_ids(other)
        found, replaced = edits(spec, given, other)
        return _Compared(spec, given, other, tuple(found), replaced)
    again = canonical(spec, given, cuts)
    for first, last in again.broken:
        reason = f"Tokens {first} to {last - 1} end inside a character: no text gives them."
        ctx.note("regions", "canonical", reason, position=first)
    places = ends_of(spec, given)
    listed = regions(spec, given, again.ids, again.ends)
    listed += [
        Region(places[first - 1] if first else 0, places[last - 1], (first, last), (0, 0))
        for first, last in again.broken
    ]
    listed.sort(key=lambda region: region.given)
    return _Compared(spec, given, again.ids, tuple(listed), 0)


def _given(ctx: Context, spec: TokenizerSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids to look at, and where stretches were encoded on their own."""
    subject, params = ctx.subject, ctx.params
    if isinstance(subject, Trace):
        if subject.tokenizer is not None and subject.tokenizer != spec.digest:
            raise UserError(
                f"These ids belong to another tokenizer than {spec.name}: choose the one they "
                "came from."
            )
        if not subject.has_ids:
            raise UserError("The log gives no token ids: there is nothing to compare.")
        if params.ids is None:
            return subject.ids, (subject.response_start,)
    if params.ids is None:
        raise UserError("There are no ids: give them as ids, for example ids=[1, 2, 3].")
    if isinstance(subject, Text) and (subject.prompt or subject.response):
        text = (subject.prompt + subject.response).encode("utf-8", "surrogatepass")
        if spec.text_bytes(params.ids) != text:
            ctx.note("summary", None, "The ids do not spell the text: they are taken as they are.")
    return params.ids, ()


def _rows(ctx: Context, compared: _Compared) -> list[dict[str, Any]]:
    spec, given = compared.spec, compared.given
    data = spec.decode_bytes(given)
    ends = [0, *ends_of(spec, given)]
    cuts = _cuts(spec, data) if compared.found else []
    rows: list[dict[str, Any]] = []
    for region in compared.found:
        mine = given[slice(*region.given)]
        theirs = compared.other[slice(*region.other)]
        broken = not theirs and bool(mine)
        crosses = any(
            bisect_right(cuts, ends[at]) < bisect_right(cuts, ends[at + 1] - 1)
            for at in range(*region.given)
        )
        ahead = data[max(0, region.start - 64) : region.start].decode("utf-8", "ignore")
        kinds = () if broken else artifacts(spec, _bytes(spec, theirs), _bytes(spec, mine), ahead)
        name, relation = region_class(spec, mine, mine if broken else theirs, crosses)
        if broken:
            # No canonical spelling exists: the tokens end inside a character.
            name, relation = "character split", "same"
        rows.append(
            {
                "start_byte": region.start,
                "end_byte": region.end,
                "given": [spec.token(i) for i in mine],
                "canonical": None if broken else [spec.token(i) for i in theirs],
                "artifact": kinds[0] if kinds else None,
                "artifacts": list(kinds),
                "region_class": name,
                "relation": relation,
                "crosses_cut": crosses,
                "start": region.given[0],
                "end": region.given[1],
                "given_ids": list(mine),
                "canonical_ids": None if broken else list(theirs),
                "delta_logprob": None,
            }
        )
    return rows


def _bytes(spec: TokenizerSpec, ids: Sequence[int]) -> list[bytes]:
    return [spec.pieces[i].data for i in ids]


def _cuts(spec: TokenizerSpec, data: bytes) -> list[int]:
    """Bytes at which the pre-tokenizer cuts the whole text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return []
    return sorted({cut.start for cut in spec.pretokens(text, "parse")} - {0})


def _summary(compared: _Compared) -> dict[str, Any]:
    return {
        "canonical": compared.given == compared.other and not compared.found,
        "regions": len(compared.found),
        "replaced": compared.replaced,
        "given_tokens": len(compared.given),
        "canonical_tokens": len(compared.other),
        "bytes": len(compared.spec.decode_bytes(compared.given)),
        "given_logprob": None,
        "canonical_logprob": None,
        "delta_logprob": None,
    }


def _tables(rows: list[dict[str, Any]], summary: dict[str, Any]) -> dict[str, pa.Table]:
    return {
        "regions": pa.Table.from_pylist(rows, schema=REGIONS.schema()),
        "summary": pa.Table.from_pylist([summary], schema=SUMMARY.schema()),
    }


def _score(
    ctx: Context, compared: _Compared, rows: list[dict[str, Any]], summary: dict[str, Any]
) -> Generator[Progress, None, None]:
    """Log-probabilities of both lists, and of the given one with one region made canonical."""
    given, other = compared.given, compared.other
    if len(given) < 2 or len(other) < 2 or given[0] != other[0]:
        reason = "Both lists must begin with the same token, which is not predicted itself."
        ctx.note("summary", "delta_logprob", reason)
        return
    swapped = [
        n
        for n, region in enumerate(compared.found[:MOST_SCORED])
        if region.given[0] > 0 and rows[n]["canonical_ids"] is not None
    ]
    lists = [given, other]
    for n in swapped:
        first, last = compared.found[n].given
        lists.append((*given[:first], *rows[n]["canonical_ids"], *given[last:]))
    tails = [one[1:] for one in lists]
    logs = yield from logprobs(ctx.models["model"], given[:1], tails, "Asking the model")
    own, canonical_, *others = (float(sum(log)) for log in logs)
    summary.update(given_logprob=own, canonical_logprob=canonical_, delta_logprob=canonical_ - own)
    for n, value in zip(swapped, others, strict=True):
        rows[n]["delta_logprob"] = value - own
    if len(swapped) < len(rows):
        reason = f"Computed for the first {MOST_SCORED} regions that have a token before them."
        ctx.note("regions", "delta_logprob", reason)
