"""The lines of a JSONL file with their places, in bounded memory, also while the file grows."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from engine.readers.dropped import Unreadable

MAX_LINE = 64 << 20
"""Bytes of the longest line that is read."""
_CHUNK = 1 << 20
_OTHERS = (
    (codecs.BOM_UTF16_LE, "UTF-16 text: save it as UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16 text: save it as UTF-8"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
)


@dataclass(slots=True)
class Cursor:
    """How far a file was read.

    Attributes:
        offset: bytes that are done with.
        lines: line ends among them.
        skipping: the bytes before ``offset`` belong to a line that is too long and goes on.
    """

    offset: int = 0
    lines: int = 0
    skipping: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its number from 1, its first byte, its bytes, and its JSON object or a reason."""

    number: int
    offset: int
    size: int
    record: Mapping[str, Any] | None
    reason: str = ""


def read_lines(handle: BinaryIO, cursor: Cursor, *, limit: int = MAX_LINE) -> Iterator[Line]:
    """The lines after ``cursor``, which moves on with them.

    A last line without an end that is no whole JSON object is not read: whoever writes the file
    has not finished it. The cursor stays before it.

    Args:
        handle: the file, in binary; its position is changed.
        cursor: where to begin; moved.
        limit: bytes of the longest line; a longer one is skipped without being held.
    """
    handle.seek(cursor.offset)
    if cursor.skipping and not _skip(handle, cursor):
        return
    while data := handle.readline(limit + 1):
        start, number = cursor.offset, cursor.lines + 1
        ended = data.endswith(b"\n")
        if len(data) > limit and not ended:
            cursor.offset += len(data)
            _skip(handle, cursor)
            yield Line(number, start, cursor.offset - start, None, _too_long(limit))
            continue
        body = data.removeprefix(codecs.BOM_UTF8) if start == 0 else data
        if not body.strip():
            cursor.offset += len(data)
            cursor.lines += ended
            continue
        try:
            record, reason = parse_record(body), ""
        except Unreadable as error:
            if not ended:
                return
            record, reason = None, error.sentence
        cursor.offset += len(data)
        cursor.lines += ended
        yield Line(number, start, len(data), record, reason)


def _skip(handle: BinaryIO, cursor: Cursor) -> bool:
    """Move past the end of a long line; False when the file ends first."""
    cursor.skipping = True
    while data := handle.readline(_CHUNK):
        cursor.offset += len(data)
        if data.endswith(b"\n"):
            cursor.lines += 1
            cursor.skipping = False
            return True
    return False


def _too_long(limit: int) -> str:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit:,} bytes"
    return f"longer than {size}"


def parse_record(data: bytes) -> Mapping[str, Any]:
    """The JSON object of a line; see :func:`loosely`.

    Raises:
        Unreadable: for anything else.
    """
    value = loosely(data)
    if not isinstance(value, dict):
        raise Unreadable("", "a JSON object is expected")
    return value


def loosely(data: bytes) -> Any:
    """A JSON value, NaN and infinities let through.

    Raises:
        Unreadable: for what is no JSON, no UTF-8, or nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise Unreadable("", "this is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        reason = error.msg[:1].lower() + error.msg[1:]
        raise Unreadable("", f"not whole JSON ({reason}, column {error.colno:,})") from None
    except RecursionError:
        raise Unreadable("", "the JSON is nested too deeply to be a log") from None
    except ValueError:
        raise Unreadable("", "the JSON holds a number that is too long") from None


def no_lines(head: bytes) -> str | None:
    """Why a file that begins with ``head`` holds no lines of text; None when it may."""
    return next((f"this is {what}" for magic, what in _OTHERS if head.startswith(magic)), None)
