"""The store that the rest of TokenScope sees."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from cache import samples
from cache.errors import DamagedError, StoreError, explain
from cache.eviction import evict, total_bytes
from cache.files import Layout, check_key, flush_folder, make_folder, touch
from cache.home import acquire, prepare
from cache.listing import Entry, Order, entry_at, list_entries, list_layer
from cache.locks import ProcessLock
from cache.notes import Labels, Notes, check_name
from cache.owner import Owner
from cache.results import Stored, read_meta, write_result
from cache.shelf import load, load_from_layer
from cache.sqltables import SqlTables

if TYPE_CHECKING:
    import pyarrow as pa

    from cache.index import Index

logger = logging.getLogger(__name__)
GIB = 1 << 30
Role = Literal["auto", "owner", "client"]


class Store:
    """Results by key, kept for good: files are the truth, a DuckDB index lists and joins them.

    Any number of threads and processes may share a folder. One of them, the owner, has the index
    open; the others read and write results just the same and leave it a note.

    Args:
        home: The folder; made when it is missing.
        role: `auto` becomes the owner as soon as no other process is, `owner` must be it at once,
            `client` never opens the index (a command beside the running app).
        max_bytes: Above this size the results used longest ago are removed; pinned ones stay.
        layers: Further folders of result files, read after `home` and never written.

    Raises:
        StoreError: `home` is not a folder, or the role is `owner` and another process has it.
    """

    def __init__(
        self,
        home: Path,
        *,
        role: Role = "auto",
        max_bytes: int = 5 * GIB,
        layers: Sequence[Path] = (),
    ) -> None:
        self._layout = Layout(Path(home).absolute())
        self._layers = tuple(Path(layer) for layer in layers)
        self._max_bytes = max_bytes
        self._labels = Labels(self._layout.labels)
        self._memo = Notes(self._layout.memo)
        self._process = os.getpid()
        self._written = 0
        self._owner: Owner | None = None
        self.sql = SqlTables(self._layout, self._layers, self._ready_index)
        if prepare(self._layout, required=role == "owner") and role != "client":
            lock = ProcessLock(self._layout.owner_lock)
            acquire(lock, self._layout, required=role == "owner")
            self._owner = Owner(self._layout, max_bytes, lock)

    @property
    def home(self) -> Path:
        """The store's folder."""
        return self._layout.home

    @property
    def is_owner(self) -> bool:
        """Whether this process has the index."""
        owner = self._active_owner()
        return owner is not None and owner.owns

    @property
    def max_bytes(self) -> int:
        """The size above which the results used longest ago are removed."""
        return self._max_bytes

    @property
    def index_state(self) -> str:
        """`ready`, `building`, `waiting`, `client`, or a sentence why there is no index."""
        owner = self._active_owner()
        return owner.state if owner is not None else "client"

    def _active_owner(self) -> Owner | None:
        # After a fork the thread is only in the parent; the child works as a client.
        return self._owner if os.getpid() == self._process else None

    def _ready_index(self) -> Index | None:
        owner = self._active_owner()
        return owner.ready_index() if owner is not None else None

    def get(self, key: str) -> Stored | None:
        """Return a result, or None when there is none that can be read.

        Raises:
            StoreError: `key` is no key.
        """
        path = self._layout.result(key)
        stored = load(self._layout, key)
        if stored is not None:
            touch(path)
            return stored
        for layer in self._layers:
            stored = load_from_layer(layer, key)
            if stored is not None:
                return stored
        return None

    def contains(self, key: str) -> bool:
        """Whether there is a file for this key; it is not opened."""
        return self.file(key) is not None

    def complete_key(self, start: str) -> str:
        """The key that begins with at least 12 hexadecimal characters, or `start` unchanged.

        Raises:
            StoreError: It is no beginning of a key, or of several.
        """
        if len(start) == 64:
            return check_key(start)
        if not 12 <= len(start) < 64:
            raise StoreError("A result is named by at least the first 12 characters of its key.")
        check_key(start.ljust(64, "0"))
        folders = [self._layout.results / start[:2]]
        for layer in self._layers:
            folders += [layer / start[:2], layer]
        names = {p.stem for folder in folders for p in folder.glob(f"{start}*.zip")}
        if len(names) > 1:
            raise StoreError(f"Several results begin with {start}: give more of the key.")
        return names.pop() if names else start.ljust(64, "0")

    def put(
        self,
        key: str,
        tables: Mapping[str, pa.Table],
        meta: Mapping[str, Any],
        *,
        index: bool = True,
    ) -> None:
        """Keep a result; when this returns, it survives a crash and a power cut.

        The first result of a key stays, except that one with `meta["status"] == "partial"` gives
        way to whatever comes later.

        Args:
            key: 64 hexadecimal characters.
            tables: Arrow tables by name.
            meta: Anything JSON can hold. `analysis`, `version`, `subject`, `status`, `created` and
                `title` are listed by the index.
            index: Whether tables with a column `position` go into the long tables as well.

        Raises:
            StoreError: The result cannot be stored; nothing of it is left behind.
        """
        path = self._layout.result(key)
        try:
            if _is_settled(path):
                # Its writer may have died between the rename and the flush of the folder.
                flush_folder(path.parent)
                touch(path)
                return
            write_result(path, key, tables, meta, index=index)
        except OSError as error:
            raise explain(error, self._layout.home) from error
        self._announce(key)
        self._keep_small()

    def _announce(self, key: str) -> None:
        """Have the owner look at a key; if the note is lost, its next reconciliation finds it."""
        owner = self._active_owner()
        if owner is not None and owner.owns:
            owner.note(key)
            return
        with contextlib.suppress(OSError):
            make_folder(self._layout.spool)
            (self._layout.spool / key).touch()

    def _keep_small(self) -> None:
        """Let a process that works alone for long keep the limit too; an owner does it itself."""
        if self._active_owner() is None:
            self._written += 1
            if self._written % 64 == 0:
                self.evict()

    def append_samples(self, stream: str, start: int, table: pa.Table) -> None:
        """Append numbered rows to a stream; durable on return.

        Args:
            stream: The digest that names the stream, 64 hexadecimal characters.
            start: The number of the first row.
            table: The rows, numbered by their column `index` (int64).

        Raises:
            StoreError: The rows cannot be stored.
        """
        samples.append(self._layout, stream, start, table)
        owner = self._active_owner()
        if owner is not None:
            owner.note("", grown=table.nbytes)

    def samples(self, stream: str) -> pa.Table | None:
        """Return all rows of a stream by `index`, each number once (the first), or None."""
        return samples.read(self._layout, stream)

    def remember(self, name: str, mapping: Mapping[str, Any]) -> None:
        """Merge facts into the memo `name`; the last writer of an entry wins, None removes it."""
        self._memo.merge(check_name(name), mapping)

    def recall(self, name: str) -> dict[str, Any]:
        """Return the memo `name`, empty when there is none."""
        return self._memo.read(check_name(name))

    def entries(
        self,
        *,
        analysis: str | None = None,
        subject: str | None = None,
        limit: int = 200,
        order: Order = "last_used",
    ) -> list[Entry]:
        """List stored results, newest first (or largest, for `bytes`), without opening them.

        Without a ready index the descriptions are read from the files, of the 2,000 used last.
        """
        owner, index = self._active_owner(), self._ready_index()
        wanted = {"analysis": analysis, "subject": subject}
        try:
            return list_entries(self._layout, index, wanted, limit, order)
        except DamagedError as error:
            logger.warning("%s It is made anew.", error)
            if owner is not None:
                owner.rebuild()
        except StoreError as error:
            logger.warning("%s The files are listed instead.", error)
        return list_entries(self._layout, None, wanted, limit, order)

    def entry(self, key: str) -> Entry | None:
        """Describe one result, of the store or a layer; None when there is none to be read."""
        path = self.file(key)
        own = path == self._layout.result(key)
        return None if path is None else entry_at(path, self._layout if own else None)

    def layer_entries(self) -> list[Entry]:
        """List the results of the read-only layers that the store does not have itself."""
        found = {e.key: e for folder in reversed(self._layers) for e in list_layer(folder)}
        return [e for key, e in found.items() if not self._layout.result(key).is_file()]

    def file(self, key: str) -> Path | None:
        """Where a result lies, in the store or a layer, or None."""
        paths = [self._layout.result(key)]
        for layer in self._layers:
            paths += [layer / key[:2] / f"{key}.zip", layer / f"{key}.zip"]
        return next((path for path in paths if path.is_file()), None)

    def frame(self, query: str, params: Sequence[Any] | dict[str, Any] | None = None) -> pa.Table:
        """Run one of our own queries over the index; it cannot write.

        Raises:
            StoreError: This process has no ready index, or the index is damaged (it is then made
                anew).
        """
        owner, index = self._active_owner(), self._ready_index()
        if owner is None or index is None:
            raise StoreError(f"There is no index to ask at the moment ({self.index_state}).")
        try:
            return index.frame(query, params)
        except DamagedError:
            owner.rebuild()
            raise

    def delete(self, key: str) -> bool:
        """Remove a result and its label; return whether there was one. Layers stay as they are."""
        path = self._layout.result(key)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise explain(error, self._layout.home) from error
        self._labels.remove(key)
        self._announce(key)
        return True

    def pin(self, key: str, pinned: bool = True) -> None:
        """Keep a result from eviction, or no longer."""
        self._require(key)
        self._labels.pin(key, pinned)

    def rename(self, key: str, title: str) -> None:
        """Give a result a title of the user's; an empty one gives back the original."""
        self._require(key)
        self._labels.rename(key, title)

    def _require(self, key: str) -> None:
        if not self.contains(check_key(key)):
            raise StoreError(f"There is no result {key[:12]}… in the store.")

    def total_bytes(self) -> int:
        """Return the size of all results and samples; the index, which is derived, is on top."""
        return total_bytes(self._layout)

    def evict(self) -> list[str]:
        """Remove what was used longest ago down to 90 % of the limit, if it is exceeded."""
        removed, _ = evict(self._layout, self._max_bytes)
        for key in removed:
            self._announce(key)
        return removed

    def rebuild(self, timeout: float = 600.0) -> bool:
        """Make the index anew from the files; return whether it was done within `timeout`."""
        owner = self._active_owner()
        if owner is None or not owner.owns:
            raise StoreError("Only the process that owns the store can rebuild its index.")
        owner.rebuild()
        return owner.flush(timeout)

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until everything in the folder is indexed; False when there is no index for it."""
        owner = self._active_owner()
        return owner is not None and owner.flush(timeout)

    def close(self) -> None:
        """Close the index; results can still be read and written, as by a client."""
        owner, self._owner = self._active_owner(), None
        if owner is not None:
            owner.close()

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.close()


def _is_settled(path: Path) -> bool:
    """Whether there is a result that stays: one that is readable and not partial."""
    try:
        return read_meta(path).get("status") != "partial"
    except FileNotFoundError:
        return False
    except StoreError:
        return False
