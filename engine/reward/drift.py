"""``reward.drift``: does the text of the logged ids give the same ids again?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from engine.context import Context
from engine.registry import analysis
from engine.rollouts.retokenize import Region, regions_of
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace
from engine.tokenization import show

REGIONS = Table(
    doc="One row for each stretch of bytes whose ids the tokenizer would choose differently.",
    columns={
        "segment": Column(pa.string(), "prompt or response.", "", "part"),
        "start_position": Column(pa.int64(), "First of the given tokens.", "", "from token"),
        "end_position": Column(pa.int64(), "Token after the last of them.", "", "to token"),
        "start_byte": Column(pa.int64(), "First byte in the text.", "bytes", "from byte"),
        "end_byte": Column(pa.int64(), "Byte after the last one in the text.", "bytes", "to byte"),
        "text": Column(pa.string(), "What it says; bytes that are no UTF-8 as \\xNN.", "", "text"),
        "given": Column(pa.list_(pa.int64()), "The log's ids.", "", "given ids"),
        "canonical": Column(
            pa.list_(pa.int64()), "The ids that encoding its text gives.", "", "canonical ids"
        ),
        "given_pieces": Column(pa.list_(pa.string()), "The log's tokens.", "", "given tokens"),
        "canonical_pieces": Column(
            pa.list_(pa.string()), "The tokens that encoding gives.", "", "canonical tokens"
        ),
        "region_class": Column(
            pa.string(),
            "special, partial UTF-8, whitespace, number, word, punctuation, mixed or other.",
            "",
            "kind",
        ),
        "trained": Column(
            pa.bool_(), "Whether the trainer learns from one of the tokens.", "", "trained"
        ),
    },
)
COUNTS = Table(
    doc="One row for prompt and response each.",
    columns={
        "segment": Column(pa.string(), "prompt or response.", "", "part"),
        "tokens": Column(pa.int64(), "Tokens in it.", "", "tokens"),
        "canonical_tokens": Column(
            pa.int64(), "Tokens that encoding its text gives.", "", "canonical tokens"
        ),
        "regions": Column(pa.int64(), "Stretches that differ.", "", "stretches"),
        "changed_tokens": Column(pa.int64(), "Given tokens in them.", "", "changed tokens"),
        "changed_share": Column(
            pa.float64(), "Share of the given tokens.", "probability", "share of tokens"
        ),
    },
)


@analysis(
    "reward.drift",
    version=1,
    subject=Trace,
    models=("model",),
    tables={"regions": REGIONS, "counts": COUNTS},
    title="Do the logged tokens survive a round trip through their text?",
    cite=(
        "Geh et al. (2024), Where is the signal in tokenization space?, arXiv 2408.08541.",
        "Chirkova et al. (2023), Should you marginalize over tokenizations?, arXiv 2306.17757.",
    ),
    caveats=(
        "Only the model's tokenizer is used; its weights are not loaded.",
        "Prompt and response are encoded apart, and so is the text between special tokens.",
        "A tokenizer that puts a space before every text makes the first word of a part differ.",
    ),
)
def drift(ctx: Context) -> Iterator[Progress | Tables]:
    """Where encode(decode(ids)) differs from the ids, which a trainer that logs text relies on.

    Bytes that are no UTF-8 are decoded to U+FFFD first, as every tokenizer does. A region runs
    between two cuts that both ways of cutting share. Classes: ``special`` when either side has a
    special token, ``partial UTF-8`` when its bytes are no text, ``whitespace`` when only blanks
    moved, ``number``, ``word``, ``punctuation`` by its characters, ``mixed`` for several of them.
    """
    trace: Trace = ctx.subject
    rows: list[dict[str, Any]] = []
    counts: list[dict[str, Any]] = []
    if trace.ids_origin == "encoded":
        for table in ("regions", "counts"):
            ctx.note(table, None, "the ids were made from text here: the log has none to compare")
    start, end = trace.response_start, len(trace)
    added = set(trace.added)
    for segment, first, last in (("prompt", 0, start), ("response", start, end)):
        if trace.ids_origin == "encoded" or first == last:
            continue
        own = [p for p in range(first, last) if p not in added]
        found = regions_of([trace.ids[p] for p in own], ctx.tokenizer)
        rows += [_row(trace, ctx, segment, own, region) for region in found]
        changed = sum(region.end - region.start for region in found)
        counts.append(
            {
                "segment": segment,
                "tokens": len(own),
                "canonical_tokens": len(own) - changed + sum(len(r.canonical) for r in found),
                "regions": len(found),
                "changed_tokens": changed,
                "changed_share": changed / len(own) if own else None,
            }
        )
        if not own:
            ctx.note("counts", "changed_share", f"the {segment} has no token of its own")
    yield Tables(
        regions=pa.Table.from_pylist(rows, REGIONS.schema()),
        counts=pa.Table.from_pylist(counts, COUNTS.schema()),
    )


def _row(
    trace: Trace, ctx: Context, segment: str, own: Sequence[int], region: Region
) -> dict[str, Any]:
    first, last = own[region.start], own[region.end - 1]
    pieces = ctx.tokenizer.pieces
    given = trace.ids[first : last + 1]
    known = trace.trainable
    return {
        "segment": segment,
        "start_position": first,
        "end_position": last + 1,
        "start_byte": trace.offsets[first][0],
        "end_byte": trace.offsets[last][1],
        "text": show(b"".join(pieces(given))),
        "given": list(given),
        "canonical": list(region.canonical),
        "given_pieces": [show(piece) for piece in pieces(given)],
        "canonical_pieces": [show(piece) for piece in pieces(region.canonical)],
        "region_class": region.kind,
        "trained": None if known is None else any(known[first : last + 1]),
    }
