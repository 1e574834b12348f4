"""The box "Ask with SQL": tables and columns at hand, queries to begin with, and the answer."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa
import streamlit as st

from engine import UserError
from engine.render.text import one_line
from engine.shelves.asking import ANSWER_FORMATS, Asked, Asking, SchemaTable, answer_file
from engine.shelves.library import Library
from pages.widgets import state
from pages.widgets.downloads import FORMATS
from pages.widgets.notice import guarded, hint, problem

LONGEST = 300
"""Characters of a cell that are drawn; the download has all."""


def box(library: Library) -> None:
    """The closed box; nothing is read before it is opened."""
    opened = st.expander("Ask with SQL", key="sql-box", on_change="rerun")
    if opened.open:
        with opened:
            _inside(library.asking)


@guarded
def _inside(asking: Asking) -> None:
    schema = asking.schema()
    left, right = st.columns([1, 1], gap="medium")
    with left:
        _query(asking, schema)
    with right:
        _schema(schema)
    error = state.recall("sql.error")
    asked: Asked | None = state.recall("sql.asked")
    if error:
        problem(error, key="sql")
    elif asked is not None:
        _answer(asked)


def _query(asking: Asking, schema: list[SchemaTable]) -> None:
    examples = {example.title: example.query for example in asking.examples(schema)}
    if "sql" not in st.session_state and examples:
        st.session_state["sql"] = next(iter(examples.values()))

    def begin() -> None:
        st.session_state["sql"] = examples[st.session_state["sql-example"]]

    st.selectbox("Begin with", list(examples), key="sql-example", on_change=begin)
    query = st.text_area("One SELECT, in DuckDB's SQL", key="sql", height=196)
    if st.button("Ask", key="sql-ask", type="primary"):
        state.remember("sql.error", None)
        state.remember("sql.asked", None)
        try:
            with st.spinner("Asking"):
                state.remember("sql.asked", asking.ask(query))
        except UserError as error:
            state.remember("sql.error", str(error))


def _schema(schema: list[SchemaTable]) -> None:
    by_name = {table.name: table for table in schema}
    name = st.selectbox(
        "Tables and their columns",
        list(by_name),
        key="sql-table",
        format_func=lambda n: f"{n} ({by_name[n].rows:,} rows)",
    )
    table = by_name[name]
    st.container(key="sql-columns").dataframe(
        {
            "column": [column.name for column in table.columns],
            "type": [column.type.lower() for column in table.columns],
            "unit": [column.unit or None for column in table.columns],
            "definition": [column.doc for column in table.columns],
        },
        hide_index=True,
        height=196,
        row_height=26,
        placeholder="",
        column_config={
            "column": st.column_config.TextColumn(width=110),
            "type": st.column_config.TextColumn(width=68),
            "unit": st.column_config.TextColumn(width=58),
            "definition": st.column_config.TextColumn(width=300),
        },
    )
    hint(f"{table.doc} The column key joins all tables.".strip(), key="sql-table")


def _answer(asked: Asked) -> None:
    rows = asked.table.num_rows
    for n, remark in enumerate(asked.remarks):
        hint(remark, key=f"sql-remark-{n}")
    if not rows:
        hint("No row fits.", key="sql-empty")
        return
    shown = readable(asked.table)
    st.container(key="sql-answer").dataframe(
        shown,
        hide_index=True,
        height=min(36 + 28 * rows, 400),
        row_height=28,
        placeholder="–",
        column_config={
            name: st.column_config.NumberColumn(format="%.4g")
            for name, kind in zip(shown.column_names, shown.schema.types, strict=True)
            if pa.types.is_floating(kind)
        },
    )
    with st.container(key="downloads-sql", horizontal=True, vertical_alignment="center"):
        st.text(f"{rows:,} rows" if rows > 1 else "1 row")
        for fmt in ANSWER_FORMATS:
            st.download_button(
                FORMATS[fmt],
                partial(answer_file, asked, fmt),
                file_name=f"tokenscope-sql.{fmt}",
                key=f"download-sql-{fmt}",
                on_click="ignore",
                type="tertiary",
            )


def readable(table: pa.Table) -> pa.Table:
    """Cells as they can be drawn: bytes as hex, invisible characters as codes, long text cut."""
    columns: list[Any] = []
    for column in table.columns:
        kind = column.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            column = pa.array([_hex(value) for value in column.to_pylist()], pa.string())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = pa.array([_text(value) for value in column.to_pylist()], pa.string())
        columns.append(column)
    names = [one_line(name, 60) for name in table.column_names]
    unique = [
        name if names.count(name) == 1 else f"{name} ({n + 1})" for n, name in enumerate(names)
    ]
    return pa.table(columns, names=unique)


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value[: LONGEST // 2].hex()


def _text(value: str | None) -> str | None:
    if value is None or (value.isprintable() and len(value) <= LONGEST):
        return value
    return one_line(value, LONGEST)
