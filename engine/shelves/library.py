"""What has been computed: listing, naming, keeping, taking away and bringing in results.

The one way of the pages (and of scripts) to the store's contents. On a shared server a visitor
sees the examples and what he asked for himself, and changes nothing: a result belongs to its text,
so two visitors with the same text share it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cache import Entry, StoreError
from engine.errors import UserError
from engine.shelves import travel
from engine.shelves.asking import Asked, Asking, SchemaTable
from engine.shelves.rows import Row, about, row_of
from engine.shelves.travel import MAX_TITLE, RESULT_FILES, Export, Report
from engine.workspace import Workspace

__all__ = [
    "RESULT_FILES",
    "Asked",
    "Contents",
    "Export",
    "Library",
    "Listing",
    "Order",
    "Report",
    "Row",
    "SchemaTable",
]

Order = Literal["last_used", "created", "bytes"]
MAX_LISTED = 5000


@dataclass(frozen=True, slots=True)
class Listing:
    """The rows that were asked for: the first of ``total`` that fit the filters, if there are."""

    rows: tuple[Row, ...]
    total: int
    unfiltered: bool = True


class Contents:
    """What was stored at one moment.

    Args:
        entries: all of it, in order.
        row: makes the row of an entry.
    """

    def __init__(self, entries: Sequence[Entry], row: Callable[[Entry], Row]) -> None:
        self._entries = entries
        self._row = row

    def analyses(self) -> list[str]:
        """Names of all analyses that there are results of."""
        return sorted({entry.analysis or "" for entry in self._entries})

    def rows(self, *, analysis: str | None = None, search: str = "", limit: int = 500) -> Listing:
        """List results.

        Args:
            analysis: only results of this analysis.
            search: only results whose title, or first words, contain this; case does not matter.
            limit: the most rows to return.
        """
        wanted = search.strip().casefold()
        found = [e for e in self._entries if analysis in (None, e.analysis)]
        if wanted:
            rows = [r for r in map(self._row, found) if wanted in r.title.casefold()]
            return Listing(tuple(rows[:limit]), len(rows), False)
        return Listing(tuple(map(self._row, found[:limit])), len(found), analysis is None)


class Library:
    """The stored results that one person may see.

    Args:
        workspace: whose store.
        own: keys of what this visitor asked for; matters only on a shared server.
    """

    def __init__(self, workspace: Workspace, own: Collection[str] = ()) -> None:
        self._workspace = workspace
        self._store = workspace.store
        self._own = frozenset(own)

    @property
    def shared(self) -> bool:
        """Whether this is a server open to strangers."""
        return self._workspace.profile.name == "hosted"

    # -- looking -----------------------------------------------------------------------------

    def contents(self, order: Order = "last_used") -> Contents:
        """Everything there is now, one's own before the examples.

        Args:
            order: by last use, by time of computation, or by size.

        Raises:
            UserError: for an unknown order.
        """
        return Contents(self._entries(order), self._row)

    def rows(
        self,
        *,
        analysis: str | None = None,
        search: str = "",
        order: Order = "last_used",
        limit: int = 500,
    ) -> Listing:
        """The rows of ``contents`` that fit."""
        return self.contents(order).rows(analysis=analysis, search=search, limit=limit)

    def row(self, key: str) -> Row:
        """One result.

        Raises:
            UserError: when there is none that this person may see.
        """
        return self._row(self._entry(key))

    def size(self) -> tuple[int, int]:
        """Bytes the store takes, and the limit above which it forgets what was used long ago."""
        return self._store.total_bytes(), self._store.max_bytes

    # -- changing ----------------------------------------------------------------------------

    def rename(self, key: str, title: str) -> None:
        """Give a result a title; an empty one gives back the original.

        Raises:
            UserError: for an example, a title too long, or on a shared server.
        """
        title = " ".join(title.split())
        if len(title) > MAX_TITLE:
            raise UserError(f"The title is longer than {MAX_TITLE} characters: shorten it.")
        self._changeable(key)
        with _said():
            self._store.rename(key, title)

    def pin(self, keys: Sequence[str], pinned: bool = True) -> None:
        """Keep results when the store is full, or no longer; raises as ``rename``."""
        for key in keys:
            self._changeable(key)
        with _said():
            for key in keys:
                self._store.pin(key, pinned)

    def delete(self, keys: Sequence[str]) -> int:
        """Remove results for good; returns how many. Raises as ``rename``."""
        for key in keys:
            self._changeable(key)
        with _said():
            return sum(self._store.delete(key) for key in keys)

    def _changeable(self, key: str) -> None:
        if self.shared:
            raise UserError("On this shared server nothing in the library can be changed.")
        entry = self._entry(key)
        if entry.layer:
            raise UserError(
                f"{self._title(entry)} is an example that came with TokenScope and stays as it is."
            )

    # -- taking away and bringing in ---------------------------------------------------------

    def export(self, keys: Sequence[str], fmt: str = RESULT_FILES) -> Export:
        """One ZIP with many results; see ``engine.shelves.travel.export``."""
        return travel.export(self._workspace, [self._entry(k) for k in dict.fromkeys(keys)], fmt)

    def bring(self, name: str, data: bytes) -> Report:
        """Import a result file, or a ZIP of many as ``export`` makes it; from strangers.

        Args:
            name: what the file is called; only for messages.
            data: its bytes.

        Raises:
            UserError: it is neither, or on a shared server.
        """
        if self.shared:
            raise UserError("On this shared server nothing can be imported.")
        return travel.bring(self._store, name, data)

    # -- asking ------------------------------------------------------------------------------

    @property
    def asking(self) -> Asking:
        """SQL over everything in the store.

        Raises:
            UserError: on a shared server.
        """
        if self.shared:
            raise UserError("On this shared server the store cannot be asked with SQL.")
        return Asking(
            self._store,
            lambda: [self._row(entry) for entry in self._entries("last_used")],
            lambda: len(self._entries("last_used")),
        )

    # -- inside ------------------------------------------------------------------------------

    def _entries(self, order: Order) -> list[Entry]:
        if order not in ("last_used", "created", "bytes"):
            raise UserError(f"Results cannot be ordered by {order!r}.")
        if self.shared:
            asked = (self._store.entry(key) for key in self._own)
            mine = [entry for entry in asked if entry is not None and not entry.layer]
            mine.sort(key=lambda entry: (entry.created or "", entry.key), reverse=True)
        else:
            mine = self._store.entries(limit=MAX_LISTED, order=order)
        examples = self._store.layer_entries()
        return mine + sorted(examples, key=lambda entry: (self._title(entry), entry.analysis or ""))

    def _entry(self, key: str) -> Entry:
        with _said():
            entry = self._store.entry(key)
        if entry is None or (self.shared and not entry.layer and key not in self._own):
            raise UserError("This result is not here any more: it was deleted or made room.")
        return entry

    def _row(self, entry: Entry) -> Row:
        return row_of(entry, self._store.file(entry.key))

    def _title(self, entry: Entry) -> str:
        return about(entry, self._store.file(entry.key))[0]


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """What the store says to a person, a page may say too."""
    try:
        yield
    except StoreError as error:
        raise UserError(str(error)) from error
