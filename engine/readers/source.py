"""From bytes to text to JSON values, each with the line it stands in."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from engine.readers.dropped import Report, Unreadable

_BOMS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_OTHERS = (
    (b"%PDF", "a PDF: copy its text and paste it"),
    (b"\x89PNG", "a picture: bring text instead"),
    (b"\xff\xd8\xff", "a picture: bring text instead"),
    (b"GIF8", "a picture: bring text instead"),
    (b"PAR1", "a Parquet file: bring it as a log of rollouts, or save it as JSONL"),
    (b"ARROW1", "an Arrow file, which is not read here: save it as JSONL"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"PK\x03\x04", "a zip archive but no TokenScope result: unpack it first"),
)
# All formats here are objects, or lists of objects; "[1] Introduction" is a text.
_JSON = re.compile(r'\s*(\{\s*(["}]|\Z)|\[\s*(\{|\[|\]|\Z))')
_BLANK = re.compile(r"\s*")
_SSE = re.compile(r"\s*(data|event|id|retry|:)")
_MOST_RECORDS = 200_000
_MOST_PARTS = 2_000_000


@dataclass(frozen=True, slots=True)
class Record:
    """A JSON value, and where it stands: ``line 3``, or nothing when it is the whole file."""

    place: str
    value: Any

    def at(self, path: str) -> str:
        """The place of something inside."""
        return f"{self.place}, {path}" if self.place else path


@dataclass(frozen=True, slots=True)
class Source:
    """A file as text, and as JSON where it is some.

    Attributes:
        name: what to call it in sentences.
        text: all of it, without a byte order mark.
        records: its JSON values; none for plain text.
        streamed: they came as server-sent events.
        report: what could not be parsed.
    """

    name: str
    text: str
    records: tuple[Record, ...] = ()
    streamed: bool = False
    report: Report = field(default_factory=Report)

    @property
    def objects(self) -> list[tuple[Record, dict[str, Any]]]:
        """The records that are JSON objects."""
        return [(r, r.value) for r in self.records if isinstance(r.value, dict)]


def open_source(name: str, data: bytes) -> Source:
    """Decode and parse.

    Raises:
        Unreadable: for what is no text, and for JSON of which nothing is whole.
    """
    text = _decode(data)
    if not text.strip():
        raise Unreadable("", "there is nothing in it but blanks" if text else "it is empty")
    report = Report()
    if _SSE.match(text) and (records := _events(text, report)):
        return Source(name, text, records, True, report)
    if _JSON.match(text):
        if text.count("{") + text.count("[") > _MOST_PARTS:
            raise Unreadable(
                "", f"more than {_MOST_PARTS:,} JSON objects and lists: bring a part of it"
            )
        return Source(name, text, _unfold(_values(text, report), report), False, report)
    return Source(name, text)


def parse(text: str) -> Any:
    """A JSON value. NaN, infinities and lone surrogates, which loggers do write, are let through.

    Raises:
        json.JSONDecodeError: for anything that is no JSON.
        Unreadable: for JSON nested too deeply or with a number too long.
    """
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        pass
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise Unreadable("", "the JSON is nested too deeply to be a log") from None
    except ValueError:  # digits beyond what an int may have
        raise Unreadable("", "the JSON holds a number that is too long") from None


def _decode(data: bytes) -> str:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                raise Unreadable(
                    f"byte {error.start + len(mark):,}",
                    f"this is not {encoding[:6].upper().rstrip('-')} although the file says so: "
                    "save it as UTF-8",
                ) from None
    for magic, what in _OTHERS:
        if data.startswith(magic):
            raise Unreadable("", f"this is {what}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        place = f"line {line:,}, byte {error.start:,}"
        if data[error.start] == 0xED and data[error.start + 1 : error.start + 2] >= b"\xa0":
            raise Unreadable(
                place, "half of a character (a lone surrogate) stands here: remove it"
            ) from None
        raise Unreadable(place, "this is not UTF-8 text: save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise Unreadable(
            f"line {line:,}", "zero bytes stand here, as in UTF-16 or a binary file: save as UTF-8"
        )
    return text


def _values(text: str, report: Report) -> tuple[Record, ...]:
    try:
        return (Record("", parse(text)),)
    except json.JSONDecodeError as error:
        broken = error
    return _lines(text, report) or _sequence(text, report, broken)


def _lines(text: str, report: Report) -> tuple[Record, ...]:
    """JSON Lines: bad lines are noted; nothing when this is not one object a line."""
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if sum(line.lstrip().startswith("{") for _, line in lines) * 2 < len(lines):
        return ()
    good: list[Record] = []
    bad: list[Unreadable] = []
    for number, line in lines[:_MOST_RECORDS]:
        place = f"line {number:,}"
        try:
            value = parse(line)
        except json.JSONDecodeError as error:
            bad.append(Unreadable(place, f"not whole JSON ({_reason(error)})"))
            continue
        except Unreadable as error:
            bad.append(Unreadable(place, error.sentence))
            continue
        if isinstance(value, dict):
            good.append(Record(place if len(lines) > 1 else "", value))
        else:
            bad.append(Unreadable(place, "a JSON object is expected"))
    if good:
        for each in bad:
            report.skipped(each)
        if len(lines) > _MOST_RECORDS:
            report.skip("", f"lines after the first {_MOST_RECORDS:,}")
    return tuple(good)


def _sequence(text: str, report: Report, broken: json.JSONDecodeError) -> tuple[Record, ...]:
    """Values written one after another, over several lines each; what follows the last is noted.

    Raises:
        Unreadable: when not even the first is whole.
    """
    decoder = json.JSONDecoder()
    good: list[Record] = []
    at, line, counted = 0, 1, 0
    while len(good) < _MOST_RECORDS:
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
        if at >= len(text):
            break
        line, counted = line + text.count("\n", counted, at), at
        place = f"line {line:,}"
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            broken = error
            break
        except (RecursionError, ValueError):
            broken = json.JSONDecodeError("nested too deeply", text, at)
            break
        if not isinstance(value, dict | list):
            broken = json.JSONDecodeError("a JSON object is expected", text, at)
            break
        good.append(Record(place, value))
        at = end
    where = f"line {broken.lineno:,}, column {broken.colno:,}"
    if not good:
        raise Unreadable(where, f"the JSON is broken or cut off here ({_reason(broken)})")
    if at < len(text):
        report.skip(where, f"the JSON is broken or cut off here ({_reason(broken)})")
    return tuple(good)


def _events(text: str, report: Report) -> tuple[Record, ...]:
    """The data of server-sent events."""
    found: list[Record] = []
    bad: list[Unreadable] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.startswith("data:"):
            continue
        payload = line[5:].strip()
        if not payload or payload == "[DONE]":
            continue
        try:
            value = parse(payload)
        except json.JSONDecodeError as error:
            bad.append(Unreadable(f"line {number:,}", f"not whole JSON ({_reason(error)})"))
            continue
        except Unreadable as error:
            bad.append(Unreadable(f"line {number:,}", error.sentence))
            continue
        if isinstance(value, dict):
            found.append(Record(f"line {number:,}", value))
    if found:
        for each in bad:
            report.skipped(each)
    return tuple(found)


def _unfold(records: tuple[Record, ...], report: Report) -> tuple[Record, ...]:
    """A list of objects is as good as one object a line; a list of messages is one chat."""
    result: list[Record] = []
    for record in records:
        value = record.value
        items = value if isinstance(value, list) else None
        if items and all(isinstance(v, dict) and not _is_message(v) for v in items):
            room = max(0, _MOST_RECORDS - len(result))
            result += [Record(record.at(f"[{n}]"), v) for n, v in enumerate(items[:room])]
            if len(items) > room:
                report.skip(record.at(f"[{room}]"), f"objects after the first {_MOST_RECORDS:,}")
        else:
            result.append(record)
    return tuple(result)


def _is_message(value: dict[str, Any]) -> bool:
    return ("role" in value and "choices" not in value) or ("from" in value and "value" in value)


def _reason(error: json.JSONDecodeError) -> str:
    return error.msg[:1].lower() + error.msg[1:]
