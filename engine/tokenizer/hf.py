"""A ``tokenizer.json`` behind a ``TokenizerSpec``: the ``tokenizers`` library, used with care."""

from __future__ import annotations

import itertools
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import PreTokenizedString, Regex

from engine.pieces import Piece, decode_piece, scheme_of
from engine.tokenizer import aligning
from engine.tokenizer.added import Added, Matcher, Part
from engine.tokenizer.aligning import Stretch
from engine.tokenizer.cutting import Rule, cut, rules_of
from engine.tokenizer.merging import bpe_steps, longest_steps, path_steps
from engine.tokenizer.modeltree import merges_of, pairs_of, vocabulary_of
from engine.tokenizer.spec import (
    Bounds,
    Encoded,
    Normalized,
    Pretoken,
    Specials,
    Step,
)

FEW = 16
"""So few texts are encoded before other threads have woken up."""


class LibraryBackend:
    """One own ``Tokenizer`` of the library: transformers may leave flags set on a shared one."""

    def __init__(
        self,
        tree: dict[str, Any],
        library: Any,
        added: Sequence[Added],
        pieces: Sequence[Piece],
        unknown: int | None,
    ) -> None:
        library.no_truncation()
        library.no_padding()
        if getattr(library.model, "dropout", None):
            library.model.dropout = None  # encoding must give the same ids every time
        self.tree = tree
        self._library = library
        self._lock = threading.Lock()
        self._scheme = scheme_of(tree)
        self._added = added
        self._pieces, self._unknown = pieces, unknown

    # -- encoding ----------------------------------------------------------------------------

    def encode(self, text: str, specials: Specials) -> Encoded:
        """Ids and bounds; see ``TokenizerSpec.encode``."""
        with self._lock:
            self._library.encode_special_tokens = specials == "text"
            encoding = self._library.encode(text, add_special_tokens=False)
        ids = tuple(encoding.ids)
        pieces = [self._pieces[i].data for i in ids]
        data = text.encode()
        if b"".join(pieces) == data and self._literal:
            ends = [0]
            for piece in pieces:
                ends.append(ends[-1] + len(piece))
            return Encoded(ids, tuple(itertools.pairwise(ends)))
        stretches = self._stretches(text, specials)
        cuts = None
        if self._unknown in ids and self._model["type"] in ("WordPiece", "WordLevel"):
            cuts = frozenset(cut.end for cut in self.pretokens(text, specials))
        bounds = aligning.follow(ids, pieces, self._unknown, stretches, cuts)
        if bounds is None:
            return Encoded(ids, aligning.byte_offsets(text, encoding.offsets), exact=False)
        return Encoded(ids, bounds)

    def ids(self, texts: Sequence[str], specials: Specials) -> list[list[int]]:
        """Ids of many texts, without bounds."""
        with self._lock:
            self._library.encode_special_tokens = specials == "text"
            if len(texts) < FEW:
                encode = self._library.encode
                return [encode(text, add_special_tokens=False).ids for text in texts]
            found = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids put before and after a text."""
        with self._lock:
            full = self._library.encode("a", add_special_tokens=True).ids
            bare = self._library.encode("a", add_special_tokens=False).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return tuple(full[:start]), tuple(full[start + len(bare) :])
        return (), ()

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The library's own decoding, special tokens included."""
        return [str(t) for t in self._library.decode_batch(list(map(list, rows)), False)]

    # -- text before the model ---------------------------------------------------------------

    @cached_property
    def _literal(self) -> bool:
        """Joined pieces that equal the text stand for it byte by byte."""
        return self._scheme != "wordpiece"

    @cached_property
    def _matchers(self) -> dict[bool, Matcher]:
        """Matchers for tokens looked for in raw (False) and in normalized text (True)."""
        normalizer = self._library.normalizer
        needle = str if normalizer is None else normalizer.normalize_str
        raw = [t for t in self._added if not t.normalized]
        normal = [t for t in self._added if t.normalized]
        return {False: Matcher(raw), True: Matcher(normal, needle)}

    def _parts(self, text: str, specials: Specials) -> list[Part]:
        """Added tokens and the text between them, by characters of the original text."""
        parts = self._matchers[False].parts(text, skip_special=specials == "text")
        if not any(t.normalized for t in self._added):
            return parts
        found: list[Part] = []
        for part in parts:
            found += [part] if part.token else self._in_normalized(text, part, specials)
        return found

    def _in_normalized(self, text: str, part: Part, specials: Specials) -> list[Part]:
        piece = text[part.start : part.end]
        normal = self._normalized(piece)
        matcher = self._matchers[True]
        found = matcher.parts(normal.text, skip_special=specials == "text")
        if not any(p.token for p in found):
            return [part]
        places = _characters(piece)

        def at(byte: int) -> int:
            return part.start + places[byte]

        moved: list[Part] = []
        for p in found:
            start, end = normal.spans[p.start][0], normal.spans[p.end - 1][1]
            moved.append(Part(at(start), at(end), p.token))
        return moved

    def _stretches(self, text: str, specials: Specials) -> list[Stretch]:
        made: list[Stretch] = []
        at = 0
        for part in self._parts(text, specials):
            piece = text[part.start : part.end]
            data = piece.encode()
            span = (at, at + len(data))
            if part.token is not None:
                made.append(Stretch(data, (), (), span, part.token.id))
            else:
                normal = self._normalized(piece)
                spans = [(at + a, at + b) for a, b in normal.spans]
                made.append(aligning.stretch(normal.text, spans, span, self._marks))
            at = span[1]
        return made

    @cached_property
    def _marks(self) -> bool:
        return self._scheme == "metaspace"

    def _normalized(self, text: str) -> Normalized:
        """A stretch of text, normalized, with the original bytes of each character."""
        normalizer = self._library.normalizer
        if normalizer is None or normalizer.normalize_str(text) == text:
            return Normalized(text, _spans(text))
        state = PreTokenizedString(text)
        state.normalize(normalizer.normalize)
        state.split(lambda _, s: s.split(_ANY, "isolated"))
        splits = [(form, (a, b)) for form, (a, b), _ in state.get_splits("original", "byte")]
        spans = _mended(text, splits)
        return Normalized("".join(form for form, _ in splits), tuple(spans))

    def normalize(self, text: str) -> Normalized:
        """All of a text; added tokens that are looked for in raw text stay as they are."""
        forms: list[str] = []
        spans: list[Bounds] = []
        at = 0
        for part in self._parts(text, "text"):
            piece = text[part.start : part.end]
            keep = part.token is not None and not part.token.normalized
            normal = Normalized(piece, _spans(piece)) if keep else self._normalized(piece)
            forms.append(normal.text)
            spans += [(at + a, at + b) for a, b in normal.spans]
            at += len(piece.encode())
        return Normalized("".join(forms), tuple(spans))

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The file's pre-tokenizers, one by one."""
        return rules_of(self.tree)

    def pretokens(self, text: str, specials: Specials) -> tuple[Pretoken, ...]:
        """Where the text is cut before the model; see ``TokenizerSpec.pretokens``."""
        found: list[Pretoken] = []
        at = 0
        for part in self._parts(text, specials):
            piece = text[part.start : part.end]
            end = at + len(piece.encode())
            if part.token is not None:
                token = part.token
                found.append(Pretoken(at, end, token.content, "added token", token.id))
            else:
                found += cut(self.rules, self._library.normalizer, piece, at)
            at = end
        return tuple(found)

    # -- the model ---------------------------------------------------------------------------

    @cached_property
    def _model(self) -> Mapping[str, Any]:
        return self.tree["model"]

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return vocabulary_of(self._model)

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        # Of a pair listed twice the library keeps the last place, as this does.
        return {pair: rank for rank, pair in enumerate(pairs_of(self._model))}

    def merges(self) -> tuple[tuple[int, int, int], ...] | None:
        """The file's merges as ids; see ``TokenizerSpec.merges``."""
        return merges_of(self._model) if self._model.get("type") == "BPE" else None

    def steps(self, form: str) -> tuple[Step, ...]:
        """The model's steps on one pre-token; see ``TokenizerSpec.merge_steps``."""
        kind = self._model.get("type")
        if kind == "BPE":
            return self._bpe(form)
        if kind == "WordPiece":
            prefix = self._model.get("continuing_subword_prefix", "##")
            return longest_steps(form, self._vocabulary, prefix, self._model.get("unk_token"))
        if kind == "Unigram":
            scores = {piece: float(score) for piece, score in self._model["vocab"]}
            return path_steps([t.value for t in self._library.model.tokenize(form)], scores)
        word = form if form in self._vocabulary else self._model.get("unk_token") or ""
        return (Step("lookup", 0, word, None, (word,)),)

    def _bpe(self, form: str) -> tuple[Step, ...]:
        if self._model.get("ignore_merges") and form in self._vocabulary:
            return (Step("whole", 0, form, None, (form,)),)
        return bpe_steps(self.parts(form), self.rank, self.inside)

    @property
    def inside(self) -> str:
        """What the vocabulary writes before a part inside a word (BPE)."""
        return str(self._model.get("continuing_subword_prefix") or "")

    def parts(self, form: str) -> list[str]:
        """What the merges of a pre-token start from."""
        parts: list[str] = []
        for character in form:
            if character not in self._vocabulary and self._model.get("byte_fallback"):
                parts += [f"<0x{byte:02X}>" for byte in character.encode()]
            else:
                parts.append(character)
        parts[1:] = [self.inside + part for part in parts[1:]]
        if parts:
            parts[-1] += str(self._model.get("end_of_word_suffix") or "")
        return parts

    def rank(self, left: str, right: str) -> float | None:
        """Place of a pair in the list of merges."""
        return self._ranks.get((left, right))

    def form_ids(self, form: str) -> tuple[int, ...]:
        """Ids the model gives one pre-token."""
        return tuple([token.id for token in self._library.model.tokenize(form)])

    def form_bytes(self, form: str) -> bytes:
        """Bytes a pre-token's form stands for."""
        return decode_piece(form, self._scheme).data


_ANY = Regex("(?m).")  # Oniguruma's "multi-line" lets the dot match line breaks


def _spans(text: str) -> tuple[Bounds, ...]:
    spans: list[Bounds] = []
    at = 0
    for character in text:
        end = at + len(character.encode())
        spans.append((at, end))
        at = end
    return tuple(spans)


def _characters(text: str) -> dict[int, int]:
    """Character number at each byte where one starts, and at the end."""
    places = {start: number for number, (start, _) in enumerate(_spans(text))}
    return {**places, len(text.encode()): len(text)}


def _mended(text: str, splits: Sequence[tuple[str, Bounds]]) -> list[Bounds]:
    """Spans of normalized characters, where the library's are not what they come from.

    A mark put in front borrows the first character's span, though it stands for nothing; an
    accent that was joined with its letter is left out of the letter's span.
    """
    spans = [span for _, span in splits]
    data = text.encode()
    for at, (start, end) in enumerate(spans):
        after = spans[at + 1][0] if at + 1 < len(spans) else len(data)
        lost = data[end:after].decode(errors="replace") if after > end else ""
        if lost and all(unicodedata.combining(character) for character in lost):
            spans[at] = (start, after)
    first = splits[0] if splits else None
    marked = first is not None and first[0] in (aligning.SPACE_MARK, " ")
    if marked and not text.startswith((aligning.SPACE_MARK, " ")):
        spans[0] = (0, 0)
    return spans
