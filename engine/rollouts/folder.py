"""The files of a folder that may hold rollouts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from engine.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
"""What is looked at in a folder; a file that is named itself may be called anything."""
MOST_FILES = 100_000


def paths_of(path: Path) -> list[str]:
    """The files to look at, relative to the folder: 9.jsonl before 10.jsonl.

    Hidden files and folders are left out; links to folders are not followed.

    Raises:
        UserError: when there are too many.
    """
    if not path.is_dir():
        return [path.name] if path.is_file() else []
    found: list[str] = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.relpath(os.path.join(folder, name), path)
            for name in names
            if name.lower().endswith(SUFFIXES)
            and not name.startswith(".")
            and os.path.isfile(os.path.join(folder, name))  # a pipe would be waited for
        ]
        if len(found) > MOST_FILES:
            raise UserError(f"{path.name} holds more than {MOST_FILES:,} files: open a part of it.")
    return sorted(found, key=_natural)


def _natural(path: str) -> list[Any]:
    """Sorts 9.jsonl before 10.jsonl."""
    parts = re.split(r"(\d+)", path)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]
