"""From a parsed ``tokenizer.json`` to a ``TokenizerSpec``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.pieces import Piece, PieceKind, decode_piece, scheme_of
from engine.tokenizer.added import added_in
from engine.tokenizer.hf import LibraryBackend
from engine.tokenizer.modeltree import scores_of, type_of, unknown_of
from engine.tokenizer.spec import Kind, TokenizerSpec

_KINDS: Mapping[str, Kind] = {
    "BPE": "bpe",
    "Unigram": "unigram",
    "WordPiece": "wordpiece",
    "WordLevel": "wordlevel",
}


def build(name: str, digest: str, tree: dict[str, Any], library: Any) -> TokenizerSpec:
    """A spec from a parsed ``tokenizer.json`` and the library's object of it."""
    model = tree["model"]
    model["type"] = type_of(model)
    vocabulary = library.get_vocab(with_added_tokens=True)
    size = max(vocabulary.values(), default=-1) + 1
    raw: list[str | None] = [None] * size
    for piece, i in vocabulary.items():
        raw[i] = piece
    added = added_in(library)
    special = {token.id: token.special for token in added}
    scheme = scheme_of(tree)
    pieces: list[Piece] = []
    for i, text in enumerate(raw):
        if text is None:
            pieces.append(Piece(b"", "unused"))
        elif i in special:
            # Added tokens are literal text: the byte map is not theirs.
            kind: PieceKind = "special" if special[i] else "added"
            pieces.append(Piece(text.encode("utf-8", "surrogatepass"), kind))
        else:
            pieces.append(decode_piece(text, scheme))
    unknown = unknown_of(model, vocabulary)
    algorithm = _KINDS[model["type"]]
    return TokenizerSpec(
        name=name,
        kind=algorithm,
        digest=digest,
        pieces=tuple(pieces),
        raw=tuple(raw),
        scores=scores_of(model, size) if algorithm == "unigram" else None,
        unknown=unknown,
        lossy=scheme in ("wordpiece", "plain") and algorithm in ("wordpiece", "wordlevel"),
        backend=LibraryBackend(tree, library, added, pieces, unknown),
    )
