"""Tokenizers read from ``tokenizer.json``: ids, exact bytes per token, chat templates.

Only the ``tokenizers`` library is used, so encoding needs neither torch nor transformers, and the
file is read as it is: transformers' loaders silently replace some pre-tokenizers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer as Backend

from engine.errors import UserError
from engine.pieces import Piece, PieceKind, decode_piece, scheme_of, show

__all__ = ["Encoding", "Piece", "Tokenizer", "show", "utf8"]

MAX_TEXT_BYTES = 8 * 1024 * 1024
"""Longer texts are refused before tokenizing: no model here reads a tenth of it."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text as tokens.

    Attributes:
        ids: token ids.
        pieces: bytes of each token, same length.
        special: positions of special tokens.
        added: positions the tokenizer put there itself (BOS, EOS): zero bytes of the text.
        exact: the pieces that are not ``added`` join to the text's UTF-8 bytes exactly.
    """

    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]
    special: tuple[int, ...]
    added: tuple[int, ...]
    exact: bool


def utf8(text: str, *, name: str = "text") -> bytes:
    """``text`` as UTF-8.

    Raises:
        UserError: for lone surrogates and for texts over ``MAX_TEXT_BYTES``.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"The {name} holds half of a character (a lone surrogate, "
            f"U+{ord(text[error.start]):04X}) at character {error.start + 1}: remove it."
        ) from None
    if len(data) > MAX_TEXT_BYTES:
        raise UserError(
            f"The {name} has {len(data):,} bytes; at most {MAX_TEXT_BYTES:,} are read: shorten it."
        )
    return data


class Tokenizer:
    """One tokenizer, read from its ``tokenizer.json``.

    Attributes:
        digest: SHA-256 of the canonical JSON of the file, 64 hex characters.
        size: ids the tokenizer knows, added tokens included (``max id + 1``).
        chat_template: Jinja source, or None.
    """

    def __init__(
        self, source: str, *, name: str = "tokenizer", settings: Mapping[str, Any] | None = None
    ) -> None:
        """Read a tokenizer.

        Args:
            source: content of ``tokenizer.json``.
            name: what to call it in messages.
            settings: content of ``tokenizer_config.json``.

        Raises:
            UserError: if the file is no tokenizer.
        """
        try:
            tree = orjson.loads(source)
            backend = Backend.from_str(source)
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(
                f"{name}: tokenizer.json could not be read as a tokenizer ({_short(error)}); "
                "save it again with the tokenizers library."
            ) from None
        backend.no_truncation()
        backend.no_padding()
        self.name = name
        self._known: dict[int, Piece] = {}
        self.digest = hashlib.sha256(orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)).hexdigest()
        self._backend = backend
        self._settings = dict(settings or {})
        self._scheme = scheme_of(tree)
        self._special = {t["id"]: bool(t["special"]) for t in tree.get("added_tokens", [])}
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values(), default=-1) + 1
        self.chat_template = _template(self._settings)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a folder holding ``tokenizer.json``, or that file itself.

        Raises:
            UserError: if there is none, or it cannot be read.
        """
        given = Path(path)
        file = given / "tokenizer.json" if given.is_dir() else given
        if not file.is_file():
            raise UserError(f"{given.name or given} holds no tokenizer.json: add one beside it.")
        config = file.with_name("tokenizer_config.json")
        stamp = tuple(f.stat().st_mtime_ns if f.is_file() else 0 for f in (file, config))
        return _load(file.resolve(), stamp)

    def piece(self, token_id: int) -> Piece:
        """Bytes and kind of one id; ids without a string are ``unused`` and hold no bytes."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._read(token_id)
        return known

    def _read(self, token_id: int) -> Piece:
        raw = self._backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        if raw is None:
            return Piece(b"", "unused")
        if token_id in self._special:
            # Added tokens are literal text: the byte map is not theirs.
            kind: PieceKind = "special" if self._special[token_id] else "added"
            return Piece(raw.encode("utf-8", "surrogatepass"), kind)
        return decode_piece(raw, self._scheme)

    def pieces(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """Bytes of each id.

        Raises:
            UserError: for an id the tokenizer does not have.
        """
        found = {i: self.piece(i) for i in set(ids)}
        for i, piece in found.items():
            if piece.kind == "unused" and not 0 <= i < self.size:
                raise UserError(
                    f"{self.name} has no token id {i}; its ids run from 0 to {self.size - 1}."
                )
        return tuple(found[i].data for i in ids)

    @cached_property
    def max_piece(self) -> int:
        """Bytes of the longest token."""
        return max((len(self.piece(i).data) for i in range(self.size)), default=1)

    def is_special(self, token_id: int) -> bool:
        """Whether the id is a special token (BOS, EOS, role markers)."""
        return self._special.get(token_id, False)

    def special_positions(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Positions of special tokens."""
        return tuple(p for p, i in enumerate(ids) if self.is_special(i))

    def id_of(self, token: str) -> int | None:
        """Id of a literal token string, or None."""
        found = self._backend.token_to_id(token)
        return None if found is None else int(found)

    def encode(self, text: str, *, special: bool, name: str = "text") -> Encoding:
        """Encode ``text``; with ``special`` the tokenizer adds its BOS (and EOS) tokens.

        Offsets of the library are never used: they count characters, and give several tokens of
        one character the same span. Bytes are cut from the pieces instead.

        Raises:
            UserError: for text that is not valid Unicode or too long.
        """
        data = utf8(text, name=name)
        bare = tuple(self._backend.encode(text, add_special_tokens=False).ids)
        before: tuple[int, ...] = ()
        after: tuple[int, ...] = ()
        if special:
            full = tuple(self._backend.encode(text, add_special_tokens=True).ids)
            before, after = _around(full, bare)
        ids = before + bare + after
        pieces = list(self.pieces(ids))
        first, last = len(before), len(before) + len(bare)
        body = b"".join(pieces[first:last])
        if body != data and body == b" " + data and pieces[first].startswith(b" "):
            # SentencePiece's dummy prefix: the space is the tokenizer's, not the text's.
            pieces[first] = pieces[first][1:]
            body = data
        added = tuple(range(first)) + tuple(range(last, len(ids)))
        return Encoding(ids, tuple(pieces), self.special_positions(ids), added, body == data)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """All bytes the ids stand for, special tokens included."""
        return b"".join(self.pieces(ids))

    def render_chat(self, messages: Sequence[Mapping[str, Any]], *, ask: bool) -> str:
        """The chat template's text for ``messages``; ``ask`` adds the assistant's opening.

        Rendered in transformers' immutable Jinja sandbox.

        Raises:
            UserError: if there is no template or it refuses the messages.
        """
        if self.chat_template is None:
            raise UserError(
                f"{self.name} has no chat template: give prompt and response as text instead."
            )
        from transformers.utils.chat_template_utils import render_jinja_template

        names = {k: v for k, v in self._settings.items() if k.endswith("_token")}
        names = {k: v["content"] if isinstance(v, Mapping) else v for k, v in names.items()}
        try:
            rendered = render_jinja_template(
                [[dict(message) for message in messages]],
                chat_template=self.chat_template,
                add_generation_prompt=ask,
                **names,
            )
        except Exception as error:  # the template is a stranger's program
            raise UserError(
                f"The chat template of {self.name} refused these messages ({_short(error)}): "
                "check the roles and their order."
            ) from None
        text = rendered[0] if isinstance(rendered, tuple) else rendered
        return str(text[0] if isinstance(text, list) else text)


@lru_cache(maxsize=8)
def _load(file: Path, stamp: tuple[int, ...]) -> Tokenizer:
    del stamp  # part of the cache's key only: a changed file is read again
    config = file.with_name("tokenizer_config.json")
    settings: dict[str, Any] = {}
    if config.is_file():
        try:
            loaded = orjson.loads(config.read_bytes())
            settings = loaded if isinstance(loaded, dict) else {}
        except orjson.JSONDecodeError:
            raise UserError(f"{config.name} beside {file.name} is not valid JSON.") from None
    template = file.with_name("chat_template.jinja")
    if template.is_file():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    try:
        source = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{file.name} in {file.parent.name} is not a readable text file.") from None
    return Tokenizer(source, name=file.parent.name, settings=settings)


def _template(settings: Mapping[str, Any]) -> str | None:
    found = settings.get("chat_template")
    if isinstance(found, list):  # several named templates
        by_name = {t.get("name"): t.get("template") for t in found if isinstance(t, Mapping)}
        found = by_name.get("default")
    return found if isinstance(found, str) else None


def _around(
    full: tuple[int, ...], bare: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split what a post-processor added into the ids before and after the text's own."""
    extra = len(full) - len(bare)
    for start in range(extra + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    return (), ()


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:120] + ("…" if len(text) > 120 else "") if text else type(error).__name__
