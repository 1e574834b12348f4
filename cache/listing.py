"""Listing what is stored, from the index or from the files themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from cache.errors import StoreError
from cache.files import Found, Layout, is_key, list_results
from cache.index import Index
from cache.notes import Label, Labels
from cache.results import read_meta

Order = Literal["last_used", "created", "bytes"]
MAX_READ = 2000


@dataclass(frozen=True)
class Entry:
    """A stored result as a list shows it; `created` is the caller's ISO text.

    `layer` says that it lies in a read-only layer, not in the store itself.
    """

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
    layer: bool = False


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
    query = f"SELECT key, created, {where} AS fits FROM results"  # noqa: S608  our own names
    slim = index.frame(query, list(wanted.values()))
    known = set(slim["key"].to_pylist())
    fitting = slim.filter(slim["fits"])
    created = dict(zip(fitting["key"].to_pylist(), fitting["created"].to_pylist(), strict=True))
    # What came a moment ago is not in the index yet.
    fresh = _read(files, [key for key in files if key not in known], wanted)
    created |= {key: _text(meta.get("created")) for key, meta in fresh.items()}
    keys = [key for key in created if key in files]
    first = sorted(keys, key=_rank(order, files, created), reverse=True)[:limit]
    if not first:
        return []
    rows = index.frame(
        "SELECT key, meta FROM results WHERE key IN (SELECT unnest(?::VARCHAR[]))", [first]
    )
    texts = zip(rows["key"].to_pylist(), rows["meta"].to_pylist(), strict=True)
    metas = {key: json.loads(text) for key, text in texts} | fresh
    labels = Labels(layout.labels).all()
    return [_entry(files[key], metas[key], labels.get(key)) for key in first if key in metas]


def _read(
    files: Mapping[str, Found],
    keys: Sequence[str],
    wanted: Mapping[str, str],
    enough: int | None = None,
) -> dict[str, dict[str, Any]]:
    """The descriptions of those of these results that fit, of the files used last."""
    latest = sorted(keys, key=lambda key: (files[key].used, key), reverse=True)
    metas: dict[str, dict[str, Any]] = {}
    for key in latest[:MAX_READ]:
        if len(metas) == enough:
            break
        try:
            meta = read_meta(Path(files[key].path))
        except (StoreError, OSError):
            continue
        if all(meta.get(name) == value for name, value in wanted.items()):
            metas[key] = meta
    return metas


def _from_files(
    layout: Layout,
    wanted: Mapping[str, str],
    limit: int,
    order: Order,
    files: Mapping[str, Found],
) -> list[Entry]:
    metas = _read(files, list(files), wanted, limit if order == "last_used" else None)
    created = {key: _text(meta.get("created")) for key, meta in metas.items()}
    first = sorted(metas, key=_rank(order, files, created), reverse=True)[:limit]
    labels = Labels(layout.labels).all()
    return [_entry(files[key], metas[key], labels.get(key)) for key in first]


def layer_keys(folder: Path) -> dict[str, Path]:
    """The results of a read-only folder, split as the store's own is or not, and their files."""
    paths = [*folder.glob("??/*.zip"), *folder.glob("*.zip")]
    return {path.stem: path for path in sorted(paths) if is_key(path.stem)}


def list_layer(folder: Path) -> list[Entry]:
    """List the results of a read-only folder, in no order."""
    found = (entry_at(path) for path in layer_keys(folder).values())
    return [entry for entry in found if entry is not None]


def entry_at(path: Path, layout: Layout | None = None) -> Entry | None:
    """Describe one result file, or return None when it cannot be read.

    Args:
        path: The file.
        layout: The store it lies in; None for the file of a layer.
    """
    try:
        stat = path.stat()
        read = read_meta if layout is not None else _layer_meta
        meta = read(path)
    except (StoreError, OSError):
        return None
    found = Found(path.stem, str(path), stat.st_size, stat.st_mtime)
    if layout is None:
        return _entry(found, meta, None, layer=True)
    return _entry(found, meta, Labels(layout.labels).get(found.key))


@lru_cache(maxsize=1024)
def _layer_meta(path: Path) -> dict[str, Any]:
    """Layers never change while the program runs."""
    return read_meta(path)


def _rank(
    order: Order, files: Mapping[str, Found], created: Mapping[str, str | None]
) -> Callable[[str], tuple[float | str, str]]:
    if order == "created":
        return lambda key: (created[key] or "", key)
    if order == "bytes":
        return lambda key: (float(files[key].bytes), key)
    return lambda key: (files[key].used, key)


def _entry(
    found: Found, meta: dict[str, Any], label: Label | None, *, layer: bool = False
) -> Entry:
    label = label or Label()
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
        layer=layer,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
