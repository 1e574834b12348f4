"""What kind of token each one is: function word, content word, number, punctuation, …

Tokens are pieces of words, so a piece gets the class of the word it is part of, wherever the
tokenizer cut. Words and numbers are found in the text, across token boundaries, by the rules of
Unicode Standard Annex 29 for letters (an apostrophe between letters does not end a word) and
numbers (nor a point or comma between digits a number).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from engine.texts.function_words import is_function_word
from engine.trace import Trace

TokenClass = Literal[
    "function",
    "content",
    "word",
    "number",
    "punctuation",
    "whitespace",
    "special",
    "mixed",
    "other",
]
CLASSES: tuple[TokenClass, ...] = get_args(TokenClass)

CLASS_DOCS: Mapping[TokenClass, str] = MappingProxyType(
    {
        "function": "English function words: the, of, and, is, not …",
        "content": "Other words in Latin letters.",
        "word": "Words in another script, for which there is no list of function words.",
        "number": "Digits, with points and commas between them.",
        "punctuation": "Punctuation marks and symbols.",
        "whitespace": "Spaces and line ends only.",
        "special": "Special tokens, and what the tokenizer added.",
        "mixed": "Holds parts of two classes.",
        "other": "Control characters, and bytes that are no text.",
    }
)

# One letter per kind of character: l Latin letter, w other letter, m mark, n number, a apostrophe,
# d point or comma, p punctuation and symbols, s space, j joiner (draws nothing), o the rest.
_WORD = re.compile("[lw][lwmj]*(?:a[lw][lwmj]*)*")
_NUMBER = re.compile("n[nmj]*(?:d?n[nmj]*)*")
_KINDS: Mapping[str, TokenClass] = {
    "a": "punctuation", "d": "punctuation", "p": "punctuation", "s": "whitespace",
    "n": "number", "m": "other", "j": "other", "o": "other",
}  # fmt: skip
_JOINERS = "\u00ad\u200c\u200d"


def token_classes(trace: Trace) -> list[TokenClass]:
    """The class of every token of a trace."""
    return classes_of(trace.pieces, {*trace.special, *trace.added})


def classes_of(pieces: Sequence[bytes], special: Collection[int] = ()) -> list[TokenClass]:
    """The class of every piece.

    Args:
        pieces: bytes of consecutive tokens.
        special: positions of special tokens: class ``special``, and words end there.

    Spaces do not count where a token holds anything else: " the" is a function word. A token with
    parts of two classes is ``mixed``; one that holds a part of a character is of its class.
    """
    result: list[TokenClass] = ["special"] * len(pieces)
    for start, end in _runs(len(pieces), set(special)):
        data = b"".join(pieces[start:end])
        text = data.decode("utf-8", "surrogateescape")
        kinds = _kinds(text)
        # First and last character each piece touches, found by its bytes.
        at = np.repeat(np.arange(len(text)), _widths(text)).tolist()
        byte = 0
        for position in range(start, end):
            piece = pieces[position]
            if not piece:
                result[position] = "other"
                continue
            first, last = at[byte], at[byte + len(piece) - 1]
            byte += len(piece)
            found = set(kinds[first : last + 1])
            if len(found) > 1:
                found.discard("whitespace")
            result[position] = found.pop() if len(found) == 1 else "mixed"
    return result


def _runs(length: int, special: set[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for position in [*sorted(special), length]:
        if start < position:
            yield start, position
        start = position + 1


def _widths(text: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Bytes of each character; an escaped byte is one."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    widths = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    widths[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1
    return widths.astype(np.int64)


def _kinds(text: str) -> list[TokenClass]:
    """The class of every character."""
    codes = "".join(map(_code, text))
    kinds: list[TokenClass] = [_KINDS.get(code, "other") for code in codes]
    for word in _WORD.finditer(codes):
        start, end = word.span()
        kind = "word" if "w" in word.group() else _word_class(text[start:end])
        kinds[start:end] = [kind] * (end - start)
    for number in _NUMBER.finditer(codes):
        start, end = number.span()
        kinds[start:end] = ["number"] * (end - start)
    return kinds


def _word_class(word: str) -> TokenClass:
    plain = unicodedata.normalize("NFKC", word).casefold().replace("’", "'")
    for joiner in _JOINERS:
        plain = plain.replace(joiner, "")
    return "function" if is_function_word(plain) else "content"


@lru_cache(maxsize=4096)
def _code(character: str) -> str:
    if character in "'’":
        return "a"
    if character in ".,":
        return "d"
    if character.isspace():
        return "s"
    if character in _JOINERS:
        return "j"
    category = unicodedata.category(character)
    if category[0] == "L":
        plain = unicodedata.normalize("NFKC", character)
        latin = all(unicodedata.name(c, "").startswith("LATIN") for c in plain)
        return "l" if latin else "w"
    return {"M": "m", "N": "n", "P": "p", "S": "p"}.get(category[0], "o")
