"""The index of a log on disk: one Parquet file whose metadata says what it was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import UserError
from engine.records import whole_file
from engine.rollouts.index import SCHEMA
from engine.rollouts.scan import Bad, FileState

VERSION = 1
"""Raised whenever the same log would give another index."""
_KEY = b"tokenscope.rollouts"


def place_of(home: Path, root: Path) -> Path:
    """Where the index of a log is kept under a workspace's home."""
    name = hashlib.sha256(str(root).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return home / "rollouts" / f"{name}.parquet"


def save(
    place: Path, root: Path, files: list[FileState], bad: list[Bad], more: int, table: pa.Table
) -> bool:
    """Write an index, whole or not at all; False when the folder cannot be written."""
    manifest = {
        "version": VERSION,
        "root": str(root),
        "files": [state.as_json() for state in files],
        "bad": [[b.file, b.line, b.reason] for b in bad],
        "more": more,
    }
    try:
        data = orjson.dumps(manifest)
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(place) as temporary:
            named = table.replace_schema_metadata({_KEY: data})
            pq.write_table(named, temporary, compression="zstd")
    except (OSError, UserError, TypeError, ValueError):
        return False
    return True


def load(place: Path, root: Path) -> tuple[list[FileState], list[Bad], int, pa.Table] | None:
    """A stored index, or None when there is none of this version that can be read."""
    try:
        table = pq.read_table(place)
        manifest: dict[str, Any] = orjson.loads((table.schema.metadata or {})[_KEY])
        if manifest["version"] != VERSION or manifest["root"] != str(root):
            return None
        files = [FileState.from_json(found) for found in manifest["files"]]
        bad = [Bad(*found) for found in manifest["bad"]]
        table = table.replace_schema_metadata(None)
        if table.schema != SCHEMA or sum(state.rows for state in files) != table.num_rows:
            return None
        return files, bad, int(manifest["more"]), table
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
