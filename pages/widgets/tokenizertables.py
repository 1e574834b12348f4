"""Tables of the Tokenizer page: lists of tokens as one line each."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

import engine
from engine import Result
from engine.render.text import plain
from pages.widgets.tables import plain_table


def joined(tokens: list[str] | None) -> str:
    return "|".join(plain(t) for t in tokens or ())


def columns(name: str, table: str) -> Any:
    return engine.analyses()[f"tokenizer.{name}"].tables[table].columns


def show(found: Result, name: str, table: str, rows: pa.Table | None = None) -> None:
    plain_table(found.table(table) if rows is None else rows, columns(name, table))


def readable(table: pa.Table) -> pa.Table:
    """Lists of tokens as one line each; ids are in the download."""
    for name in ("tokens", "given", "canonical"):
        if name in table.column_names and pa.types.is_list(table[name].type):
            at = table.column_names.index(name)
            lines = pa.array([joined(t) for t in table[name].to_pylist()], pa.string())
            table = table.set_column(at, name, lines)
    kept = [n for n in table.column_names if not pa.types.is_list(table[n].type)]
    return table.select([n for n in kept if n not in ("part",)])
