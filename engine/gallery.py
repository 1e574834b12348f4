"""The gallery: traces shipped with the source whose results are stored beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import orjson

from engine.subjects import Trace
from engine.workspace import GALLERY


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """One example.

    Attributes:
        name: stable short name.
        title: what a person reads in the list.
        description: one sentence on what to look at.
        model: the bundled model it was made with.
        trace: the tokens.
        expected: the right answer, when there is one.
    """

    name: str
    title: str
    description: str
    model: str
    trace: Trace
    expected: str | None = None


@lru_cache(maxsize=1)
def gallery() -> tuple[GalleryItem, ...]:
    """All gallery items, in the order they are shown; empty when none are shipped."""
    file = GALLERY / "items.jsonl"
    if not file.is_file():
        return ()
    items = []
    for line in file.read_bytes().splitlines():
        record = orjson.loads(line)
        record["trace"] = Trace.model_validate(record["trace"])
        items.append(GalleryItem(**record))
    return tuple(items)
