"""Improbable bigrams: two tokens that each hold part of one character, of different scripts.

Models rarely saw them in training, and repeat them badly (Jang, Kim, Kim and Oh 2024, Improbable
bigrams expose vulnerabilities of incomplete tokens, arXiv 2410.23684, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.tokenizer.categories import Sort, script_of
from engine.tokenizer.spec import TokenizerSpec
from engine.tokenizer.utf8bytes import Split, split, wide

MOST_PAIRS = 400_000
"""Pairs looked at before the search ends."""
_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Bigram:
    """Two tokens and the text they make."""

    first: int
    second: int
    text: str
    scripts: tuple[str, str]


def bigrams(spec: TokenizerSpec, sorts: Sequence[Sort], most: int) -> tuple[list[Bigram], bool]:
    """The first improbable bigrams, and whether there may be more.

    A pair counts when the first token ends and the second begins inside one character, their
    bytes join to valid UTF-8, the letters of the two belong to different scripts, and the
    tokenizer really cuts the joined text into the two.
    """
    found: list[Bigram] = []
    waiting: list[Bigram] = []
    for bigram in _pairs(spec, sorts):
        waiting.append(bigram)
        if len(waiting) == _BATCH:
            found += _confirmed(spec, waiting)
            waiting = []
            if len(found) > most:
                return found[:most], True
    found += _confirmed(spec, waiting)
    return found[:most], len(found) > most


def _confirmed(spec: TokenizerSpec, pairs: Sequence[Bigram]) -> list[Bigram]:
    rows = spec.encode_ids([pair.text for pair in pairs])
    return [p for p, ids in zip(pairs, rows, strict=True) if ids == [p.first, p.second]]


def _pairs(spec: TokenizerSpec, sorts: Sequence[Sort]) -> Iterator[Bigram]:
    firsts: list[tuple[int, Split, str]] = []
    seconds: dict[int, list[tuple[int, Split, str]]] = {1: [], 2: [], 3: []}
    for i, sort in enumerate(sorts):
        if sort.utf8 not in ("ends inside", "starts inside"):
            continue
        parts = split(spec.pieces[i].data)
        script = script_of(parts.text) if parts else None
        if parts is None or script is None or script == "mixed":
            continue
        if sort.utf8 == "ends inside":
            firsts.append((i, parts, script))
        else:
            seconds[len(parts.tail)].append((i, parts, script))
    looked = 0
    for first, parts, script in firsts:
        missing = wide(parts.head[0]) - len(parts.head)
        for second, others, other in seconds.get(missing, ()):
            looked += 1
            if looked > MOST_PAIRS:
                return
            if other == script:
                continue
            try:
                joint = (parts.head + others.tail).decode()
            except UnicodeDecodeError:
                continue
            yield Bigram(first, second, parts.text + joint + others.text, (script, other))
