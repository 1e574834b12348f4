"""One file of a log: what format it is, and its rollouts from where it was last read."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.readers.dropped import Unreadable
from engine.readers.values import quote
from engine.rollouts import parquet
from engine.rollouts.document import read_document
from engine.rollouts.formats import Format, format_of, named
from engine.rollouts.lines import MAX_LINE, Cursor, no_lines, parse_record, read_lines
from engine.rollouts.logged import LoggedRollout, Place

_PROBED = 32
_MARK = 4096
_STEP = re.compile(r"\d+")


@dataclass(slots=True)
class FileState:
    """What is known of a file, enough to read on where it was left.

    Attributes:
        path: relative to the opened folder.
        size, mtime: when it was last read (bytes, nanoseconds).
        format: name of its format; None as long as it is not recognised.
        kind: ``lines``, ``parquet``, or ``document`` for a file that is one JSON value.
        cursor: how far its lines were read.
        mark: digest of the bytes before the cursor, so that a rewritten file is noticed.
        rows: rollouts found.
        waiting: its end is not whole yet.
        refused: why it is no log; empty when it is one, or when that is not known yet.
        columns: names of the format's ``COLUMNS`` that were seen.
    """

    path: str
    size: int = 0
    mtime: int = 0
    format: str | None = None
    kind: str = "lines"
    cursor: Cursor = field(default_factory=Cursor)
    mark: str = ""
    rows: int = 0
    waiting: bool = False
    refused: str = ""
    columns: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For the stored index."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> FileState:
        """From the stored index."""
        return cls(**{**found, "cursor": Cursor(**found["cursor"])})


@dataclass(frozen=True, slots=True)
class Bad:
    """A line that could not be read, and why, without a full stop."""

    file: str
    line: int
    reason: str


def scan(root: Path, state: FileState, *, limit: int = MAX_LINE) -> Iterator[LoggedRollout | Bad]:
    """The rollouts after the state's cursor; the state moves on with them.

    Raises:
        OSError: when the file cannot be read.
    """
    file = root / state.path
    found = file.stat()
    if state.format is None:
        _recognise(file, state, limit)
    state.size, state.mtime = found.st_size, found.st_mtime_ns
    if state.format is None:
        return
    reader = named(state.format)
    if state.kind == "parquet":
        rows = _rows(file, state)
    elif state.kind == "document":
        rows = _items(file, state)
    else:
        rows = _lines(file, state, limit)
    for place, record, reason in rows:
        if record is None:
            yield Bad(place.file, place.line, reason)
            continue
        try:
            rollouts = read_record(reader, record, place)
        except Unreadable as error:
            yield Bad(place.file, place.line, error.sentence)
            continue
        _note_columns(reader, record, state)
        state.rows += len(rollouts)
        yield from rollouts


def read_record(
    reader: Format, record: Mapping[str, Any], place: Place
) -> tuple[LoggedRollout, ...]:
    """The rollouts of a record; a step that it does not say is that of the file's name.

    Raises:
        Unreadable: when it is none of the format.
    """
    try:
        rollouts = reader.read(record, place)
    except (RecursionError, OverflowError):
        raise Unreadable(
            "", "it is nested too deeply or holds a number that is too large"
        ) from None
    return tuple(
        r if r.step is not None else replace(r, step=step_of_name(place.file)) for r in rollouts
    )


def read_place(root: Path, state: FileState, place: Place) -> LoggedRollout:
    """The rollout at a place of the index.

    Raises:
        Unreadable: when the file has changed since.
        OSError: when it cannot be read.
    """
    file = root / state.path
    if state.kind == "parquet":
        record = parquet.read_row(file, place.offset, place.line - 1)
    elif state.kind == "document":
        items = read_document(file)
        found = items[place.line - 1] if place.line <= len(items) else None
        if found is None:
            raise Unreadable("", "the file has changed")
        record = found
    else:
        with file.open("rb") as handle:
            handle.seek(place.offset)
            data = handle.read(place.size)
        record = parse_record(data.removeprefix(b"\xef\xbb\xbf") if not place.offset else data)
    rollouts = read_record(named(str(state.format)), record, replace(place, part=0))
    if place.part >= len(rollouts):
        raise Unreadable("", "the file has changed")
    return rollouts[place.part]


def step_of_name(path: str) -> int | None:
    """The step in a file's name, ``120.jsonl``, or in ``…_00120``, or in a folder ``step_120``."""
    parts = Path(path).parts
    stem = Path(path).stem
    if stem.isdecimal() and len(stem) < 16:
        return int(stem)
    for part in (stem, *reversed(parts[:-1])):
        digits = _STEP.findall(part)
        if "step" in part.lower() or part.startswith("completions"):
            return int(digits[-1]) if digits and len(digits[-1]) < 16 else None
    return None


def changed(root: Path, state: FileState) -> str:
    """``same``, ``grown``, ``rewritten`` or ``gone`` since the state was taken."""
    file = root / state.path
    try:
        found = file.stat()
    except OSError:
        return "gone"
    if (found.st_size, found.st_mtime_ns) == (state.size, state.mtime):
        return "same"
    whole = state.kind != "lines" or state.format is None
    if whole or found.st_size < state.cursor.offset or found.st_size == state.size:
        return "rewritten"
    with file.open("rb") as handle:
        return "grown" if _mark(handle, state.cursor.offset) == state.mark else "rewritten"


def _recognise(file: Path, state: FileState, limit: int) -> None:
    """Find the format; a file that is too short to tell stays unknown."""
    with file.open("rb") as handle:
        head = handle.read(8)
        state.refused = no_lines(head) or ""
        if state.refused or not head.strip():
            return
        if head.startswith(parquet.MAGIC):
            _recognise_rows(file, state)
            return
        seen = list(itertools.islice(read_lines(handle, Cursor(), limit=limit), _PROBED))
    reader = format_of(line.record for line in seen if line.record is not None)
    if reader is not None:
        state.format, state.kind = reader.NAME, "lines"
        return
    records = [line.record for line in seen if line.record is not None]
    if records:
        state.refused = _unknown(records[0])
    elif head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        _recognise_document(file, state)
    elif seen:
        state.refused = f"line {seen[0].number:,}: {seen[0].reason}"


def _recognise_rows(file: Path, state: FileState) -> None:
    state.kind = "parquet"
    try:
        seen = [r for _, _, r in itertools.islice(parquet.read_rows(file), _PROBED)]
    except Unreadable as error:
        state.waiting = "still" in error.sentence
        state.refused = error.sentence
        return
    state.waiting = False
    reader = format_of(seen)
    if reader is not None:
        state.format = reader.NAME
    elif seen:
        state.refused = _unknown(seen[0])


def _recognise_document(file: Path, state: FileState) -> None:
    try:
        items = [item for item in read_document(file) if item is not None]
    except Unreadable as error:
        state.waiting = "not whole JSON" in error.sentence
        state.refused = error.sentence
        return
    state.waiting = False
    reader = format_of(items[:_PROBED])
    if reader is not None:
        state.format, state.kind = reader.NAME, "document"
    else:
        state.refused = _unknown(items[0]) if items else "it holds no JSON object"


def _unknown(record: Mapping[str, Any] | None) -> str:
    names = ", ".join(quote(name, 24) for name in list(record or {})[:6])
    return f"no rollouts: its columns are {names}" if names else "no rollouts: it has no columns"


def _lines(
    file: Path, state: FileState, limit: int
) -> Iterator[tuple[Place, Mapping[str, Any] | None, str]]:
    with file.open("rb") as handle:
        for line in read_lines(handle, state.cursor, limit=limit):
            place = Place(state.path, line.number, line.offset, line.size)
            yield place, line.record, line.reason
        state.mark = _mark(handle, state.cursor.offset)
        handle.seek(state.cursor.offset)
        state.waiting = state.cursor.skipping or bool(handle.read(1))


def _rows(file: Path, state: FileState) -> Iterator[tuple[Place, Mapping[str, Any] | None, str]]:
    row = -1
    try:
        for group, row, record in parquet.read_rows(file):
            yield Place(state.path, row + 1, group), record, ""
    except Unreadable as error:
        yield Place(state.path, row + 2), None, error.sentence


def _items(file: Path, state: FileState) -> Iterator[tuple[Place, Mapping[str, Any] | None, str]]:
    """The objects of a document; their number stands for the line."""
    for number, item in enumerate(read_document(file), 1):
        place = Place(state.path, number)
        yield place, item, "" if item is not None else "a JSON object is expected"


def _mark(handle: Any, offset: int) -> str:
    """Digest of the first and the last bytes before ``offset``."""
    handle.seek(0)
    head = handle.read(min(offset, _MARK))
    handle.seek(max(0, offset - _MARK))
    tail = handle.read(min(offset, _MARK))
    return hashlib.blake2b(head + tail, digest_size=16).hexdigest()


def _note_columns(reader: Format, record: Mapping[str, Any], state: FileState) -> None:
    if len(state.columns) < len(reader.COLUMNS):
        for name in reader.COLUMNS:
            if name not in state.columns and record.get(name) is not None:
                state.columns.append(name)
