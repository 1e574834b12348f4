"""What kind of string a token is: Qtok's classes, each token in exactly one, and its script.

Source: Qtok (nup-csai/Qtok, ``classification.py``), without its double count of spaced words.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from engine.pieces import Piece
from engine.tokenizer.spec import TokenizerSpec
from engine.tokenizer.utf8bytes import IMPOSSIBLE, split

CATEGORIES = (
    "control_tokens",
    "pure_unicode",
    "unicode_flanks",
    *(f"{where}_{what}" for where in ("char", "spaced", "inner") for what in
      ("alpha", "other", "errors")),
    "unused",
    "padded",
)  # fmt: skip
"""Classes; ``unused`` (no string) and ``padded`` (a row of the model only) are ours."""

_NEUTRAL = ("COMBINING", "VARIATION", "MODIFIER", "ZERO", "MUSICAL")


@dataclass(frozen=True, slots=True)
class Sort:
    """What a token is.

    Attributes:
        category: one of ``CATEGORIES``.
        script: script of its letters, ``mixed`` for several, None without letters.
        utf8: ``whole``; ``continuation`` (one stray byte), ``starts inside``, ``ends inside``,
            ``both ends inside`` a character; ``impossible``.
    """

    category: str
    script: str | None
    utf8: str


def sorts(spec: TokenizerSpec) -> list[Sort]:
    """What each id is, by id."""
    return [sort_of(piece) for piece in spec.pieces]


@lru_cache(maxsize=4096)
def _sort(category: str, script: str | None, utf8: str) -> Sort:
    return Sort(category, script, utf8)


def sort_of(piece: Piece) -> Sort:
    """What one piece is."""
    data, kind = piece.data, piece.kind
    if kind == "text" and data.isascii():
        # Most tokens end here.
        spaced = data[:1] == b" " and len(data) > 1
        body = data[1:] if spaced else data
        where = "spaced" if spaced else "char" if len(data) == 1 else "inner"
        if body.isalpha():
            return _sort(where + "_alpha", "LATIN", "whole")
        latin = any(65 <= byte <= 90 or 97 <= byte <= 122 for byte in body)
        return _sort(where + "_other", "LATIN" if latin else None, "whole")
    if kind == "unused":
        return _sort("unused", None, "whole")
    utf8 = utf8_of(data)
    if kind == "special":
        return _sort("control_tokens", None, utf8)
    if kind == "byte" or (len(data) == 1 and utf8 != "whole"):
        return _sort("pure_unicode", None, utf8)
    if utf8 != "whole":
        return _sort("unicode_flanks", None, utf8)
    text = data.decode()
    spaced_ = text.startswith(" ") and len(text) > 1
    what, script = _letters(text[1:] if spaced_ else text)
    place = "spaced" if spaced_ else "char" if len(text) == 1 else "inner"
    return _sort(f"{place}_{what}", script, utf8)


def utf8_of(data: bytes) -> str:
    """How bytes stand to whole characters; see ``Sort``."""
    try:
        data.decode()
        return "whole"
    except UnicodeDecodeError:
        pass
    parts = split(data)
    if parts is None or any(byte in IMPOSSIBLE for byte in data):
        return "impossible"
    if parts.tail and parts.head:
        return "both ends inside"
    if parts.tail:
        return "continuation" if len(data) == 1 else "starts inside"
    return "ends inside"


def script_of(text: str) -> str | None:
    """The script of a text's letters; ``mixed`` for several, None without letters."""
    return _letters(text)[1]


def _letters(text: str) -> tuple[str, str | None]:
    kinds = set(map(_kind, text))
    scripts = kinds - {None, "?", ""}
    script = None if not scripts else scripts.pop() if len(scripts) == 1 else "mixed"
    if "?" in kinds:
        return "errors", script
    alpha = None not in kinds and script is not None and script != "mixed"
    return "alpha" if alpha else "other", script


@lru_cache(maxsize=65_536)
def _kind(character: str) -> str | None:
    """First word of a letter's name; empty for marks of any script, ``?`` where none has one."""
    category = unicodedata.category(character)
    if category in ("Cn", "Co", "Cs") or character == "\ufffd":
        return "?"
    if category[0] not in "LM":
        return None
    word = unicodedata.name(character, "?").split()[0].split("-")[0]
    return "" if word in _NEUTRAL else word
