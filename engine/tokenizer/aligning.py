"""Bytes of each token in the original text, followed piece by piece.

The library's own offsets are not used: they count characters, give every token of one character
the same span, and let a prefix space borrow the first character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.tokenizer.spec import Bounds

SPACE_MARK = "\u2581"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Text between added tokens (or one added token) as the model is meant to spell it.

    Attributes:
        data: bytes after normalization, ``▁`` written as a space.
        starts: original byte at which each of them starts.
        ends: original byte at which each of them ends.
        span: the whole stretch in the original text.
        added: id of the added token it is, if it is one.
    """

    data: bytes
    starts: Sequence[int]
    ends: Sequence[int]
    span: Bounds
    added: int | None = None


def stretch(text: str, spans: Sequence[Bounds], span: Bounds, mark: bool) -> Stretch:
    """Text after normalization, by its characters' original byte spans.

    A character that normalization left alone is followed byte by byte; of one it changed, the
    first byte stands for all of the original.
    """
    data = bytearray()
    starts: list[int] = []
    ends: list[int] = []
    done = span[0]
    for character, (first, last) in zip(text, spans, strict=True):
        piece = (" " if mark and character == SPACE_MARK else character).encode()
        first, last = max(first, done), max(last, done)
        if last - first == len(piece):
            starts += range(first, last)
            ends += range(first + 1, last + 1)
        else:
            starts += [first, *[last] * (len(piece) - 1)]
            ends += [last] * len(piece)
        data += piece
        done = last
    return Stretch(bytes(data), starts, ends, span)


def plain(data: bytes, start: int) -> Stretch:
    """Text that normalization left alone."""
    first = range(start, start + len(data))
    last = range(start + 1, start + len(data) + 1)
    return Stretch(data, first, last, (start, start + len(data)))


def follow(
    ids: Sequence[int],
    pieces: Sequence[bytes],
    unknown: int | None,
    stretches: Sequence[Stretch],
    cuts: frozenset[int] | None = None,
) -> tuple[Bounds, ...] | None:
    """Bounds of each token; None when the pieces do not spell the stretches.

    Args:
        ids, pieces: the tokens and their bytes.
        unknown: id that stands for what the vocabulary cannot spell.
        stretches: the text.
        cuts: original bytes at which words end, where an unknown token stands for a whole word;
            None where it stands for a run of characters.
    """
    walk = _Walk(stretches)
    found: list[Bounds] = []
    for index, (token_id, piece) in enumerate(zip(ids, pieces, strict=True)):
        if token_id == unknown:
            after = pieces[index + 1] if index + 1 < len(ids) else None
            repeated = index + 1 < len(ids) and ids[index + 1] == unknown
            bounds = walk.skip(after, repeated, cuts)
        else:
            bounds = walk.take(token_id, piece)
        if bounds is None:
            return None
        found.append(bounds)
    return tuple(found) if walk.finished() else None


class _Walk:
    """A place in the stretches that moves from token to token."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self._rest = [s for s in stretches if s.data or s.added is not None]
        self._number = 0
        self._at = 0
        self._last = 0

    def _current(self) -> Stretch | None:
        while self._number < len(self._rest):
            current = self._rest[self._number]
            if current.added is not None or self._at < len(current.data):
                return current
            self._next()
        return None

    def _next(self) -> None:
        self._number += 1
        self._at = 0

    def finished(self) -> bool:
        """Whether all text was spelled, but for white space the pre-tokenizer drops."""
        while (current := self._current()) is not None:
            if current.added is not None or current.data[self._at :].strip():
                return False
            self._next()
        return True

    def take(self, token_id: int, piece: bytes) -> Bounds | None:
        """Move over a piece; white space in front of it may have been dropped."""
        while True:
            current = self._current()
            if current is None:
                return (self._last, self._last) if piece == b" " else None
            if current.added is not None:
                if current.added == token_id:
                    self._next()
                    self._last = current.span[1]
                    return current.span
                return (self._last, self._last) if piece == b" " else None
            at, data = self._at, current.data
            if data.startswith(piece, at):
                return self._move(current, at + len(piece))
            if piece.startswith(b" ") and data.startswith(piece[1:], at):
                return self._move(current, at + len(piece) - 1)
            wide = _white(data, at)
            if not wide:
                return None
            self._at += wide

    def skip(
        self, after: bytes | None, repeated: bool, cuts: frozenset[int] | None
    ) -> Bounds | None:
        """Move over what an unknown token stands for: up to where the next piece fits."""
        current = self._current()
        while current is not None and current.added is None:
            wide = _white(current.data, self._at)
            if not wide:
                break
            self._at += wide
            current = self._current()
        if current is None or current.added is not None:
            return None
        end = _character_end(current.data, self._at)
        data = current.data
        if cuts is not None:
            while end < len(data) and current.ends[end - 1] not in cuts:
                end = _character_end(data, end)
        else:
            while end < len(data) and not repeated and not _fits(data, end, after):
                end = _character_end(data, end)
        return self._move(current, end)

    def _move(self, current: Stretch, end: int) -> Bounds:
        at, self._at = self._at, end
        if end == at:
            place = current.starts[at] if at < len(current.data) else current.span[1]
            return (place, place)
        self._last = current.ends[end - 1]
        return (current.starts[at], self._last)


def _fits(data: bytes, at: int, piece: bytes | None) -> bool:
    if not piece:
        return False
    return data.startswith(piece, at)


def _white(data: bytes, at: int) -> int:
    """Bytes of the white space character at a place; 0 if there is none."""
    end = _character_end(data, at)
    return end - at if data[at:end].decode(errors="replace").isspace() else 0


def _character_end(data: bytes, at: int) -> int:
    end = at + 1
    while end < len(data) and 0x80 <= data[end] < 0xC0:
        end += 1
    return end


def byte_offsets(text: str, offsets: Sequence[Bounds]) -> tuple[Bounds, ...]:
    """Character spans as byte spans of the same text."""
    places = [0]
    for character in text:
        places.append(places[-1] + len(character.encode()))
    return tuple((places[a], places[b]) for a, b in offsets)
