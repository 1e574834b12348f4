"""The index: long tables, schema versions, and that it can always be made anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from cache import Store, StoreError, indexfile, longtables
from cache.errors import DamagedError, NewerFormatError
from cache.index import Index, UnavailableError
from cache.migrations import MIGRATIONS
from cache.results import Stored

Key = Callable[[object], str]
Tokens = Callable[..., pa.Table]


def rows(store: Store, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = store.frame(query).to_pylist()
    return found


def dump(store: Store) -> dict[str, list[str]]:
    """All rows of all tables, in an order that does not depend on how they came in."""
    names = rows(store, "SELECT table_name AS n FROM duckdb_tables() WHERE table_name <> 'meta'")
    return {
        name["n"]: sorted(map(repr, rows(store, f'SELECT * FROM "{name["n"]}"'))) for name in names
    }


def test_only_per_token_tables_become_long(store: Store, key: Key, tokens: Tokens) -> None:
    table = tokens(3)
    meta = {"analysis": "critical.contrast", "version": 2, "subject": key("s"), "created": "2026"}
    store.put(key(1), {"tokens": table, "alternatives": pa.table({"x": [1, 2]})}, meta)
    store.put(key(2), {"tokens": table}, {}, index=False)
    assert store.flush()
    assert rows(store, "SELECT * FROM critical_contrast_tokens ORDER BY position") == [
        {"key": key(1)} | row for row in table.to_pylist()
    ]
    contents = rows(store, "SELECT source, rows, indexed, longtable FROM contents ORDER BY ALL")
    assert [tuple(row.values()) for row in contents] == [
        ("alternatives", 2, 0, None),
        ("tokens", 3, 0, None),
        ("tokens", 3, 3, "critical_contrast_tokens"),
    ]
    (row,) = rows(store, f"SELECT * FROM results WHERE key = '{key(1)}'")
    assert row == {
        "key": key(1),
        "analysis": "critical.contrast",
        "version": 2,
        "subject": key("s"),
        "status": None,
        "title": None,
        "created": "2026",
        "bytes": (store.home / "results" / key(1)[:2] / f"{key(1)}.zip").stat().st_size,
        "meta": row["meta"],
    }


def test_all_types_can_be_queried(store: Store, key: Key) -> None:
    position = {"position": pa.array([0, 1], pa.int32())}
    columns = {
        "words": pa.array(["a", None]).dictionary_encode(),
        "half": pa.array(np.array([1.5, np.nan], np.float16)),
        "raw": pa.array([b"\xff", None]),
        "list": pa.array([[1.0], None], pa.list_(pa.float32())),
        "record": pa.array([{"a": [1]}, None]),
        "nothing": pa.nulls(2),
        "Key": pa.array(["x", "y"]),
        'odd "name"': pa.array([1, 2]),
        "tag": pa.array(["1", "2"]),
        "TAG": pa.array(["3", "4"]),
        "dictionaries": pa.array([["a"], []], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    }
    store.put(key(1), {"tokens": pa.table(position | columns)}, {"analysis": "a"})
    assert store.flush()
    first, second = rows(store, "SELECT * FROM a_tokens ORDER BY position")
    assert first == {
        "key": key(1),
        "position": 0,
        "words": "a",
        "half": 1.5,
        "raw": b"\xff",
        "list": [1.0],
        "record": {"a": [1]},
        'odd "name"': 1,
        "tag": "1",
        "dictionaries": ["a"],
    }
    assert np.isnan(second["half"])
    assert second["words"] is None
    stored = store.get(key(1))
    assert stored is not None
    assert stored.tables["tokens"].num_columns == 12


def test_columns_are_added_and_a_changed_type_starts_a_second_table(store: Store, key: Key) -> None:
    def put(number: int, **columns: object) -> None:
        table = pa.table({"position": [0]} | columns)
        store.put(key(number), {"tokens": table}, {"analysis": "a"})
        assert store.flush()

    put(1, x=pa.array([1.0]))
    put(2, x=pa.array([2.0]), words=pa.array(["w"]).dictionary_encode())
    put(3, y=pa.array([3]), words=pa.array(["v"]).dictionary_encode())
    put(4, x=pa.nulls(1))
    put(5, x=pa.array(["text"]))
    put(6, X=pa.array([6.0]))
    put(7, x=pa.array(["more"]))
    assert {
        row["key"]: (row["x"], row["words"], row["y"])
        for row in rows(store, "SELECT * FROM a_tokens")
    } == {
        key(1): (1.0, None, None),
        key(2): (2.0, "w", None),
        key(3): (None, "v", 3),
        key(4): (None, None, None),
        key(6): (6.0, None, None),
    }
    assert {row["x"] for row in rows(store, "SELECT * FROM a_tokens_2")} == {"text", "more"}
    before = dump(store)
    assert store.delete(key(5))
    assert store.flush()
    assert {row["x"] for row in rows(store, "SELECT * FROM a_tokens_2")} == {"more"}
    assert before["results"] != dump(store)["results"]


def test_names_that_meet_are_kept_apart(store: Store, key: Key, tokens: Tokens) -> None:
    kinds = [("a.b", "c"), ("a_b", "c"), ("a", "b_c"), ("", "results"), ('x"; DROP', "t")]
    for number, (analysis, source) in enumerate(kinds):
        store.put(key(number), {source: tokens(number + 1)}, {"analysis": analysis})
    assert store.flush()
    for number, (analysis, source) in enumerate(kinds):
        query = "SELECT name FROM longtables WHERE analysis = ? AND source = ?"
        (name,) = store.frame(query, [analysis or "unknown", source])["name"].to_pylist()
        assert len(rows(store, f'SELECT * FROM "{name}"')) == number + 1


def test_rows_over_the_cap_are_counted(
    store: Store, key: Key, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longtables, "MAX_ROWS", 4)
    store.put(key(1), {"tokens": tokens(10)}, {"analysis": "a"})
    assert store.flush()
    assert rows(store, "SELECT rows, indexed FROM contents") == [{"rows": 10, "indexed": 4}]
    assert rows(store, "SELECT max(position) AS p FROM a_tokens") == [{"p": 3}]


def test_odd_descriptions_are_indexed(store: Store, key: Key) -> None:
    odd: list[Any] = [
        {"analysis": 7, "version": "x", "title": ["t"], "status": {}},
        {"analysis": "\ud800", "title": "\x00", "version": 10**30},
        {"analysis": "x" * 10_000, "version": True},
    ]
    for number, meta in enumerate(odd):
        store.put(key(number), {"t": pa.table({"position": [1]})}, meta)
    assert store.flush()
    assert len(rows(store, "SELECT * FROM results")) == 3
    assert {entry.key: entry.meta for entry in store.entries()} == {
        key(number): meta for number, meta in enumerate(odd)
    }


def test_a_result_duckdb_cannot_take_keeps_no_other_out(
    store: Store, key: Key, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = Index._insert

    def picky(self: Index, connection: Any, batch: Any) -> None:
        if any(stored.key == key(3) for stored, _ in batch):
            insert(self, connection, batch)
            raise ValueError("too odd")
        insert(self, connection, batch)

    monkeypatch.setattr(Index, "_insert", picky)
    for number in range(6):
        store.put(key(number), {"tokens": tokens(2)}, {"analysis": f"a{number % 2}"})
    assert store.flush()
    assert {row["key"] for row in rows(store, "SELECT key FROM results")} == {
        key(number) for number in range(6) if number != 3
    }
    assert len(rows(store, "SELECT * FROM a0_tokens UNION ALL SELECT * FROM a1_tokens")) == 10
    assert store.get(key(3)) is not None


def test_lists_come_from_the_files_while_the_index_cannot_be_written(
    store: Store, key: Key, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(key(1), {}, {"analysis": "a"})
    assert store.flush()

    def refuse(self: Index, batch: Any) -> None:
        raise UnavailableError("No room.")

    with monkeypatch.context() as full:
        full.setattr(Index, "ingest", refuse)
        store.put(key(2), {}, {"analysis": "a"})
        assert not store.flush(timeout=0.5)
        assert {entry.key for entry in store.entries()} == {key(1), key(2)}
        assert store.index_state == "building"
    assert len([record for record in caplog.records if "No room" in record.message]) == 1
    monkeypatch.setattr(store._owner, "_not_before", 0.0)
    assert store.flush()
    assert store.frame("SELECT key FROM results").num_rows == 2


def test_a_rebuilt_index_is_the_same(store: Store, key: Key, tokens: Tokens) -> None:
    for number in range(30):
        table = tokens(number, seed=number, **({"more": [1.0] * number} if number % 3 else {}))
        store.put(
            key(number),
            {"tokens": table, "other": tokens(2)},
            {"analysis": "a" if number % 2 else "b", "status": "partial" if number < 3 else "x"},
        )
        if number % 7 == 0:
            store.flush()
    store.delete(key(4))
    assert store.flush()
    before = dump(store)
    assert len(before["results"]) == 29
    assert len(before["a_other"]) == 30
    assert store.rebuild()
    assert dump(store) == before
    store.close()
    (store.home / "index.duckdb").unlink()
    with Store(store.home) as again:
        assert again.flush()
        assert dump(again) == before


def test_files_that_came_and_went_unseen_are_found(home: Path, key: Key, tokens: Tokens) -> None:
    with Store(home) as store:
        for number in range(4):
            store.put(key(number), {"tokens": tokens(2)}, {"analysis": "a"})
        assert store.flush()
    client = Store(home, role="client")
    client.put(key(9), {"tokens": tokens(5)}, {"analysis": "a"})
    (home / "spool" / key(9)).unlink()
    (home / "results" / key(1)[:2] / f"{key(1)}.zip").unlink()
    with Store(home) as store:
        assert store.flush()
        counts = rows(store, "SELECT key, count(*) AS n FROM a_tokens GROUP BY key")
        assert {row["key"]: row["n"] for row in counts} == {
            key(0): 2,
            key(2): 2,
            key(3): 2,
            key(9): 5,
        }


def test_frame_cannot_write(store: Store, key: Key) -> None:
    store.put(key(1), {}, {"analysis": "a"})
    assert store.flush()
    for query in ("DELETE FROM results", "DROP TABLE results", "CREATE TABLE x (a INT)"):
        with pytest.raises((duckdb.Error, StoreError)):
            store.frame(query)
    found = store.frame("SELECT key FROM results WHERE analysis = ?", ["a"])
    assert found["key"].to_pylist() == [key(1)]
    assert store.frame("SELECT $x AS x", {"x": 3})["x"].to_pylist() == [3]
    assert Store(store.home, role="client").index_state == "client"
    with pytest.raises(StoreError, match="no index"):
        Store(store.home, role="client").frame("SELECT 1")


STEP = ("ALTER TABLE results ADD COLUMN model VARCHAR", "UPDATE results SET model = 'unknown'")


def test_migration_keeps_rows_and_a_newer_schema_is_left_alone(
    tmp_path: Path, key: Key, tokens: Tokens
) -> None:
    path = tmp_path / "index.duckdb"
    stored = Stored(key(1), {"tokens": tokens(3)}, {"analysis": "a"}, None)
    old = Index(path)
    old.ingest([(stored, 10)])
    old.close()
    new = Index(path, [*MIGRATIONS, STEP])
    new.ingest([(Stored(key(2), {"tokens": tokens(2)}, {"analysis": "a"}, None), 5)])
    found = new.frame("SELECT key, model FROM results").to_pylist()
    assert {row["key"]: row["model"] for row in found} == {key(1): "unknown", key(2): None}
    version = new.frame("SELECT schema_version AS v FROM meta").to_pylist()
    assert version == [{"v": len(MIGRATIONS) + 1}]
    new.close()
    Index(path, [*MIGRATIONS, STEP]).close()
    with pytest.raises(NewerFormatError, match="newer"):
        Index(path)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "index.duckdb"
    Index(path).close()
    with pytest.raises(DamagedError):
        Index(path, [*MIGRATIONS, (STEP[0], "UPDATE nowhere SET x = 1")])
    same = Index(path)
    assert "model" not in same.frame("SELECT * FROM results").column_names
    same.close()


def test_the_file_can_be_read_by_older_duckdb(store: Store, key: Key) -> None:
    store.put(key(1), {}, {})
    assert store.flush()
    tags = store.frame("SELECT tags FROM duckdb_databases() WHERE NOT internal")["tags"]
    assert "v1.4.0" in str(tags.to_pylist()) or duckdb.__version__.startswith("1.")


def test_a_mostly_dead_file_is_made_anew(
    home: Path, key: Key, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(home) as store:
        for number in range(8):
            store.put(key(number), {"tokens": tokens(5000, seed=number)}, {"analysis": "a"})
        assert store.flush()
        for number in range(1, 8):
            store.delete(key(number))
        assert store.flush()
    large = (home / "index.duckdb").stat().st_size
    with Store(home) as store:
        assert store.flush()
        assert rows(store, "SELECT dropped FROM meta") == [{"dropped": 35_000}]
    monkeypatch.setattr(indexfile, "COMPACT_BYTES", 1000)
    with Store(home) as store:
        assert store.flush()
        assert rows(store, "SELECT dropped FROM meta") == [{"dropped": 0}]
        assert len(rows(store, "SELECT * FROM a_tokens")) == 5000
    assert (home / "index.duckdb").stat().st_size < large
