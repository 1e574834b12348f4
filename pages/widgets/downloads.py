"""A result's tables: to look at and to take away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import streamlit as st

from engine import Result, export_table
from engine.schema import Column
from pages.widgets.selection import chosen_row

FORMATS = {
    "csv": "CSV",
    "parquet": "Parquet",
    "arrow": "Arrow",
    "json": "JSON",
    "jsonl": "JSONL",
    "xlsx": "XLSX",
}
_MIME = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.file",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def downloads(result: Result, table: str, label: str, *, key: str) -> None:
    """One quiet line of links; a file is made when its link is pressed."""
    with st.container(key=f"downloads-{key}", horizontal=True, vertical_alignment="center"):
        st.text(label)
        for fmt, name in FORMATS.items():
            st.download_button(
                name,
                partial(export_table, result, table, fmt),
                file_name=f"{result.analysis}-{table}-{result.key[:8]}.{fmt}",
                mime=_MIME[fmt],
                key=f"download-{key}-{fmt}",
                on_click="ignore",
                type="tertiary",
            )


ROW_HEIGHT = 28
HEAD_HEIGHT = 33
"""Pixels of a table's rows and of their header."""

FOLLOW = 5_000
"""Rows up to which the table marks what was selected elsewhere: marking sends it anew."""


def table_view(
    table: pa.Table,
    columns: Mapping[str, Column],
    shown: list[str],
    *,
    tokens: list[str],
    key: str | None = None,
    selected: int | None = None,
    on_row: Callable[[int], None] | None = None,
) -> None:
    """The per-token table with readable tokens, labels and units.

    Args:
        table: per-token table.
        columns: what its columns mean.
        shown: columns to show, in order; those it lacks are left out.
        tokens: readable tokens, one per row.
        key: name of the place in the page; needed to select rows.
        selected: row to mark, None for none.
        on_row: called with the row a visitor picks, before the page is drawn again.
    """
    data = table.select([c for c in shown if c in table.column_names])
    at = data.column_names.index("token")
    data = data.set_column(at, "token", pa.array(tokens, pa.string()))
    picking: dict[str, Any] = {}
    if key is not None and on_row is not None:
        picking = _picking(key, data.num_rows, selected, on_row)
    st.dataframe(
        data,
        key=key,
        **picking,
        hide_index=True,
        height=285,
        row_height=ROW_HEIGHT,
        placeholder="–",
        column_config={name: _column(name, columns[name]) for name in data.column_names},
    )


def _picking(
    key: str, count: int, selected: int | None, on_row: Callable[[int], None]
) -> dict[str, Any]:
    """Arguments that make rows selectable; the row selected elsewhere is marked."""
    marked = chosen_row(st.session_state.get(key))
    if count <= FOLLOW and marked != selected:
        rows = [] if selected is None else [selected]
        st.session_state[key] = {"selection": {"rows": rows, "columns": [], "cells": []}}

    def picked() -> None:
        row = chosen_row(st.session_state.get(key))
        if row is not None:
            on_row(row)

    return {"on_select": picked, "selection_mode": "single-row"}


def _column(name: str, column: Column) -> object:
    label = column.label or name.replace("_", " ")
    if column.unit and column.unit != "probability":
        label += f" ({column.unit})"
    if pa.types.is_floating(column.type):
        return st.column_config.NumberColumn(label, help=column.doc, format="%.3g")
    width = "small" if pa.types.is_integer(column.type) else None
    return st.column_config.Column(label, help=column.doc, width=120 if name == "token" else width)
