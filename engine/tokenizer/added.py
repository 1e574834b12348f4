"""Added and special tokens in a text: where the library finds them, before anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Added:
    """An added token as ``tokenizer.json`` declares it.

    Attributes:
        id: its id.
        content: the string that is looked for.
        special: a control token.
        normalized: looked for in the normalized text, not in the raw one.
        single_word: only between characters that are no part of a word.
        lstrip, rstrip: swallows white space at its left, right.
    """

    id: int
    content: str
    special: bool
    normalized: bool
    single_word: bool
    lstrip: bool
    rstrip: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of characters: an added token (``token``), or text between them (None)."""

    start: int
    end: int
    token: Added | None


def added_of(tree: Mapping[str, Any]) -> tuple[Added, ...]:
    """The added tokens of a parsed ``tokenizer.json``."""
    flags = ("special", "normalized", "single_word", "lstrip", "rstrip")
    return tuple(
        Added(int(t["id"]), str(t["content"]), *(bool(t.get(flag)) for flag in flags))
        for t in tree.get("added_tokens") or ()
    )


def added_in(library: Any) -> tuple[Added, ...]:
    """The added tokens as the library has them: it may number them otherwise than the file."""
    flags = ("special", "normalized", "single_word", "lstrip", "rstrip")
    return tuple(
        Added(int(i), str(token.content), *(bool(getattr(token, flag)) for flag in flags))
        for i, token in library.get_added_tokens_decoder().items()
    )


class Matcher:
    """Finds a set of added tokens in a text: leftmost, then longest, as the library does."""

    def __init__(self, tokens: Sequence[Added], needle: Callable[[str], str] = str) -> None:
        """Prepare the search.

        Args:
            tokens: what to look for.
            needle: what a token's content looks like in the searched text (normalized).
        """
        self._by_content = {found: t for t in tokens if (found := needle(t.content))}
        longest_first = sorted(self._by_content, key=len, reverse=True)
        self._pattern = (
            regex.compile("|".join(map(regex.escape, longest_first))) if longest_first else None
        )

    def parts(self, text: str, *, skip_special: bool = False) -> list[Part]:
        """The text as added tokens and stretches between them, in order, without empty ones.

        Args:
            text: where to look.
            skip_special: special tokens are plain text.
        """
        found: list[Part] = []
        done = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = self._by_content[match.group()]
            start, end = match.span()
            if start < done or (skip_special and token.special):
                continue
            if token.single_word and _inside_word(text, start, end):
                continue
            if token.lstrip:
                while start > done and text[start - 1].isspace():
                    start -= 1
            if token.rstrip:
                while end < len(text) and text[end].isspace():
                    end += 1
            if start > done:
                found.append(Part(done, start, None))
            found.append(Part(start, end, token))
            done = end
        if done < len(text):
            found.append(Part(done, len(text), None))
        return found


def _inside_word(text: str, start: int, end: int) -> bool:
    before = start > 0 and _word(text[start - 1])
    after = end < len(text) and _word(text[end])
    return before or after


def _word(character: str) -> bool:
    return character == "_" or character.isalnum()
