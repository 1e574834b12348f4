"""Tables as files: Parquet, Arrow, CSV, JSON, JSONL and XLSX, each with its provenance.

Parquet and Arrow carry provenance and notes as JSON in the schema metadata (key ``tokenscope``),
XLSX as sheets of its own, CSV and JSON records as constant columns at the end of each row. JSONL is
read by trainers, so its rows get one column only, ``result_key``; a file has the rest beside it, in
``NAME.provenance.json``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from engine.errors import UserError
from engine.records import whole_file
from engine.result import Result

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_XLSX_ROWS = 1_048_576
_XLSX_CELL = 32_767


def export_table(result: Result, table: str | None, fmt: str) -> bytes:
    """One table of a result in one of ``FORMATS``.

    Raises:
        UserError: for an unknown format or table, or more rows than a spreadsheet has.
    """
    if fmt not in _WRITERS:
        raise UserError(f"There is no format {fmt!r}; use one of {', '.join(FORMATS)}.")
    sink = io.BytesIO()
    _WRITERS[fmt](result.table(table), result, sink)
    return sink.getvalue()


def export_file(result: Result, table: str | None, path: str | Path) -> None:
    """Write one table to a file whose suffix names the format; whole or not at all.

    Raises:
        UserError: for an unknown suffix or table, or a place that cannot be written.
    """
    fmt = check_suffix(path)
    chosen = result.table(table)
    with whole_file(path) as temporary:
        with temporary.open("wb") as sink:
            _WRITERS[fmt](chosen, result, sink)
        if fmt == "jsonl":
            with whole_file(provenance_file(path)) as beside:
                beside.write_bytes(orjson.dumps(_document(result), option=orjson.OPT_INDENT_2))


def provenance_file(path: str | Path) -> Path:
    """Where the provenance of a JSONL file is kept: ``pairs.provenance.json`` beside it."""
    return Path(path).with_suffix(".provenance.json")


def check_suffix(path: str | Path) -> str:
    """The format a file name asks for.

    Raises:
        UserError: when it is none of ``FORMATS``.
    """
    fmt = Path(path).suffix.lower().removeprefix(".")
    if fmt not in _WRITERS:
        raise UserError(
            f"{Path(path).name}: the name must end in {', '.join('.' + f for f in FORMATS)}."
        )
    return fmt


def flat_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance as constant columns, for formats that have nowhere else to put it."""
    models = provenance["models"]
    names = {r: m["name"] for r, m in models.items()}
    shown = "; ".join(n if r == "model" else f"{r}={n}" for r, n in names.items())
    return {
        "analysis": provenance["analysis"],
        "analysis_version": provenance["version"],
        "status": provenance["status"],
        "model": shown or None,
        "model_fingerprint": "; ".join(m["fingerprint"] for m in models.values()) or None,
        "tokenizer_digest": "; ".join(m["tokenizer"] for m in models.values())
        or provenance["subject"].get("tokenizer"),
        "dtype": "; ".join(m["dtype"] for m in models.values()) or None,
        "subject_digest": provenance["subject"]["digest"],
        "params": orjson.dumps(provenance["params"], option=orjson.OPT_SORT_KEYS).decode(),
        "code_version": provenance["code_version"],
        "result_key": provenance["key"],
    }


def _with_metadata(table: pa.Table, result: Result) -> pa.Table:
    return table.replace_schema_metadata({"tokenscope": orjson.dumps(_document(result))})


def _document(result: Result) -> dict[str, Any]:
    return {"provenance": dict(result.provenance), "notes": result.notes.to_pylist()}


def _parquet(table: pa.Table, result: Result, sink: Any) -> None:
    pyarrow.parquet.write_table(_with_metadata(table, result), sink, compression="zstd")


def _arrow(table: pa.Table, result: Result, sink: Any) -> None:
    table = _with_metadata(table, result)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _flat(table: pa.Table, result: Result) -> pa.Table:
    for name, value in flat_provenance(result.provenance).items():
        kind = pa.int64() if isinstance(value, int) else pa.string()
        table = table.append_column(name, pa.array([value] * table.num_rows, kind))
    return table


def _csv(table: pa.Table, result: Result, sink: Any) -> None:
    flat = _flat(table, result)
    columns = {name: _csv_column(flat[name]) for name in flat.column_names}
    pyarrow.csv.write_csv(pa.table(columns), sink)


def _csv_column(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    kind = column.type
    if pa.types.is_binary(kind):
        return pa.array([_hex(v) for v in column.to_pylist()], pa.string())
    if pa.types.is_nested(kind):
        return pa.array([_json_text(v) for v in column.to_pylist()], pa.string())
    if pa.types.is_string(kind):
        return pa.array([defuse(v) for v in column.to_pylist()], pa.string())
    return column


def defuse(text: str | None) -> str | None:
    """A cell that spreadsheets do not take for a formula (OWASP, CSV injection)."""
    return "'" + text if text and text.startswith(_FORMULA) else text


def _json(table: pa.Table, result: Result, sink: Any) -> None:
    flat = _flat(table, result)
    sink.write(b"[")
    first = True
    for batch in flat.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            sink.write(b"\n" if first else b",\n")
            sink.write(orjson.dumps(_jsonable(row)))
            first = False
    sink.write(b"\n]\n")


def _jsonl(table: pa.Table, result: Result, sink: Any) -> None:
    key = str(result.provenance["key"])
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            line = {**_jsonable(row), "result_key": key}
            sink.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _xlsx(table: pa.Table, result: Result, sink: Any) -> None:
    import xlsxwriter

    if table.num_rows >= _XLSX_ROWS:
        raise UserError(
            f"The table has {table.num_rows:,} rows; a spreadsheet has {_XLSX_ROWS:,}: "
            "export it as Parquet or CSV."
        )
    book = xlsxwriter.Workbook(
        sink,
        {
            "in_memory": True,
            "constant_memory": False,
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
            "nan_inf_to_errors": False,
        },
    )
    _sheet(book, "table", table)
    provenance = flat_provenance(result.provenance)
    pairs = pa.table({"name": list(provenance), "value": [str(v) for v in provenance.values()]})
    _sheet(book, "provenance", pairs)
    _sheet(book, "notes", result.notes)
    book.close()


def _sheet(book: Any, name: str, table: pa.Table) -> None:
    sheet = book.add_worksheet(name)
    sheet.freeze_panes(1, 0)
    for c, column in enumerate(table.column_names):
        sheet.write_string(0, c, column)
        for r, value in enumerate(table[column].to_pylist(), start=1):
            if value is None:
                continue
            if isinstance(value, bool):
                sheet.write_boolean(r, c, value)
            elif isinstance(value, int | float) and math.isfinite(value):
                sheet.write_number(r, c, value)
            else:
                text = value.hex() if isinstance(value, bytes) else _text(value)
                sheet.write_string(r, c, text[:_XLSX_CELL])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else (_json_text(value) or "")


def _json_text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(_jsonable(value)).decode()


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    return value


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


_WRITERS: dict[str, Callable[[pa.Table, Result, Any], None]] = {
    "parquet": _parquet,
    "csv": _csv,
    "json": _json,
    "jsonl": _jsonl,
    "arrow": _arrow,
    "xlsx": _xlsx,
}

FORMATS = tuple(_WRITERS)
"""The formats, by file suffix."""
