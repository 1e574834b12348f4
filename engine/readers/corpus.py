"""Texts for statistics over many of them: a plain file, a line each, or JSONL with ``text``."""

from __future__ import annotations

from pathlib import Path

import orjson

from engine.errors import UserError
from engine.subjects import Corpus

MOST_BYTES = 256 * 2**20
"""A larger file is refused: it would be held in memory as a whole."""


def read_corpus(data: bytes, name: str) -> Corpus:
    """The documents of a file.

    Args:
        data: its content, UTF-8.
        name: ``….jsonl`` for objects with ``text``; any other has one document in each line.

    Raises:
        UserError: too large, no UTF-8, a malformed line (with its number), or nothing in it.
    """
    if len(data) > MOST_BYTES:
        raise UserError(
            f"{name} has {len(data):,} bytes; at most {MOST_BYTES:,} are read: give a part of it."
        )
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is no UTF-8 text (byte {error.start:,}): save it as UTF-8."
        ) from None
    if name.endswith(".jsonl"):
        documents = [_text(line, name, n) for n, line in enumerate(lines, 1) if line.strip()]
    else:
        documents = [line for line in lines if line]
    if not documents:
        raise UserError(f"{name} holds no text: give one document in each line.")
    return Corpus(documents=tuple(documents), title=name)


def _text(line: str, name: str, number: int) -> str:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        found = None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise UserError(f'{name}, line {number:,}: an object with "text" is expected.')
    return text


def open_corpus(path: str | Path) -> Corpus:
    """The documents of a file on the disk.

    Raises:
        UserError: it is not there, or as ``read_corpus``.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"There is no file {file.name}: give one with a document in each line.")
    if file.stat().st_size > MOST_BYTES:
        raise UserError(
            f"{file.name} has {file.stat().st_size:,} bytes; at most {MOST_BYTES:,} are read: give "
            "a part of it."
        )
    return read_corpus(file.read_bytes(), file.name)
