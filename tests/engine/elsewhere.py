"""Result files as another machine would have made them: a stored example under another param."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

import engine.workspace
from cache import Stored, read_result, write_result
from cache.importing import write_bundle
from engine import keys


def example(analysis: str = "statistics") -> Stored:
    """A result that came with TokenScope."""
    for path in sorted((engine.workspace.GALLERY / "results").rglob("*.zip")):
        stored = read_result(path)
        kind = stored.meta["provenance"]["subject"]["kind"]
        if (stored.meta["analysis"], kind) == (analysis, "trace"):
            return stored
    raise LookupError(analysis)


def described(stored: Stored, top_k: int, title: str | None = None) -> dict[str, Any]:
    """The description of a result with another ``top_k``, and so with another key."""
    meta = copy.deepcopy(stored.meta)
    meta["document"]["params"]["top_k"] = meta["provenance"]["params"]["top_k"] = top_k
    meta["provenance"]["key"] = keys.digest(meta["document"])
    if title is not None:
        meta["title"] = meta["provenance"]["subject"]["title"] = title
    return meta


def file_of(key: str, tables: dict[str, pa.Table], meta: dict[str, Any]) -> bytes:
    """A result file's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.zip"
        write_result(path, key, tables, meta)
        return path.read_bytes()


def result_file(top_k: int = 19, title: str | None = None) -> bytes:
    """A sound result file that no store has yet."""
    stored = example()
    meta = described(stored, top_k, title)
    return file_of(keys.digest(meta["document"]), stored.tables, meta)


def bundle(files: dict[str, bytes], results: list[dict[str, Any]] | None = None) -> bytes:
    """Several of them in one."""
    with tempfile.TemporaryFile() as sink:
        write_bundle(sink, files.items(), results or [])
        sink.seek(0)
        return sink.read()
