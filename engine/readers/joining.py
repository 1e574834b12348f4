"""The exact bytes of a log's tokens, found with the help of the text they make.

Older servers write the vocabulary's own spelling (``Ġthe``, ``▁the``), SentencePiece puts a space
in front, end marks stand in the log but not in the text, and a broken character is known only by
what stands around it. The reading that gives the text byte for byte is the right one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.pieces import decode_piece
from engine.readers.tokens import TOKEN_ID, Logged
from engine.readers.values import is_unicode

_SPECIAL = re.compile(
    rb"(<[^<>\s]{1,40}>|<\xef\xbd\x9c[^<>]{1,60}\xef\xbd\x9c>|\[[A-Z/_]{1,20}\])\Z"
)


@dataclass(frozen=True, slots=True)
class Joined:
    """Tokens as bytes.

    Attributes:
        pieces: one per token.
        exact: they are the text's own bytes.
        shared: tokens that share a character whose bytes the log does not divide.
        special: trailing tokens outside the text (an end-of-text mark).
        start: where the text begins in the joined pieces, None when it was not found there.
    """

    pieces: tuple[bytes, ...]
    exact: bool
    shared: tuple[int, ...] = ()
    special: tuple[int, ...] = ()
    start: int | None = None


def join(tokens: Sequence[Logged], text: str | None) -> Joined:
    """The bytes of the tokens, by the reading that gives the text of the response.

    Args:
        tokens: in order.
        text: what they are to give, None when the log does not say.
    """
    certain = all(token.data is not None for token in tokens)
    if text is None or not is_unicode(text):
        return Joined(tuple(t.shown for t in tokens), certain)
    data = text.encode("utf-8")
    for reading in _READINGS:
        read = reading(tokens)
        found = _fits(read, data) if read else None
        if found is not None:
            return found
    aligned = _align(tokens, data)
    if aligned is not None:
        return aligned
    pieces = tuple(t.shown for t in tokens)
    start = b"".join(pieces).rfind(data) if certain and data else -1
    # A parser may have taken thoughts or tool calls out of the text: the tokens are the truth.
    return Joined(pieces, start >= 0, start=start if start >= 0 else None)


def _fits(pieces: Sequence[bytes], text: bytes) -> Joined | None:
    whole = b"".join(pieces)
    if whole == text:
        return Joined(tuple(pieces), True, start=0)
    if whole == b" " + text and pieces[0].startswith(b" "):  # SentencePiece's dummy prefix
        return Joined((pieces[0][1:], *pieces[1:]), True, start=0)
    cut = _body(pieces)
    if cut < len(pieces) and b"".join(pieces[:cut]) == text:
        return Joined(tuple(pieces), True, special=tuple(range(cut, len(pieces))), start=0)
    return None


def _body(pieces: Sequence[bytes]) -> int:
    """Tokens before the trailing marks such as ``<|im_end|>``."""
    cut = len(pieces)
    while cut and _SPECIAL.match(pieces[cut - 1]):
        cut -= 1
    return cut


def _by_bytes(tokens: Sequence[Logged]) -> list[bytes] | None:
    pieces = [t.data for t in tokens]
    return None if None in pieces else pieces  # type: ignore[return-value]


def _by_text(tokens: Sequence[Logged]) -> list[bytes] | None:
    return [t.text.encode("utf-8") for t in tokens] if _all_text(tokens) else None


def _by_vocabulary(scheme: Any) -> Callable[[Sequence[Logged]], list[bytes] | None]:
    def read(tokens: Sequence[Logged]) -> list[bytes] | None:
        return [decode_piece(t.text, scheme).data for t in tokens] if _all_text(tokens) else None

    return read


def _all_text(tokens: Sequence[Logged]) -> bool:
    return all(is_unicode(t.text) for t in tokens)


_READINGS = (_by_bytes, _by_text, _by_vocabulary("byte_level"), _by_vocabulary("metaspace"))


def _align(tokens: Sequence[Logged], text: bytes) -> Joined | None:
    """Find the bytes of broken tokens between those that are known."""
    if all(t.data is not None for t in tokens) or any(TOKEN_ID.match(t.text) for t in tokens):
        return None
    cut = _body([t.shown for t in tokens])
    pieces: list[bytes] = []
    shared: list[int] = []
    at = 0
    while len(pieces) < cut:
        first = len(pieces)
        known = tokens[first].data
        if known is not None:
            if not text.startswith(known, at):
                return None
            pieces.append(known)
            at += len(known)
            continue
        last = first
        while last < cut and tokens[last].data is None:
            last += 1
        end = _end(tokens, last, cut, text, at, last - first)
        if end is None:
            return None
        run, open_ends = _divide(tokens[first:last], text[at:end])
        shared += [first + n for n in open_ends]
        pieces += run
        at = end
    if at != len(text):
        return None
    special = tuple(range(cut, len(tokens)))
    pieces += [t.shown for t in tokens[cut:]]
    return Joined(tuple(pieces), True, tuple(shared), special, 0)


def _end(
    tokens: Sequence[Logged], last: int, cut: int, text: bytes, at: int, count: int
) -> int | None:
    """Where a run of broken tokens ends: before the next known tokens, at a whole character."""
    if last == cut:
        return len(text)
    anchor = b""
    for token in tokens[last : min(cut, last + 16)]:
        if token.data is None:
            break
        anchor += token.data
    found = at + count - 1
    for _ in range(64):
        found = text.find(anchor, found + 1, at + 64 * count + len(anchor))
        if found < 0:
            return None
        try:
            text[at:found].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return found
    return None


def _divide(run: Sequence[Logged], data: bytes) -> tuple[list[bytes], list[int]]:
    """Bytes of a run of broken tokens; those whose share is open, with the bytes at the last."""
    least = [_least(token) for token in run]
    if sum(map(len, least)) == len(data):  # a byte at least for each: there is one way only
        pieces, at = [], 0
        for part in least:
            pieces.append(data[at : at + len(part)])
            at += len(part)
        return pieces, []
    if len(run) == 1:
        return [data], []
    return [b""] * (len(run) - 1) + [data], list(range(len(run)))


def _least(token: Logged) -> bytes:
    """As many bytes as the token has at least: what is written, and one for each broken mark."""
    return token.text.encode("utf-8", "replace").replace(b"\xef\xbf\xbd", b"?")
