"""A workspace of its own for each test, and a tiny model to ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.workspace import Workspace
from tests.engine.tiny import tiny_folder


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as made:
        yield made


@pytest.fixture(scope="session")
def llama() -> str:
    return str(tiny_folder("llama"))
