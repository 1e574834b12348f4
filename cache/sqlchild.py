"""The program that runs a stranger's SQL: a process of its own, with nothing to lose.

Started by `cache.sql`, never imported by it. DuckDB's own limits are not enough: a single function
call such as `repeat('x', 3000000000)` takes gigabytes that its memory limit does not count, and
its interrupt waits for that call to end. A process can be bounded, and killed.

It speaks in lines of JSON and Arrow streams: it is told the query and which tables there are,
answers which of them it needs or why not, is given these, and answers with the rows.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

# In this order: later ones forbid what the earlier ones set.
SETTINGS: Sequence[tuple[str, str]] = (
    ("temp_directory", "''"),
    ("autoinstall_known_extensions", "false"),
    ("autoload_known_extensions", "false"),
    ("allow_community_extensions", "false"),
    ("python_enable_replacements", "false"),
    ("enable_external_access", "false"),
    ("lock_configuration", "true"),
)
_TABLE_FUNCTIONS = frozenset(
    {"generate_series", "json_each", "json_tree", "range", "repeat", "unnest"}
)
# What asks the machine instead of the tables, or runs text as SQL again.
_REFUSED_FUNCTIONS = re.compile(
    r"getenv|current_setting|write_log|sleep_ms|nextval|currval|setval|(pg|inet|duckdb|pragma)_.*"
    r"|__.*|json_(execute|serialize|deserialize)_.*|query(_table)?|.*_scan(_dumb)?|read_.*|glob"
)
_SYSTEM_NAMES = re.compile(r"(duckdb|pg|pragma|sqlite|information)_.*")
_TOO_DEEP = "The query is nested too deeply: simplify it."
_MAX_COLUMNS = 300
_VECTOR = 2048
_SPARE_BYTES = 512 << 20  # for what DuckDB and Arrow do not count


class RefusedError(Exception):
    """The query is not run; the text is one sentence for a person."""


def main() -> None:
    """Answer one query."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    asked = json.loads(source.readline())
    limits: dict[str, Any] = asked["limits"]
    confine(limits["memory_bytes"] + _SPARE_BYTES)
    try:
        connection = connect(limits["memory_bytes"], limits["threads"])
        wanted = needed(connection, asked["query"], asked["tables"], limits["characters"])
        say(sink, {"tables": wanted})
        confine(None)
        for name in wanted:
            with pa.ipc.open_stream(source) as reader:
                connection.register(name, reader.read_all())
        confine(limits["memory_bytes"] + _SPARE_BYTES)
        with in_time(connection, limits["seconds"]):
            table, facts = answer(connection, asked["query"], limits)
    except RefusedError as error:
        say(sink, {"error": str(error)})
        return
    except MemoryError:
        say(sink, {"error": too_much(limits["memory_bytes"])})
        return
    except (duckdb.Error, pa.ArrowException, RuntimeError, OSError, ValueError) as error:
        say(sink, {"error": sentence(error, limits)})
        return
    confine(None)
    say(sink, facts)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def say(sink: BinaryIO, message: dict[str, Any]) -> None:
    """Send one line."""
    sink.write(json.dumps(message).encode("ascii") + b"\n")
    sink.flush()


def confine(more: int | None) -> None:
    """Let this process take `more` bytes beyond what it has now, where the system can; or any."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if more is None:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            return
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        wanted = now + more
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    except (ImportError, OSError, ValueError):
        return


def connect(memory_bytes: int, threads: int) -> duckdb.DuckDBPyConnection:
    """An empty database in memory that reaches nothing outside it."""
    connection = duckdb.connect(":memory:")
    connection.execute(f"SET memory_limit = '{memory_bytes >> 20}MiB'")
    connection.execute(f"SET threads = {int(threads)}")
    for name, value in SETTINGS:
        connection.execute(f"SET {name} = {value}")
    return connection


def needed(
    connection: duckdb.DuckDBPyConnection, query: str, tables: Sequence[str], characters: int
) -> list[str]:
    """Which of `tables` a query reads.

    Raises:
        RefusedError: It is no single SELECT, or it names a table or function it may not have.
        duckdb.Error: It is no SQL.
    """
    if len(query) > characters:
        raise RefusedError(f"The query is longer than {characters:,} characters: shorten it.")
    if any((c < " " and c not in "\n\r\t") or "\ud800" <= c <= "\udfff" for c in query):
        raise RefusedError("The query contains control characters: write plain text.")
    statements = connection.extract_statements(query)
    if not statements:
        raise RefusedError("There is no query yet: write a SELECT.")
    if len(statements) > 1:
        raise RefusedError(f"These are {len(statements)} statements: ask one SELECT at a time.")
    kind = statements[0].type
    if kind == duckdb.StatementType.MULTI:
        raise RefusedError("PIVOT needs its values named: PIVOT … ON column IN (…).")
    if kind != duckdb.StatementType.SELECT:
        raise RefusedError("Only SELECT can be asked: nothing can be changed from here.")
    # All rows are fetched: a result left unfinished blocks the connection.
    rows = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
    try:
        tree = json.loads(rows[0][0])
    except RecursionError as error:
        raise RefusedError(_TOO_DEEP) from error
    if tree.get("error") is not False or len(tree.get("statements", ())) != 1:
        raise RefusedError("Only SELECT can be asked: nothing can be changed from here.")
    return _named_tables(tree["statements"][0], tables)


def _named_tables(tree: dict[str, Any], tables: Sequence[str]) -> list[str]:
    """Walk DuckDB's own parse tree of a SELECT and refuse all but the given tables."""
    known = {name.lower(): name for name in tables}
    named: list[str] = []
    defined: set[str] = set()
    for node in _nodes(tree):
        kind = node.get("type")
        if isinstance(kind, str) and kind.endswith("_QUERY_NODE"):
            raise RefusedError("Only SELECT can be asked: nothing can be changed from here.")
        if kind == "TABLE_FUNCTION":
            _check_function(node.get("function"), _TABLE_FUNCTIONS)
        elif kind == "SHOW_REF":
            if node.get("show_type") not in ("DESCRIBE", "SUMMARY"):
                raise RefusedError("SHOW is not available: the tables are listed beside the query.")
            if not node.get("query"):
                named.append(_plain_name(node))
        elif kind == "BASE_TABLE":
            named.append(_plain_name(node))
        if isinstance(node.get("function_name"), str):
            _check_function(node, None)
        if isinstance(node.get("cte_map"), dict):
            defined |= {str(entry.get("key")).lower() for entry in node["cte_map"].get("map", ())}
    shadowing = sorted(name for name in defined if _SYSTEM_NAMES.fullmatch(name))
    if shadowing:
        raise RefusedError(f"{shadowing[0][:60]!r} is a name of the system: choose another.")
    wanted = dict.fromkeys(known[name.lower()] for name in named if name.lower() in known)
    missing = [n for n in named if n.lower() not in known and n.lower() not in defined]
    if missing:
        near = difflib.get_close_matches(missing[0].lower(), known, n=1)
        hint = f"did you mean {known[near[0]]}?" if near else f"there are {', '.join(tables)}."
        raise RefusedError(f"There is no table {missing[0][:80]!r}: {hint[:400]}")
    return list(wanted)


def _nodes(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting: list[Any] = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _plain_name(node: dict[str, Any]) -> str:
    """The table a node names, without a schema: there is only one."""
    if node.get("catalog_name") or node.get("schema_name"):
        raise RefusedError("Write the names of tables without a schema before them.")
    return str(node.get("table_name", "")).strip('"')


def _check_function(node: Any, allowed: frozenset[str] | None) -> None:
    name = str(node.get("function_name", "")).lower() if isinstance(node, dict) else ""
    refused = name not in allowed if allowed is not None else _REFUSED_FUNCTIONS.fullmatch(name)
    if refused:
        raise RefusedError(f"The function {name[:60]!r} is not available here.")


@contextlib.contextmanager
def in_time(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupt what runs on the connection after so many seconds."""
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def answer(
    connection: duckdb.DuckDBPyConnection, query: str, limits: dict[str, Any]
) -> tuple[pa.Table, dict[str, Any]]:
    """Run a checked query and keep the first rows.

    Returns:
        The rows, and how many there are: `total`, which is a lower bound unless `counted`.

    Raises:
        RefusedError: It has too many columns, or a row is too large to be shown.
        duckdb.Error: DuckDB refuses it.
    """
    connection.execute("BEGIN TRANSACTION READ ONLY")
    relation = connection.sql(query)
    if len(relation.columns) > _MAX_COLUMNS:
        raise RefusedError(f"The answer has more than {_MAX_COLUMNS} columns: name fewer.")
    read = getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader
    reader = read(_VECTOR)
    patience = time.monotonic() + limits["count_seconds"]
    kept: list[pa.RecordBatch] = []
    rows = size = total = 0
    for batch in reader:
        total += batch.num_rows
        part = batch.slice(0, limits["rows"] - rows)
        while part.nbytes > limits["bytes"] - size and part.num_rows:
            part = part.slice(0, part.num_rows // 2)
        kept.append(part)
        rows, size = rows + part.num_rows, size + part.nbytes
        if not rows:
            raise RefusedError("A row of the answer is too large: choose fewer columns.")
        if part.num_rows < batch.num_rows or rows == limits["rows"]:
            break
    more, counted = _count(reader, patience)
    table = _simplified(pa.Table.from_batches(kept, reader.schema))
    return table, {"total": total + more, "counted": counted}


def _count(reader: pa.RecordBatchReader, patience: float) -> tuple[int, bool]:
    """How many rows are left; enough are kept, so that being stopped only ends the counting."""
    total = 0
    try:
        for batch in reader:
            total += batch.num_rows
            if time.monotonic() > patience:
                return total, False
    except (duckdb.Error, pa.ArrowException, OSError, RuntimeError):
        return total, False
    return total, True


def _simplified(table: pa.Table) -> pa.Table:
    """The same rows with names that differ and types that every file format knows."""
    names: dict[str, None] = {}
    for name in table.column_names:
        label, number = name or "column", 1
        while label in names:
            number += 1
            label = f"{name or 'column'}_{number}"
        names[label] = None
    return pa.table([_plain(column) for column in table.columns], names=list(names))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if types.is_decimal(kind):
        try:
            return column.cast(pa.int64() if kind.scale == 0 else pa.float64())
        except pa.ArrowInvalid:  # too large for an integer
            return column.cast(pa.string())
    return column if _is_plain(kind) else pa.array(_texts(column), pa.string())


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    return [None if value is None else str(value) for value in column.to_pylist()]


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    tests = (
        types.is_integer, types.is_boolean, types.is_string, types.is_large_string,
        types.is_binary, types.is_large_binary, types.is_timestamp, types.is_date, types.is_time,
        types.is_float32, types.is_float64,
    )  # fmt: skip
    if any(test(kind) for test in tests):
        return True
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(kind.field(n).type) for n in range(kind.num_fields))
    return False


def too_much(memory_bytes: int) -> str:
    """What is said when the memory does not suffice."""
    return (
        f"The query needs more than {memory_bytes >> 20} MB of memory: narrow it with WHERE, "
        "or join and sort less."
    )


def sentence(error: Exception, limits: dict[str, Any]) -> str:
    """One sentence for what DuckDB says, without its drawing of the query and without paths."""
    text = str(error)
    if isinstance(error, duckdb.InterruptException) or "INTERRUPT" in text:
        return (
            f"The query took longer than {limits['seconds']:g} seconds and was stopped: narrow it "
            "with WHERE or LIMIT."
        )
    if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory" in text:
        return too_much(limits["memory_bytes"])
    if "max_expression_depth" in text:
        return _TOO_DEEP
    lines = []
    for line in text.splitlines():
        if line.startswith(("LINE ", "Possible solutions")):
            break
        lines.append(line.strip())
    said = re.sub(r"^[\w ]+ Error: ", "", " ".join(filter(None, lines)))
    said = re.sub(r" Use \"?SET .*", "", said)
    said = re.sub(r"(?<![\w.:/])(/[\w.@%+~-]+){2,}", "…", said)
    said = "".join(c if c.isprintable() else " " for c in said)
    place = re.search(r"^LINE (\d+):", text, re.MULTILINE)
    where = f" (line {place[1]})" if place else ""
    said = said[:300].rstrip(". ") or "The query cannot be run"
    return f"{said}{where}" + ("" if said.endswith(("?", "!")) and not where else ".")


if __name__ == "__main__":
    main()
