"""One tokenizer, whatever file it came from: ids, exact bytes, cuts, merges.

``TokenizerSpec`` is what every analysis of a tokenizer works with. It holds the vocabulary as
bytes and asks a backend (the ``tokenizers`` library, or SentencePiece) only for what that alone
knows: the ids of a text, normalization, cuts. Neither torch nor transformers is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import UserError
from engine.pieces import Piece, show
from engine.tokenization import utf8
from engine.tokenizer.shapes import (
    Backend,
    Bounds,
    Encoded,
    Kind,
    Normalized,
    Pretoken,
    Specials,
    Step,
)

if TYPE_CHECKING:
    from tokenkernel import Trie

__all__ = [
    "ANCHOR",
    "Backend",
    "Bounds",
    "Encoded",
    "Kind",
    "Normalized",
    "Pretoken",
    "Specials",
    "Step",
    "TokenizerSpec",
]

ANCHOR = "\u00ab"
"""Put before a token so that a decoder strips nothing of it (Land and Bartolo 2024, magikarp)."""


@dataclass(frozen=True, eq=False)
class TokenizerSpec:
    """A tokenizer as data; see the module.

    Attributes:
        name: what to call it in a sentence.
        kind: the model's algorithm.
        digest: SHA-256 of the content, 64 hex characters; for a ``tokenizer.json`` the same as
            ``engine.tokenization.Tokenizer.digest``.
        pieces: what each id stands for, by id; ids without a string are ``unused``.
        raw: the vocabulary's own string of each id, None for unused ones.
        scores: a score for each id (Unigram log-probability, SentencePiece), else None.
        unknown: id that stands for what the vocabulary cannot spell, or None.
        lossy: bytes of a token depend on its neighbours (WordPiece, WordLevel): joined bytes are
            not the text's.
        backend: internal.
    """

    name: str
    kind: Kind
    digest: str
    pieces: tuple[Piece, ...]
    raw: tuple[str | None, ...]
    scores: tuple[float, ...] | None
    unknown: int | None
    lossy: bool
    backend: Backend

    @property
    def size(self) -> int:
        """Ids from 0 on, unused ones included (largest id + 1)."""
        return len(self.pieces)

    @property
    def tree(self) -> dict[str, Any]:
        """The parsed ``tokenizer.json`` (made up for rank files, empty for SentencePiece)."""
        return self.backend.tree

    def piece(self, token_id: int) -> Piece:
        """Bytes and kind of an id; ``unused`` and no bytes for ids without a string."""
        return self.pieces[token_id] if 0 <= token_id < self.size else Piece(b"", "unused")

    def token(self, token_id: int) -> str:
        r"""An id as readable text; bytes that are no UTF-8 as ``\xNN``."""
        return show(self.piece(token_id).data)

    @cached_property
    def merges(self) -> tuple[tuple[int, int, int], ...] | None:
        """(left id, right id, merged id) in order of priority.

        None where there are none (Unigram, WordPiece, WordLevel) or where they follow from scores
        (SentencePiece BPE).
        """
        return self.backend.merges()

    def check_ids(self, ids: Iterable[int]) -> None:
        """Refuse ids the tokenizer does not have.

        Raises:
            UserError: naming the first one.
        """
        for token_id in ids:
            if not 0 <= token_id < self.size or self.pieces[token_id].kind == "unused":
                raise UserError(
                    f"{self.name} has no token id {token_id}; its ids run from 0 to "
                    f"{self.size - 1}: correct it or choose the tokenizer it came from."
                )

    def encode(self, text: str, specials: Specials = "text") -> Encoded:
        """Ids of ``text`` and their bytes in it; no BOS or EOS is put around (see ``around``).

        Args:
            text: what to cut.
            specials: special tokens written in the text are plain ``text``, are ``parse``d to
                their ids, or are an ``error``. Added tokens that are not special are always
                matched: that is how the tokenizer works.

        Raises:
            UserError: lone surrogates, too long a text, or a special token with ``error``.
        """
        utf8(text)
        if specials == "error":
            for token_id, piece in self.specials.items():
                if piece in text:
                    raise UserError(
                        f"The text contains the special token {piece} (id {token_id}) of "
                        f"{self.name}: remove it, or let it be read as text."
                    )
            specials = "text"
        return self.backend.encode(text, specials)

    def encode_ids(
        self, texts: Sequence[str], specials: Literal["text", "parse"] = "text"
    ) -> list[list[int]]:
        """Ids of many texts at once, without bounds; much faster for many short ones.

        Raises:
            UserError: lone surrogates or too long a text.
        """
        for text in texts:
            utf8(text)
        return self.backend.ids(texts, specials)

    @cached_property
    def specials(self) -> dict[int, str]:
        """Strings of the special tokens by id."""
        return {
            i: self.raw[i] or ""
            for i, piece in enumerate(self.pieces)
            if piece.kind == "special" and self.raw[i]
        }

    @cached_property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids the tokenizer puts before and after a text (BOS, EOS)."""
        return self.backend.around()

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of all ids, joined; a prefix space stays (see ``text_bytes``).

        Raises:
            UserError: for ids the tokenizer does not have.
        """
        self.check_ids(ids)
        return b"".join(self.pieces[i].data for i in ids)

    def text_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of the text the ids stand for: without the space this tokenizer puts first."""
        data = self.decode_bytes(ids)
        return data[1:] if self.prefix_space and data.startswith(b" ") else data

    @cached_property
    def prefix_space(self) -> bool:
        """Whether the tokenizer puts a space before a text (SentencePiece's dummy prefix)."""
        ids = self.backend.encode("a", "text").ids
        return b"".join(self.pieces[i].data for i in ids).startswith(b" ")

    def normalize(self, text: str) -> Normalized:
        """The text after normalization, each character with the bytes it comes from.

        Raises:
            UserError: lone surrogates or too long a text.
        """
        utf8(text)
        return self.backend.normalize(text)

    def pretokens(self, text: str, specials: Specials = "text") -> tuple[Pretoken, ...]:
        """Where the text is cut before the model sees it, and by which rule.

        Raises:
            UserError: lone surrogates or too long a text.
        """
        utf8(text)
        return self.backend.pretokens(text, specials)

    def merge_steps(self, form: str) -> tuple[Step, ...]:
        """The model's own steps on one pre-token's ``form``, in order."""
        return self.backend.steps(form)

    def form_ids(self, form: str) -> tuple[int, ...]:
        """Ids of one pre-token's ``form``: what its last step leaves."""
        return self.backend.form_ids(form)

    def form_bytes(self, form: str) -> bytes:
        """The bytes a pre-token's ``form`` stands for, a prefix space included."""
        return self.backend.form_bytes(form)

    @cached_property
    def by_raw(self) -> dict[str, int]:
        """Ids by the vocabulary's own string."""
        return {raw: i for i, raw in enumerate(self.raw) if raw is not None}

    @cached_property
    def by_bytes(self) -> dict[bytes, int]:
        """The smallest id of ``segmenting`` that stands for some bytes."""
        return {self.pieces[i].data: i for i in reversed(self.segmenting)}

    @cached_property
    def segmenting(self) -> tuple[int, ...]:
        """Ids that spell text: pieces with bytes that are neither special nor unknown."""
        return tuple(
            i
            for i, piece in enumerate(self.pieces)
            if piece.data and piece.kind not in ("special", "unused") and i != self.unknown
        )

    @cached_property
    def trie(self) -> Trie:
        """Byte trie over ``segmenting``; see ``tokenkernel.Trie``."""
        from tokenkernel import Trie

        return Trie([self.pieces[i].data for i in self.segmenting], self.segmenting)

    @cached_property
    def mismatched(self) -> tuple[int, ...]:
        """Ids whose bytes differ from what the library decodes them to, after an anchor.

        Only ids whose bytes are valid UTF-8 can be compared. Empty for a tokenizer that was
        understood completely.
        """
        anchor = self.backend.encode(ANCHOR, "text").ids
        before = self.backend.decode([anchor])[0]
        wanted: list[tuple[int, str]] = []
        for i, piece in enumerate(self.pieces):
            if piece.kind in ("special", "unused", "byte") or i == self.unknown:
                continue
            try:
                wanted.append((i, piece.data.decode("utf-8")))
            except UnicodeDecodeError:
                continue
        found = self.backend.decode([[*anchor, i] for i, _ in wanted])
        # Where tokens are words, the spaces between them are the decoder's.
        bare = str.strip if self.lossy else str
        return tuple(
            i
            for (i, text), whole in zip(wanted, found, strict=True)
            if bare(whole.removeprefix(before)) != bare(text)
        )

    @property
    def mismatches(self) -> int:
        """How many ids fail the self-check (``mismatched``)."""
        return len(self.mismatched)
