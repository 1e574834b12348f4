"""Asking ``tokenizer.next_byte`` and reading its tables."""

from __future__ import annotations

import pytest

from engine.result import Request, Result
from engine.running import run
from engine.subjects import Text, Trace
from engine.workspace import Workspace


def ask(workspace: Workspace, subject: str | Trace, model: str, **params) -> Result:
    given = Text(prompt=subject) if isinstance(subject, str) else subject
    return run(Request("tokenizer.next_byte", given, model, params), workspace=workspace)[0]


def summary(result: Result) -> dict:
    return result.table("summary").to_pylist()[0]


def outcomes(result: Result, column: str = "probability") -> dict:
    """Probability of each possible outcome: byte, "end", or control token."""
    table = result.table("healing" if column in ("healing", "alignment") else "bytes")
    rows = table.to_pylist()
    assert sum(row[column] for row in rows) == pytest.approx(1, abs=1e-12)
    found = {}
    for row in rows:
        name = row["byte"] if row["kind"] == "byte" else "end" if row["kind"] == "end" else None
        found[row["token"] if name is None else name] = row[column]
    return {name: p for name, p in found.items() if p}
