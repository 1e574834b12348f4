"""Files of others: recognised by what is in them, read without a model.

``recognise(name, data)`` says what a file is, what can be looked at and what then is possible. Each
format is one small module with ``sniff`` and ``read``; a further one is a further file, entered in
``FORMATS`` before those that are less explicit. Nothing in a file is executed; a wrong type, a
truncated line or a bomb gives one sentence, and whatever can be kept is kept.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Protocol

from engine.errors import UserError
from engine.readers import branches, chat, openai, own, plain, responses, streams, vllm
from engine.readers.dropped import Dropped, Kind, Unreadable
from engine.readers.logtrace import with_tokenizer
from engine.readers.source import Source, open_source

__all__ = ["FORMATS", "LIMIT", "Dropped", "Format", "Kind", "recognise", "with_tokenizer"]

LIMIT = 25 << 20
"""Bytes read at most, unless the caller says otherwise."""


class Format(Protocol):
    """A module that reads one format."""

    def sniff(self, source: Source) -> bool:
        """Whether the file is of this format, by its content."""
        ...

    def read(self, source: Source) -> Dropped:
        """What is in it; raises ``Unreadable``."""
        ...


FORMATS: tuple[Format, ...] = (branches, own, streams, openai, responses, vllm, chat, plain)
"""All formats, the most explicit first."""


def recognise(name: str, data: bytes, *, limit: int = LIMIT) -> Dropped:
    """Say what a file is and read it.

    Args:
        name: of the file, for sentences and titles only.
        data: its content.
        limit: bytes read at most. Result files are not read here and may be larger.

    Raises:
        UserError: with one sentence that names the place, when nothing in it can be used.
    """
    shown = _shown(name)
    if data.startswith(b"PK\x03\x04") and b"meta.json" in data:
        return Dropped(
            kind="result", title="TokenScope result file", possible=("Open what was computed",)
        )
    if len(data) > limit:
        raise UserError(
            f"{shown} has {_mega(len(data))}; at most {_mega(limit)} are read here: bring a part "
            "of it."
        )
    try:
        source = open_source(shown, data)
        reader = next(each for each in FORMATS if each.sniff(source))
        return reader.read(source)
    except Unreadable as error:
        place = f", {error.place}" if error.place else ""
        raise UserError(f"{shown}{place}: {error.sentence}.") from None


def _shown(name: str) -> str:
    """The file's own name, short and without anything invisible."""
    base = PurePath(name.replace("\\", "/")).name or "the file"
    safe = "".join(c if c.isprintable() else "·" for c in base)
    return safe if len(safe) <= 60 else f"{safe[:40]}…{safe[-16:]}"


def _mega(size: int) -> str:
    return f"{size / (1 << 20):.1f} MB" if size >= 1 << 20 else f"{size:,} bytes"
