"""Which of many tokens a tokenizer would itself put after a beginning.

Encoding a text for each of them is slow because each text is cut into words again. Where the rule
that cuts is known, texts of one shape (letters, digits, spaces at the same places) are cut alike:
each shape is cut once, and of each token only the word it ends is given to the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from engine.pieces import byte_symbols, scheme_of
from engine.tokenizer.cutting import flat
from engine.tokenizer.modeltree import type_of
from engine.tokenizer.spec import TokenizerSpec
from engine.tokenizer.splitting import KNOWN, Splitter

_SYMBOLS = byte_symbols()

_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
"""Normalizers that leave ASCII alone."""


def _shape(character: str) -> str:
    """One character for all that no known pattern tells apart, where there is no apostrophe."""
    if character in " \r\n/'":
        return character
    if character.isalpha():
        return "A" if character.isupper() else "a"
    if character.isdigit():
        return "1"
    return "\t" if character in "\t\v\f" else "."


SHAPES = bytes(ord(_shape(chr(n))) if n < 0x80 else n for n in range(256))
"""What the known patterns see of a text; after an apostrophe they tell letters apart."""


class _Last(NamedTuple):
    """The word a text ends with.

    Attributes:
        form: its part that the beginning has, as the vocabulary writes it.
        ids: the tokens of that part.
    """

    form: str
    ids: tuple[int, ...]


class Follower:
    """Answers for whole characters; the library must be asked about texts that end inside one.

    Args:
        spec: whose tokens.
        splitter: its rule, a known one.
    """

    def __init__(self, spec: TokenizerSpec, splitter: Splitter) -> None:
        self._spec, self._splitter = spec, splitter
        self._normalized = bool(flat(spec.tree.get("normalizer")))
        self._whole = bool(spec.tree["model"].get("ignore_merges"))
        added = [spec.raw[i] or "" for i, piece in enumerate(spec.pieces) if piece.kind == "added"]
        self._added = re.compile("|".join(map(re.escape, added))) if added else None

    def follow(
        self, before: bytes, ids: tuple[int, ...], tokens: Sequence[int]
    ) -> list[bool | None]:
        """For each token whether ``before`` and its bytes are encoded as ``ids`` and the token.

        None where the library must be asked.
        """
        pieces, raw, form_ids = self._spec.pieces, self._spec.raw, self._spec.form_ids
        # What is known of a text by its shape, and of the words before its last one.
        lasts: dict[bytes, _Last | bool | None] = {}
        heads: dict[tuple[str, ...], _Last | bool] = {}
        known = lasts.get
        found: list[bool | None] = []
        for token in tokens:
            text = before + pieces[token].data
            kind = text if self._added is not None or b"'" in text else text.translate(SHAPES)
            last = known(kind, True)
            if last is True:
                words = self._words(text)
                if words is None:
                    last = None
                else:
                    head = tuple(words[:-1])
                    if head not in heads:
                        heads[head] = self._rest(head, ids)
                    last = heads[head]
                lasts[kind] = last
            if not isinstance(last, _Last):
                found.append(last)
            elif not last.ids and self._whole:
                found.append(True)
            else:
                found.append(form_ids(last.form + (raw[token] or "")) == (*last.ids, token))
        return found

    def words(self, text: str) -> list[str] | None:
        """Where a text is cut before the model; None where the library must be asked."""
        if self._normalized and not text.isascii():
            return None
        if self._added is not None and self._added.search(text):
            return None
        return self._splitter.pieces(text)

    def _words(self, text: bytes) -> list[str] | None:
        try:
            return self.words(text.decode())
        except UnicodeDecodeError:
            return None

    def _rest(self, head: Sequence[str], ids: tuple[int, ...]) -> _Last | bool:
        """The part of a beginning after some words; False where they are other tokens."""
        made: list[int] = []
        for word in head:
            made += self._spec.form_ids("".join(map(_SYMBOLS.__getitem__, word.encode())))
        if tuple(made) != ids[: len(made)]:
            return False  # among others where a word ends inside the last token
        rest = ids[len(made) :]
        return _Last("".join(self._spec.raw[i] or "" for i in rest), rest)


@lru_cache(maxsize=4)
def follower_of(spec: TokenizerSpec) -> Follower | None:
    """What answers for a tokenizer; None where its rules are not among the known ones."""
    model = spec.tree.get("model") or {}
    if not model or type_of(model) != "BPE" or scheme_of(spec.tree) != "byte_level":
        return None
    if any(model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix")):
        return None
    if any(node.get("type") not in _FORMS for node in flat(spec.tree.get("normalizer"))):
        return None
    splitter = Splitter.of(spec, only=KNOWN)
    return None if splitter is None else Follower(spec, splitter)
