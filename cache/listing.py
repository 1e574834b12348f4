"""Listing what is stored, from the index or from the files themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cache.errors import StoreError
from cache.files import Found, Layout, list_results
from cache.index import Index
from cache.notes import Labels
from cache.results import read_meta

Order = Literal["last_used", "created", "bytes"]
MAX_READ = 2000


@dataclass(frozen=True)
class Entry:
    """A stored result as a list shows it; `created` is the caller's ISO text."""

    key: str
    analysis: str | None
    subject: str | None
    status: str | None
    title: str | None
    created: str | None
    last_used: datetime
    bytes: int
    pinned: bool
    meta: dict[str, Any]


def list_entries(
    layout: Layout,
    index: Index | None,
    wanted: Mapping[str, str | None],
    limit: int,
    order: Order,
) -> list[Entry]:
    """List results, the first by `order` first.

    Args:
        layout: The store's folder.
        index: The index, or None to read the descriptions from the files.
        wanted: Values that fields of the description must have; None for any.
        limit: The most entries to return.
        order: By last use, by creation, or by size.
    """
    if order not in ("last_used", "created", "bytes"):
        raise StoreError(f"Results cannot be ordered by {order!r}.")
    given = {name: value for name, value in wanted.items() if value is not None}
    files = {found.key: found for found in list_results(layout.results)}
    if index is not None:
        return _from_index(layout, index, given, limit, order, files)
    return _from_files(layout, given, limit, order, files)


def _from_index(
    layout: Layout,
    index: Index,
    wanted: Mapping[str, str],
    limit: int,
    order: Order,
    files: Mapping[str, Found],
) -> list[Entry]:
    where = " AND ".join(f"{name} = ?" for name in wanted) or "true"
    query = f"SELECT key, created FROM results WHERE {where}"  # noqa: S608  our own names
    slim = index.frame(query, list(wanted.values()))
    created = dict(zip(slim["key"].to_pylist(), slim["created"].to_pylist(), strict=True))
    keys = [key for key in created if key in files]
    first = sorted(keys, key=_rank(order, files, created), reverse=True)[:limit]
    if not first:
        return []
    rows = index.frame(
        "SELECT key, meta FROM results WHERE key IN (SELECT unnest(?::VARCHAR[]))", [first]
    )
    metas = dict(zip(rows["key"].to_pylist(), rows["meta"].to_pylist(), strict=True))
    return [_entry(layout, files[key], json.loads(metas[key])) for key in first if key in metas]


def _from_files(
    layout: Layout,
    wanted: Mapping[str, str],
    limit: int,
    order: Order,
    files: Mapping[str, Found],
) -> list[Entry]:
    metas: dict[str, dict[str, Any]] = {}
    latest = sorted(files.values(), key=lambda found: (found.used, found.key), reverse=True)
    for found in latest[:MAX_READ]:
        if order == "last_used" and len(metas) == limit:
            break
        try:
            meta = read_meta(Path(found.path))
        except (StoreError, OSError):
            continue
        if all(meta.get(name) == value for name, value in wanted.items()):
            metas[found.key] = meta
    created = {key: _text(meta.get("created")) for key, meta in metas.items()}
    first = sorted(metas, key=_rank(order, files, created), reverse=True)[:limit]
    return [_entry(layout, files[key], metas[key]) for key in first]


def _rank(
    order: Order, files: Mapping[str, Found], created: Mapping[str, str | None]
) -> Callable[[str], tuple[float | str, str]]:
    if order == "created":
        return lambda key: (created[key] or "", key)
    if order == "bytes":
        return lambda key: (float(files[key].bytes), key)
    return lambda key: (files[key].used, key)


def _entry(layout: Layout, found: Found, meta: dict[str, Any]) -> Entry:
    label = Labels(layout.labels).get(found.key)
    return Entry(
        key=found.key,
        analysis=_text(meta.get("analysis")),
        subject=_text(meta.get("subject")),
        status=_text(meta.get("status")),
        title=label.title or _text(meta.get("title")),
        created=_text(meta.get("created")),
        last_used=datetime.fromtimestamp(found.used, UTC),
        bytes=found.bytes,
        pinned=label.pinned,
        meta=meta,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
