"""The end of a text that can be encoded on its own, and ways to complete its last character."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.tokenizer.canonical import ends_of
from engine.tokenizer.following import follower_of
from engine.tokenizer.spec import TokenizerSpec

TAIL_BYTES = 512
"""Of a long text only so much is cut again to find where a word begins."""

UNCUT_BYTES = 256
"""Where nothing cuts a text into words, so much before its end is encoded again."""


@dataclass(frozen=True, slots=True)
class Window:
    """The end of a text, from which on it can be encoded on its own.

    Attributes:
        data: its bytes.
        start: its first byte in the text.
        token: its first token in the text's encoding.
        bare: the tokenizer puts the space in front itself, so it is left out when encoding.
    """

    spec: TokenizerSpec
    data: bytes
    start: int
    token: int
    bare: bool

    def text(self, data: bytes) -> str:
        """Bytes that begin as the window does, as they are given to the tokenizer."""
        return (data[1:] if self.bare else data).decode("utf-8")

    def encode(self, datas: Sequence[bytes]) -> list[list[int]]:
        """Ids of several such bytes."""
        return self.spec.encode_ids([self.text(data) for data in datas])


def window(spec: TokenizerSpec, ids: Sequence[int], data: bytes, need: int) -> Window | None:
    """The shortest end of a text that has byte ``need`` and a whole word before it.

    None when not even the whole text gives ``ids``.
    """
    ends = [0, *ends_of(spec, ids)]
    for start in (_word_before(spec, data, ends, need), 0):
        token = ends.index(start)
        part = whole_characters(data[start:])
        wanted = [
            i for i, end in zip(ids, ends[1:], strict=True) if start < end <= start + len(part)
        ]
        for bare in (True, False) if spec.prefix_space and part.startswith(b" ") else (False,):
            made = Window(spec, data[start:], start, token, bare)
            if made.encode([part])[0] == wanted:
                return made
    return None


def whole_characters(data: bytes) -> bytes:
    """Without a character that is incomplete at the end."""
    return data.decode("utf-8", "ignore").encode() if missing(data) else data


def _word_before(spec: TokenizerSpec, data: bytes, ends: list[int], need: int) -> int:
    """First byte of the word before the one that has byte ``need``, where a token starts."""
    first = max(0, min(need, len(data)) - TAIL_BYTES)
    while 0 < first < len(data) and data[first] & 0xC0 == 0x80:
        first += 1
    try:
        text = data[first:].decode("utf-8", "strict" if not missing(data) else "ignore")
    except UnicodeDecodeError:
        return 0
    cuts = [first + start for start in _word_starts(spec, text)]
    # Words at the border of what was cut again may begin elsewhere.
    sure = set(ends)
    starts = [at for at in cuts[2 if first else 0 :] if at <= need and at in sure]
    if len(cuts) > 2 and len(starts) >= 2:
        return starts[-2]
    if len(data) > UNCUT_BYTES:
        places = [at for at in ends if at < len(data) - UNCUT_BYTES and at <= need]
        spaces = [at for at in places if data[at : at + 1] == b" "]
        return spaces[-1] if spaces else 0
    return 0


def _word_starts(spec: TokenizerSpec, text: str) -> list[int]:
    """First byte of each word."""
    follower = follower_of(spec)
    words = follower.words(text) if follower is not None else None
    if words is None:
        return [cut.start for cut in spec.pretokens(text)]
    return [0, *itertools.accumulate(len(word.encode()) for word in words[:-1])]


def completions(data: bytes) -> Iterator[bytes]:
    """``data`` itself when it is text; else ways to complete its last character.

    A token may end inside a character. It then is canonical if it is in some text: all 64 ways to
    add a last byte are tried, and of the ways to add two or three an even spread of 64 (ours).
    Bytes that begin no text have none.
    """
    lacking = missing(data)
    for n in range(64 if lacking else 1):
        done = data + bytes([0x80 + n, 0x80 + n * 37 % 64, 0x80 + n * 23 % 64])[:lacking]
        try:
            done.decode("utf-8")
        except UnicodeDecodeError:
            continue
        yield done


def missing(data: bytes) -> int:
    """Bytes that the last character lacks."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        size = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return max(0, size - back)
    return 0
