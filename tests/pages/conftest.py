"""One store for all page tests of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine


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
