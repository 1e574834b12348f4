"""Bringing the index up to date with the result files, key by key."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from cache.errors import StoreError
from cache.files import Layout, list_results
from cache.index import Index
from cache.results import Stored
from cache.shelf import load

logger = logging.getLogger(__name__)
BATCH_BYTES = 64 << 20


class Intake:
    """What the index knows, against what lies in the folder.

    Args:
        layout: The store's folder.
        index: The open index.
    """

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index
        self._known = index.known()
        self._refused: set[str] = set()

    def differing(self, *, thorough: bool) -> Iterator[str]:
        """List the keys whose file came, changed or went.

        Args:
            thorough: Whether partial results count as changed, because another process may have
                replaced them by ones of the same size.
        """
        listed = {found.key: found.bytes for found in list_results(self._layout.results)}
        for key, size in listed.items():
            known, complete = self._known.get(key, (-1, False))
            if (known != size or (thorough and not complete)) and key not in self._refused:
                yield key
        yield from [key for key in self._known if key not in listed]

    def take(self, keys: Sequence[str]) -> tuple[Sequence[str], int]:
        """Look at these keys and change the index accordingly.

        Returns:
            The keys left for another batch, because this one grew large, and by how many bytes the
            known files grew.
        """
        loaded: list[tuple[Stored, int]] = []
        gone: list[str] = []
        size = taken = 0
        while taken < len(keys) and size <= BATCH_BYTES:
            key = keys[taken]
            taken += 1
            length = self._length(key)
            if length is not None and self._known.get(key) == (length, True):
                continue
            stored = load(self._layout, key) if length is not None else None
            if length is None or stored is None:
                gone.append(key)
                continue
            loaded.append((stored, length))
            size += length
        self._index.drop(gone)
        grown = -sum(self._known.pop(key, (0, True))[0] for key in gone)
        return keys[taken:], grown + self._ingest(loaded)

    def _length(self, key: str) -> int | None:
        try:
            return self._layout.result(key).stat().st_size
        except (OSError, StoreError):
            return None

    def _ingest(self, loaded: Sequence[tuple[Stored, int]]) -> int:
        if not loaded:
            return 0
        try:
            self._index.ingest(loaded)
        except StoreError:
            raise
        except Exception as error:
            # One result that DuckDB cannot take must not keep its neighbours out.
            if len(loaded) > 1:
                return sum(self._ingest([one]) for one in loaded)
            key = loaded[0][0].key
            self._refused.add(key)
            logger.warning("The result %s is stored but cannot be indexed: %s", key, error)
            return 0
        grown = 0
        for stored, size in loaded:
            grown += size - self._known.get(stored.key, (0, True))[0]
            self._known[stored.key] = (size, stored.meta.get("status") != "partial")
        return grown
