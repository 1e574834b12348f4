"""Several processes on one folder: owner, clients, and processes that die."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from cache import Store, StoreError, read_result

Key = Callable[[object], str]
Tokens = Callable[..., pa.Table]
Start = Callable[..., "subprocess.Popen[str]"]

PUT = """
import hashlib, os, sys, time
from pathlib import Path
import numpy as np, pyarrow as pa
from cache import Store

def key(value): return hashlib.sha256(str(value).encode()).hexdigest()
def put(store, number):
    table = pa.table({"position": np.arange(50), "x": np.full(50, float(number))})
    store.put(key(number), {"tokens": table}, {"analysis": "a", "number": number})
"""


def say(process: subprocess.Popen[str], line: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_owner_and_client_write_at_the_same_time(
    home: Path, key: Key, tokens: Tokens, start: Start
) -> None:
    client = start(
        PUT + "store = Store(Path(sys.argv[1]), role='client'); print('up', flush=True)\n"
        "sys.stdin.readline()\n"
        "for number in range(100, 160):\n"
        "    put(store, number)\n"
        "    print(number, flush=True)\n"
        "found = [n for n in range(60) if store.get(key(('mine', n))) is not None]\n"
        "assert 'duckdb' not in sys.modules and store.index_state == 'client'\n"
        "print(len(store.entries(limit=500)), len(found), flush=True)",
        home,
    )
    assert hear(client) == "up"
    with Store(home, role="owner") as store:
        mine = 0
        while mine < 60 or not store.contains(key(159)):
            store.put(key(("mine", mine)), {"tokens": tokens(50)}, {"analysis": "a"})
            mine += 1
            if mine == 3:
                say(client)
        assert [int(hear(client)) for _ in range(60)] == list(range(100, 160))
        listed, found = map(int, hear(client).split())
        assert min(listed - 60, found) > 0, "the two never ran at the same time"
        assert store.flush()
        counts = store.frame("SELECT count(DISTINCT key) AS k, count(*) AS n FROM a_tokens")
        assert counts.to_pylist() == [{"k": 60 + mine, "n": (60 + mine) * 50}]
        stored = store.get(key(123))
        assert stored is not None
        assert stored.tables["tokens"]["x"][0].as_py() == 123.0
        assert list((home / "spool").iterdir()) == []


def test_a_second_process_works_and_takes_over(
    home: Path, key: Key, tokens: Tokens, start: Start
) -> None:
    app = start(
        PUT + "store = Store(Path(sys.argv[1]), role='owner'); put(store, 1)\n"
        "store.flush(); print(store.index_state, flush=True)\n"
        "sys.stdin.readline(); store.flush()\n"
        "print(store.frame('SELECT count(*) AS n FROM results')['n'][0], flush=True)\n"
        "sys.stdin.readline()",
        home,
    )
    assert hear(app) == "ready"
    with pytest.raises(StoreError, match="Another process"):
        Store(home, role="owner")
    with Store(home) as second:
        assert not second.is_owner
        assert second.index_state == "waiting"
        assert second.get(key(1)) is not None
        second.put(key(2), {"tokens": tokens()}, {"analysis": "a"})
        assert {entry.key for entry in second.entries()} == {key(1), key(2)}
        assert not second.flush(timeout=5.0)
        say(app)
        assert hear(app) == "2"
        app.kill()
        assert until(lambda: second.is_owner), "the folder stayed without an owner"
        assert second.flush()
        second.put(key(3), {"tokens": tokens()}, {"analysis": "a"})
        assert second.flush()
        keys = second.frame("SELECT key FROM results")["key"].to_pylist()
        assert set(keys) == {key(1), key(2), key(3)}


def test_another_program_with_the_index_open(
    home: Path, key: Key, tokens: Tokens, start: Start
) -> None:
    with Store(home) as store:
        store.put(key(1), {"tokens": tokens()}, {"analysis": "a"})
        assert store.flush()
    other = start(
        "import duckdb; c = duckdb.connect(sys.argv[1]); print('up', flush=True)\n"
        "sys.stdin.readline()",
        home / "index.duckdb",
    )
    assert hear(other) == "up"
    with Store(home) as store:
        store.put(key(2), {"tokens": tokens()}, {"analysis": "a"})
        assert not store.flush(timeout=1.0)
        assert {entry.key for entry in store.entries()} == {key(1), key(2)}
    assert not list(home.glob("*damaged*"))
    say(other)
    other.wait()
    with Store(home) as store:
        assert store.flush()
        assert store.frame("SELECT key FROM results").num_rows == 2


def test_a_process_that_ends_without_closing(home: Path, key: Key) -> None:
    """Its last results are indexed and nothing is said: DuckDB, imported late, ends after it."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PUT + "store = Store(Path(sys.argv[1]), role='owner'); put(store, 1); store.flush()\n"
            "put(store, 2)",
            str(home),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    rows = duckdb.connect(str(home / "index.duckdb"), read_only=True).execute(
        "SELECT key FROM results"
    )
    assert {row for (row,) in rows.fetchall()} == {key(1), key(2)}


def test_a_forked_child_writes_as_a_client(home: Path, key: Key, start: Start) -> None:
    parent = start(
        PUT + "store = Store(Path(sys.argv[1]), role='owner'); put(store, 1); store.flush()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    put(store, 2); assert store.get(key(1)); assert store.index_state == 'client'\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "store.flush()\n"
        "print(store.frame('SELECT count(*) AS n FROM results')['n'][0], flush=True)",
        home,
    )
    assert hear(parent) == "2"


KILLED = """
import cache.indexfile, cache.owner, duckdb
cache.owner.START_DELAY = 0.0
cache.indexfile._MAX_DEATHS = 99  # dying while it opens the index is what it is made to do here
pa.table({"x": np.arange(1)})  # which imports pandas, once for all rounds
print("up", flush=True)
for line in sys.stdin:  # a fork for each round spares the imports
    first = int(line)
    child = os.fork()
    if child == 0:
        store = Store(Path(sys.argv[1]), role=sys.argv[2])
        for number in range(first, first + 10_000):
            put(store, number)
            os.write(1, b"%d\\n" % number)
    os.write(1, b"child %d\\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


@pytest.mark.parametrize("kills", [10, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_lose_nothing(home: Path, key: Key, start: Start, kills: int) -> None:
    """Every result whose `put` returned is there afterwards, and so is its row in the index."""
    owners, clients = (start(PUT + KILLED, home, role) for role in ("owner", "client"))
    assert hear(owners) == hear(clients) == "up"
    rng = random.Random(7)
    acknowledged: set[int] = set()
    indexed_while_killed = 0
    for number in range(kills):
        process = clients if number % 5 == 4 else owners
        say(process, str(number * 10_000))
        lines: list[str] = []
        while not (line := hear(process)).startswith("child"):
            lines.append(line)
        child = line.split()[1]
        # While the store is being opened, soon after, or when the index is in full work.
        writes = (0, 3, 25, 50)[number % 4] if process is owners else 3
        for _ in range(rng.randint(writes // 2, writes)):
            lines.append(hear(process))
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(int(child), signal.SIGKILL)
        while (line := hear(process)) != "dead":
            lines.append(line)
        acknowledged |= {int(line) for line in lines if line}
        indexed_while_killed += (home / "index.duckdb.wal").exists()
    assert len(acknowledged) > 1.2 * kills
    assert indexed_while_killed >= kills // 10, (
        "the index was never being written when its process died"
    )
    with Store(home, role="owner") as store:
        assert store.flush()
        for number in acknowledged:
            stored = store.get(key(number))
            assert stored is not None
            assert stored.meta["number"] == number
            assert stored.tables["tokens"]["x"].to_pylist() == [float(number)] * 50
        files = {path.stem for path in (home / "results").glob("??/*.zip")}
        counts = store.frame("SELECT key, count(*) AS n FROM a_tokens GROUP BY key").to_pylist()
        assert {row["key"]: row["n"] for row in counts} == dict.fromkeys(files, 50)
        assert set(store.frame("SELECT key FROM results")["key"].to_pylist()) == files
    assert not (home / "damaged").exists()
    assert not list(home.glob("index.duckdb.damaged*"))
    for path in (home / "results").glob("??/*.zip"):
        read_result(path)
