"""What an id stands for: how vocabularies write bytes, and how bytes are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

PieceKind = Literal["text", "byte", "special", "added", "unused"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one id stands for.

    Attributes:
        data: its bytes; a partial UTF-8 sequence stays as it is.
        kind: ``special`` and ``added`` are literal strings of the tokenizer, ``byte`` a byte
            token of a byte fallback, ``unused`` an id without a string.
    """

    data: bytes
    kind: PieceKind


def show(data: bytes) -> str:
    r"""Bytes as readable text: valid UTF-8 as it is, every other byte as ``\xNN``."""
    return data.decode("utf-8", errors="backslashreplace")


_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")

Scheme = Literal["byte_level", "metaspace", "wordpiece", "plain"]


def scheme_of(tree: Mapping[str, Any]) -> Scheme:
    """How the vocabulary writes bytes, from the file's decoder and pre-tokenizer."""
    types = _types(tree.get("decoder")) | _types(tree.get("pre_tokenizer"))
    types |= _types(tree.get("normalizer"))
    if "ByteLevel" in types:
        return "byte_level"
    model = tree.get("model") or {}
    if "WordPiece" in types or model.get("type") == "WordPiece":
        return "wordpiece"
    if "Metaspace" in types or model.get("byte_fallback") or model.get("type") == "Unigram":
        return "metaspace"
    return "plain"


def _types(node: Any) -> set[str]:
    if isinstance(node, Mapping):
        own = {node["type"]} if isinstance(node.get("type"), str) else set()
        return own.union(*(_types(child) for child in node.values()))
    if isinstance(node, list):
        return set().union(*(_types(child) for child in node))
    return set()


def decode_piece(raw: str, scheme: Scheme) -> Piece:
    if scheme == "byte_level":
        table = _byte_map()
        try:
            return Piece(bytes([table[c] for c in raw]), "text")
        except KeyError:
            return Piece(raw.encode("utf-8", "surrogatepass"), "text")
    if scheme == "metaspace":
        match = _BYTE_TOKEN.match(raw)
        if match:
            return Piece(bytes([int(match.group(1), 16)]), "byte")
        return Piece(raw.replace("\u2581", " ").encode("utf-8", "surrogatepass"), "text")
    if scheme == "wordpiece":
        text = raw[2:] if raw.startswith("##") else " " + raw
        return Piece(text.encode("utf-8", "surrogatepass"), "text")
    return Piece(raw.encode("utf-8", "surrogatepass"), "text")


@lru_cache(maxsize=1)
def _byte_map() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, inverted (Radford et al. 2019, encoder.py)."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in own}
    others = [byte for byte in range(256) if byte not in set(own)]
    table.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return table


@lru_cache(maxsize=1)
def byte_symbols() -> tuple[str, ...]:
    """GPT-2's printable stand-in of each byte, the inverse of the above."""
    symbols = {byte: symbol for symbol, byte in _byte_map().items()}
    return tuple(symbols[byte] for byte in range(256))
