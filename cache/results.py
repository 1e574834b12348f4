"""A result file: one immutable, uncompressed zip with `meta.json` and an Arrow file per table."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cache import arrow
from cache.commit import group_for
from cache.errors import DamagedError, NewerFormatError, StoreError, explain
from cache.files import check_key, durable
from cache.plainzip import open_plain, read_member

if TYPE_CHECKING:
    import pyarrow as pa

RESULT_FORMAT = 1
_META = "meta.json"
_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,59}")
# The time a zip may not do without. A fixed one makes equal results equal byte for byte.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_IN_MEMORY = 32 << 20


@dataclass(frozen=True)
class Limits:
    """How large a result may be; the same when it is written and when it is read."""

    file_bytes: int = 2 << 30
    table_bytes: int = 4 << 30
    table_rows: int = 200_000_000
    meta_bytes: int = 16 << 20
    tables: int = 64


LIMITS = Limits()


@dataclass(frozen=True)
class Stored:
    """A result as it was put: its tables and what was said about it.

    Args:
        key: The 64 hexadecimal characters under which it was put.
        tables: The Arrow tables by name.
        meta: The caller's own description.
        path: The file it came from, None when it was read from bytes.
        indexed: Whether its per-token tables belong into the index.
    """

    key: str
    tables: dict[str, pa.Table]
    meta: dict[str, Any]
    path: Path | None
    indexed: bool = field(default=True, compare=False)


def write_result(
    path: Path,
    key: str,
    tables: Mapping[str, pa.Table],
    meta: Mapping[str, Any],
    *,
    index: bool = True,
    limits: Limits = LIMITS,
) -> None:
    """Write a result file; when this returns, it is complete and on the disk.

    Args:
        path: The file to write; a file that is there is replaced at once or not at all.
        key: The key of the result, 64 hexadecimal characters.
        tables: Tables by name, names like `tokens` or `top_k`.
        meta: Anything JSON can hold.
        index: Whether the per-token tables belong into the index.
        limits: How large the result may be.

    Raises:
        StoreError: The result cannot be stored, or the disk or folder refuses it.
    """
    envelope = {
        "format": RESULT_FORMAT,
        "index": index,
        "key": check_key(key),
        "meta": _checked_meta(meta),
        "tables": sorted(tables),
    }
    text = json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode("ascii")
    if len(text) > limits.meta_bytes or len(tables) > limits.tables:
        raise StoreError("The result's description is too large, or it has too many tables.")
    for name, table in tables.items():
        if not _TABLE.fullmatch(name):
            raise StoreError(f"{name[:80]!r} is no table name: use a-z, 0-9 and _, like 'top_k'.")
        if table.nbytes > limits.table_bytes or table.num_rows > limits.table_rows:
            raise StoreError(f"The table {name!r} is too large to be stored.")
    data = {name: arrow.encode(tables[name]) for name in sorted(tables)}
    size = sum(buffer.size for buffer in data.values())
    if size + len(text) + 1000 * (len(data) + 1) > limits.file_bytes:
        raise StoreError("The result is too large to be stored.")
    try:
        if size > _IN_MEMORY:
            with durable(path) as file:
                _write_zip(file, text, data)
        else:
            # `zipfile` goes back and forth, which costs a call to the system each time.
            memory = io.BytesIO()
            _write_zip(memory, text, data)
            group_for(path.parent.parent).write(path, memory.getbuffer())
    except OSError as error:
        raise explain(error, path.parent) from error


def read_result(source: Path | bytes, *, limits: Limits = LIMITS) -> Stored:
    """Read a result file, which may come from a stranger.

    Nothing is unpacked to the disk, no code of the file is run, and no more memory is taken than
    `limits` allow.

    Raises:
        DamagedError: It is no result file, is damaged, or exceeds the limits.
        NewerFormatError: A newer version wrote it.
        FileNotFoundError: There is no such file.
        StoreError: The file cannot be opened.
    """
    with _open(source) as file, _open_zip(file, limits) as archive:
        envelope = _envelope(archive)
        tables = {
            name: arrow.decode(
                read_member(archive, f"{name}.arrow"),
                max_bytes=limits.table_bytes,
                max_rows=limits.table_rows,
            )
            for name in envelope["tables"]
        }
    path = source if isinstance(source, Path) else None
    return Stored(envelope["key"], tables, envelope["meta"], path, envelope["index"])


def read_meta(path: Path, *, limits: Limits = LIMITS) -> dict[str, Any]:
    """Read only the caller's description of a result; raises as `read_result` does."""
    with _open(path) as file, _open_zip(file, limits) as archive:
        meta: dict[str, Any] = _envelope(archive)["meta"]
    return meta


def read_table(path: Path, name: str, *, limits: Limits = LIMITS) -> pa.Table | None:
    """Read one table of a result, or None when it has no such table; raises as `read_result`."""
    with _open(path) as file, _open_zip(file, limits) as archive:
        if name not in _envelope(archive)["tables"]:
            return None
        data = read_member(archive, f"{name}.arrow")
    return arrow.decode(data, max_bytes=limits.table_bytes, max_rows=limits.table_rows)


def _checked_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(meta)
    try:
        again = json.loads(json.dumps(plain, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"The result's description is not plain JSON: {error}.") from error
    checked: dict[str, Any] = again
    if checked.keys() != plain.keys():
        raise StoreError("The result's description has keys that are not text.")
    return checked


def _write_zip(file: BinaryIO, text: bytes, tables: Mapping[str, pa.Buffer]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        archive.writestr(zipfile.ZipInfo(_META, _NO_TIME), text)
        for name, data in tables.items():
            with archive.open(zipfile.ZipInfo(f"{name}.arrow", _NO_TIME), "w") as member:
                member.write(memoryview(data))


def _open(source: Path | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return open(source, "rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{source} cannot be read: {error.strerror}.") from error


def _open_zip(file: BinaryIO, limits: Limits) -> zipfile.ZipFile:
    archive = open_plain(file, max_bytes=limits.file_bytes, max_entries=limits.tables + 1)
    if _META not in archive.namelist():
        raise DamagedError("The file has no description.")
    if archive.getinfo(_META).file_size > limits.meta_bytes:
        raise DamagedError("The file's description is too large.")
    return archive


def _envelope(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Read and check `meta.json`: which tables there are must match what lies beside it."""
    try:
        envelope = json.loads(read_member(archive, _META), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"The file's description is no JSON: {str(error)[:200]}.") from error
    if not isinstance(envelope, dict) or type(envelope.get("format")) is not int:
        raise DamagedError("The file's description names no format.")
    if envelope["format"] > RESULT_FORMAT:
        raise NewerFormatError("The file was written by a newer TokenScope: update to read it.")
    tables, key = envelope.get("tables"), envelope.get("key")
    if not isinstance(tables, list) or not isinstance(envelope.get("meta"), dict):
        raise DamagedError("The file's description lacks its tables or its meta.")
    if not isinstance(key, str) or not isinstance(envelope.get("index"), bool):
        raise DamagedError("The file's description lacks its key.")
    if not all(isinstance(name, str) and _TABLE.fullmatch(name) for name in tables):
        raise DamagedError("The file has a table with an impossible name.")
    if sorted([_META, *(f"{name}.arrow" for name in tables)]) != sorted(archive.namelist()):
        raise DamagedError("The file's tables are not those its description names.")
    try:
        check_key(key)
    except StoreError as error:
        raise DamagedError(f"The file's description is wrong: {error}") from error
    return envelope


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
