"""Ids against the ids that their own text gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from engine.texts.tokenclass import classes_of
from engine.tokenization import Tokenizer

_WORDS = frozenset({"function", "content", "word"})
_MARK = "\ufffd".encode()


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch that the tokenizer would cut differently.

    Attributes:
        start, end: the given tokens, from and to.
        canonical: the ids that encoding the text gives instead.
        kind: special, partial UTF-8, whitespace, number, word, punctuation, mixed or other.
    """

    start: int
    end: int
    canonical: tuple[int, ...]
    kind: str


def regions_of(ids: Sequence[int], tokenizer: Tokenizer) -> list[Region]:
    """Where encode(decode(ids)) differs from ``ids``; empty when it does not.

    Special tokens stand for themselves, and the text between them is encoded apart. Regions are
    the smallest stretches between cuts that both sides share.

    Args:
        ids: without tokens that the tokenizer put before or after the text.
        tokenizer: to whom they belong.
    """
    found: list[Region] = []
    for start, end in _stretches(ids, tokenizer):
        found += _regions(ids, start, end, tokenizer)
    return found


def _stretches(ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
    """Runs without special tokens."""
    start = 0
    for position in range(len(ids) + 1):
        if position == len(ids) or tokenizer.is_special(ids[position]):
            if start < position:
                yield start, position
            start = position + 1


def _regions(ids: Sequence[int], start: int, end: int, tokenizer: Tokenizer) -> Iterator[Region]:
    given = tokenizer.pieces(ids[start:end])
    data = b"".join(given)
    text, origin = _decoded(data)
    made = tokenizer.encode(text, special=False)
    theirs = made.ids
    ours_at = [0, *accumulate(map(len, given))]
    # Cuts within a replaced byte have no place in the given bytes: they are no common cuts.
    theirs_at = [origin[at] for at in (0, *accumulate(map(len, made.pieces)))]
    if not made.exact:
        theirs_at = [0] + [None] * (len(theirs) - 1) + [len(data)] if theirs else [0]
    common = set(ours_at) & {at for at in theirs_at if at is not None}
    i = j = 0
    for cut in sorted(common)[1:] or [len(data)]:
        last = cut == len(data)
        k = len(given) if last else ours_at.index(cut, i)
        m = len(theirs) if last else theirs_at.index(cut, j)
        mine, canonical = tuple(ids[start + i : start + k]), tuple(theirs[j:m])
        if mine != canonical:
            kind = _kind(given[i:k], canonical, tokenizer)
            yield Region(start + i, start + k, canonical, kind)
        i, j = k, m


def _decoded(data: bytes) -> tuple[str, list[int | None]]:
    """The text of bytes, with U+FFFD for those that are none, and where its bytes come from.

    The second value holds, for every byte of the text's UTF-8 and for its end, the byte of
    ``data`` at which a cut there would cut; None inside of a replaced byte.
    """
    parts: list[str] = []
    origin: list[int | None] = []
    at = 0
    while True:
        try:
            parts.append(data[at:].decode("utf-8"))
            origin += range(at, len(data) + 1)
            return "".join(parts), origin
        except UnicodeDecodeError as error:
            begin, end = at + error.start, at + error.end
            parts += [data[at:begin].decode("utf-8"), "\ufffd"]
            origin += [*range(at, begin), begin, *[None] * (len(_MARK) - 1)]
            at = end


def _kind(given: Sequence[bytes], canonical: Sequence[int], tokenizer: Tokenizer) -> str:
    data = b"".join(given)
    if any(tokenizer.is_special(i) for i in canonical):
        return "special"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "partial UTF-8"
    theirs = tokenizer.pieces(canonical)
    if _bare(given) == _bare(theirs):
        return "whitespace"
    (kind,) = classes_of([data])
    return "word" if kind in _WORDS else kind


def _bare(pieces: Sequence[bytes]) -> list[bytes]:
    stripped = (piece.strip() for piece in pieces)
    return [piece for piece in stripped if piece]
