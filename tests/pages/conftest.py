"""One store for all page tests of a process, and every page as a cold process opens it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine
from cache.locks import ProcessLock
from tests.pages.cold import Cold
from tests.pages.navigation import ROOT


@pytest.fixture(scope="session")
def app_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of its own for this process's default workspace."""
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("TOKENSCOPE_HOME")
    os.environ["TOKENSCOPE_HOME"] = str(home)
    engine.default_workspace.cache_clear()
    yield home
    engine.default_workspace().close()
    engine.default_workspace.cache_clear()
    if before is None:
        del os.environ["TOKENSCOPE_HOME"]
    else:
        os.environ["TOKENSCOPE_HOME"] = before


@pytest.fixture
def empty_home(app_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """For a test that leaves results behind: a store of its own, then the shared one again."""
    engine.default_workspace().close()
    engine.default_workspace.cache_clear()
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    engine.default_workspace().close()
    engine.default_workspace.cache_clear()


@pytest.fixture(scope="session")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Cold:
    """What each page shows its first visitor, in a process of its own (:mod:`tests.pages.cold`).

    Seen once for all workers of a run: the folder above a worker's own is theirs in common.
    """
    home = tmp_path_factory.mktemp("cold")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return _seen(home)
    kept = tmp_path_factory.getbasetemp().parent / "cold.json"
    lock = ProcessLock(kept.with_suffix(".lock"))
    lock.acquire(timeout=300)
    try:
        if not kept.is_file():
            kept.write_text(json.dumps(_seen(home)), encoding="utf-8")
    finally:
        lock.release()
    found: Cold = json.loads(kept.read_text(encoding="utf-8"))
    return found


def _seen(home: Path) -> Cold:
    done = subprocess.run(
        [sys.executable, "-m", "tests.pages.cold"],
        cwd=ROOT,
        env={**os.environ, "TOKENSCOPE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: Cold = json.loads(done.stdout.splitlines()[-1])
    return found
