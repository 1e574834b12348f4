"""What the world does to a store: full disks, closed folders, rotten files."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from cache import Store, StoreError, files, indexfile, shelf
from cache.locks import ProcessLock

Key = Callable[[object], str]
Tokens = Callable[..., pa.Table]
Start = Callable[..., "subprocess.Popen[str]"]


def fill(home: Path, key: Key, tokens: Tokens, count: int = 5) -> None:
    with Store(home) as store:
        for number in range(count):
            store.put(key(number), {"tokens": tokens(50)}, {"analysis": "a"})
        assert store.flush()


def left_behind(home: Path) -> list[Path]:
    return list(home.rglob("*.tmp"))


def complete(store: Store, count: int = 5) -> bool:
    """Whether the index has all that `fill` put there."""
    return store.flush() and store.frame("SELECT count(*) AS n FROM a_tokens").to_pylist() == [
        {"n": 50 * count}
    ]


@pytest.mark.parametrize("at", ["fsync", "replace", "open"])
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "The disk is full: .*Free space or set TOKENSCOPE_HOME to another folder"),
        (errno.EDQUOT, "The disk is full"),
        (errno.EROFS, "cannot be written to. .*TOKENSCOPE_HOME"),
        (errno.EIO, "could not be used"),
    ],
)
def test_a_failed_put_leaves_nothing(
    store: Store,
    key: Key,
    tokens: Tokens,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    number: int,
    sentence: str,
) -> None:
    store.put(key(0), {"tokens": tokens()}, {})
    original = getattr(os, at)

    def fail(path: Any, *rest: Any) -> Any:
        if at == "open" and not (rest and rest[0] & os.O_CREAT):
            return original(path, *rest)
        raise OSError(number, os.strerror(number))

    calls: list[Callable[[], None]] = [
        lambda: store.put(key(1), {"tokens": tokens()}, {}),
        lambda: store.append_samples(key("s"), 0, pa.table({"index": [0]})),
        lambda: store.remember("facts", {"a": 1}),
        lambda: store.pin(key(0)),
    ]
    for call in calls:
        with monkeypatch.context() as patched:
            patched.setattr(files.os, at, fail)
            with pytest.raises(StoreError, match=sentence):
                call()
    assert store.get(key(1)) is None
    assert store.samples(key("s")) is None
    assert store.recall("facts") == {}
    assert left_behind(store.home) == []
    for call in calls:
        call()
    assert store.get(key(1)) is not None
    assert store.recall("facts") == {"a": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_put_is_flushed_before_it_is_named_and_again_after(
    store: Store, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill cannot show this, only a power cut could: the order of the calls has to."""
    calls: list[str] = []
    flush, replace = os.fsync, os.replace

    def recorded_flush(descriptor: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        flush(descriptor)

    def recorded_replace(source: Any, target: Any) -> None:
        calls.append("rename")
        replace(source, target)

    store.put(key(0), {}, {})
    monkeypatch.setattr(files.os, "fsync", recorded_flush)
    monkeypatch.setattr(files.os, "replace", recorded_replace)
    folder = store.home / "results" / key(1)[:2]
    store.put(key(1), {}, {})
    written, rename, renamed_in = calls
    assert (rename, renamed_in) == ("rename", str(folder))
    assert written.startswith(str(folder / f".{key(1)}"))
    calls.clear()
    store.put(key(1), {}, {})
    assert calls == [str(folder)]


def test_a_limit_on_the_size_of_files(home: Path, start: Start) -> None:
    """The operating system itself refuses the write, after part of it was done."""
    process = start(
        "import resource, numpy as np, pyarrow as pa; from pathlib import Path\n"
        "from cache import Store, StoreError\n"
        "store = Store(Path(sys.argv[1]), role='client')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "def put(letter, n):\n"
        "    table = pa.table({'x': np.random.default_rng(0).normal(size=n)})\n"
        "    store.put(letter * 64, {'t': table}, {})\n"
        "try: put('a', 100_000)\n"
        "except StoreError as error: print(error, flush=True)\n"
        "put('b', 100)\n"
        "print(store.get('a' * 64), store.get('b' * 64).tables['t'].num_rows, flush=True)\n",
        home,
    )
    said, _ = process.communicate(timeout=60)
    lines = said.splitlines()
    assert lines[0].startswith("The result is larger than a file may be in")
    assert lines[1] == "None 100"
    assert left_behind(home) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where mounting is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, key: Key) -> None:
    def table(seed: int) -> pa.Table:
        values = np.random.default_rng(seed).normal(size=5000)
        return pa.table({"position": np.arange(5000), "x": values})

    def put(store: Store, number: int) -> bool:
        try:
            store.put(key(number), {"tokens": table(number)}, {"analysis": "a"})
        except StoreError as error:
            refusals.append(str(error))
            return False
        return True

    refusals: list[str] = []

    with Store(small_disk / "home") as store:
        kept = next(number for number in range(100) if not put(store, number))
        assert kept > 3
        assert refusals[0].startswith("The disk is full")
        assert left_behind(small_disk) == []
        store.flush(timeout=1.0)  # there may be room for the index or not
        for number in range(kept):
            stored = store.get(key(number))
            assert stored is not None
            assert stored.tables["tokens"].equals(table(number))
        assert len(store.entries()) == kept
        for number in range(kept - 2):
            assert store.delete(key(number))
        store.put(key(200), {}, {})
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    with Store(small_disk / "home") as store:
        assert store.flush()
        assert store.frame("SELECT count(*) AS n FROM results").to_pylist() == [{"n": 3}]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Store(small_disk / "home") as store:
        assert store.get(key(200)) is not None
        assert len(store.entries()) == 3
        with pytest.raises(StoreError, match="cannot be written to"):
            store.put(key(201), {}, {})
        with pytest.raises(StoreError, match="cannot be written to"):
            store.delete(key(200))
    with pytest.raises(StoreError, match="cannot be written to"):
        Store(small_disk / "home", role="owner")


def test_a_read_only_folder_serves_reads(
    home: Path,
    key: Key,
    tokens: Tokens,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every way of writing is refused, as root is never refused by permissions alone."""
    fill(home, key, tokens)
    original = os.open

    def refuse(*arguments: Any, **more: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def open_to_read(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        return refuse() if flags & (os.O_CREAT | os.O_WRONLY) else original(path, flags, *rest)

    for name in ("replace", "unlink", "mkdir", "utime", "rename"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(os, "open", open_to_read)
    with Store(home) as store:
        assert not store.is_owner
        assert not store.flush(timeout=0.5)
        assert store.get(key(1)) is not None
        assert store.contains(key(2))
        assert len(store.entries()) == 5
        with pytest.raises(StoreError, match="cannot be written to"):
            store.put(key(9), {}, {})
        with pytest.raises(StoreError, match="cannot be written to"):
            store.remember("facts", {"a": 1})
    complaints = [record for record in caplog.records if "cannot be locked" in record.message]
    assert len(complaints) == 1


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("x")
    for home in (place, place / "below"):
        with pytest.raises(StoreError, match="TOKENSCOPE_HOME"):
            Store(home)
    assert place.read_text() == "x"


def test_a_home_that_vanishes(home: Path, key: Key, tokens: Tokens) -> None:
    with Store(home) as store:
        store.put(key(0), {"tokens": tokens()}, {"analysis": "a"})
        assert store.flush()
        shutil.rmtree(home / "results")
        assert store.get(key(0)) is None
        store.put(key(0), {"tokens": tokens()}, {"analysis": "a"})
        assert store.get(key(0)) is not None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def rotten_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8192:8300] = bytes(108)
    path.write_bytes(data)


def rotten_blocks(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[12_288 + 100 :] = os.urandom(len(data) - 12_388)
    path.write_bytes(data)


def rotten_log(path: Path) -> None:
    path.with_name(path.name + ".wal").write_bytes(os.urandom(5000))


def spoiled_log(path: Path) -> None:
    log, kept = path.with_name(path.name + ".wal"), path.with_name("kept")
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE results SET title = 'changed'")
        connection.execute("INSERT INTO contents SELECT key, 'more', 1, 0, NULL FROM results")
        shutil.copy(log, kept)
    data = bytearray(kept.read_bytes())
    for at in range(60, len(data), 50):
        data[at] ^= 0xFF
    log.write_bytes(data)


def a_text(path: Path) -> None:
    path.write_text("not a database")


def another_schema(path: Path) -> None:
    path.unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE results (something INT)")


@pytest.mark.parametrize(
    "harm",
    [cut, garbage, rotten_header, rotten_blocks, rotten_log, spoiled_log, a_text, another_schema],
)
def test_a_damaged_index_is_made_anew(
    home: Path, key: Key, tokens: Tokens, harm: Callable[[Path], None]
) -> None:
    fill(home, key, tokens)
    harm(home / "index.duckdb")
    for number in range(2):
        with Store(home) as store:
            assert complete(store), number
            assert len(store.entries()) == 5
            assert store.index_state == "ready"
    # A log that makes no sense from its first byte is what DuckDB overlooks by itself.
    assert list(home.glob("index.duckdb.damaged-*")) or harm is rotten_log


def test_damage_found_while_reading_is_mended(
    home: Path, key: Key, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(home) as store:
        for number in range(5):
            store.put(key(number), {"tokens": tokens(50)}, {"analysis": "a"})
        assert complete(store)
        index = store._owner and store._owner.ready_index()
        assert index

        class Broken:
            def cursor(self) -> Any:
                raise duckdb.IOException("Corrupt database file: computed checksum does not match")

            def close(self) -> None:
                connection.close()

        connection = index._connection
        monkeypatch.setattr(index, "_connection", Broken())
        assert len(store.entries()) == 5
        assert complete(store)
        assert store.index_state == "ready"


def test_an_index_that_kills_its_reader_is_set_aside_in_the_end(
    home: Path, key: Key, tokens: Tokens
) -> None:
    fill(home, key, tokens)
    for deaths, aside in ((1, 0), (5, 1)):
        (home / "index.opening").write_bytes(b"x" * deaths)
        with Store(home) as store:
            assert complete(store)
        assert len(list(home.glob("index.duckdb.damaged-*"))) == aside
        assert not (home / "index.opening").exists()


def test_a_newer_schema_is_left_alone(
    home: Path, key: Key, tokens: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    fill(home, key, tokens)
    with duckdb.connect(str(home / "index.duckdb")) as connection:
        connection.execute("UPDATE meta SET schema_version = 99")
    before = (home / "index.duckdb").read_bytes()
    with Store(home) as store:
        store.put(key(9), {"tokens": tokens()}, {"analysis": "a"})
        assert not store.flush(timeout=10.0)
        assert "newer TokenScope" in store.index_state
        assert store.get(key(9)) is not None
        assert len(store.entries()) == 6
        with pytest.raises(StoreError, match="newer TokenScope"):
            store.frame("SELECT 1")
        time.sleep(0.2)
    assert (home / "index.duckdb").read_bytes() == before
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "left alone" in warnings[0].message


def test_a_damaged_result_is_moved_aside_and_can_be_put_again(
    store: Store, key: Key, tokens: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        store.put(key(number), {"tokens": tokens(50)}, {"analysis": "a"})
    assert store.flush()
    paths = [store.home / "results" / key(n)[:2] / f"{key(n)}.zip" for n in range(3)]
    cut(paths[0])
    shutil.copy(paths[2], paths[1])  # a result under the name of another
    for number in (0, 1):
        assert store.get(key(number)) is None
        assert not store.contains(key(number))
        assert "is damaged" in caplog.text
        assert key(number) in caplog.text
        store.put(key(number), {"tokens": tokens(60)}, {"analysis": "a"})
        stored = store.get(key(number))
        assert stored is not None
        assert stored.tables["tokens"].num_rows == 60
    assert len(list((store.home / "damaged").iterdir())) == 2
    assert store.flush()
    counted = store.frame("SELECT count(*) AS n FROM a_tokens").to_pylist()
    assert counted == [{"n": 60 + 60 + 50}]


def test_put_replaces_a_damaged_file(store: Store, key: Key, tokens: Tokens) -> None:
    store.put(key(1), {"tokens": tokens()}, {})
    (path,) = (store.home / "results").glob("??/*.zip")
    garbage(path)
    store.put(key(1), {"tokens": tokens()}, {})
    assert store.get(key(1)) is not None


def test_a_good_file_that_took_the_place_is_not_moved(
    store: Store, key: Key, tokens: Tokens
) -> None:
    store.put(key(1), {"tokens": tokens()}, {})
    path = store.home / "results" / key(1)[:2] / f"{key(1)}.zip"
    seen = path.stat()
    good = path.read_bytes()
    path.rename(path.with_suffix(".old"))  # keeps the number of the old file taken
    path.write_bytes(good)
    shelf.move_aside(files.Layout(store.home), path, seen)
    assert path.read_bytes() == good
    shelf.move_aside(files.Layout(store.home), path, path.stat())
    assert not path.exists()


def test_a_result_of_a_newer_version_stays_where_it_is(
    store: Store, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("cache.results.RESULT_FORMAT", 99)
        store.put(key(1), {}, {})
    assert store.get(key(1)) is None
    assert store.contains(key(1))


def test_leftovers_of_dead_processes_are_removed(home: Path, key: Key, tokens: Tokens) -> None:
    fill(home, key, tokens)
    folder = next((home / "results").iterdir())
    old, fresh = folder / f".{key(1)}.zip.1-a.tmp", folder / f".{key(2)}.zip.2-b.tmp"
    rotten = home / "damaged" / "old.zip"
    rotten.parent.mkdir()
    for path in (old, fresh, rotten):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3700,) * 2)
    os.utime(rotten, (time.time() - 31 * 86400,) * 2)
    with Store(home, role="client") as client:
        assert client.total_bytes() == sum(f.bytes for f in files.list_results(home / "results"))
    assert old.exists()
    with Store(home) as store:
        assert complete(store)
    assert not old.exists()
    assert fresh.exists()
    assert not rotten.exists()


def test_a_lock_is_exclusive_and_ends_with_its_holder(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "lock"
    holder = start(
        "from pathlib import Path; from cache.locks import ProcessLock\n"
        "lock = ProcessLock(Path(sys.argv[1])); print(lock.try_acquire(), flush=True)\n"
        "sys.stdin.readline()",
        path,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "True"
    lock = ProcessLock(path)
    assert not lock.try_acquire()
    assert not lock.held
    with pytest.raises(StoreError, match="keeps"):
        lock.acquire(timeout=0.05)
    holder.kill()
    holder.wait()
    lock.acquire(timeout=5.0)
    assert lock.held
    assert not ProcessLock(path).try_acquire()
    lock.release()
    assert ProcessLock(path).try_acquire()


def test_only_the_last_damaged_index_is_kept(home: Path, key: Key, tokens: Tokens) -> None:
    fill(home, key, tokens)
    (home / "index.duckdb.damaged-1").write_text("older")
    indexfile.set_aside(files.Layout(home))
    (kept,) = home.glob("index.duckdb.damaged-*")
    assert kept.read_bytes()[8:12] == b"DUCK"
    assert not (home / "index.duckdb").exists()
