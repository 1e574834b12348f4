"""Pre-tokenization by Python's own regular expressions, where they surely agree with the library's.

A few times faster than the library, whose answer it is: whoever is told nothing here asks there.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import regex  # type: ignore[import-untyped]

from engine.tokenizer.codepoints import doubtful
from engine.tokenizer.cutting import GPT2_PATTERN, flat, pattern_of
from engine.tokenizer.patterns import parse
from engine.tokenizer.patterntree import UnreadableError
from engine.tokenizer.ranks import RULES
from engine.tokenizer.spec import TokenizerSpec

_OWN = regex.compile(r"\\[wWdDhHbBAzZGpP]?\{?\^|\\[wWdDhHbBAzZG]|(?<!\[)\^|\$|(?<!\\)\.|\[:")
"""What Python's module may read otherwise than the library."""
_FOLDED = frozenset("\u017f\u212a")
"""Long s and the Kelvin sign, which are s and k without case."""

_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KNOWN = frozenset({GPT2_PATTERN, _TEKKEN, *(rules.pattern for rules in RULES.values())})
"""Patterns that both read alike (tested); others are parsed first, which takes half a second."""


class Splitter:
    """One pattern that comes before the byte map, and what it leaves of a text."""

    def __init__(self, pattern: Any) -> None:
        self._find = pattern.findall

    @classmethod
    def of(cls, spec: TokenizerSpec, only: Container[str] | None = None) -> Splitter | None:
        """Of a tokenizer; None where its rules are more, read differently, or none of ``only``."""
        pattern = _pattern(spec, only)
        return None if pattern is None else cls(pattern)

    def pieces(self, text: str) -> list[str] | None:
        """A normalized text's pre-tokens, as text; None for what the library must be asked.

        Those are texts with characters that Unicode tables of different years, or rules without
        case, may differ about, and texts of which the pattern leaves something out.
        """
        if not text.isascii() and (not _FOLDED.isdisjoint(text) or doubtful(text)):
            return None
        found: list[str] = self._find(text)
        return found if "".join(found) == text else None


def _pattern(spec: TokenizerSpec, only: Container[str] | None) -> Any:
    nodes = flat(spec.tree.get("pre_tokenizer"))
    if not nodes or nodes[-1].get("type") != "ByteLevel" or nodes[-1].get("add_prefix_space"):
        return None
    cutting = [node for node in nodes if pattern_of(node) is not None]
    if len(cutting) != 1 or len(nodes) > 2 or cutting[0].get("invert"):
        return None
    if str(cutting[0].get("behavior", "Isolated")) != "Isolated":
        return None
    source = pattern_of(cutting[0]) or ""
    if _OWN.search(source) or (only is not None and source not in only):
        return None
    try:
        if source not in KNOWN:
            parse(source)
        found = regex.compile(
            source.replace(r"\s", r"\p{White_Space}").replace(r"\S", r"\P{White_Space}")
        )
    except (UnreadableError, regex.error, RecursionError):
        return None
    return found if found.groups == 0 else None
