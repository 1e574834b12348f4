"""What must hold for a result file from elsewhere before it is kept.

A result's key is the digest of its stored document, so a file cannot claim to be an answer to
another question. Whether its numbers are right cannot be seen from the file: what is imported says
so in its provenance, and a result computed here is never replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cache import Stored
from engine import hub, keys
from engine.errors import UserError
from engine.limits.profile import BUNDLED
from engine.modelref import ModelRef, shown
from engine.registry import Analysis, analyses
from engine.schema import NOTES
from engine.subjects import Trace
from engine.subjectstore import TABLE as SUBJECT
from engine.subjectstore import subject_of


class _Loose(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Subject(_Loose):
    kind: str = Field(max_length=40)
    digest: str = Field(max_length=128)
    title: str | None = Field(None, max_length=500)


class _Model(_Loose):
    name: str = Field(max_length=200)
    ref: str = Field(max_length=1024)
    fingerprint: str = Field(max_length=128)
    tokenizer: str = Field(max_length=128)
    dtype: str = Field(max_length=20)
    device: str = Field(max_length=20)

    def identity(self) -> dict[str, str]:
        return self.model_dump(include={"fingerprint", "tokenizer", "dtype", "device"})


class _Provenance(_Loose):
    key: str
    analysis: str = Field(max_length=100)
    version: int = Field(ge=0, lt=1 << 31)
    status: Literal["complete", "partial"]
    subject: _Subject
    models: dict[str, _Model] = Field(max_length=16)
    params: dict[str, Any]
    code_version: str = Field(max_length=40)
    created: str = Field(max_length=40)


def accepted(stored: Stored, *, now: datetime | None = None) -> dict[str, Any]:
    """The description under which a result from elsewhere is kept.

    Args:
        stored: the file as it was read.
        now: when it is imported; default the present.

    Raises:
        UserError: its key does not belong to its content, or it contradicts itself.
    """
    meta = stored.meta
    document = meta.get("document")
    if not isinstance(document, dict) or _digest(document) != stored.key:
        raise UserError("Its key does not belong to its content: the file was altered.")
    try:
        provenance = _Provenance.model_validate(meta.get("provenance"))
        datetime.fromisoformat(provenance.created)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "provenance"
        raise UserError(f"Its provenance is incomplete: {shown(where)}.") from None
    except ValueError:
        raise UserError("Its provenance is incomplete: created is no date.") from None
    _check_agreement(stored, document, provenance)
    _check_subject(stored)
    if problem(provenance.analysis, provenance.version) is None:
        _check_tables(analyses()[provenance.analysis], stored)
    kept = dict(meta["provenance"])
    kept["models"] = {
        role: {**model, "ref": _safe_ref(model["ref"])} for role, model in kept["models"].items()
    }
    kept["imported"] = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    return {
        "analysis": provenance.analysis,
        "version": provenance.version,
        "subject": provenance.subject.digest,
        "status": provenance.status,
        "created": provenance.created,
        "title": provenance.subject.title,
        "document": document,
        "provenance": kept,
        "imported": kept["imported"],
    }


def problem(analysis: str | None, version: object) -> str | None:
    """Why this program cannot show a stored result, or None when it can."""
    declared = analyses().get(analysis or "")
    if declared is None:
        return f"This TokenScope has no analysis {shown(analysis or '')!r}: update it to see this."
    if declared.version != version:
        return (
            f"Made by version {shown(str(version))} of {declared.name}; this TokenScope has "
            f"version {declared.version}: compute it again to see it."
        )
    return None


def _digest(document: Mapping[str, Any]) -> str | None:
    try:
        return keys.digest(document)
    except (ValueError, TypeError, RecursionError):
        return None


def _check_agreement(stored: Stored, document: Mapping[str, Any], provenance: _Provenance) -> None:
    meta = stored.meta
    pairs = [
        (provenance.key, stored.key),
        (provenance.analysis, document.get("analysis")),
        (provenance.analysis, meta.get("analysis")),
        (provenance.version, document.get("version")),
        (provenance.version, meta.get("version")),
        (provenance.subject.digest, document.get("subject")),
        (provenance.subject.digest, meta.get("subject")),
        (provenance.status, meta.get("status")),
        (provenance.params, document.get("params")),
        ({r: m.identity() for r, m in provenance.models.items()}, document.get("models")),
    ]
    if any(said != meant for said, meant in pairs):
        raise UserError("Its provenance contradicts its key: the file was altered.")


def _check_subject(stored: Stored) -> None:
    if SUBJECT not in stored.tables:
        return
    subject = subject_of(stored.tables)
    if subject is None or subject.digest != stored.meta.get("subject"):
        raise UserError("The text it carries is not the one it was computed for.")


def _check_tables(declared: Analysis, stored: Stored) -> None:
    """Every declared table with every declared column, of its type; others may come along."""
    notes = stored.tables.get("notes")
    wrong = notes is not None and notes.schema != NOTES
    for name, table in declared.tables.items():
        given = stored.tables.get(name)
        wrong = wrong or given is None or not _holds(given.schema, table.schema())
    if wrong:
        raise UserError(f"Its tables are not those of {declared.name}: it cannot be shown.")
    trace = subject_of(stored.tables)
    lifted = any("rollout" in stored.tables[name].column_names for name in declared.tables)
    if not isinstance(trace, Trace) or lifted or stored.meta.get("status") != "complete":
        return
    for name, table in declared.tables.items():
        if table.per_token and stored.tables[name]["position"].to_pylist() != [*range(len(trace))]:
            raise UserError(f"Its table {name} does not have one row for each token.")


def _holds(given: pa.Schema, declared: pa.Schema) -> bool:
    types = dict(zip(given.names, given.types, strict=True))
    return len(types) == len(given.names) and all(
        types.get(field.name) == field.type for field in declared
    )


def _safe_ref(ref: str) -> str:
    """The reference if it names a model that is here; a stranger's file makes nobody fetch one."""
    try:
        parsed = ModelRef.parse(ref)
    except (UserError, ValidationError):
        return ""
    sources = [parsed.source, *([parsed.adapter] if parsed.adapter else [])]
    if all(source in BUNDLED for source in sources):
        return str(parsed)
    here = {*BUNDLED, *hub.cached()}
    return str(parsed) if all(source in here for source in sources) else ""
