"""Opening zips that may come from strangers: nothing in them is packed, linked or named twice."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from typing import BinaryIO

from cache.errors import DamagedError

_END = struct.Struct("<4s4H2LH")
_LONGEST_ENTRY = 256


def open_plain(file: BinaryIO, *, max_bytes: int, max_entries: int) -> zipfile.ZipFile:
    """Open a zip whose members are stored as they are, so that reading it cannot unfold anything.

    Its end is looked at first, because `zipfile` reads any number of entries into memory.

    Args:
        file: The zip; its position does not matter.
        max_bytes: How large it may be; all members together are never larger than the file.
        max_entries: How many members it may have.

    Raises:
        DamagedError: It is no zip, exceeds the bounds, or is made in another way than ours are.
    """
    size = file.seek(0, os.SEEK_END)
    if size > max_bytes or size < _END.size:
        raise DamagedError("The file is too large or too short for a result.")
    # A zip64 locator would stand right before the end record; we never write one.
    file.seek(max(0, size - _END.size - 20))
    tail = file.read()
    magic, _, _, _, entries, directory, _, comment = _END.unpack(tail[-_END.size :])
    too_many = entries > max_entries or directory > max_entries * _LONGEST_ENTRY
    if magic != b"PK\5\6" or comment or too_many or b"PK\6\7" in tail[:4]:
        raise DamagedError("The file is no result file.")
    try:
        archive = zipfile.ZipFile(file)
        infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise DamagedError(f"The file is no result file: {error}.") from error
    plain = all(i.compress_type == zipfile.ZIP_STORED and not i.flag_bits & 1 for i in infos)
    honest = all(info.file_size == info.compress_size for info in infos)
    if not plain or not honest or sum(info.file_size for info in infos) > size:
        raise DamagedError("The file is packed in a way result files are not.")
    if any(stat.S_ISLNK(info.external_attr >> 16) or info.is_dir() for info in infos):
        raise DamagedError("The file holds links or folders, which result files do not.")
    if len({info.filename for info in infos}) < len(infos):
        raise DamagedError("The file has a name twice.")
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a member whole and check its sum.

    Raises:
        DamagedError: It is not what was written.
    """
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError, KeyError) as error:
        raise DamagedError(f"{name[:80]} in the file is damaged: {error}.") from error
