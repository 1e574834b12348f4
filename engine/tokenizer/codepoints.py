"""Sets of code points as the ``tokenizers`` library's own regular expressions mean them.

Python's Unicode tables and the library's (Oniguruma) may be of different years. What is the same
in all of them is taken from Python; the few thousand code points on which they could differ are
asked of the library itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Members = npt.NDArray[np.bool_]
"""For each code point whether it is a member; surrogates never are."""

SIZE = 0x110000
_SURROGATES = slice(0xD800, 0xE000)
_LOW = 0x300
"""Below it every code point is asked of the library: controls and Latin-1 are where it matters."""


def none() -> Members:
    """The empty set."""
    return np.zeros(SIZE, dtype=bool)


def listed(code_points: Iterable[int]) -> Members:
    """The set of some code points."""
    members = none()
    members[list(code_points)] = True
    members[_SURROGATES] = False
    return members


def between(first: int, last: int) -> Members:
    """The set of a range, both ends included."""
    members = none()
    members[first : last + 1] = True
    members[_SURROGATES] = False
    return members


def inverse(members: Members) -> Members:
    """All other code points."""
    other = ~members
    other[_SURROGATES] = False
    return other


@lru_cache(maxsize=128)
def of_pattern(source: str, *, folded: bool = False) -> Members:
    """The characters that a pattern for one character matches.

    Args:
        source: as the library reads it: ``\\p{L}``, ``\\s``, ``[[:alpha:]]``.
        folded: whether upper and lower case count as the same.

    Raises:
        ValueError: if it is no pattern the library or Python knows.
    """
    import regex  # type: ignore[import-untyped]

    written = f"(?i:{source})" if folded else source
    try:
        found = regex.compile(f"(?:{_PYTHON.get(source, written)})+").finditer(_all())
        members = none()
        for match in found:
            members[_places()[match.start() : match.end()]] = True
    except regex.error as error:
        raise ValueError(str(error)) from None
    if source.startswith("\\p") or "[:" in source:
        known = _SURE.fullmatch(source) is not None
        doubtful = _doubtful() | _differs(source, members) if known else inverse(none())
    else:
        doubtful = _doubtful() | (_cased() if folded else none())
    return _asked(written, members, doubtful)


_SURE = re.compile(
    r"\\p\{([A-Z][a-z]?|Han|Hiragana|Katakana|Hangul|Thai|Latin|Cyrillic|Greek|Arabic|Hebrew)\}"
)
"""Properties that mean the same in both; others are asked of the library in full."""

_PYTHON = {
    r"\s": r"\p{White_Space}",
    r"\w": r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]",
    r"\d": r"\p{Nd}",
    r"\h": "[0-9A-Fa-f]",
}
"""Where Python's module means something else than Oniguruma by the same letter."""


def of_rule(keeps: Callable[[str], list[tuple[str, tuple[int, int]]]]) -> Members:
    """The characters a pre-tokenizer without a pattern cuts out, asked of it one by one.

    Args:
        keeps: the pieces the rule leaves of a text, with their characters.
    """
    members = none()
    code_points = np.flatnonzero(_assigned() | _doubtful())
    # An "a" on both sides: what cuts leaves the character apart from them, or not at all.
    text = "a" + "a".join(map(chr, code_points)) + "a"
    places = np.ones(len(text), dtype=bool)
    for _, (start, end) in keeps(text):
        if end - start > 1:
            places[start:end] = False
    places[::2] = False
    members[code_points] = places[1::2]
    return members


def _asked(source: str, members: Members, doubtful: Members) -> Members:
    """The set with the doubtful code points as the library answers for them."""
    from tokenizers import Regex, pre_tokenizers

    code_points = np.flatnonzero(doubtful)
    text = "".join(map(chr, code_points))
    try:
        rule = pre_tokenizers.Split(Regex(source), "removed", True)
        pieces = rule.pre_tokenize_str(text)
    except Exception as error:  # the library raises bare exceptions
        raise ValueError(" ".join(str(error).split())) from None
    answers = np.zeros(len(code_points), dtype=bool)
    for _, (start, end) in pieces:
        answers[start:end] = True
    members = members.copy()
    members[code_points] = answers
    members.flags.writeable = False
    return members


@cache
def _places() -> npt.NDArray[np.int64]:
    return np.concatenate([np.arange(0xD800), np.arange(0xE000, SIZE)])


@cache
def _all() -> str:
    return _places().astype("<u4").tobytes().decode("utf-32-le")


@cache
def _categories() -> npt.NDArray[Any]:
    """The general category of each code point, two bytes each; ``Cn`` for surrogates."""
    found = np.full(SIZE, b"Cn", dtype="S2")
    found[_places()] = np.frombuffer("".join(map(unicodedata.category, _all())).encode(), "S2")
    return found


@cache
def _assigned() -> Members:
    members = _categories() != b"Cn"
    members &= _categories() != b"Co"
    members[_SURROGATES] = False
    return np.asarray(members)


@cache
def _doubtful() -> Members:
    """Low code points, and those that are assigned in some years' tables only."""
    import regex

    newer = none()
    for match in regex.compile(r"\P{Cn}+").finditer(_all()):
        newer[_places()[match.start() : match.end()]] = True
    older = _categories() != b"Cn"
    older[_SURROGATES] = False
    members = np.asarray(newer != older)
    members[:_LOW] = True
    return members


@cache
def _cased() -> Members:
    """Characters that change with case."""
    return listed(ord(c) for c in _all() if c.lower() != c or c.upper() != c or c.casefold() != c)


def _differs(source: str, members: Members) -> Members:
    """Where Python's two tables disagree about a general category."""
    if not source.startswith(r"\p{") or not 1 <= len(source[3:-1]) <= 2:
        return none()
    own = np.char.startswith(_categories(), source[3:-1].encode())
    own[_SURROGATES] = False
    return np.asarray(own != members)


def doubtful(text: str) -> bool:
    """Whether a text has characters on which Unicode tables of different years may differ."""
    if text.isascii() or _SETTLED.fullmatch(text) is not None:
        return False
    return not _newer().isdisjoint(text)


_SETTLED = re.compile(
    "[\x00-\u01ff\u0391-\u03a1\u03a3-\u03c9\u0400-\u0481\u048a-\u04ff\u05d0-\u05ea"
    "\u0621-\u063a\u0641-\u064a\u0905-\u0939\u0e01-\u0e30\u2010-\u2027\u3001-\u3003"
    "\u3041-\u3094\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3]*"
)
"""Letters of large scripts, on which all tables agree: most texts need no table at all."""


@cache
def _newer() -> frozenset[str]:
    members = _doubtful().copy()
    members[:_LOW] = False
    return frozenset(map(chr, np.flatnonzero(members)))


@cache
def multiple_folds() -> tuple[frozenset[str], frozenset[str]]:
    """Characters whose case folding has several characters, and those foldings."""
    single = {c: c.casefold() for c in _all() if len(c.casefold()) > 1}
    return frozenset(single), frozenset(single.values())
