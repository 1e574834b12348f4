"""A stored result as a list shows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import orjson

from cache import Entry, StoreError
from cache.results import read_table
from engine.gallery import gallery
from engine.pieces import show
from engine.shelves.incoming import problem
from engine.subjectstore import TABLE as SUBJECT

Origin = Literal["computed", "imported", "example"]
_WORDS = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One result in a list.

    Attributes:
        key: names the result.
        analysis: the analysis; its name as stored, which this version may not have.
        title: the user's or the text's title, else the text's first words, else its kind.
        subject: digest of what it looked at.
        model: names of the models; None for analyses without one.
        tokens: tokens of what it looked at; None when it does not carry it.
        status: ``complete`` or ``partial``.
        created, last_used: in UTC; None when the file does not say.
        bytes: size of the file.
        pinned: kept when the store is full.
        origin: computed here, imported, or an example that came with TokenScope.
        params: its params as JSON.
        problem: why it cannot be shown here, None when it can.
    """

    key: str
    analysis: str
    title: str
    subject: str | None
    model: str | None
    tokens: int | None
    status: str
    created: datetime | None
    last_used: datetime | None
    bytes: int
    pinned: bool
    origin: Origin
    params: str
    problem: str | None


def row_of(entry: Entry, path: Path | None) -> Row:
    """The row of a stored result.

    Args:
        entry: what the store says of it.
        path: its file, for what it looked at.
    """
    facts = _provenance(entry)
    title, tokens = about(entry, path)
    origin: Origin = "imported" if entry.meta.get("imported") else "computed"
    return Row(
        key=entry.key,
        analysis=entry.analysis or "",
        title=title,
        subject=entry.subject,
        model=_models(facts.get("models")),
        tokens=tokens,
        status=entry.status or "",
        created=_time(entry.created),
        last_used=None if entry.layer else entry.last_used,
        bytes=entry.bytes,
        pinned=entry.pinned,
        origin="example" if entry.layer else origin,
        params=orjson.dumps(facts.get("params", {}), option=orjson.OPT_SORT_KEYS).decode(),
        problem=problem(entry.analysis, entry.meta.get("version")),
    )


def about(entry: Entry, path: Path | None) -> tuple[str, int | None]:
    """Title, or first words, or kind; and the number of tokens of what a result looked at."""
    words, tokens = _read_about(path, entry.bytes) if path is not None else ("", None)
    if entry.title:
        return entry.title, tokens
    if entry.layer and entry.subject in (names := _example_names()):
        return names[entry.subject], tokens
    subject = _provenance(entry).get("subject")
    kind = subject.get("kind") if isinstance(subject, dict) else None
    return words or f"({kind or 'no text'})", tokens


@lru_cache(maxsize=1)
def _example_names() -> dict[str, str]:
    """Titles of what came with TokenScope, by digest."""
    names: dict[str, str] = {}
    for item in gallery():
        parts = [(item.trace, item.title), (item.group, item.title)]
        parts.append((item.branch, f"{item.title}, branched"))
        for subject, title in parts:
            if subject is not None:
                names.setdefault(subject.digest, title)
    return names


@lru_cache(maxsize=1 << 13)
def _read_about(path: Path, size: int) -> tuple[str, int | None]:
    """First words and number of tokens of what a result looked at; files never change."""
    try:
        table = read_table(path, SUBJECT)
        body = orjson.loads(table["subject"][0].as_py()) if table is not None else {}
        traces = body.get("rollouts", [body]) if body else []
        tokens = sum(len(trace["ids"]) for trace in traces) if traces else None
        return (_first_words(traces[0]) if traces else ""), tokens
    except (StoreError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return "", None


def _first_words(trace: dict[str, Any]) -> str:
    hidden = {*trace.get("added", ()), *trace.get("special", ())}
    pieces = [p for n, p in enumerate(trace["pieces"][: 4 * _WORDS]) if n not in hidden]
    data = b"".join(p.encode() if isinstance(p, str) else bytes.fromhex(p["hex"]) for p in pieces)
    text = " ".join(show(data).split())
    return text if len(text) <= _WORDS else text[: _WORDS - 1].rstrip() + "…"


def _provenance(entry: Entry) -> dict[str, Any]:
    found = entry.meta.get("provenance")
    return found if isinstance(found, dict) else {}


def _models(models: object) -> str | None:
    """The models' names, with their roles where there are several."""
    if not isinstance(models, dict) or not models:
        return None
    names = {role: str(m.get("name")) for role, m in models.items() if isinstance(m, dict)}
    return ", ".join(n if role == "model" else f"{role}: {n}" for role, n in names.items()) or None


def _time(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
