"""A workspace of its own for each test, and a tiny model to ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.workspace import Workspace
from tests.engine.tiny import EOS, tiny_folder, tiny_model


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as made:
        yield made


@pytest.fixture(scope="session")
def llama() -> str:
    return str(tiny_folder("llama"))


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that likes to say 7 or 8 and to stop; a bias makes both likely everywhere."""
    path = tmp_path_factory.mktemp("models") / "seven"
    model = tiny_model("phi", path=path)
    with torch.no_grad():
        model.lm_head.weight *= 0.4
        model.lm_head.bias[EOS] += 9
        model.lm_head.bias[ord("7")] += 9
        model.lm_head.bias[ord("8")] += 8
    model.save_pretrained(path)
    return str(path)
