"""Results that travel: many of them into one file, and files from elsewhere into the store."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cache import Entry, Store, StoreError
from cache.importing import IMPORT_LIMITS, Incoming, read_incoming, write_bundle
from engine.errors import UserError
from engine.export import FORMATS, export_table
from engine.shelves.incoming import accepted, problem
from engine.shelves.rows import about
from engine.workspace import Workspace

RESULT_FILES = "results"
"""The format of an export that can be imported again."""

MAX_EXPORT = 2000
MAX_TITLE = 200


@dataclass(frozen=True, slots=True)
class Export:
    """Files made for taking away.

    Attributes:
        file: the ZIP, at its beginning; a temporary file that goes when it is closed.
        name: what to call it.
        size: its size in bytes.
    """

    file: BinaryIO
    name: str
    size: int

    def read(self) -> bytes:
        """All of it."""
        self.file.seek(0)
        return self.file.read()


@dataclass(frozen=True, slots=True)
class Report:
    """What became of imported files.

    Attributes:
        added: titles of results that are new here.
        present: titles of results that were here already.
        unshown: sentences about results that are kept but cannot be shown.
        refused: sentences about files that were not taken.
        keys: of all that are here now, in the order of the file.
    """

    added: tuple[str, ...]
    present: tuple[str, ...]
    unshown: tuple[str, ...]
    refused: tuple[str, ...]
    keys: tuple[str, ...] = ()


def export(workspace: Workspace, entries: Sequence[Entry], fmt: str) -> Export:
    """One ZIP with many results, made in a temporary file.

    Args:
        workspace: whose store.
        entries: the results.
        fmt: ``results`` for result files, which can be imported again, or one of ``FORMATS`` for
            the tables of each, with their provenance.

    Raises:
        UserError: for nothing to export, too many at once, an unknown format, a table too large
            for it, or a full disk.
    """
    if fmt != RESULT_FILES and fmt not in FORMATS:
        raise UserError(f"There is no format {fmt!r}; use {RESULT_FILES}, {', '.join(FORMATS)}.")
    if not entries:
        raise UserError("Nothing is chosen: mark results in the table first.")
    if len(entries) > MAX_EXPORT:
        raise UserError(f"At most {MAX_EXPORT:,} results fit one export: choose fewer.")
    if sum(entry.bytes for entry in entries) > IMPORT_LIMITS.file_bytes:
        limit = IMPORT_LIMITS.file_bytes >> 20
        raise UserError(f"Together they are larger than {limit} MB: choose fewer.")
    store = workspace.store
    members = _files(store, entries) if fmt == RESULT_FILES else _tables(workspace, entries, fmt)
    file: BinaryIO = tempfile.TemporaryFile(prefix="tokenscope-")  # noqa: SIM115
    try:
        described = [_described(entry, store) for entry in entries]
        write_bundle(file, members, described, packed=fmt in ("csv", "json", "jsonl"))
        size = file.tell()
        file.seek(0)
    except StoreError as error:
        file.close()
        raise UserError(str(error)) from error
    except OSError as error:
        file.close()
        raise UserError(f"The export could not be written: {error.strerror}.") from error
    except BaseException:
        file.close()
        raise
    what = "results" if fmt == RESULT_FILES else f"tables-{fmt}"
    return Export(file, f"tokenscope-{len(entries)}-{what}.zip", size)


def _files(store: Store, entries: Sequence[Entry]) -> Iterator[tuple[str, Path | bytes]]:
    for entry in entries:
        path = store.file(entry.key)
        if path is not None:
            yield f"{entry.key}.zip", path


def _tables(
    workspace: Workspace, entries: Sequence[Entry], fmt: str
) -> Iterator[tuple[str, Path | bytes]]:
    for entry in entries:
        result, _ = workspace.reopen(entry.key)
        for name in [*result.tables, "notes"]:
            if result.table(name).num_rows or name != "notes":
                data = export_table(result, name, fmt)
                yield f"{result.analysis}-{entry.key[:12]}-{name}.{fmt}", data


def _described(entry: Entry, store: Store) -> dict[str, str | None]:
    return {
        "key": entry.key,
        "analysis": entry.analysis,
        "created": entry.created,
        "title": about(entry, store.file(entry.key))[0],
        "renamed": entry.title if entry.title != entry.meta.get("title") else None,
    }


def bring(store: Store, name: str, data: bytes) -> Report:
    """Import a result file, or a ZIP of many as ``export`` makes it; from strangers.

    Args:
        store: where to keep it.
        name: what the file is called; only for messages.
        data: its bytes.

    Raises:
        UserError: it is neither.
    """
    label = "".join(c if c.isprintable() else "?" for c in name)[:80]
    added: list[str] = []
    present: list[str] = []
    unshown: list[str] = []
    refused: list[str] = []
    keys: list[str] = []
    try:
        for incoming in read_incoming(data):
            where = f"{label}, {incoming.name}" if incoming.name else label
            try:
                entry, new = _take(store, incoming)
            except (UserError, StoreError) as error:
                refused.append(f"{where}: {error}")
                continue
            keys.append(entry.key)
            (added if new else present).append(about(entry, store.file(entry.key))[0])
            remark = problem(entry.analysis, entry.meta.get("version")) if new else None
            if remark:
                unshown.append(f"{where} is kept, but cannot be shown. {remark}")
    except StoreError as error:
        raise UserError(f"{label}: {error}") from error
    return Report(tuple(added), tuple(present), tuple(unshown), tuple(refused), tuple(keys))


def _take(store: Store, incoming: Incoming) -> tuple[Entry, bool]:
    stored = incoming.stored
    if stored is None:
        raise UserError(incoming.problem)
    meta = accepted(stored)
    known = store.entry(stored.key)
    if known is not None and (known.status == "complete" or meta["status"] == "partial"):
        return known, False
    shown = problem(meta["analysis"], meta["version"]) is None
    store.put(stored.key, stored.tables, meta, index=stored.indexed and shown)
    if incoming.title and incoming.title != meta["title"]:
        store.rename(stored.key, " ".join(incoming.title.split())[:MAX_TITLE])
    entry = store.entry(stored.key)
    if entry is None:
        raise UserError("It could not be kept.")
    return entry, True
