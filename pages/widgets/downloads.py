"""A result's tables: to look at and to take away."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pyarrow as pa
import streamlit as st

from engine import Result, export_table
from engine.schema import Column

FORMATS = {"csv": "CSV", "parquet": "Parquet", "arrow": "Arrow", "json": "JSON", "xlsx": "XLSX"}
_MIME = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.file",
    "json": "application/json",
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


def table_view(
    table: pa.Table, columns: Mapping[str, Column], shown: list[str], *, tokens: list[str]
) -> None:
    """The per-token table with readable tokens, labels and units."""
    data = table.select([c for c in shown if c in table.column_names])
    at = data.column_names.index("token")
    data = data.set_column(at, "token", pa.array(tokens, pa.string()))
    st.dataframe(
        data,
        hide_index=True,
        height=285,
        row_height=28,
        placeholder="–",
        column_config={name: _column(name, columns[name]) for name in data.column_names},
    )


def _column(name: str, column: Column) -> object:
    label = column.label or name.replace("_", " ")
    if column.unit and column.unit != "probability":
        label += f" ({column.unit})"
    if pa.types.is_floating(column.type):
        return st.column_config.NumberColumn(label, help=column.doc, format="%.3g")
    width = "small" if pa.types.is_integer(column.type) else None
    return st.column_config.Column(label, help=column.doc, width=120 if name == "token" else width)
