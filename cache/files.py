"""The store's folder: where things lie, and how a file is written so that it survives."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cache.errors import StoreError

_KEY = re.compile(r"[0-9a-f]{64}")
TEMPORARY = ".tmp"
STALE_SECONDS = 3600.0


def is_key(text: str) -> bool:
    """Whether a text is 64 hexadecimal characters."""
    return _KEY.fullmatch(text) is not None


def check_key(key: str) -> str:
    """Return `key` when it is 64 hexadecimal characters, so that it can never lead out of a folder.

    Raises:
        StoreError: It is anything else.
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise StoreError(f"{str(key)[:80]!r} is no key: 64 characters 0-9 and a-f are expected.")
    return key


@dataclass(frozen=True)
class Layout:
    """The paths below the store's home."""

    home: Path

    @property
    def results(self) -> Path:
        """One immutable zip for each result: the truth."""
        return self.home / "results"

    @property
    def samples(self) -> Path:
        """One folder of append-only Arrow files for each stream of samples."""
        return self.home / "samples"

    @property
    def spool(self) -> Path:
        """Empty files named by keys that the owner should look at."""
        return self.home / "spool"

    @property
    def damaged(self) -> Path:
        """Unreadable files, moved aside."""
        return self.home / "damaged"

    @property
    def labels(self) -> Path:
        """Pins and titles, which are the user's and outlive the index."""
        return self.home / "labels"

    @property
    def memo(self) -> Path:
        """Small JSON files of remembered facts."""
        return self.home / "memo"

    @property
    def index(self) -> Path:
        """The DuckDB file, which can be rebuilt from the results."""
        return self.home / "index.duckdb"

    @property
    def owner_lock(self) -> Path:
        """The lock of the one process that opens the index."""
        return self.home / "owner.lock"

    def result(self, key: str) -> Path:
        """The file of a result."""
        return self.results / check_key(key)[:2] / f"{key}.zip"

    def stream(self, stream: str) -> Path:
        """The folder of a stream of samples."""
        return self.samples / check_key(stream)[:2] / stream


@dataclass(frozen=True)
class Found:
    """A file or stream met while listing: what eviction and reconciliation need to know of it."""

    key: str
    path: str
    bytes: int
    used: float


def list_results(folder: Path) -> Iterator[Found]:
    """List the result files below `folder`, in no order."""
    for entry in _entries_of_shards(folder):
        key, dot, ending = entry.name.partition(".")
        if dot and ending == "zip" and _KEY.fullmatch(key):
            with contextlib.suppress(OSError):
                stat = entry.stat()
                yield Found(key, entry.path, stat.st_size, stat.st_mtime)


def list_streams(folder: Path) -> Iterator[Found]:
    """List the streams of samples below `folder`, each with the size of all its files."""
    for entry in _entries_of_shards(folder):
        if _KEY.fullmatch(entry.name):
            with contextlib.suppress(OSError):
                size = sum(part.stat().st_size for part in os.scandir(entry.path))
                yield Found(entry.name, entry.path, size, entry.stat().st_mtime)


def _entries_of_shards(folder: Path) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for shard in os.scandir(folder):
            if len(shard.name) == 2 and shard.is_dir():
                with contextlib.suppress(OSError):
                    yield from os.scandir(shard.path)


def remove_stale(folder: Path, older_than: float = STALE_SECONDS) -> int:
    """Remove temporary files that a dead process left below `folder`; return how many."""
    removed = 0
    limit = time.time() - older_than
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name.endswith(TEMPORARY):
                path = Path(parent, name)
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < limit:
                        path.unlink()
                        removed += 1
    return removed


@contextlib.contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at `path` complete and on the disk, or not at all.

    It is written beside `path`, flushed to the disk and renamed; then the folder is flushed,
    without which a rename may be undone by a power cut.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex}{TEMPORARY}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(beside, flags, 0o600)
    except FileNotFoundError:
        make_folder(path.parent)
        descriptor = os.open(beside, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    flush_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, readable by its user only, and flush the entries that lead to it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    # Prompts and answers are private: other users of the machine have no business here.
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the system can."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def touch(path: Path) -> None:
    """Note that a file was used now; a read-only folder simply keeps no note."""
    with contextlib.suppress(OSError):
        os.utime(path)
