"""The formats: same values back, provenance with them, no formulas."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from engine.errors import UserError
from engine.export import (
    FORMATS,
    check_suffix,
    defuse,
    export_file,
    export_table,
    provenance_file,
)
from engine.result import Result
from engine.schema import NOTES

HOSTILE = ["=1+2", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\tx", 'a,b\n"c"', "é🤗", "", None]
TABLE = pa.table(
    {
        "position": pa.array(range(9), pa.int64()),
        "token": pa.array(HOSTILE, pa.string()),
        "token_bytes": pa.array([b"\xf0\x9f", b"=", *[b""] * 6, None], pa.binary()),
        "logprob": pa.array(
            [None, -0.1, -1e-30, 0.1 + 0.2, -9.25, 1.5, 2.5, 3.5, -4.5], pa.float32()
        ),
        "ids": pa.array([[1, 2], [], *[None] * 7], pa.list_(pa.int64())),
        "ok": pa.array([True, False, *[None] * 7], pa.bool_()),
    }
)
RESULT = Result(
    key="ab" * 32,
    analysis="statistics",
    status="complete",
    origin="computed",
    tables={"tokens": TABLE},
    notes=pa.Table.from_pylist(
        [{"table": "tokens", "column": None, "position": 0, "rollout": None, "reason": "none"}],
        schema=NOTES,
    ),
    provenance={
        "key": "ab" * 32,
        "analysis": "statistics",
        "version": 1,
        "status": "complete",
        "subject": {"kind": "trace", "digest": "cd" * 32, "title": None},
        "models": {
            "model": {
                "name": "demo",
                "fingerprint": "ef" * 32,
                "tokenizer": "01" * 32,
                "dtype": "float32",
                "device": "cpu",
            }
        },
        "params": {"top_k": 20},
        "code_version": "0.1.0",
    },
)


def test_parquet_and_arrow_keep_types_and_carry_provenance() -> None:
    parquet = pq.read_table(io.BytesIO(export_table(RESULT, "tokens", "parquet")))
    arrow = pa.ipc.open_file(export_table(RESULT, None, "arrow")).read_all()
    for read in (parquet, arrow):
        assert read.replace_schema_metadata(None).equals(TABLE)
        document = json.loads(read.schema.metadata[b"tokenscope"])
        assert document["provenance"]["models"]["model"]["fingerprint"] == "ef" * 32
        assert document["notes"][0]["reason"] == "none"


def test_csv_is_exact_and_defused() -> None:
    rows = list(csv.DictReader(io.StringIO(export_table(RESULT, None, "csv").decode())))
    assert [row["position"] for row in rows] == [str(i) for i in range(9)]
    for row, text in zip(rows, HOSTILE, strict=True):
        if text and text[0] in "=+-@\t":
            assert row["token"] == "'" + text
        else:
            assert row["token"] == (text or "")
    assert rows[0]["token_bytes"] == "f09f"
    assert rows[0]["logprob"] == ""
    assert [float(row["logprob"]) for row in rows[1:]] == pytest.approx(
        TABLE["logprob"].to_pylist()[1:], rel=1e-7
    )
    assert rows[4]["logprob"].startswith("-9.25"), "numbers are not text: no apostrophe"
    assert rows[0]["model"] == "demo"
    assert rows[-1]["result_key"] == "ab" * 32


def test_json_records() -> None:
    rows = json.loads(export_table(RESULT, None, "json"))
    assert [row["token"] for row in rows] == HOSTILE
    assert rows[0]["ids"] == [1, 2]
    assert rows[0]["logprob"] is None
    assert rows[0]["params"] == '{"top_k":20}'


def test_jsonl_is_read_by_others_line_by_line(tmp_path: Path) -> None:
    data = export_table(RESULT, "tokens", "jsonl")
    assert data.endswith(b"}\n")
    rows = [json.loads(line) for line in data.decode().split("\n")[:-1]]
    assert len(rows) == 9, "a line break inside a text is escaped"
    assert [row["token"] for row in rows] == HOSTILE
    assert list(rows[0]) == [*TABLE.column_names, "result_key"], "one column is added, at the end"
    assert rows[0]["token_bytes"] == "f09f"
    assert rows[0]["ids"] == [1, 2]
    assert {row["result_key"] for row in rows} == {"ab" * 32}
    out = tmp_path / "tokens.jsonl"
    export_file(RESULT, None, out)
    assert out.read_bytes() == data
    assert pd.read_json(out, lines=True)["position"].tolist() == list(range(9))
    read = pyarrow.json.read_json(io.BytesIO(data))
    assert read["position"].to_pylist() == list(range(9))
    beside = json.loads(provenance_file(out).read_text("utf-8"))
    assert beside["provenance"]["models"]["model"]["fingerprint"] == "ef" * 32
    assert beside["notes"][0]["reason"] == "none"


def test_jsonl_leaves_nothing_behind_when_its_provenance_cannot_be_written(tmp_path: Path) -> None:
    out = tmp_path / "tokens.jsonl"
    provenance_file(out).mkdir()
    with pytest.raises(UserError, match="could not be written"):
        export_file(RESULT, None, out)
    assert [p.name for p in tmp_path.iterdir()] == ["tokens.provenance.json"]


def test_xlsx_has_text_cells_and_sheets_for_provenance_and_notes() -> None:
    data = export_table(RESULT, None, "xlsx")
    book = zipfile.ZipFile(io.BytesIO(data))
    sheet = book.read("xl/worksheets/sheet1.xml").decode()
    assert "<f>" not in sheet, "no formula anywhere"
    assert "-9.25" in sheet
    names = book.read("xl/workbook.xml").decode()
    assert all(f'name="{name}"' in names for name in ("table", "provenance", "notes"))
    assert "=1+2" in book.read("xl/sharedStrings.xml").decode()


@pytest.mark.parametrize(
    ("text", "safe"), [("=a", "'=a"), ("＝a", "'＝a"), ("a=", "a="), ("", ""), (None, None)]
)
def test_defuse(text: str | None, safe: str | None) -> None:
    assert defuse(text) == safe


@pytest.mark.parametrize("fmt", FORMATS)
def test_files_appear_whole_or_not_at_all(tmp_path: Path, fmt: str) -> None:
    out = tmp_path / f"t.{fmt}"
    export_file(RESULT, "tokens", out)
    beside = ["t.provenance.json"] if fmt == "jsonl" else []
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name, *beside]
    if fmt == "csv":
        assert len(pd.read_csv(out)) == 9
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no table 'other'"):
        export_file(RESULT, "other", out)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="could not be written"):
        export_file(RESULT, "tokens", tmp_path / "no" / f"t.{fmt}")


def test_notes_are_a_table_too() -> None:
    assert json.loads(export_table(RESULT, "notes", "json"))[0]["reason"] == "none"


def test_unknown_format() -> None:
    with pytest.raises(UserError, match=r"must end in \.parquet"):
        check_suffix("table.pickle")
    with pytest.raises(UserError, match="no format 'exe'"):
        export_table(RESULT, None, "exe")
