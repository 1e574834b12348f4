"""Shapes of results: columns, tables, notes, and what a running analysis says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a result table.

    Attributes:
        type: Arrow type.
        doc: one-line definition, shown as help text.
        unit: ``nats``, ``probability``, …; empty for names and counts.
        label: what a person reads above it.
    """

    type: pa.DataType
    doc: str
    unit: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Schema of a result table.

    Attributes:
        columns: by name, in order; for ``per_token`` tables the common ones are put in front.
        per_token: one row per token of the trace.
        doc: what a row is.
    """

    columns: Mapping[str, Column]
    doc: str = ""
    per_token: bool = False

    def schema(self) -> pa.Schema:
        """Arrow schema, common per-token columns included."""
        columns = {**(PER_TOKEN if self.per_token else {}), **self.columns}
        return pa.schema([pa.field(name, column.type) for name, column in columns.items()])


PER_TOKEN: Mapping[str, Column] = MappingProxyType(
    {
        "position": Column(pa.int64(), "Place in the sequence, from 0, special tokens included."),
        "token_id": Column(pa.int64(), "Id in the model's vocabulary."),
        "token": Column(pa.string(), "The token's text; bytes that are no UTF-8 as \\xNN."),
        "token_bytes": Column(pa.binary(), "The token's exact bytes."),
        "special": Column(pa.bool_(), "Whether it is a special token of the tokenizer."),
        "start_byte": Column(pa.int64(), "First byte in the text.", "bytes"),
        "end_byte": Column(pa.int64(), "Byte after the last one in the text.", "bytes"),
        "role": Column(pa.string(), "Who speaks."),
        "segment": Column(pa.string(), "prompt, response or answer."),
        "ids_origin": Column(pa.string(), "logged, generated or encoded (from text)."),
    }
)

NOTES = pa.schema(
    [
        pa.field("table", pa.string()),
        pa.field("column", pa.string()),
        pa.field("position", pa.int64()),
        pa.field("rollout", pa.int64()),
        pa.field("reason", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        fraction: 0 to 1, None when it cannot be known.
        message: what is being done, for a person.
        eta: seconds that may remain, None when unknown.
        so_far: makes the tables of what is known already; None while there are none.
    """

    fraction: float | None
    message: str
    eta: float | None = None
    so_far: Callable[[], Mapping[str, pa.Table]] | None = None


class Tables(dict[str, pa.Table]):
    """The state of a result so far, by table name; the last one yielded is the result.

    One yielded before the end is what stays when the job is cancelled (status ``partial``).
    """

    def __init__(self, tables: Mapping[str, pa.Table] | None = None, /, **more: pa.Table) -> None:
        super().__init__({**(tables or {}), **more})
