"""``tokenizer.phantom``: where a word may come out in other tokens than it went in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.pieces import show
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace
from engine.tokenizer.resolve import spec_of
from engine.tokenizer.spec import TokenizerSpec

WHITE = (b"", b" ", b"\n", b"\t")
"""What may stand before a word in its white-space variants (types 1 to 3 of the paper)."""

BATCH = 64
LONGEST = 256

_WORD = re.compile(r"\s?[^\W_]+")
_F, _I, _S = pa.float64(), pa.int64(), pa.string()
_P = "probability"

WORDS = Table(
    {
        "position": Column(_I, "Position of the word's first token."),
        "word": Column(_S, "The word, with the white space that belongs to it."),
        "tokens": Column(pa.list_(_S), "Its tokens in the text."),
        "original": Column(_F, "Probability of its own first token.", _P),
        "respelled": Column(_F, "Probability of other tokens that the same bytes can begin with.",
                            _P),
        "white_space": Column(_F, "Probability of tokens that begin the word with other white "
                              "space before it, or none.", _P),
        "phantom": Column(_F, "respelled and white_space together.", _P),
        "rest": Column(_F, "Probability of every other token: another word.", _P),
        "risk": Column(_F, "phantom as a share of phantom and original.", _P),
        "likeliest": Column(_S, "The most probable of the other beginnings."),
        "likeliest_id": Column(_I, "Its id."),
        "likeliest_probability": Column(_F, "Its probability.", _P),
        "variants": Column(_I, "How many other beginnings there are."),
    },
    doc="One row for each word that begins with a token of its own.",
)  # fmt: skip


class PhantomParams(Params):
    """Settings of ``tokenizer.phantom``."""

    segment: Literal["all", "prompt", "response"] = Field(
        "all", title="Part", description="Whose words are looked at."
    )
    word: str = Field(
        "", max_length=100, title="Word", description="Only this word; empty for every one."
    )


@analysis(
    "tokenizer.phantom",
    version=1,
    subject=Trace,
    params=PhantomParams,
    tables={"words": WORDS},
    title="Where might the model write the same word in other tokens?",
    cite=(
        (
            "Ayoobi, Armstrong and Mukherjee 2026, Say anything but this: when tokenizer betrays "
            "reasoning in LLMs, arXiv 2601.14658 (phantom edits; probing the slot without "
            "generating is ours)"
        ),
    ),
    caveats=(
        (
            "Only first tokens are compared: another word may begin with the same token, so "
            "phantom is an upper bound."
        ),
        "A phantom edit is a risk, not an error: models often read other spellings well.",
    ),
)
def phantom(ctx: Context) -> Iterator[Progress | Tables]:
    """The model's probability, at each word, of starting the same word in another way.

    A phantom edit replaces tokens by others that stand for the same text. At the place of a word
    the prediction is split into ``original`` (the word's own first token), ``respelled`` (any
    other token with which some spelling of the same bytes begins), ``white_space`` (first tokens
    of all spellings of the word behind nothing, a space, a line break or a tab, where they differ)
    and ``rest``. They sum to one.
    """
    spec = spec_of(ctx)
    if spec.lossy:
        raise UserError(
            f"{spec.name} puts spaces between tokens that are in none of them, so a word has no "
            "other spelling: choose a model whose tokens are pieces of the text."
        )
    words = list(_words(ctx, spec))
    if not words:
        ctx.note("words", None, "No word begins with a token of its own after the first token.")
    rows: list[dict[str, Any]] = []
    for at in range(0, len(words), BATCH):
        yield Progress(at / len(words), f"Word {at + 1:,} of {len(words):,}")
        for word in words[at : at + BATCH]:
            rows.append(_row(ctx, spec, word))
    yield Tables(words=pa.Table.from_pylist(rows, schema=WORDS.schema()))


@dataclass(frozen=True, slots=True)
class _Word:
    position: int
    data: bytes
    ids: tuple[int, ...]


def _words(ctx: Context, spec: TokenizerSpec) -> Iterator[_Word]:
    """Words of each stretch of text between special tokens that begin where a token does."""
    trace, params = ctx.subject, ctx.params
    spec.check_ids(trace.ids)
    speaking = set(spec.segmenting)
    first = 0 if params.segment != "response" else trace.response_start
    last = trace.response_start if params.segment == "prompt" else len(trace)
    at = 0
    while at < len(trace):
        end = at
        while end < len(trace) and trace.ids[end] in speaking:
            end += 1
        for word in _in_run(spec, trace.ids[at:end], at):
            text = show(word.data).strip()
            if max(first, 1) <= word.position < last and params.word.strip() in ("", text):
                yield word
        at = end + 1


def _in_run(spec: TokenizerSpec, ids: tuple[int, ...], offset: int) -> Iterator[_Word]:
    starts: dict[int, int] = {}
    data = bytearray()
    for n, i in enumerate(ids):
        starts[len(data)] = n
        data += spec.pieces[i].data
    text = bytes(data).decode("utf-8", "surrogateescape")
    places = np.cumsum([0, *(len(c.encode("utf-8", "surrogateescape")) for c in text)])
    for match in _WORD.finditer(text):
        a, b = (int(places[n]) for n in match.span())
        if a not in starts and bytes(data[a : a + 1]).isspace():
            a += 1
        elif a in starts and bytes(data[a : a + 1]).isspace() and _lone(spec, ids[starts[a]]):
            # The white space is a token of its own: the word begins after it.
            a += 1
        if a in starts and 0 < b - a <= LONGEST:
            first = after = starts[a]
            while after < len(ids) and a + _size(spec, ids[first:after]) < b:
                after += 1
            yield _Word(offset + first, bytes(data[a:b]), ids[first:after])


def _lone(spec: TokenizerSpec, token_id: int) -> bool:
    return len(spec.pieces[token_id].data) == 1


def _size(spec: TokenizerSpec, ids: tuple[int, ...]) -> int:
    return sum(len(spec.pieces[i].data) for i in ids)


def beginnings(spec: TokenizerSpec, data: bytes) -> set[int]:
    """First tokens of all spellings of some bytes."""
    found = spec.trie.lattice(data)
    return set(found.id[found.start == 0].tolist())


def _row(ctx: Context, spec: TokenizerSpec, word: _Word) -> dict[str, Any]:
    import torch

    logits = ctx.logits(word.position - 1, word.position)[0]
    p = torch.softmax(logits.double().cpu(), -1).numpy()
    own = word.ids[0]
    same = beginnings(spec, word.data) - {own}
    bare = word.data.lstrip()
    other: set[int] = set()
    for white in WHITE:
        if white + bare != word.data:
            other |= beginnings(spec, white + bare)
    other -= same | {own}
    same, other = ({i for i in ids if i < len(p)} for ids in (same, other))
    respelled, white_space = (float(p[sorted(ids)].sum()) for ids in (same, other))
    original, everything = float(p[own]), sorted(same | other)
    likeliest = max(everything, key=lambda i: p[i], default=None)
    shift = respelled + white_space
    return {
        "position": word.position,
        "word": show(word.data),
        "tokens": [spec.token(i) for i in word.ids],
        "original": original,
        "respelled": respelled,
        "white_space": white_space,
        "phantom": shift,
        "rest": max(0.0, 1 - original - shift),
        "risk": shift / (shift + original) if shift + original else None,
        "likeliest": None if likeliest is None else spec.token(likeliest),
        "likeliest_id": likeliest,
        "likeliest_probability": None if likeliest is None else float(p[likeliest]),
        "variants": len(everything),
    }
