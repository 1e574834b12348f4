"""Group commit: everybody's file is whole, everybody hears of his own failure."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache import commit
from cache.commit import GroupCommit


def write_together(group: GroupCommit, folder: Path, count: int) -> list[BaseException | None]:
    """Write ``count`` files at the same time; what each writer met."""
    start = threading.Barrier(count)

    def one(number: int) -> BaseException | None:
        start.wait()
        try:
            group.write(folder / f"{number}.zip", bytes([number]) * 1000)
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_all_files_are_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    group = GroupCommit()
    for turn in range(5):
        folder = tmp_path / str(turn)  # not made yet
        assert write_together(group, folder, 12) == [None] * 12
        names = sorted(folder.iterdir())
        assert len(names) == 12
        for path in names:
            assert path.read_bytes() == bytes([int(path.stem)]) * 1000


def test_a_failed_flush_is_everybodys_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(commit, "SHARED_FROM", 1)
    monkeypatch.setattr(commit, "_flush_file_system", lambda: refuse)
    met = write_together(GroupCommit(), tmp_path, 6)
    assert [type(error) for error in met] == [OSError] * 6
    assert list(tmp_path.iterdir()) == []


def test_one_refused_file_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def refuse(source: str, target: str) -> None:
        if str(target).endswith("3.zip"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(commit, "SHARED_FROM", 1)
    monkeypatch.setattr(os, "replace", refuse)
    met = write_together(GroupCommit(), tmp_path, 6)
    assert [n for n, error in enumerate(met) if error is not None] == [3]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n}.zip" for n in (0, 1, 2, 4, 5)]


def test_a_leader_who_dies_leaves_nobody_waiting_or_deceived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def die(batch: list[object]) -> None:
        calls.append(len(batch))
        raise MemoryError

    monkeypatch.setattr(commit, "_write_all", die)
    met = write_together(GroupCommit(), tmp_path, 8)
    assert sum(calls) == 8
    assert all(isinstance(error, MemoryError | OSError) for error in met)
