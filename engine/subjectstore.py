"""The subject stored beside a result, so that a result can be opened again, here or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pyarrow as pa
from pydantic import ValidationError

from engine.subjects import Group, Subject, Trace

TABLE = "subject"
"""Name of the stored table; it is no table of the result."""

MAX_TOKENS = 500_000
"""Larger groups are not kept beside their result: their file is elsewhere."""

_SCHEMA = pa.schema([("kind", pa.string()), ("title", pa.string()), ("subject", pa.string())])


def subject_table(subject: Subject) -> pa.Table | None:
    """A table of one row that holds a trace or a group, or None for other subjects."""
    if isinstance(subject, Trace):
        body = subject.record
    elif isinstance(subject, Group) and sum(map(len, subject.rollouts)) <= MAX_TOKENS:
        body = subject.model_dump(mode="json", exclude={"title"}, exclude_defaults=True)
    else:
        return None
    row = {
        "kind": [subject.kind],
        "title": [subject.title],
        "subject": [orjson.dumps(body).decode()],
    }
    return pa.table(row, schema=_SCHEMA)


def subject_of(tables: Mapping[str, pa.Table]) -> Trace | Group | None:
    """The subject in a stored result's tables; None when there is none that can be read."""
    table = tables.get(TABLE)
    if table is None or table.num_rows != 1 or table.schema != _SCHEMA:
        return None
    row = table.to_pylist()[0]
    kinds: dict[str, type[Trace] | type[Group]] = {"trace": Trace, "group": Group}
    kind = kinds.get(row["kind"])
    if kind is None or row["subject"] is None:
        return None
    try:
        subject = kind.model_validate_json(row["subject"])
    except ValidationError:
        return None
    return subject.evolve(title=row["title"]) if row["title"] else subject
