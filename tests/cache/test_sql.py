"""SQL of a stranger: what it may ask, what it is refused, and what stops it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from cache import Store, sqlchild, write_result
from cache.sql import QueryError, SqlLimits, run_query
from cache.sqlchild import RefusedError
from cache.sqltables import MAX_FILES

Key = Callable[[object], str]
Tokens = Callable[..., pa.Table]

LIMITS = asdict(SqlLimits())
TABLES = ["results", "statistics_tokens"]


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    made = sqlchild.connect(256 << 20, 2)
    made.register("results", pa.table({"key": ["a"], "title": ["A"]}))
    return made


def needed(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    return sqlchild.needed(connection, query, TABLES, LIMITS["characters"])


FILES = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM READ_TEXT('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_parquet('http://169.254.169.254/latest')",
    "SELECT * FROM parquet_scan('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd"',
    "SELECT * FROM 'x.parquet'",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT * FROM results, (SELECT * FROM read_csv('x'))",
    "SELECT x FROM results, LATERAL (SELECT * FROM glob('*')) q(x)",
    "SELECT 1 WHERE 1 IN (FROM read_text('/etc/passwd'))",
    "WITH a AS (FROM read_csv('/etc/passwd')) SELECT * FROM a",
    "WITH RECURSIVE a AS (SELECT 1 UNION ALL FROM read_csv('/etc/passwd')) FROM a",
    "SELECT * FROM results ORDER BY (SELECT max(content) FROM read_text('/etc/passwd'))",
    "FROM (PIVOT (FROM read_csv('/etc/passwd')) ON a IN (1) USING sum(b))",
    "DESCRIBE SELECT * FROM read_csv('/etc/passwd')",
    "SUMMARIZE '/etc/passwd'",
]
TRICKS = [
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM query_table('secret')",
    "SELECT * FROM query_table(['/etc/passwd'])",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 42'))",
    "SELECT json_serialize_plan('SELECT * FROM read_csv(''/etc/passwd'')')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM arrow_scan_dumb(1, 2, 3)",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM secret",
    "SELECT * FROM main.results",
    "SELECT * FROM memory.main.results",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM duckdb_settings",
    "WITH duckdb_settings AS (SELECT 1) SELECT * FROM duckdb_settings",
    "WITH pg_settings AS (SELECT 1) SELECT * FROM pg_settings",
    "SELECT * FROM sqlite_master",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "SHOW DATABASES",
]
SYSTEM = [
    "SELECT getenv('HOME')",
    "SELECT 'HOME'.getenv()",
    "SELECT a.b.c.getenv('HOME')",
    "SELECT current_setting('secret_directory')",
    "SELECT system.main.current_setting('home_directory')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_logs()",
    "SELECT * FROM pragma_version()",
    "SELECT * FROM enable_logging(storage='file', storage_config={'path': '/tmp/logs'})",
    "SELECT * FROM enable_profiling(format='json', save_location='/tmp/p.json')",
    "SELECT * FROM checkpoint()",
    "SELECT write_log('x')",
    "SELECT inet_server_addr()",
    "SELECT pg_sleep(30)",
    "SELECT sleep_ms(30000)",
    "SELECT nextval('x')",
]
STATEMENTS = [
    "COPY results TO '/tmp/x'",
    "COPY (SELECT 1) TO '/tmp/x'",
    "ATTACH '/tmp/x.db'",
    "DETACH memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit='10GB'",
    "RESET memory_limit",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "EXPLAIN ANALYZE SELECT 1",
    "CREATE TABLE x AS SELECT 1",
    "CREATE MACRO m() AS 1",
    "INSERT INTO results VALUES ('', '')",
    "UPDATE results SET title = ''",
    "DELETE FROM results",
    "DROP VIEW results",
    "WITH a AS (INSERT INTO results VALUES ('', '') RETURNING *) FROM a",
    "EXPORT DATABASE '/tmp/x'",
    "IMPORT DATABASE '/tmp/x'",
    "PREPARE x AS SELECT 1",
    "EXECUTE x",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "USE memory",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW results",
    "/* SELECT */ DROP VIEW results",
    "PIVOT results ON title USING count(*)",
    "",
    " ;; ",
    "-- nothing",
]


@pytest.mark.parametrize("query", [*FILES, *TRICKS, *SYSTEM, *STATEMENTS])
def test_it_is_refused_before_it_runs(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    with pytest.raises(RefusedError) as refused:
        needed(connection, query)
    said = str(refused.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 300


@pytest.mark.parametrize(
    "query", [q for q in [*FILES, *SYSTEM] if "file" in q or "/" in q or "csv" in q]
)
def test_behind_the_check_stands_a_database_that_reaches_nothing(query: str) -> None:
    """Run without the check: DuckDB's own locks hold as well."""
    behind = sqlchild.connect(256 << 20, 1)
    behind.register("results", pa.table({"key": ["a"]}))
    with pytest.raises(duckdb.Error):
        behind.execute(query).fetchall()


def test_the_locks_cannot_be_opened() -> None:
    behind = sqlchild.connect(256 << 20, 1)
    secret = pa.table({"x": [1]})
    for query in (
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET memory_limit = '100GB'",
        "SET python_enable_replacements = true",
        "FROM secret",
    ):
        with pytest.raises(duckdb.Error):
            behind.execute(query)
    assert secret.num_rows == 1


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        ("SELECT 1", []),
        ("FROM results", ["results"]),
        ("TABLE results", ["results"]),
        ("DESCRIBE results", ["results"]),
        ("SUMMARIZE results", ["results"]),
        ("SELECT * FROM RESULTS JOIN Statistics_Tokens t USING (key)", [*TABLES]),
        ("WITH a AS (FROM results), b AS (FROM a) SELECT * FROM b, a", ["results"]),
        ("SELECT (SELECT max(key) FROM results) -- ; DROP TABLE x", ["results"]),
        ("/* ; */ SELECT 'read_csv(''x'')' AS \"/etc/passwd\" /* ; */;", []),
        ("SELECT * FROM range(3), unnest([1]), generate_series(1, 2)", []),
        ("PIVOT results ON title IN ('A') USING count(*)", ["results"]),
        ("SELECT 1 UNION ALL SELECT 2 EXCEPT SELECT 3", []),
        ("SELECT\u00a01, 'naïve \u202e 🙂'", []),
    ],
)
def test_it_is_allowed(
    connection: duckdb.DuckDBPyConnection, query: str, tables: list[str]
) -> None:
    assert sorted(needed(connection, query)) == tables


def test_a_misspelt_table_gets_a_hint(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(RefusedError, match="did you mean statistics_tokens"):
        needed(connection, "SELECT * FROM statistic_token")
    with pytest.raises(RefusedError, match="there are results, statistics_tokens"):
        needed(connection, "SELECT * FROM zzz")


@pytest.mark.parametrize("query", ["SELECT \x00 1", "SELECT '\ud800'", "SELECT 1 " + "x" * 30_000])
def test_odd_text_is_refused(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    with pytest.raises(RefusedError):
        needed(connection, query)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT missing FROM results", "Candidate bindings"),
        ("SELECT 'a'::INT", "Could not convert"),
        ("SELECT '/home/ann/secret/file'::INT", "Could not convert string '…'"),
        ("SELECT " + "(" * 4000 + "1" + ")" * 4000, "nested too deeply"),
        ("SELECT " + "-1" * 5000, "nested too deeply"),
        ("SELECT ?", "parameters"),
    ],
)
def test_errors_are_one_sentence(query: str, says: str) -> None:
    own = sqlchild.connect(256 << 20, 2)
    own.register("results", pa.table({"key": ["a"], "title": ["A"]}))

    def ask() -> None:
        needed(own, query)
        sqlchild.answer(own, query, LIMITS)

    with pytest.raises((RefusedError, duckdb.Error)) as error:
        ask()
    known = isinstance(error.value, RefusedError)
    said = str(error.value) if known else sqlchild.sentence(error.value, LIMITS)
    assert says in said
    assert "\n" not in said
    assert "Error:" not in said
    assert "LINE" not in said
    assert len(said) < 350


# -- in the process of its own ---------------------------------------------------------------


def never() -> pa.Table:
    raise AssertionError("a table was got that nobody named")


def test_an_answer() -> None:
    table = pa.table({"key": ["a", "b"], "n": [1, 2], "x": [0.5, None]})
    query = """SELECT key, n AS a, n AS a, sum(n) OVER () AS total, x, 1.5 AS d, [n] AS l,
        MAP {'k': n} AS m, 2::HUGEINT ** 100 AS large, 'e'::ENUM('e') AS e, NULL AS nothing
        FROM T ORDER BY n DESC"""
    answer = run_query(query, {"t": lambda: table, "other": never})
    assert (answer.total, answer.counted, answer.tables) == (2, True, ("t",))
    first = answer.table.slice(0, 1).to_pylist()[0]
    assert first["key"] == "b"
    assert (first["a"], first["a_2"], first["total"]) == (2, 2, 3)
    assert (first["x"], first["d"], first["l"], first["e"]) == (None, 1.5, [2], "e")
    assert first["nothing"] is None
    assert isinstance(first["m"], str)
    assert isinstance(first["large"], str | float)
    empty = run_query("SELECT key, n FROM t WHERE n > 5", {"t": lambda: table})
    assert (empty.table.num_rows, empty.table.column_names) == (0, ["key", "n"])


def test_too_many_rows_are_cut_and_counted() -> None:
    answer = run_query("SELECT * FROM range(25000)", {}, limits=SqlLimits(rows=1000))
    assert (answer.table.num_rows, answer.total, answer.counted) == (1000, 25000, True)
    assert answer.table.column(0).to_pylist() == [*range(1000)]
    small = SqlLimits(bytes=1 << 20, count_seconds=0.05)
    wide = run_query("SELECT repeat('x', 10000) FROM range(100_000_000)", {}, limits=small)
    assert 0 < wide.table.num_rows <= 105
    assert not wide.counted
    with pytest.raises(QueryError, match="row of the answer is too large"):
        run_query("SELECT repeat('x', 2_000_000)", {}, limits=small)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM range(100_000_000_000)",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "SELECT count(*) FROM range(1_000_000) a, range(1_000_000) b",
        # Nothing inside it can be interrupted: the process is ended.
        "SELECT levenshtein(repeat('a', 300_000), repeat('b', 300_000))",
    ],
)
def test_endless_work_is_stopped(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.sql._GRACE_SECONDS", 0.3)
    with pytest.raises(QueryError, match="narrow it"):
        run_query(query, {}, limits=SqlLimits(seconds=0.3))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is bounded on Linux")
@pytest.mark.parametrize(
    "query",
    [
        "SELECT length(repeat('x', 3_000_000_000))",  # outside what DuckDB itself counts
        "SELECT list_resize([1], 10_000_000_000)",
        "SELECT * FROM range(1_000_000) a, range(1_000_000) b ORDER BY hash(a.range, b.range)",
        "SELECT string_agg(repeat('x', 1_000_000), '') FROM range(10_000)",
    ],
)
def test_memory_is_bounded(query: str) -> None:
    with pytest.raises(QueryError, match="memory"):
        run_query(query, {}, limits=SqlLimits(memory_bytes=64 << 20, seconds=5))


def test_a_table_that_cannot_be_got_is_no_hanging_process() -> None:
    def broken() -> pa.Table:
        raise QueryError("The index is away.")

    with pytest.raises(QueryError, match="index is away"):
        run_query("FROM t", {"t": broken})


# -- what there is to ask --------------------------------------------------------------------


def put(store: Store, key: str, table: pa.Table, **meta: object) -> None:
    store.put(key, {"tokens": table}, {"analysis": "statistics", "status": "complete"} | meta)


@pytest.fixture
def layer(tmp_path: Path, key: Key, tokens: Tokens) -> Path:
    meta = {"analysis": "statistics", "status": "complete"}
    for name in ("one", "two"):
        more = {"mark": [name] * 4}
        write_result(
            tmp_path / "l" / f"{key(name)}.zip", key(name), {"tokens": tokens(4, **more)}, meta
        )
    return tmp_path / "l"


def test_index_and_layers_are_one_table(home: Path, layer: Path, key: Key, tokens: Tokens) -> None:
    with Store(home, role="owner", layers=[layer]) as store:
        put(store, key(1), tokens(3))
        assert store.flush()
        (table,) = store.sql.tables()
        assert (table.name, table.analysis, table.source) == (
            "statistics_tokens", "statistics", "tokens",
        )  # fmt: skip
        assert table.rows == 11
        assert [name for name, _ in table.columns] == ["key", "position", "logprob", "mark"]
        query = "SELECT key, count(*) AS n, max(mark) AS mark FROM statistics_tokens GROUP BY key"
        rows = {r["key"]: (r["n"], r["mark"]) for r in store.sql.ask(query).table.to_pylist()}
        assert rows == {key(1): (3, None), key("one"): (4, "one"), key("two"): (4, "two")}
        # What the store has itself it has instead of the layer.
        put(store, key("one"), tokens(2))
        assert store.flush()
        rows = {r["key"]: (r["n"], r["mark"]) for r in store.sql.ask(query).table.to_pylist()}
        assert rows == {key(1): (3, None), key("one"): (2, None), key("two"): (4, "two")}


def test_without_an_index_the_latest_files_are_asked(
    home: Path, key: Key, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(home, role="client") as store:
        assert store.sql.tables() == []
        for number in range(3):
            put(store, key(number), tokens(5, seed=number))
            path = store.home / "results" / key(number)[:2] / f"{key(number)}.zip"
            os.utime(path, (1000 + number, 1000 + number))
        assert [(t.name, t.rows) for t in store.sql.tables()] == [("statistics_tokens", 15)]
        assert not store.sql.partial
        monkeypatch.setattr("cache.sqltables.MAX_FILES", 2)
        assert MAX_FILES > 2
        assert store.sql.partial
        answer = store.sql.ask("SELECT DISTINCT key FROM statistics_tokens")
        assert set(answer.table["key"].to_pylist()) == {key(1), key(2)}


def test_only_the_latest_rows_of_a_long_table_are_read(
    store: Store, key: Key, tokens: Tokens
) -> None:
    for number in range(3):
        put(store, key(number), tokens(4, n=np.full(4, number)))
        assert store.flush()
    limits = SqlLimits(table_rows=6)
    answer = store.sql.ask("SELECT n FROM statistics_tokens", limits=limits)
    assert sorted(answer.table["n"].to_pylist()) == [1, 1, 2, 2, 2, 2]


def test_asking_changes_nothing(store: Store, key: Key, tokens: Tokens) -> None:
    put(store, key(1), tokens(3))
    assert store.flush()
    for query in ("DROP TABLE statistics_tokens", "DELETE FROM statistics_tokens"):
        with pytest.raises(QueryError, match="Only SELECT"):
            store.sql.ask(query)
    assert store.sql.ask("SELECT count(*) AS n FROM statistics_tokens").table["n"][0].as_py() == 3
