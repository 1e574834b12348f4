"""Small JSON files beside the results: remembered facts, and the user's pins and titles."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import StoreError, explain
from cache.files import check_key, durable, make_folder
from cache.locks import ProcessLock

logger = logging.getLogger(__name__)
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,99}")


@dataclass(frozen=True)
class Label:
    """What a user said about a result."""

    pinned: bool = False
    title: str | None = None


class Notes:
    """A folder of JSON objects, each replaced as a whole under one lock.

    Args:
        folder: Where the files lie; made on first writing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> dict[str, Any]:
        """Return the object kept under `name`; an unreadable one counts as empty."""
        path = self._folder / f"{name}.json"
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("%s cannot be read and is ignored: %s", path, error)
            return {}
        return value if isinstance(value, dict) else {}

    def merge(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Set `changes` in the object kept under `name`; a value of None removes its entry."""
        path = self._folder / f"{name}.json"
        try:
            make_folder(self._folder)
            with ProcessLock(self._folder / ".lock"):
                value = self.read(name) | dict(changes)
                value = {field: entry for field, entry in value.items() if entry is not None}
                if not value:
                    path.unlink(missing_ok=True)
                    return value
                text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False)
                with durable(path) as file:
                    file.write(text.encode("ascii"))
                return value
        except OSError as error:
            raise explain(error, self._folder) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise StoreError(f"What should be remembered is not plain JSON: {error}.") from error

    def remove(self, name: str) -> None:
        """Forget the object kept under `name`."""
        with contextlib.suppress(OSError):
            (self._folder / f"{name}.json").unlink()

    def names(self) -> list[str]:
        """List what is kept."""
        with contextlib.suppress(OSError):
            return [path.stem for path in self._folder.glob("*.json")]
        return []


class Labels:
    """Pins and titles by key.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._notes = Notes(folder)

    def get(self, key: str) -> Label:
        """Return the label of a result."""
        value = self._notes.read(key)
        title = value.get("title")
        return Label(value.get("pinned") is True, title if isinstance(title, str) else None)

    def pin(self, key: str, pinned: bool) -> None:
        """Keep a result from eviction, or no longer."""
        self._notes.merge(check_key(key), {"pinned": True if pinned else None})

    def rename(self, key: str, title: str) -> None:
        """Give a result a title; an empty one gives back the original."""
        self._notes.merge(check_key(key), {"title": title.strip() or None})

    def remove(self, key: str) -> None:
        """Forget the label of a result."""
        self._notes.remove(check_key(key))

    def all(self) -> dict[str, Label]:
        """Return every label by its key."""
        return {key: self.get(key) for key in self._notes.names()}


def check_name(name: str) -> str:
    """Return `name` when it may name a memo.

    Raises:
        StoreError: It may not.
    """
    if not _NAME.fullmatch(name):
        raise StoreError(f"{name[:80]!r} is no name for a memo: use a-z, 0-9, _ and -.")
    return name
