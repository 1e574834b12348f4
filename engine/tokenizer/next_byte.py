"""``tokenizer.next_byte``: what comes after a prompt byte by byte, whatever its last tokens are."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.pieces import show
from engine.registry import Params, analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace
from engine.tokenizer import nextbytetables as tables
from engine.tokenizer.canonicalcovers import canonical_next
from engine.tokenizer.covering import Found, Rules, walk
from engine.tokenizer.outcomes import END, Reals, Row, variation
from engine.tokenizer.prompts import Prompt
from engine.tokenizer.tails import Tails

ALL_BYTES = 16
"""Longest text whose covers are all read (methods, correction 4)."""

MOST_SEQUENCES = 50_000
BEAM_BYTES = 2048
ALIGNMENT_BEAM = 16


class NextByteParams(Params):
    """Settings of ``tokenizer.next_byte``."""

    covers: Literal["canonical", "all", "beam"] = Field(
        "canonical",
        title="Covers",
        description="Token sequences the tokenizer itself would give; all of a short text "
        f"(at most {ALL_BYTES} bytes); or the most probable ones.",
    )
    at: int | None = Field(
        None,
        ge=1,
        title="Tokens",
        description="How many tokens of the trace are read; empty for the whole prompt.",
    )
    beam: int = Field(8, ge=1, le=256, title="Beam", description="Sequences kept at each byte.")
    back_off: int = Field(
        3, ge=1, le=16, title="Back off", description="Tokens that token alignment takes back."
    )
    threshold: float = Field(
        1e-4,
        ge=0,
        lt=1,
        title="Threshold",
        description="Covers with a smaller share are taken for canonical without encoding them; "
        "0 for none.",
    )
    listed: int = Field(50, ge=1, le=200, title="Listed", description="How many covers to list.")


@analysis(
    "tokenizer.next_byte",
    version=1,
    subject=Trace,
    params=NextByteParams,
    tables={
        "bytes": tables.BYTES,
        "covers": tables.COVERS,
        "summary": tables.SUMMARY,
        "healing": tables.HEALING,
    },
    title="What comes next, byte by byte, and how much does the prompt's last token bend it?",
    cite=(
        (
            "Phan, Amos, Gat, Havasi, Muckley and Ullrich 2024, Exact byte-level probabilities "
            "from tokenized language models, arXiv 2410.09303, section 4"
        ),
        (
            "Vieira et al. 2024, From language models over tokens to language models over "
            "characters, arXiv 2412.03719"
        ),
        (
            "Athiwaratkun et al. 2024, Token alignment via character matching for subword "
            "completion, arXiv 2403.08688"
        ),
        "Lundberg 2023, The art of prompt design: prompt boundaries and token healing (guidance)",
    ),
    caveats=(
        (
            "Canonical covers are renormalised: what the model gives to spellings the tokenizer "
            "never makes is left out."
        ),
        "A beam misses at most the share named in pruned.",
        "Special tokens in the prompt stay as they are; the text after the last one is looked at.",
    ),
)
def next_byte(ctx: Context) -> Iterator[Progress | Tables]:
    """The distribution of the byte after the prompt, exactly, and as the tokens suggest it.

    A model predicts tokens, so a prompt that ends inside what would be one token asks it for
    something it never saw. ``P(text) = Σ P(cover)`` over the covers: token sequences that begin
    with the text and reach beyond its end with the last token at most; the next byte's probability
    is ``P(text + byte) / P(text)``. ``token_view`` is what the prompt's own tokens give.
    ``canonical`` counts the covers that the tokenizer itself would give (renormalised), ``all``
    every one, ``beam`` the most probable, with a bound on what it lost. Token healing takes the
    last token back and asks for one that begins with it; token alignment takes several back.
    """
    yield Progress(None, "Reading the prompt")
    prompt = Prompt(ctx)
    before = prompt.model.forwards
    own = prompt.own
    view = prompt.outcomes.whole(own)
    found = yield from _exact(prompt, own)
    healing = yield from _healed(prompt, 1, Rules(local=True, inner=False))
    alignment = yield from _healed(
        prompt, ctx.params.back_off, Rules(keep=ALIGNMENT_BEAM, local=True)
    )
    repaired = [None if h is None else h.masses for h in (healing, alignment)]
    summary = _summary(prompt, found, view, repaired)
    summary["forwards"] = prompt.model.forwards - before
    yield Tables(
        bytes=_bytes(prompt, found.masses, view),
        covers=_covers(prompt, found),
        summary=pa.Table.from_pylist([summary], schema=tables.SUMMARY.schema()),
        healing=_healing(prompt, repaired),
    )


def _exact(prompt: Prompt, own: Row) -> Generator[Progress, None, Found]:
    params, outcomes = prompt.ctx.params, prompt.outcomes
    if params.covers == "canonical":
        head = prompt.ids[: prompt.start]
        found, given = yield from canonical_next(
            lambda shared: Tails(prompt.model, head + shared),
            outcomes,
            prompt.run,
            prompt.locked,
            params.threshold,
            own,
            params.listed,
        )
        if not given:
            prompt.ctx.note(
                "summary",
                "total_variation",
                "The prompt's tokens are not what the tokenizer gives for its text; the token view "
                "is that of the tokens, the probability that of the text.",
            )
        return found
    text = prompt.free
    if params.covers == "all":
        if len(text) > ALL_BYTES:
            raise UserError(
                f"All covers are read for at most {ALL_BYTES} bytes, and the text has "
                f"{len(text):,}: choose beam or canonical covers, or shorten the prompt."
            )
        sequences = sum(prompt.spec.trie.count(text[:n]) for n in range(len(text) + 1))
        if sequences > MOST_SEQUENCES:
            raise UserError(
                f"The text has {sequences:,} token sequences to read, at most {MOST_SEQUENCES:,} "
                "are: choose beam covers, or shorten the prompt."
            )
    elif len(text) > BEAM_BYTES:
        raise UserError(
            f"A beam is walked over at most {BEAM_BYTES:,} bytes, and the text has {len(text):,}: "
            "choose canonical covers, or shorten the prompt."
        )
    rules = Rules(keep=params.beam if params.covers == "beam" else None)
    tails = Tails(prompt.model, prompt.base)
    return (yield from walk(tails, outcomes, text, rules, "Reading the covers"))


def _healed(prompt: Prompt, back: int, rules: Rules) -> Generator[Progress, None, Found | None]:
    count = max(len(prompt.base), len(prompt.ids) - back)
    if count == len(prompt.ids):
        return None
    tails = Tails(prompt.model, prompt.ids[:count])
    text = prompt.data(prompt.ids[count:])
    return (yield from walk(tails, prompt.outcomes, text, rules, "Healing the boundary"))


def _summary(
    prompt: Prompt, found: Found, view: Reals, repaired: Sequence[Reals | None]
) -> dict[str, Any]:
    for name, masses in zip(("healing", "alignment"), repaired, strict=True):
        if masses is None:
            reason = "There is no token that could be taken back."
            prompt.ctx.note("summary", f"{name}_variation", reason)
            prompt.ctx.note("healing", name, reason)
    healing, alignment = (None if m is None else variation(found.masses, m) for m in repaired)
    return {
        "covers": prompt.ctx.params.covers,
        "total_variation": variation(found.masses, view),
        "healing_variation": healing,
        "alignment_variation": alignment,
        "logprob": found.logprob + prompt.logprob(found.base),
        "token_logprob": prompt.logprob(len(prompt.ids)),
        "covers_found": found.count,
        "pruned": found.pruned,
        "unchecked": found.unchecked,
        "noncanonical": found.excluded if prompt.ctx.params.covers == "canonical" else 0.0,
        "bytes": len(prompt.data(prompt.run)),
    }


def _names(prompt: Prompt) -> dict[str, list[Any]]:
    outcomes = prompt.outcomes
    controls = outcomes.controls.tolist()
    tokens = [prompt.spec.raw[i] if i < prompt.spec.size else None for i in controls]
    return {
        "kind": ["byte"] * END + ["end"] + ["control"] * len(controls),
        "byte": [*range(END), *[None] * (1 + len(controls))],
        "token": [*map(_readable, range(END)), None, *tokens],
    }


def _readable(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"


def _bytes(prompt: Prompt, exact: Reals, view: Reals) -> pa.Table:
    columns = _names(prompt)
    columns["token_id"] = [None] * (END + 1) + prompt.outcomes.controls.tolist()
    columns |= {"probability": exact.tolist(), "token_view": view.tolist()}
    columns["difference"] = (exact - view).tolist()
    return pa.table(columns, schema=tables.BYTES.schema())


def _healing(prompt: Prompt, repaired: Sequence[Reals | None]) -> pa.Table:
    columns = _names(prompt)
    for name, masses in zip(("healing", "alignment"), repaired, strict=True):
        columns[name] = [None] * prompt.outcomes.size if masses is None else masses.tolist()
    return pa.table(columns, schema=tables.HEALING.schema())


def _covers(prompt: Prompt, found: Found) -> pa.Table:
    rows = [
        {
            "ids": list(cover.ids),
            "tokens": [prompt.spec.token(i) for i in cover.ids],
            "share": math.exp(min(0.0, cover.weight - found.logprob)),
            "logprob": cover.weight,
            "leftover": show(cover.leftover),
            "leftover_bytes": cover.leftover,
        }
        for cover in found.covers[: prompt.ctx.params.listed]
    ]
    return pa.Table.from_pylist(rows, schema=tables.COVERS.schema())
