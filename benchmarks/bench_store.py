"""How fast the store keeps, finds and opens results, against DuckDB written to directly.

Run as `python benchmarks/bench_store.py [--quick]`. Both ways of writing take turns in one run, on
the same disk; a result has 512 tokens with 10 values each.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cache import Store  # noqa: E402  the repository is not installed where benchmarks run

PRODUCERS = 16
TOKENS = 512
COLUMNS = 10
META = {"analysis": "statistics", "version": 1, "status": "complete"}


def key(*parts: object) -> str:
    """Make a key from anything."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def result(seed: int) -> pa.Table:
    """Make a per-token table of random values, which do not compress to nothing."""
    rng = np.random.default_rng(seed)
    columns = {f"value_{number}": rng.normal(size=TOKENS) for number in range(COLUMNS)}
    return pa.table({"position": np.arange(TOKENS)} | columns)


def per_second(work: Callable[[int], None], count: int) -> float:
    """Acknowledged writes per second by all producers together."""
    with ThreadPoolExecutor(PRODUCERS) as pool:
        list(pool.map(time.sleep, [0.01] * PRODUCERS))  # so that every thread is there
        start = time.perf_counter()
        list(pool.map(work, range(count)))
        return count / (time.perf_counter() - start)


def autocommit(
    path: Path, tables: list[pa.Table], *, keyed: bool
) -> tuple[Callable[[int, int], None], Any]:
    """Write results the plain way: one bulk statement and one commit for each, a cursor per thread.

    Args:
        path: The DuckDB file.
        tables: The results to write.
        keyed: An upsert by primary key: found by key and never doubled, which is what the store
            does; without, the cheapest append that DuckDB can do.
    """
    verb = "INSERT OR REPLACE" if keyed else "INSERT"
    connection = duckdb.connect(str(path))
    listed = ", ".join(f"value_{number} DOUBLE" for number in range(COLUMNS))
    unique = ", PRIMARY KEY (key, position)" if keyed else ""
    connection.execute(f"CREATE TABLE tokens (key VARCHAR, position BIGINT, {listed}{unique})")
    own, lock = threading.local(), threading.Lock()

    def insert(turn: int, number: int) -> None:
        if not hasattr(own, "cursor"):
            with lock:
                own.cursor = connection.cursor()
        own.cursor.register("incoming", tables[number % len(tables)])
        own.cursor.execute(
            f"{verb} INTO tokens SELECT ? AS key, * FROM incoming", [key(turn, number)]
        )
        own.cursor.unregister("incoming")

    return insert, connection


def writes(folder: Path, *, quick: bool) -> list[dict[str, str | float]]:
    """Durable writes, the two ways in turns."""
    turns, count = (3, 64) if quick else (5, 256)
    tables = [result(seed) for seed in range(16)]
    insert, connection = autocommit(folder / "plain.duckdb", tables, keyed=False)
    upsert, keyed_connection = autocommit(folder / "keyed.duckdb", tables, keyed=True)
    ours, plain, keyed, indexed = [], [], [], []
    with Store(folder / "writes", role="owner") as store:
        store.put(key("warm"), {"tokens": tables[0]}, META)
        store.flush()
        for turn in range(turns + 1):

            def put(number: int, turn: int = turn) -> None:
                store.put(key(turn, number), {"tokens": tables[number % 16]}, META)

            plain.append(per_second(lambda number, turn=turn: insert(turn, number), count))
            keyed.append(per_second(lambda number, turn=turn: upsert(turn, number), count // 4))
            start = time.perf_counter()
            ours.append(per_second(put, count))
            store.flush()
            indexed.append(count / (time.perf_counter() - start))
        # The first turn makes the folders and warms both ways up.
        ours, plain, keyed, indexed = ours[1:], plain[1:], keyed[1:], indexed[1:]
        expected = (turns + 1) * count
        taken = store.frame("SELECT count(DISTINCT key) AS n FROM statistics_tokens")["n"][0]
        assert taken.as_py() == expected + 1, "a result is missing in the index"
    rows = connection.execute("SELECT count(*) FROM tokens").fetchone()
    assert rows == (expected * TOKENS,)
    connection.close()
    keyed_connection.close()
    ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
    keyed_ratio = statistics.median(a / b for a, b in zip(ours, keyed, strict=True))
    return [
        row("durable writes/s, 16 producers", "", statistics.median(ours)),
        row("the same, until indexed too", "", statistics.median(indexed)),
        row("DuckDB autocommit upserts/s", "", statistics.median(keyed)),
        row("DuckDB autocommit appends/s, no key", "", statistics.median(plain)),
        row("writes / autocommit upserts", ">= 3", keyed_ratio),
        row("writes / autocommit appends, no key", "", ratio),
    ]


def hits(folder: Path, *, quick: bool) -> list[dict[str, str | float]]:
    """Reading a stored result among a thousand; listing them."""
    count = 200 if quick else 1000
    table = result(0)
    with Store(folder / "hits", role="owner") as store:
        for number in range(count):
            store.put(key(number), {"tokens": table}, META)
        store.flush(600)
        order = np.random.default_rng(0).permutation(count)
        milliseconds = [
            timed(lambda number=number: store.get(key(int(number)))) for number in order
        ]
        misses = [timed(lambda number=number: store.get(key("no", number))) for number in range(99)]
        listing = [timed(lambda: store.entries(limit=50)) for _ in range(9)]
    stored = f"{count} stored"
    return [
        row(f"hit, median ms, {stored}", "< 50", statistics.median(milliseconds)),
        row(f"hit, p95 ms, {stored}", "< 50", float(np.quantile(milliseconds, 0.95))),
        row(f"miss, median ms, {stored}", "", statistics.median(misses)),
        row(f"list 50 entries, median ms, {stored}", "", statistics.median(listing)),
    ]


def opening(folder: Path, *, quick: bool) -> list[dict[str, str | float]]:
    """Opening a large store in a fresh process, as the app does before its first page."""
    count = 400 if quick else 2000
    table = result(0)
    with Store(folder / "opening", role="owner") as store:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: store.put(key(n), {"tokens": table}, META), range(count)))
        store.flush(600)
    code = (
        "import sys, time; from pathlib import Path\n"
        "a = time.perf_counter(); from cache import Store; b = time.perf_counter()\n"
        "store = Store(Path(sys.argv[1]), role='owner'); c = time.perf_counter()\n"
        "assert store.get(sys.argv[2]) is not None; d = time.perf_counter()\n"
        "store.flush(); e = time.perf_counter()\n"
        "assert store.index_state == 'ready'; print(b - a, c - b, d - c, e - c)"
    )
    command = [sys.executable, "-c", code, str(folder / "opening"), key(1)]
    # As after an installation: compiled once, then read.
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    times = []
    for _ in range(3 if quick else 7):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        times.append([1000 * float(part) for part in done.stdout.split()])
    imported, opened, first, ready = np.median(times, axis=0)
    return [
        row("import cache, ms", "< 150", float(imported)),
        row(f"open, ms, {count} stored", "< 100", float(opened)),
        row("first hit after it (imports Arrow), ms", "", float(first)),
        row(f"index ready after it, ms, {count} stored", "", float(ready)),
    ]


def timed(call: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def row(what: str, target: str, measured: float) -> dict[str, str | float]:
    """One line of the table."""
    return {"part": "store", "what": what, "target": target, "measured": measured}


def run(quick: bool = False) -> list[dict[str, str | float]]:
    """Measure everything.

    Args:
        quick: Whether to measure less, for a look.

    Returns:
        Rows with `part`, `what`, `target` (text, empty where there is none) and `measured`.
    """
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder:
        parts = (writes, hits, opening)
        return [line for part in parts for line in part(Path(folder), quick=quick)]


def print_table(rows: list[dict[str, str | float]]) -> None:
    """Print rows as `what | target | measured | ratio`, the ratio being measured / target."""
    print("what | target | measured | ratio")
    print("---|---|---:|---:")
    for line in rows:
        target, measured = str(line["target"]), float(line["measured"])
        ratio = f"{measured / float(target.split()[-1]):.2f}" if target else ""
        print(f"{line['what']} | {target} | {measured:.3g} | {ratio}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="measure less, for a look")
    print_table(run(quick=parser.parse_args().quick))
