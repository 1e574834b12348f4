"""What a tokenizer's library is asked for, and the shapes of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["bpe", "unigram", "wordpiece", "wordlevel"]
Specials = Literal["text", "parse", "error"]
Bounds = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as ids, each with its bytes in the original text.

    Attributes:
        ids: token ids of the text alone; nothing put around it.
        bounds: first byte and byte after the last one of each token, in the *original* text's
            UTF-8. A token that stands for no byte of it (a prefix space, the second token of a
            character that normalization changed) has equal bounds.
        exact: False when the bounds could not be followed byte by byte (unknown characters in
            front of a repeated text) and come from the library's character offsets.
    """

    ids: tuple[int, ...]
    bounds: tuple[Bounds, ...]
    exact: bool = True

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Normalized:
    """A text after the tokenizer's normalization.

    Attributes:
        text: what is left for the pre-tokenizer.
        spans: for each of its characters the bytes of the original text it comes from.
    """

    text: str
    spans: tuple[Bounds, ...]


@dataclass(frozen=True, slots=True)
class Pretoken:
    """A stretch of text that the model cuts on its own.

    Attributes:
        start: first byte in the original text.
        end: byte after the last one.
        form: the string the model gets, in the vocabulary's alphabet (``Ġthe``, ``▁the``).
        rule: which rule set it apart, as the file writes it; empty when nothing cuts.
        added: the id, when it is an added or special token that was matched as a whole.
    """

    start: int
    end: int
    form: str
    rule: str
    added: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the model's own cutting of a pre-token.

    Attributes:
        action: ``merge`` of two neighbours (BPE), ``whole`` (the pre-token is a token and merges
            are ignored), ``longest`` match (WordPiece), ``best`` path's token (Unigram),
            ``lookup`` (WordLevel).
        at: index of the first merged part, or of the token.
        token: raw string that came out.
        rank: place of the merge in the list (0 first); the score for Unigram and SentencePiece.
        parts: all parts after this step, raw strings.
    """

    action: Literal["merge", "whole", "longest", "best", "lookup"]
    at: int
    token: str
    rank: float | None
    parts: tuple[str, ...]


class Backend(Protocol):
    """What only the library behind the file knows."""

    tree: dict[str, Any]

    def encode(self, text: str, specials: Specials) -> Encoded: ...

    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]: ...

    def normalize(self, text: str) -> Normalized: ...

    def pretokens(self, text: str, specials: Specials) -> tuple[Pretoken, ...]: ...

    def ids(self, texts: Sequence[str], specials: Specials) -> list[list[int]]: ...

    def merges(self) -> tuple[tuple[int, int, int], ...] | None: ...

    def steps(self, form: str) -> tuple[Step, ...]: ...

    @property
    def inside(self) -> str: ...

    def parts(self, form: str) -> list[str]: ...

    def rank(self, left: str, right: str) -> float | None: ...

    def form_ids(self, form: str) -> tuple[int, ...]: ...

    def form_bytes(self, form: str) -> bytes: ...

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]: ...
