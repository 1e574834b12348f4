"""Small tables, with the labels and definitions their columns declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import streamlit as st

from engine.schema import Column


def plain_table(table: pa.Table, columns: Mapping[str, Column], least: int = 1) -> None:
    """A small table with its columns' own labels; empty columns are left out."""
    kept = [n for n in table.column_names if table[n].null_count < table.num_rows or n == "method"]
    config: dict[str, Any] = {}
    for name in kept:
        declared = columns.get(name)
        label = (declared.label if declared else "") or name.replace("_", " ")
        doc = declared.doc if declared else None
        if pa.types.is_floating(table[name].type):
            config[name] = st.column_config.NumberColumn(label, help=doc, format="%.3g")
        else:
            config[name] = st.column_config.Column(label, help=doc)
    st.dataframe(
        table.select(kept),
        hide_index=True,
        row_height=28,
        height=min(37 + 28 * max(table.num_rows, least), 460),
        placeholder="–",
        column_config=config,
    )
