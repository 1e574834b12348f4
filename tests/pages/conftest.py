"""One store and one world for all page tests of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine
from tests.pages import world


@pytest.fixture(scope="session")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The stand-in's folder, None where model and gallery are shipped."""
    if world.shipped():
        return None
    folder = tmp_path_factory.mktemp("world")
    command = [sys.executable, "-m", "tests.pages.world", str(folder)]
    subprocess.run(command, cwd=world.ROOT, check=True)
    return folder


@pytest.fixture(scope="session")
def app_home(world_folder: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of its own for this process's default workspace."""
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("TOKENSCOPE_HOME")
    os.environ["TOKENSCOPE_HOME"] = str(home)
    if world_folder is not None:
        world.install(world_folder)
    engine.default_workspace.cache_clear()
    yield home
    engine.default_workspace().close()
    engine.default_workspace.cache_clear()
    if before is None:
        del os.environ["TOKENSCOPE_HOME"]
    else:
        os.environ["TOKENSCOPE_HOME"] = before
