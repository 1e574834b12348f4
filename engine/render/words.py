"""Tokens of a long text for drawing: each distinct one marked up once, and what they spell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.render.text import markup, plain

Indices = npt.NDArray[np.int32]
Marks = npt.NDArray[np.bool_]

LONGEST = 2000
"""Characters of one token that are sent; the strip clips it, hovering shows them."""


def tokens_of(tokens: pa.Table) -> tuple[pa.Array, Marks]:
    """Bytes of each token, and which are special ones."""
    special = tokens["special"].combine_chunks().fill_null(False)
    return _bytes(tokens["token_bytes"]), special.to_numpy(zero_copy_only=False)


def vocabulary(groups: list[tuple[pa.Array, Marks]]) -> tuple[list[str], list[Indices]]:
    """Distinct tokens as the JavaScript draws them, and for each group their places in that list.

    Args:
        groups: bytes of tokens, and which of them are special ones.
    """
    codes = pa.concat_arrays([_bytes(tokens) for tokens, _ in groups]).dictionary_encode()
    special = np.concatenate([marks for _, marks in groups])
    key = codes.indices.to_numpy().astype(np.int64) * 2 + special
    distinct, places = np.unique(key, return_inverse=True)
    known = codes.dictionary.to_pylist()
    words = [markup(known[k >> 1], special=bool(k & 1), longest=LONGEST) for k in distinct.tolist()]
    ends = np.cumsum([len(tokens) for tokens, _ in groups])
    return words, np.split(places.astype(np.int32), ends[:-1])


@dataclass(frozen=True, slots=True)
class Best:
    """The k-th most likely token at every position."""

    tokens: pa.Array
    special: Marks
    given: Marks
    chance: npt.NDArray[np.float32]


def best(alternatives: pa.Table, count: int, length: int) -> list[Best]:
    """The ``count`` likeliest alternatives at each of ``length`` positions."""
    rank = alternatives["alternative_rank"].to_numpy()
    position = alternatives["position"].to_numpy()
    result = []
    for k in range(1, count + 1):
        rows = np.flatnonzero((rank == k) & (position < length))
        row = np.full(length, -1, np.int64)
        row[position[rows]] = rows
        given = row >= 0
        take = pa.array(row, mask=~given)
        logprob = alternatives["logprob"].take(take).combine_chunks().cast(pa.float32())
        chance = np.exp(logprob.to_numpy(zero_copy_only=False))
        found = alternatives["alternative_bytes"].take(take).combine_chunks()
        result.append(Best(found, np.ones(length, np.bool_), given, chance))
    return result


def names(tokens: pa.Table) -> list[str]:
    """Each token as readable plain text."""
    return _each(tokens, plain)


def pieces(tokens: pa.Table) -> list[str]:
    """Each token with its marks."""
    return _each(tokens, markup)


def written(tokens: pa.Array) -> tuple[str, Indices, Indices]:
    r"""The text that tokens spell, and where each one starts and stops in it.

    A character whose bytes lie in several tokens belongs to all of them. Bytes that are no UTF-8
    are written as ``\xNN``.

    Returns:
        text, and starts and stops as JavaScript counts: in UTF-16 units.
    """
    data = _bytes(tokens)
    raw = b"".join(data.to_pylist())
    text = raw.decode("utf-8", "surrogateescape")
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    odd = (points >= 0xDC80) & (points <= 0xDCFF)
    size = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    byte_end = np.cumsum(np.where(odd, 1, size))
    unit_end = np.concatenate([[0], np.cumsum(np.where(odd, 4, 1 + (points >= 0x10000)))])
    lengths = np.asarray([len(piece) for piece in data.to_pylist()], np.int64)
    ends = np.cumsum(lengths)
    first = np.searchsorted(byte_end, ends - lengths, "right")
    last = np.searchsorted(byte_end, ends - 1, "right")
    start = unit_end[first]
    stop = np.where(lengths > 0, unit_end[np.minimum(last + 1, len(points))], start)
    shown = raw.decode("utf-8", "backslashreplace")
    return shown, start.astype(np.int32), stop.astype(np.int32)


def _bytes(tokens: Any) -> pa.Array:
    whole = tokens.combine_chunks() if isinstance(tokens, pa.ChunkedArray) else tokens
    return whole.cast(pa.binary()).fill_null(b"")


def _each(tokens: pa.Table, draw: Any) -> list[str]:
    data, special = tokens_of(tokens)
    seen: dict[tuple[bytes, bool], str] = {}
    shown = []
    for token in zip(data.to_pylist(), special.tolist(), strict=True):
        if token not in seen:
            seen[token] = draw(token[0], special=token[1])
        shown.append(seen[token])
    return shown
