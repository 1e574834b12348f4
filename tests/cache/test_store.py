"""The store as its users see it: put, get, list, forget."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from cache import Store, StoreError, eviction, write_result

Key = Callable[[object], str]
Tokens = Callable[..., pa.Table]


def put(store: Store, key: str, table: pa.Table, **meta: object) -> None:
    store.put(key, {"tokens": table}, {"analysis": "statistics", "status": "complete"} | meta)


def test_put_and_get(store: Store, key: Key, tokens: Tokens) -> None:
    assert store.get(key(1)) is None
    assert not store.contains(key(1))
    put(store, key(1), tokens(5), title="first")
    stored = store.get(key(1))
    assert stored is not None
    assert store.contains(key(1))
    assert stored.tables["tokens"].equals(tokens(5))
    assert stored.meta == {"analysis": "statistics", "status": "complete", "title": "first"}
    assert stored.path == store.home / "results" / key(1)[:2] / f"{key(1)}.zip"
    assert [path.name for path in stored.path.parent.iterdir()] == [f"{key(1)}.zip"]


@pytest.mark.parametrize("bad", ["", "../../etc/passwd", "AB" * 32, "ab" * 31, "ab" * 32 + "\n"])
def test_bad_keys_are_refused(store: Store, bad: str) -> None:
    calls = [store.get, store.contains, store.delete, store.samples, store.pin]
    for call in [*calls, lambda k: store.put(k, {}, {}), lambda k: store.rename(k, "x")]:
        with pytest.raises(StoreError, match="is no key"):
            call(bad)


def test_the_first_result_stays_and_a_partial_one_gives_way(
    store: Store, key: Key, tokens: Tokens
) -> None:
    put(store, key(1), tokens(2), status="partial")
    store.flush()
    put(store, key(1), tokens(3), status="partial")
    put(store, key(1), tokens(4))
    put(store, key(1), tokens(5))
    put(store, key(1), tokens(6), status="partial")
    stored = store.get(key(1))
    assert stored is not None
    assert stored.tables["tokens"].num_rows == 4
    assert store.flush()
    assert store.frame("SELECT count(*) AS n FROM statistics_tokens")["n"].to_pylist() == [4]
    assert [entry.status for entry in store.entries()] == ["complete"]


def test_a_closed_store_still_keeps_results(home: Path, key: Key, tokens: Tokens) -> None:
    with Store(home) as store:
        put(store, key(1), tokens())
    put(store, key(2), tokens())
    assert store.get(key(1)) is not None
    assert store.get(key(2)) is not None
    with Store(home) as again:
        assert again.flush()
        assert {entry.key for entry in again.entries()} == {key(1), key(2)}


def test_entries(store: Store, key: Key, tokens: Tokens) -> None:
    for number in range(4):
        analysis = "statistics" if number % 2 else "flow.backbone"
        created, subject = f"2026-01-0{4 - number}", key(("subject", number // 2))
        put(
            store,
            key(number),
            tokens(10 + 50 * (number == 2), seed=number),
            analysis=analysis,
            created=created,
            subject=subject,
            title=f"t{number}",
            extra=[number],
        )
        used = 1_700_000_000 + number
        os.utime(store.home / "results" / key(number)[:2] / f"{key(number)}.zip", (used, used))
    store.rename(key(1), " mine ")
    store.pin(key(2))
    from_files = [
        store.entries(),
        store.entries(analysis="statistics", order="created"),
        store.entries(order="bytes", limit=1),
        store.entries(subject=key(("subject", 1)), limit=1),
    ]
    assert store.flush()
    assert store.index_state == "ready"
    from_index = [
        store.entries(),
        store.entries(analysis="statistics", order="created"),
        store.entries(order="bytes", limit=1),
        store.entries(subject=key(("subject", 1)), limit=1),
    ]
    assert from_files == from_index
    latest, created, largest, of_subject = from_index
    assert [entry.key for entry in latest] == [key(3), key(2), key(1), key(0)]
    assert [entry.title for entry in latest] == ["t3", "t2", "mine", "t0"]
    assert [entry.pinned for entry in latest] == [False, True, False, False]
    assert latest[0].meta["extra"] == [3]
    assert latest[0].last_used.timestamp() == 1_700_000_003
    assert [entry.key for entry in created] == [key(1), key(3)]
    assert [entry.key for entry in largest] == [key(2)]
    assert [entry.key for entry in of_subject] == [key(3)]
    with pytest.raises(StoreError, match="ordered"):
        store.entries(order="key; DROP TABLE results")  # type: ignore[arg-type]


def test_what_came_a_moment_ago_is_listed_before_it_is_indexed(
    store: Store, key: Key, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, key(1), tokens(), created="2026-01-01")
    assert store.flush()
    monkeypatch.setattr(store, "_announce", lambda key: None)
    put(store, key(2), tokens(), created="2026-01-02", analysis="other")
    assert store.frame("SELECT count(*) AS n FROM results")["n"].to_pylist() == [1]
    assert [e.key for e in store.entries(order="created")] == [key(2), key(1)]
    assert [e.key for e in store.entries(analysis="other")] == [key(2)]
    assert [e.key for e in store.entries(analysis="statistics")] == [key(1)]


def test_delete_forgets_file_label_and_rows(store: Store, key: Key, tokens: Tokens) -> None:
    put(store, key(1), tokens(3))
    put(store, key(2), tokens(4))
    store.rename(key(1), "mine")
    assert store.flush()
    assert store.delete(key(1))
    assert not store.delete(key(1))
    assert store.get(key(1)) is None
    assert not list((store.home / "labels").glob("*.json"))
    assert [entry.key for entry in store.entries()] == [key(2)]
    assert store.flush()
    for table, rows in (("results", 1), ("contents", 1), ("statistics_tokens", 4)):
        assert store.frame(f"SELECT count(*) AS n FROM {table}")["n"].to_pylist() == [rows]
    with pytest.raises(StoreError, match="no result"):
        store.pin(key(1))


def test_sixteen_threads_at_once(store: Store, key: Key, tokens: Tokens) -> None:
    errors: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                store.entries(limit=5)
                for number in (1, 9):
                    stored = store.get(key(number))
                    if stored is not None:
                        assert stored.tables["tokens"].equals(tokens(50, seed=number))
                if store.index_state == "ready":
                    seen = store.frame("SELECT count(*) AS n FROM results")["n"][0].as_py()
                    assert 0 <= seen <= 96
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    with ThreadPoolExecutor(16) as pool:
        # Every key twice: producers meet on the same one too.
        jobs = [n % 96 for n in range(192)]
        list(pool.map(lambda n: put(store, key(n), tokens(50, seed=n)), jobs))
    assert store.flush()
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == []
    assert all(store.get(key(number)) is not None for number in range(96))
    counted = store.frame(
        "SELECT count(*) AS n, count(DISTINCT key) AS keys FROM statistics_tokens"
    )
    assert counted.to_pylist() == [{"n": 96 * 50, "keys": 96}]


def test_layers_are_read_after_home_and_never_written(
    tmp_path: Path, home: Path, key: Key, tokens: Tokens
) -> None:
    layer = tmp_path / "gallery"
    flat, split, broken = key("flat"), key("split"), key("broken")
    write_result(layer / f"{flat}.zip", flat, {"tokens": tokens(1)}, {"from": "layer"})
    write_result(layer / split[:2] / f"{split}.zip", split, {}, {"from": "layer"})
    write_result(layer / f"{key('wrong name')}.zip", flat, {}, {})
    (layer / f"{broken}.zip").write_bytes(b"PK broken")
    before = {path: path.stat().st_mtime_ns for path in layer.rglob("*")}
    with Store(home, max_bytes=1, layers=[tmp_path / "missing", layer]) as store:
        for name in (flat, split):
            stored = store.get(name)
            assert stored is not None
            assert stored.meta == {"from": "layer"}
            assert store.contains(name)
        assert store.get(broken) is None
        assert store.get(key("wrong name")) is None
        listed = {entry.key: entry for entry in store.layer_entries()}
        assert listed[flat].layer
        assert listed[flat].meta == {"from": "layer"}
        assert {flat, split} <= listed.keys()
        assert store.entry(split) == listed[split]
        assert store.entry(broken) is None
        assert store.file(flat) == layer / f"{flat}.zip"
        assert not store.delete(flat)
        assert store.evict() == []
        assert store.entries() == []
        store.put(flat, {}, {"from": "home"})
        stored = store.get(flat)
        assert stored is not None
        assert stored.meta == {"from": "home"}
        entry = store.entry(flat)
        assert entry is not None
        assert not entry.layer
        assert flat not in {entry.key for entry in store.layer_entries()}
    assert {path: path.stat().st_mtime_ns for path in layer.rglob("*")} == before


def age(store: Store, key: str, seconds: float) -> None:
    path = store.home / "results" / key[:2] / f"{key}.zip"
    os.utime(path, (time.time() - seconds,) * 2)


def test_the_least_recently_used_goes_first_and_pinned_never(
    home: Path, key: Key, tokens: Tokens
) -> None:
    with Store(home, role="client") as filling:
        for number in range(10):
            put(filling, key(number), tokens(200))
        size = filling.total_bytes() // 10
    with Store(home, role="client", max_bytes=6 * size) as store:
        for number in range(10):
            age(store, key(number), 1000 - number)
        store.pin(key(0))
        assert store.get(key(1)) is not None  # which makes it the one used last
        assert set(store.evict()) == {key(n) for n in (2, 3, 4, 5, 6)}
        assert {n for n in range(10) if store.contains(key(n))} == {0, 1, 7, 8, 9}
        assert store.total_bytes() <= eviction.KEEP * 6 * size
        assert store.evict() == []


def test_the_owner_evicts_by_itself_and_streams_count(home: Path, key: Key, tokens: Tokens) -> None:
    with Store(home, role="client") as filling:
        put(filling, key(0), tokens(200))
        size = filling.total_bytes()
        samples = pa.table({"index": [0], "text": pa.array([os.urandom(2 * size)], pa.binary())})
        filling.append_samples(key("stream"), 0, samples)
        os.utime(home / "samples" / key("stream")[:2] / key("stream"), (1, 1))
        assert filling.total_bytes() > 3 * size
        age(filling, key(0), 1000)
    with Store(home, role="owner", max_bytes=3 * size + 100) as store:
        assert store.flush()
        assert store.samples(key("stream")) is None
        assert store.contains(key(0))
        for number in range(1, 8):
            put(store, key(number), tokens(200))
            store.flush()
        assert not store.contains(key(0))
        assert store.contains(key(7))
        assert store.flush()
        assert store.total_bytes() <= 3 * size + 100
        held = {entry.key for entry in store.entries()}
        assert held == {key(n) for n in range(8) if store.contains(key(n))}
        assert set(store.frame("SELECT key FROM results")["key"].to_pylist()) == held


def test_one_result_over_the_limit_is_kept(home: Path, key: Key, tokens: Tokens) -> None:
    with Store(home, max_bytes=10) as store:
        put(store, key(1), tokens())
        assert store.flush()
        assert store.evict() == []
        assert store.contains(key(1))


def test_samples_append_sort_and_keep_the_first(store: Store, key: Key) -> None:
    def rows(numbers: list[int], mark: str) -> pa.Table:
        return pa.table({"index": numbers, "mark": [mark] * len(numbers)})

    stream = key("stream")
    assert store.samples(stream) is None
    store.append_samples(stream, 4, rows([4, 5, 6], "a"))
    store.append_samples(stream, 0, rows([1, 0], "b"))
    store.append_samples(stream, 0, rows([0, 1, 2, 4], "c"))
    store.append_samples(stream, 0, rows([1, 0], "d"))
    store.append_samples(stream, 9, rows([], "e").cast(rows([1], "x").schema))
    found = store.samples(stream)
    assert found is not None
    assert found["index"].to_pylist() == [0, 1, 2, 4, 5, 6]
    assert found["mark"].to_pylist() == ["b", "b", "c", "a", "a", "a"]
    assert store.samples(key("other")) is None


def test_samples_by_many_threads(store: Store, key: Key) -> None:
    def append(number: int) -> None:
        table = pa.table({"index": range(10 * number, 10 * number + 10), "n": [number] * 10})
        store.append_samples(key("s"), 10 * number, table)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(20)))
    found = store.samples(key("s"))
    assert found is not None
    assert found["index"].to_pylist() == list(range(200))
    assert found["n"].to_pylist() == [n // 10 for n in range(200)]


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"x": [1]}),
        pa.table({"index": pa.array([1], pa.int32())}),
        pa.table({"index": pa.array([1, None], pa.int64())}),
        pa.table({"index": [0]}),
    ],
)
def test_samples_without_proper_numbers_are_refused(
    store: Store, key: Key, table: pa.Table
) -> None:
    with pytest.raises(StoreError, match="index"):
        store.append_samples(key("s"), 1, table)
    assert store.samples(key("s")) is None


def test_a_damaged_part_of_a_stream_is_left_out(store: Store, key: Key) -> None:
    store.append_samples(key("s"), 0, pa.table({"index": [0, 1]}))
    store.append_samples(key("s"), 2, pa.table({"index": [2]}))
    part = store.home / "samples" / key("s")[:2] / key("s") / "0-2.arrow"
    part.write_bytes(part.read_bytes()[:50])
    for _ in range(2):
        found = store.samples(key("s"))
        assert found is not None
        assert found["index"].to_pylist() == [2]
    assert len(list((store.home / "damaged").iterdir())) == 1
    store.append_samples(key("s"), 0, pa.table({"index": [0, 1]}))
    found = store.samples(key("s"))
    assert found is not None
    assert found["index"].to_pylist() == [0, 1, 2]


def test_memos_merge(store: Store, home: Path) -> None:
    assert store.recall("weights") == {}
    store.remember("weights", {"a": 1, "b": [2]})
    store.remember("weights", {"b": 3, "c": {"d": "é"}})
    assert Store(home, role="client").recall("weights") == {"a": 1, "b": 3, "c": {"d": "é"}}
    store.remember("weights", {"a": None})
    assert store.recall("weights") == {"b": 3, "c": {"d": "é"}}
    for bad in ("../x", "", "a.b", "A"):
        with pytest.raises(StoreError, match="memo"):
            store.remember(bad, {})
    with pytest.raises(StoreError, match="JSON"):
        store.remember("weights", {"x": object()})
    (home / "memo" / "weights.json").write_text('{"cut')
    assert store.recall("weights") == {}
    store.remember("weights", {"a": 1})
    assert store.recall("weights") == {"a": 1}


def test_no_memo_entry_is_lost_between_threads(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.remember("facts", {str(n): n}), range(40)))
    assert store.recall("facts") == {str(n): n for n in range(40)}


def test_opening_is_lazy(tmp_path: Path) -> None:
    """Neither Arrow nor DuckDB is imported before it is needed (how fast: the benchmark)."""
    code = (
        "import sys; from pathlib import Path; import cache\n"
        "store = cache.Store(Path(sys.argv[1]))\n"
        "assert not {'duckdb', 'pyarrow', 'torch', 'streamlit', 'engine'} & sys.modules.keys()\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, tmp_path / "home"], cwd=root, check=True)
