"""A text as detectors look at it: its tokens, their bytes, and what they found."""

from __future__ import annotations

import bisect
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from engine.tokenizer.spec import Encoded, Pretoken, TokenizerSpec

Severity = Literal["note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a text that its reader may want to know.

    Attributes:
        finding: its name.
        start, end: bytes of the original text.
        severity: ``note`` (a cost), ``warning`` (may mislead), ``error`` (the text is changed, or
            read as control).
        evidence: one sentence with the numbers.
        before: tokens as they are.
        after: tokens of the alternative the evidence speaks of.
    """

    finding: str
    start: int
    end: int
    severity: Severity
    evidence: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Looked:
    """A text and what its tokenizer makes of it, special tokens in it read as text.

    Attributes:
        spec: the tokenizer.
        text: the text.
        boundary: character at which the prompt ends.
    """

    spec: TokenizerSpec
    text: str
    boundary: int

    @cached_property
    def data(self) -> bytes:
        """The text's bytes."""
        return self.text.encode()

    @cached_property
    def encoded(self) -> Encoded:
        """Its tokens."""
        return self.spec.encode(self.text)

    @cached_property
    def pretokens(self) -> tuple[Pretoken, ...]:
        """Where it is cut before the model."""
        return self.spec.pretokens(self.text)

    @cached_property
    def byte_at(self) -> list[int]:
        """First byte of each character, and the end."""
        places = [0]
        for character in self.text:
            places.append(places[-1] + len(character.encode()))
        return places

    @cached_property
    def _starts(self) -> list[int]:
        return [start for start, _ in self.encoded.bounds]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Bytes of a stretch of characters."""
        return self.byte_at[start], self.byte_at[end]

    def covering(self, start: int, end: int) -> range:
        """Places of the tokens that hold bytes of a stretch of bytes."""
        bounds = self.encoded.bounds
        first = bisect.bisect_right(self._starts, start) - 1
        first = max(first, 0)
        while first > 0 and bounds[first - 1][1] > start:
            first -= 1
        while first < len(bounds) and bounds[first][1] <= start:
            first += 1
        last = first
        while last < len(bounds) and bounds[last][0] < end:
            last += 1
        return range(first, last)

    def tokens(self, places: Sequence[int]) -> tuple[str, ...]:
        """Readable tokens at some places."""
        return tuple(self.spec.token(self.encoded.ids[p]) for p in places)

    def shown(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Readable tokens of some ids."""
        return tuple(self.spec.token(i) for i in ids)


def alone(spec: TokenizerSpec, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts as if they stood inside a line: without the space a tokenizer puts first."""
    if not spec.prefix_space:
        return spec.encode_ids(texts)
    start = spec.encode_ids([_LINE])[0]
    rows = spec.encode_ids([_LINE + text for text in texts])
    kept = [row[len(start) :] if row[: len(start)] == start else None for row in rows]
    if None in kept:
        return spec.encode_ids(texts)
    return [row for row in kept if row is not None]


_LINE = "\n"


def named(text: str, most: int = 6) -> str:
    """Code points of a few characters, with the name of a single one."""
    codes = " ".join(f"U+{ord(c):04X}" for c in text[:most])
    if len(text) == 1:
        return f"{codes} {unicodedata.name(text, 'without a name')}"
    return codes + (" …" if len(text) > most else "")


def some(count: int, thing: str) -> str:
    """A number with its noun: 1 token, 2 tokens."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
