"""Result files as small as they get: what is shipped is written once and read often."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pyarrow as pa

from engine.workspace import Workspace

_NO_TIME = (1980, 1, 1, 0, 0, 0)


def pack(workspace: Workspace, key: str, results: Path) -> Path:
    """Copy a stored result into a folder of results, its tables compressed as far as they go.

    The store writes with a fast codec; readers take any. Nothing else about the file changes.
    """
    stored = workspace.store.get(key)
    if stored is None or stored.path is None:
        raise SystemExit(f"The result {key[:12]} was not stored: free some disk space.")
    target = results / key[:2] / f"{key}.zip"
    target.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(stored.path) as source, zipfile.ZipFile(target, "w") as made:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith(".arrow"):
                data = _smaller(data)
            made.writestr(zipfile.ZipInfo(entry.filename, _NO_TIME), data)
    return target


def _smaller(data: bytes) -> bytes:
    table = pa.ipc.open_file(data).read_all().combine_chunks()
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 19))
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()
