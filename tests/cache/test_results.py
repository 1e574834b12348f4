"""Result files: what goes in comes out, and nothing else is read."""

from __future__ import annotations

import io
import json
import math
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import RESULT_FORMAT, StoreError, arrow, read_result, write_result
from cache.errors import DamagedError, NewerFormatError
from cache.results import Limits, read_meta

KEY = "ab" * 32


def every_type() -> pa.Table:
    floats = [0.1, None, math.nan, math.inf, -math.inf]
    return pa.table(
        {
            "int64": pa.array([1, None, -(2**63), 2**63 - 1, 0], pa.int64()),
            "int32": pa.array([1, None, -(2**31), 2**31 - 1, 0], pa.int32()),
            "float32": pa.array(floats, pa.float32()),
            "float64": pa.array(floats, pa.float64()),
            "float16": pa.array(np.array([0, 1, 2, 3, 4], np.float16)),
            "text": pa.array(["", None, "naïve", "\x00", "🙂"]),
            "bytes": pa.array([b"", None, b"\xff\x00", b"x", b"yz"], pa.binary()),
            "list": pa.array([[1.0], None, [], [math.nan, None], [2.0]], pa.list_(pa.float32())),
            "fixed": pa.array([[1.0, 2.0]] * 5, pa.list_(pa.float32(), 2)),
            "flag": pa.array([True, None, False, True, False]),
            "words": pa.array(["a", None, "b", "a", "a"]).dictionary_encode(),
            "record": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": None}] + [None] * 2),
            "nothing": pa.nulls(5),
            "when": pa.array([0, 1, None, 3, 4], pa.timestamp("us", "UTC")),
        }
    )


def same(left: pa.Table, right: pa.Table) -> bool:
    # Table.equals holds NaN unequal to itself, and compares no metadata.
    return left.schema.equals(right.schema, check_metadata=True) and repr(left.to_pylist()) == repr(
        right.to_pylist()
    )


def test_every_type_comes_back_as_it_was(tmp_path: Path) -> None:
    table = every_type().replace_schema_metadata({"note": "kept"})
    write_result(tmp_path / "r.zip", KEY, {"tokens": table, "empty": table[:0]}, {"a": [1, None]})
    stored = read_result(tmp_path / "r.zip")
    assert (stored.key, stored.meta, stored.path) == (KEY, {"a": [1, None]}, tmp_path / "r.zip")
    assert same(stored.tables["tokens"], table)
    assert same(stored.tables["empty"], table[:0])
    again = read_result((tmp_path / "r.zip").read_bytes())
    assert same(again.tables["tokens"], table)
    assert again.path is None


def test_the_file_is_plain_zip_arrow_and_json(tmp_path: Path) -> None:
    table = pa.table({"position": np.arange(1000), "x": np.zeros(1000)})
    write_result(tmp_path / "r.zip", KEY, {"tokens": table}, {"b": 1, "a": 2})
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert sorted(archive.namelist()) == ["meta.json", "tokens.arrow"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        envelope = json.loads(archive.read("meta.json"))
        plain = pa.ipc.open_file(archive.read("tokens.arrow")).read_all()
        assert len(archive.read("tokens.arrow")) < table.nbytes / 2
    assert envelope["format"] == RESULT_FORMAT
    assert envelope["tables"] == ["tokens"]
    assert plain.equals(table)


def test_equal_results_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_result(tmp_path / name, KEY, {"x": every_type(), "a": every_type()}, {"z": 1, "y": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
COLUMNS = st.one_of(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=5).map(pa.array),
    st.lists(st.none() | st.floats(), max_size=5).map(lambda v: pa.array(v, pa.float64())),
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=5).map(
        lambda v: pa.array(v, pa.string())
    ),
    st.lists(st.none() | st.binary(), max_size=5).map(lambda v: pa.array(v, pa.binary())),
    st.lists(st.none() | st.lists(st.booleans()), max_size=5).map(
        lambda v: pa.array(v, pa.list_(pa.bool_()))
    ),
)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    key=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    meta=st.dictionaries(st.text(), JSON, max_size=4),
    tables=st.dictionaries(
        st.from_regex(r"[a-z_][a-z0-9_]{0,20}", fullmatch=True), COLUMNS, max_size=3
    ),
)
def test_any_result_comes_back(key: str, meta: dict[str, Any], tables: dict[str, pa.Array]) -> None:
    made = {name: pa.table({"column": column}) for name, column in tables.items()}
    with tempfile.TemporaryDirectory() as folder:
        write_result(Path(folder) / "r", key, made, meta)
        stored = read_result(Path(folder) / "r")
        assert read_meta(Path(folder) / "r") == meta
    assert (stored.key, stored.meta) == (key, meta)
    assert stored.tables.keys() == made.keys()
    assert all(same(stored.tables[name], made[name]) for name in made)


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "", "1a", "a.b", "x" * 61, "a\n"])
def test_bad_table_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="table name"):
        write_result(tmp_path / "r", KEY, {name: pa.table({"x": [1]})}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("meta", [{"x": math.nan}, {"x": {1, 2}}, {1: "x"}, {"x": b""}])
def test_a_description_that_is_no_json_is_refused(tmp_path: Path, meta: dict[Any, Any]) -> None:
    with pytest.raises(StoreError, match="description"):
        write_result(tmp_path / "r", KEY, {}, meta)
    assert list(tmp_path.iterdir()) == []


def test_extension_types_are_refused_both_ways(tmp_path: Path) -> None:
    column = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16)))
    with pytest.raises(StoreError, match="extension"):
        write_result(tmp_path / "r", KEY, {"tokens": pa.table({"u": column})}, {})
    nested = pa.table({"u": pa.ListArray.from_arrays([0, 1], column)})
    with pytest.raises(DamagedError, match="extension"):
        read_result(packed({"tokens.arrow": ipc(nested)}))


def ipc(table: pa.Table, compression: str | None = "zstd") -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def packed(
    members: dict[str, bytes], compress: int = zipfile.ZIP_STORED, **changes: object
) -> bytes:
    """A result file made by hand, whose description can lie."""
    names = sorted(name[:-6] for name in members if name.endswith(".arrow"))
    envelope = {"format": 1, "index": True, "key": KEY, "meta": {}, "tables": names} | changes
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compress) as archive:
        if "meta.json" not in members:
            archive.writestr("meta.json", json.dumps(envelope))
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def test_the_hand_made_file_is_read() -> None:
    """The hostile files below differ from this one in a single thing each."""
    stored = read_result(packed({"tokens.arrow": ipc(pa.table({"x": [1]}))}))
    assert stored.tables["tokens"].to_pydict() == {"x": [1]}


ONE = ipc(pa.table({"x": [1]}))
HOSTILE = {
    "empty": b"",
    "no zip": b"x" * 1000,
    "name that leads out": packed({"../evil.arrow": ONE}, tables=["../evil"]),
    "absolute name": packed({"/etc/x.arrow": ONE}, tables=["/etc/x"]),
    "member nobody named": packed({"tokens.arrow": ONE, "evil.py": b"1"}),
    "named but not there": packed({"tokens.arrow": ONE}, tables=["tokens", "more"]),
    "not named": packed({"tokens.arrow": ONE}, tables=[]),
    "named twice": packed({"tokens.arrow": ONE}, tables=["tokens", "tokens"]),
    "deflated": packed({"tokens.arrow": ONE}, zipfile.ZIP_DEFLATED),
    "no description": packed({"tokens.arrow": ONE, "meta.json": b""}),
    "description a list": packed({"meta.json": b"[]"}),
    "description deep": packed({"meta.json": b"[" * 100_000}),
    "description with NaN": packed({"meta.json": b'{"format": NaN}'}),
    "huge number": packed({"meta.json": b'{"format": ' + b"9" * 5000 + b"}"}),
    "key that leads out": packed({"tokens.arrow": ONE}, key="../" * 20),
    "key a number": packed({"tokens.arrow": ONE}, key=7),
    "meta a list": packed({"tokens.arrow": ONE}, meta=[]),
    "format a text": packed({"tokens.arrow": ONE}, format="1"),
    "format true": packed({"tokens.arrow": ONE}, format=True),
    "table a pickle": packed({"tokens.arrow": b"\x80\x04N."}),
    "table cut": packed({"tokens.arrow": ONE[: len(ONE) // 2]}),
    "table of zeros": packed({"tokens.arrow": b"ARROW1\0\0" + bytes(500)}),
    "a thousand members": packed({f"t{n}.arrow": b"" for n in range(1000)}),
    "comment": packed({"tokens.arrow": ONE})[:-2] + b"\x01\0x",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused(what: str) -> None:
    with pytest.raises(DamagedError):
        read_result(HOSTILE[what])


def test_a_name_twice_is_refused() -> None:
    sink = io.BytesIO(packed({"tokens.arrow": ONE}))
    with zipfile.ZipFile(sink, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("tokens.arrow", ONE)
    with pytest.raises(DamagedError, match="twice"):
        read_result(sink.getvalue())


def test_every_cut_is_noticed() -> None:
    whole = packed({"tokens.arrow": ONE})
    for length in range(len(whole)):
        with pytest.raises(DamagedError):
            read_result(whole[:length])


def test_no_flipped_byte_changes_what_is_read() -> None:
    whole = packed({"tokens.arrow": ipc(pa.table({"x": [1, 2], "t": ["a", "b"]}))})
    expected, refused = read_result(whole), 0
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 0xFF
        try:
            assert read_result(bytes(flipped)) == expected, at
        except (DamagedError, NewerFormatError):
            refused += 1
    assert refused > 0.8 * len(whole)


def test_flipped_bytes_of_an_arrow_file_never_crash() -> None:
    """Without the zip's checksum before it, the decoder itself has to cope."""
    whole = ipc(pa.table({"x": [[1.0], [2.0, 3.0]], "t": ["a", "b"]}))
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 0xFF
        try:
            arrow.decode(bytes(flipped), max_bytes=1 << 20, max_rows=1000)
        except DamagedError:
            continue


def test_a_compression_bomb_is_refused_before_it_unfolds() -> None:
    bomb = ipc(pa.table({"x": np.zeros(8 << 20)}))
    assert len(bomb) < 1 << 16
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    with pytest.raises(DamagedError, match="larger"):
        read_result(packed({"t.arrow": bomb}), limits=Limits(table_bytes=32 << 20))
    assert pa.total_allocated_bytes() <= before + (1 << 20)
    assert pa.default_memory_pool().max_memory() <= max(peak, before + (1 << 20))


def test_a_buffer_that_lies_about_its_size_is_refused() -> None:
    data = bytearray(ipc(pa.table({"x": np.zeros(4096)})))
    at = data.index(struct.pack("<q", 4096 * 8))
    data[at : at + 8] = struct.pack("<q", 1 << 50)
    with pytest.raises(DamagedError, match="larger"):
        read_result(packed({"t.arrow": bytes(data)}))


def test_rows_without_bytes_are_limited() -> None:
    bomb = packed({"t.arrow": ipc(pa.table({"x": pa.nulls(5000)}))})
    assert len(bomb) < 2000
    with pytest.raises(DamagedError, match="larger"):
        read_result(bomb, limits=Limits(table_rows=4999))


def test_a_dictionary_index_outside_is_refused() -> None:
    lying = pa.DictionaryArray.from_arrays(pa.array([0, 9], pa.int8()), ["a"], safe=False)
    with pytest.raises(DamagedError):
        read_result(packed({"t.arrow": ipc(pa.table({"x": lying}))}))


def test_a_newer_format_is_not_damage() -> None:
    with pytest.raises(NewerFormatError, match="newer"):
        read_result(packed({}, format=RESULT_FORMAT + 1))


def test_limits_hold_for_writing_too(tmp_path: Path) -> None:
    table = pa.table({"x": np.random.default_rng(0).normal(size=1000)})
    for limits in (
        Limits(file_bytes=4000),
        Limits(table_bytes=4000),
        Limits(table_rows=10),
        Limits(meta_bytes=10),
        Limits(tables=0),
    ):
        with pytest.raises(StoreError, match=r"too large|too many"):
            write_result(tmp_path / "r", KEY, {"t": table}, {}, limits=limits)
    assert list(tmp_path.iterdir()) == []
