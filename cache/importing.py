"""Result files that travel: many of them in one zip, and taking in what another machine wrote."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cache.errors import DamagedError, StoreError
from cache.plainzip import open_plain, read_member
from cache.results import Limits, Stored, read_result

MANIFEST = "tokenscope.json"
"""Beside the result files of a bundle: what they are, and the titles their user gave them."""

BUNDLE_FORMAT = 1
MAX_RESULTS = 2000
MAX_MANIFEST = 4 << 20
IMPORT_LIMITS = Limits(
    file_bytes=512 << 20, table_bytes=1 << 30, table_rows=20_000_000, meta_bytes=4 << 20
)
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}\.zip")
_ANY_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Incoming:
    """One result file that was offered, read; or why it cannot be.

    Args:
        name: Its name inside the bundle, empty for a file that came alone. Only for messages.
        stored: The result, None when it cannot be read.
        title: The title its user gave it, None when there is none.
        problem: One sentence, empty when `stored` is there.
    """

    name: str
    stored: Stored | None
    title: str | None = None
    problem: str = ""


def read_incoming(data: bytes, *, limits: Limits = IMPORT_LIMITS) -> Iterator[Incoming]:
    """Read a result file, or a bundle of them one by one; from strangers, so within `limits`.

    Nothing is unpacked to the disk, and no name inside the file is used as a path.

    Raises:
        DamagedError: It is neither, or made in another way than ours are.
        NewerFormatError: A newer version wrote it.
    """
    file = io.BytesIO(data)
    with open_plain(file, max_bytes=limits.file_bytes, max_entries=MAX_RESULTS + 1) as archive:
        names = archive.namelist()
        if "meta.json" in names:
            yield Incoming("", read_result(data, limits=limits))
            return
        members = [name for name in names if name != MANIFEST]
        if not members:
            raise DamagedError("The file holds no results.")
        if not all(map(_MEMBER.fullmatch, members)):
            raise DamagedError("The file holds something other than result files.")
        titles = _titles(archive) if MANIFEST in names else {}
        for name in members:
            try:
                stored = read_result(read_member(archive, name), limits=limits)
            except StoreError as error:
                yield Incoming(name, None, problem=str(error))
            else:
                yield Incoming(name, stored, titles.get(stored.key))


def _titles(archive: zipfile.ZipFile) -> dict[str, str]:
    """The titles of a manifest; one that makes no sense has none."""
    if archive.getinfo(MANIFEST).file_size > MAX_MANIFEST:
        return {}
    try:
        manifest = json.loads(read_member(archive, MANIFEST))
        listed = manifest["results"] if manifest["format"] == BUNDLE_FORMAT else []
        return {
            entry["key"]: entry["renamed"]
            for entry in listed
            if isinstance(entry.get("key"), str) and isinstance(entry.get("renamed"), str)
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def write_bundle(
    sink: BinaryIO,
    members: Iterable[tuple[str, Path | bytes]],
    results: Iterable[Mapping[str, Any]],
    *,
    packed: bool = False,
) -> None:
    """Write files into one zip; no more than one of them is ever held in memory.

    Args:
        sink: Where to write.
        members: Names and what they hold; a file that is gone meanwhile is left out.
        results: One entry per result for the manifest, which is written last.
        packed: Whether they are compressed. A bundle of result files, which are, is not: only so
            can it be read back.

    Raises:
        StoreError: It would be larger than such a zip can be.
        OSError: The disk refuses it.
    """
    try:
        with zipfile.ZipFile(sink, "w", allowZip64=False) as archive:
            for name, content in members:
                info = zipfile.ZipInfo(name, _ANY_TIME)
                info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
                if isinstance(content, bytes):
                    archive.writestr(info, content)
                    continue
                try:
                    file = content.open("rb")
                except FileNotFoundError:
                    continue
                with file, archive.open(info, "w") as member:
                    shutil.copyfileobj(file, member, 1 << 20)
            manifest = {"format": BUNDLE_FORMAT, "results": list(results)}
            text = json.dumps(manifest, indent=1, sort_keys=True).encode("ascii")
            archive.writestr(zipfile.ZipInfo(MANIFEST, _ANY_TIME), text)
    except (zipfile.LargeZipFile, RuntimeError) as error:
        raise StoreError("Together they are too large for one file: export fewer.") from error
