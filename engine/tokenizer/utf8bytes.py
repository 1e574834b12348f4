"""Bytes as parts of UTF-8 text: whole characters, and the pieces of characters at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LEAST = {2: 0x80, 3: 0x800, 4: 0x10000}
_MOST = {2: 0x800, 3: 0x10000, 4: 0x110000}
"""Smallest code point of each length in bytes (RFC 3629), and the one after the largest."""

IMPOSSIBLE = frozenset([0xC0, 0xC1, *range(0xF5, 0x100)])
"""Bytes that no UTF-8 text contains."""


@dataclass(frozen=True, slots=True)
class Split:
    """Bytes cut at characters.

    Attributes:
        tail: end of a character that began before.
        text: whole characters.
        head: beginning of a character that goes on behind.
    """

    tail: bytes
    text: str
    head: bytes


def split(data: bytes) -> Split | None:
    """The bytes cut at characters; None when no UTF-8 text contains them."""
    start = 0
    while start < len(data) and 0x80 <= data[start] < 0xC0:
        start += 1
    tail, rest = data[:start], data[start:]
    if len(tail) > 3 or (tail and not tails(tail)):
        return None
    try:
        return Split(tail, rest.decode(), b"")
    except UnicodeDecodeError as error:
        text, head = rest[: error.start].decode(), rest[error.start :]
        return Split(tail, text, head) if heads(head) else None


def wide(lead: int) -> int:
    """Bytes of the character a leading byte begins; 0 for a byte that begins none."""
    if lead < 0x80:
        return 1
    if lead in IMPOSSIBLE or lead < 0xC0:
        return 0
    return 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def heads(head: bytes) -> Sequence[slice]:
    """Code points whose UTF-8 begins with these bytes and goes on; empty if there are none."""
    length = wide(head[0]) if head else 0
    if length <= len(head) or any(not 0x80 <= byte < 0xC0 for byte in head[1:]):
        return ()
    value = head[0] & (0xFF >> (length + 1))
    for byte in head[1:]:
        value = value << 6 | byte & 0x3F
    shift = 6 * (length - len(head))
    first, last = value << shift, (value + 1) << shift
    first, last = max(first, _LEAST[length]), min(last, 0x110000)
    parts = [(first, min(last, 0xD800)), (max(first, 0xE000), last)]
    return tuple(slice(a, b) for a, b in parts if a < b)


def tails(tail: bytes) -> Sequence[slice]:
    """Code points whose UTF-8 ends with these continuation bytes; empty if there are none.

    The surrogates, which are no characters, may be among those of three bytes.
    """
    if not tail or any(not 0x80 <= byte < 0xC0 for byte in tail):
        return ()
    value = 0
    for byte in tail:
        value = value << 6 | byte & 0x3F
    step = 1 << 6 * len(tail)
    found: list[slice] = []
    for length in range(len(tail) + 1, 5):
        first = _LEAST[length] - _LEAST[length] % step + value
        first += step if first < _LEAST[length] else 0
        if first < _MOST[length]:
            found.append(slice(first, _MOST[length], step))
    return tuple(found)
