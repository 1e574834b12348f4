"""Proofs that an id never comes out of any text: one function for each reason."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.pieces import scheme_of, show
from engine.tokenizer.cutting import flat
from engine.tokenizer.languages import Cuts, cuts_of
from engine.tokenizer.spec import TokenizerSpec
from engine.tokenizer.utf8bytes import IMPOSSIBLE, split

_TIE = 1e-6
"""Scores closer than this may be ordered either way by rounding."""


@dataclass(frozen=True)
class Prover:
    """What is needed to prove ids of one tokenizer unreachable.

    Attributes:
        spec: whose ids.
        cuts: its pre-tokenizer's rules as automata.
    """

    spec: TokenizerSpec
    cuts: Cuts

    @classmethod
    def of(cls, spec: TokenizerSpec) -> Prover:
        """Read the tokenizer's rules."""
        return cls(spec, cuts_of(spec))

    def never(self, token_id: int) -> str | None:
        """Why no text gives this id; None when nothing forbids it."""
        for reason in (self._no_text, self._normalized_away, self._cut, self._not_made):
            found = reason(token_id)
            if found is not None:
                return found
        return None

    # -- its bytes ---------------------------------------------------------------------------

    def _no_text(self, token_id: int) -> str | None:
        data = self.spec.pieces[token_id].data
        if split(data) is not None:
            return None
        wrong = next((byte for byte in data if byte in IMPOSSIBLE), None)
        if wrong is not None:
            return f"No UTF-8 text contains this byte: \\x{wrong:02x}."
        return "Its bytes are part of no UTF-8 text."

    def _normalized_away(self, token_id: int) -> str | None:
        """Normal forms are closed under cutting: a piece that is none itself never occurs."""
        raw = self.form(token_id)
        text = raw if raw is not None else self._text(token_id)
        if text is None:
            return None
        for name, stable in self._forms:
            if stable(text) != text:
                return f"Normalization ({name}) never leaves these characters: it changes them."
        for character, name in self._replaced.items():
            if character in text:
                return f"Normalization ({name}) leaves none of these in a text: {character!r}."
        return None

    @cached_property
    def _last_forms(self) -> list[dict[str, Any]]:
        return flat(self.spec.tree.get("normalizer"))

    @cached_property
    def _forms(self) -> list[tuple[str, Callable[[str], str]]]:
        """The last of the normalizers, where it leaves alone whatever it has made."""
        nodes = self._last_forms
        if not nodes:
            return []
        node = nodes[-1]
        kind = str(node.get("type"))
        if kind in ("NFC", "NFD", "NFKC", "NFKD"):
            return [(kind, _form(kind))]
        if kind == "Lowercase" or (kind == "BertNormalizer" and node.get("lowercase")):
            return [("lower case", _lowered)]
        return []

    @cached_property
    def _replaced(self) -> dict[str, str]:
        """Characters that a last replacement removes from every text."""
        found: dict[str, str] = {}
        nodes = self._last_forms
        for node in nodes[-1:]:
            pattern = node.get("pattern")
            if node.get("type") == "Replace" and isinstance(pattern, dict):
                old, new = pattern.get("String"), str(node.get("content", ""))
                if isinstance(old, str) and len(old) == 1 and old not in new:
                    found[old] = "Replace"
        if any(n.get("add_prefix_space") for n in flat(self.spec.tree.get("pre_tokenizer"))):
            found.pop(" ", None)  # a space is put in front after normalization
        return found

    # -- cuts --------------------------------------------------------------------------------

    def form(self, token_id: int) -> str | None:
        """The token as the rules see it, as text; None when it is part of a character."""
        if self._byte_level:
            return self._text(token_id)
        raw = self.spec.raw[token_id] or ""
        return raw.removeprefix(self._inside).removesuffix(self._end)

    @cached_property
    def _inside(self) -> str:
        """What the vocabulary writes before a part inside a word."""
        model = self.spec.tree.get("model") or {}
        given = model.get("continuing_subword_prefix")
        return str(given if given is not None else "##" if self.spec.kind == "wordpiece" else "")

    @cached_property
    def _end(self) -> str:
        """What it writes behind the last part of a word."""
        return str((self.spec.tree.get("model") or {}).get("end_of_word_suffix") or "")

    def _text(self, token_id: int) -> str | None:
        try:
            return self.spec.pieces[token_id].data.decode()
        except UnicodeDecodeError:
            return None

    @cached_property
    def _byte_level(self) -> bool:
        return scheme_of(self.spec.tree) == "byte_level" if self.spec.tree else False

    def bytes_seen(self, token_id: int) -> bytes:
        """The token's bytes as the rules see them."""
        if self._byte_level:
            return self.spec.pieces[token_id].data
        return (self.form(token_id) or "").encode("utf-8", "surrogatepass")

    def inner(self, token_id: int) -> bool:
        """Whether something must stand before the token in its word (``##ing``)."""
        raw = self.spec.raw[token_id] or ""
        return bool(self._inside) and raw.startswith(self._inside)

    def _cut(self, token_id: int) -> str | None:
        if self.spec.pieces[token_id].kind == "byte":
            return None
        if self.spec.kind == "wordlevel":
            form = self.form(token_id) or ""
            if not self.cuts.whole(form):
                return "The rules never leave it as a whole word."
        return self.cuts.refusal(self.bytes_seen(token_id), inside=self.inner(token_id))

    # -- the model -----------------------------------------------------------------------------

    def _not_made(self, token_id: int) -> str | None:
        kind = self.spec.kind
        if self.spec.pieces[token_id].kind == "byte":
            return self._byte_unneeded(token_id)
        if kind == "bpe":
            return self._not_merged(token_id)
        return self._not_best(token_id) if kind == "unigram" else None

    def _byte_unneeded(self, token_id: int) -> str | None:
        """A byte token stands for characters without a token: are there any with this byte?

        Looked at are ASCII, and the bytes that begin characters of two.
        """
        byte = self.spec.pieces[token_id].data[0]
        if byte < 0x80:
            characters = [chr(byte)]
        elif 0xC2 <= byte < 0xE0:
            characters = [chr((byte & 0x1F) << 6 | low) for low in range(64)]
        else:
            return None
        for character in characters:
            own = self.spec.by_raw.get(character)
            if own is None or self.spec.pieces[own].kind != "text":
                return None
        which = repr(characters[0]) if len(characters) == 1 else "all 64"
        return f"Characters with this byte have tokens of their own: {which}."

    def _not_merged(self, token_id: int) -> str | None:
        """A token that merges make in some text they also make of the token alone.

        No merge crosses the ends of what becomes one token, so those inside it happen in the same
        order as if it stood alone.
        """
        model = self.spec.tree.get("model") or {}
        if self._inside or self._end:
            return None
        raw = self.spec.raw[token_id] or ""
        ids = self.spec.form_ids(raw)
        if ids == (token_id,):
            return None
        if model.get("ignore_merges") and self._may_be_whole(token_id):
            return None
        parts = "|".join(show(self.spec.pieces[i].data) for i in ids)
        return f"No merges make it: its own bytes are spelled {parts}."

    def _may_be_whole(self, token_id: int) -> bool:
        text = self._text(token_id) if self._byte_level else self.form(token_id)
        return text is not None and self.cuts.whole(text)

    def _not_best(self, token_id: int) -> str | None:
        """A token that is part of a best path is the best path of its own characters."""
        scores = self.spec.scores
        if scores is None or not self.spec.tree:
            return None  # SentencePiece puts a space first: it cannot be asked of a bare piece
        raw = self.spec.raw[token_id] or ""
        ids = self.spec.form_ids(raw)
        if ids == (token_id,) or self.spec.unknown in ids:
            return None
        if sum(scores[i] for i in ids) - scores[token_id] <= _TIE * max(1, abs(scores[token_id])):
            return None
        parts = "|".join(show(self.spec.pieces[i].data) for i in ids)
        return f"Other tokens always score higher: {parts}."


def _form(kind: str) -> Callable[[str], str]:
    return lambda text: unicodedata.normalize(kind, text)  # type: ignore[arg-type]


def _lowered(text: str) -> str:
    return "".join(c if len(c.lower()) > 1 else c.lower() for c in text)
