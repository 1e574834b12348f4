"""A SentencePiece ``.model`` behind a ``TokenizerSpec``, through SentencePiece itself.

Conversions to ``tokenizer.json`` give other ids (two spaces, control tokens written in a text),
so the file is read by the library it was made with, which is needed only for these files.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from engine.errors import UserError
from engine.pieces import Piece, PieceKind, decode_piece
from engine.tokenizer import aligning
from engine.tokenizer.added import Added, Matcher, Part
from engine.tokenizer.aligning import Stretch
from engine.tokenizer.merging import bpe_steps, path_steps
from engine.tokenizer.spec import (
    Bounds,
    Encoded,
    Kind,
    Normalized,
    Pretoken,
    Specials,
    Step,
    TokenizerSpec,
)


class SentencePieceBackend:
    """SentencePiece's processor; control tokens in a text are text unless parsed."""

    def __init__(self, processor: Any, kind: Kind, raw: Sequence[str], pieces: Sequence[Piece]):
        self.tree: dict[str, Any] = {}
        self._sp = processor
        self._kind = kind
        self._raw = raw
        self._pieces = pieces
        self._unknown = int(processor.unk_id())
        self._ids = {piece: i for i, piece in enumerate(raw)}
        self._scores = {piece: float(processor.GetScore(i)) for i, piece in enumerate(raw)}

    @cached_property
    def _control(self) -> Matcher:
        special = [
            Added(i, self._raw[i], True, False, False, False, False)
            for i, piece in enumerate(self._pieces)
            if piece.kind == "special"
        ]
        return Matcher(special)

    def _parts(self, text: str, specials: Specials) -> list[Part]:
        return self._control.parts(text, skip_special=specials == "text")

    def encode(self, text: str, specials: Specials) -> Encoded:
        """Ids and bounds; see ``TokenizerSpec.encode``."""
        ids: list[int] = []
        bounds: list[Bounds] = []
        exact = True
        at = 0
        for part in self._parts(text, specials):
            piece = text[part.start : part.end]
            end = at + len(piece.encode())
            if part.token is not None:
                ids.append(part.token.id)
                bounds.append((at, end))
            else:
                mine, places, followed = self._encode(piece, at)
                ids += mine
                bounds += places
                exact = exact and followed
            at = end
        return Encoded(tuple(ids), tuple(bounds), exact)

    def _encode(self, text: str, at: int) -> tuple[list[int], Sequence[Bounds], bool]:
        ids = [int(i) for i in self._sp.EncodeAsIds(text)]
        pieces = [self._pieces[i].data for i in ids]
        normal = self.normalize(text)
        span = (at, at + len(text.encode()))
        spans = [(at + a, at + b) for a, b in normal.spans]
        whole: Stretch = aligning.stretch(normal.text, spans, span, True)
        bounds = aligning.follow(ids, pieces, self._unknown, [whole])
        if bounds is not None:
            return ids, bounds, True
        offsets = self._sp.EncodeAsOffsetMapping(text)["offsets"]
        return ids, [(at + a, at + b) for a, b in aligning.byte_offsets(text, offsets)], False

    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The beginning-of-text token, which every program that uses these files puts first."""
        bos = int(self._sp.bos_id())
        return ((bos,) if bos >= 0 else ()), ()

    def normalize(self, text: str) -> Normalized:
        """SentencePiece's normalization, with the space it puts first."""
        if not text:
            return Normalized("", ())
        normal, offsets = self._sp.Normalize(text, with_offsets=True)
        places = [0]
        for character in text:
            places.append(places[-1] + len(character.encode()))
        spans = [(places[a], places[b]) for a, b in itertools.pairwise(offsets)]
        return Normalized(str(normal), tuple(spans))

    def pretokens(self, text: str, specials: Specials) -> tuple[Pretoken, ...]:
        """Nothing is cut before the model but control tokens."""
        found: list[Pretoken] = []
        at = 0
        for part in self._parts(text, specials):
            piece = text[part.start : part.end]
            end = at + len(piece.encode())
            if part.token is not None:
                found.append(Pretoken(at, end, part.token.content, "control token", part.token.id))
            else:
                found.append(Pretoken(at, end, self.normalize(piece).text, ""))
            at = end
        return tuple(found)

    def merges(self) -> None:
        """None: they follow from the scores."""
        return

    def ids(self, texts: Sequence[str], specials: Specials) -> list[list[int]]:
        """Ids of many texts, without bounds."""
        if specials == "text":
            return [list(map(int, row)) for row in self._sp.EncodeAsIds(list(texts))]
        return [list(self.encode(text, specials).ids) for text in texts]

    def steps(self, form: str) -> tuple[Step, ...]:
        """Merges by score (BPE), or the best path's tokens (Unigram)."""
        if self._kind == "unigram":
            return path_steps(
                self._sp.EncodeAsPieces(form.lstrip(aligning.SPACE_MARK)), self._scores
            )
        return bpe_steps(self.parts(form), self.rank)

    inside = ""

    def parts(self, form: str) -> list[str]:
        """What merging starts from."""
        return list(form)

    def rank(self, left: str, right: str) -> float | None:
        """Merges come in order of the merged piece's score."""
        score = self._scores.get(left + right)
        return None if score is None else -score

    def form_ids(self, form: str) -> tuple[int, ...]:
        """Ids of one pre-token."""
        steps = self.steps(form)
        ids: list[int] = []
        for part in steps[-1].parts if steps else self.parts(form):
            found = self._ids.get(part)
            # A character without a piece is spelled by its bytes.
            names = [part] if found is not None else [f"<0x{b:02X}>" for b in part.encode()]
            ids += [self._ids.get(name, self._unknown) for name in names]
        return tuple(ids)

    def form_bytes(self, form: str) -> bytes:
        """Bytes a form stands for."""
        return form.replace(aligning.SPACE_MARK, " ").encode("utf-8", "surrogatepass")

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """SentencePiece's own decoding."""
        return [str(text) for text in self._sp.DecodeIds([list(map(int, row)) for row in rows])]


def looks_like_sentencepiece(data: bytes) -> bool:
    """Whether a file begins like SentencePiece's protobuf: a piece, and first in it its string."""
    # Tag and length of the piece, tag and length of the string; all but absurd strings are short.
    outer = data[1:2]
    return (
        len(data) >= 4
        and data[0] == data[2] == 0x0A
        and outer < b"\x80"
        and data[3] + 2 <= outer[0]
    )


def load_sentencepiece(data: bytes, name: str) -> TokenizerSpec:
    """Read a SentencePiece model.

    Raises:
        UserError: when SentencePiece is not installed, or the file is none of its models.
    """
    unreadable = UserError(
        f"{name} is no tokenizer that can be read: give a tokenizer.json, a SentencePiece "
        "model, a tiktoken file or a tekken.json."
    )
    if not looks_like_sentencepiece(data):
        raise unreadable
    if importlib.util.find_spec("sentencepiece") is None:
        raise UserError(
            f"{name} looks like a SentencePiece model, which needs the package sentencepiece: "
            "install it (pip install sentencepiece), or give a tokenizer.json."
        )
    sentencepiece = importlib.import_module("sentencepiece")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        size = int(processor.GetPieceSize())
        raw = [str(processor.IdToPiece(i)) for i in range(size)]
    except Exception:  # a stranger's bytes: the library raises whatever it likes
        raise unreadable from None
    pieces = tuple(_piece(processor, i, text) for i, text in enumerate(raw))
    scores = tuple(float(processor.GetScore(i)) for i in range(size))
    unknown = int(processor.unk_id())
    kind = _kind(pieces, scores, unknown)
    return TokenizerSpec(
        name=name,
        kind=kind,
        digest=hashlib.sha256(b"sentencepiece\0" + data).hexdigest(),
        pieces=pieces,
        raw=tuple(raw),
        scores=scores,
        unknown=unknown if unknown >= 0 else None,
        lossy=False,
        backend=SentencePieceBackend(processor, kind, raw, pieces),
    )


def _piece(processor: Any, token_id: int, raw: str) -> Piece:
    kind: PieceKind = "text"
    if processor.IsUnused(token_id):
        return Piece(b"", "unused")
    if processor.IsControl(token_id) or processor.IsUnknown(token_id):
        kind = "special"
    if kind == "special":
        return Piece(raw.encode("utf-8", "surrogatepass"), kind)
    found = decode_piece(raw, "metaspace")
    return found if processor.IsByte(token_id) else Piece(found.data, "text")


def _kind(pieces: Sequence[Piece], scores: Sequence[float], unknown: int) -> Kind:
    """BPE models number their merges: scores 0, −1, −2, …; Unigram's are log-probabilities."""
    own = [
        score
        for i, (piece, score) in enumerate(zip(pieces, scores, strict=True))
        if piece.kind == "text" and i != unknown
    ]
    return "bpe" if own and all(score == int(score) for score in own) else "unigram"
