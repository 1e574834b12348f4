"""SQL of the user's own over what is stored: read-only, bounded, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cache import arrow
from cache.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

_CHILD = Path(__file__).with_name("sqlchild.py")
# Nothing of the environment but what a program needs to start: it may hold tokens and passwords.
_ENVIRONMENT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")
_START_SECONDS = 30.0
_GRACE_SECONDS = 3.0
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class SqlLimits:
    """What one query may take.

    Args:
        seconds: How long it may run.
        count_seconds: How long rows beyond the ones kept are counted.
        memory_bytes: How much memory DuckDB may take; the process may take 512 MiB more.
        threads: How many threads it may use.
        rows: How many rows of the answer are kept.
        bytes: How large they may be together.
        table_rows: How many rows of a table it sees; the latest ones.
        characters: How long its text may be.
    """

    seconds: float = 10.0
    count_seconds: float = 2.0
    memory_bytes: int = 512 << 20
    threads: int = 2
    rows: int = 10_000
    bytes: int = 16 << 20
    table_rows: int = 1_000_000
    characters: int = 20_000


LIMITS = SqlLimits()


class QueryError(StoreError):
    """A query cannot be answered; the text is one sentence that says what to change."""


@dataclass(frozen=True)
class Answer:
    """The rows of an answer.

    Args:
        table: The first rows, with types and names that every file format knows.
        total: How many rows there are; at least so many unless `counted`.
        counted: Whether all rows were counted.
        tables: Names of the tables it was read from.
        seconds: How long it took.
    """

    table: pa.Table
    total: int
    counted: bool
    tables: tuple[str, ...]
    seconds: float


def run_query(
    query: str,
    tables: Mapping[str, Callable[[], pa.Table]],
    *,
    limits: SqlLimits = LIMITS,
) -> Answer:
    """Answer one SELECT over the given tables, and over nothing else.

    Args:
        query: DuckDB's SQL.
        tables: By name, how to get each; only those the query names are got.
        limits: What it may take.

    Raises:
        QueryError: It is no single SELECT, asks for anything else, or takes too much.
    """
    started = time.monotonic()
    message = {"query": query, "tables": list(tables), "limits": asdict(limits)}
    try:
        with _child() as (process, sending, hearing):
            with _killed_after(process, _START_SECONDS):
                sending.write(json.dumps(message).encode("ascii") + b"\n")
                sending.flush()
                wanted = _heard(hearing)["tables"]
            given = [tables[name]() for name in wanted]
            with _killed_after(process, _START_SECONDS):
                _send(sending, given)
            with _killed_after(process, limits.seconds + _GRACE_SECONDS):
                facts = _heard(hearing)
                data = hearing.read()
    except (_SilentError, OSError) as error:
        raise QueryError(
            f"The query took more time or memory than it may have ({limits.seconds:g} seconds, "
            f"{limits.memory_bytes >> 20} MB): narrow it with WHERE or LIMIT."
        ) from error
    table = arrow.decode(data, max_bytes=4 * limits.bytes, max_rows=limits.rows)
    seconds = time.monotonic() - started
    return Answer(table, int(facts["total"]), bool(facts["counted"]), tuple(wanted), seconds)


class _SilentError(Exception):
    """The child ended without an answer."""


@contextlib.contextmanager
def _child() -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """The process that answers, with where it listens and speaks; gone at the end."""
    inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-I", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**inherited, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, process.stdin, process.stdout
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what was not yet sent stays unsent
                pipe.close()
        process.wait()


@contextlib.contextmanager
def _killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _heard(pipe: IO[bytes]) -> dict[str, Any]:
    """The child's next line.

    Raises:
        QueryError: It says why it does not answer.
        _SilentError: It has ended.
    """
    line = pipe.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise _SilentError
    message: dict[str, Any] = json.loads(line)
    if "error" in message:
        raise QueryError(message["error"])
    return message


def _send(pipe: IO[bytes], tables: Sequence[pa.Table]) -> None:
    import pyarrow as pa

    for table in tables:
        with pa.ipc.new_stream(pipe, table.schema) as writer:
            writer.write_table(table)
    pipe.flush()
