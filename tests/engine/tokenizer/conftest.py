"""A tiny model that reads a toy tokenizer with many spellings for a string."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.tiny import tiny_model
from tests.engine.tokenizer.toys import source, toy


def model_folder(path: Path, kind: str, bos: bool) -> str:
    """A tiny random model with a toy's tokenizer; with ``bos`` its first token goes in front."""
    tiny_model("llama", vocab=max(300, toy(kind).size), path=path)
    tree = json.loads(source(kind))
    if bos:
        first = next(t for t in tree["added_tokens"] if t["id"] == 0)["content"]
        special = {first: {"id": first, "ids": [0], "tokens": [first]}}
        around = [
            {"SpecialToken": {"id": first, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ]
        tree["post_processor"] = {
            "type": "TemplateProcessing",
            "single": around,
            "pair": [*around, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": special,
        }
    (path / "tokenizer.json").write_text(json.dumps(tree), "utf-8")
    return str(path)


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Reads ``byte_bpe``, with a token in front of every text."""
    return model_folder(tmp_path_factory.mktemp("models") / "toy", "byte_bpe", bos=True)


@pytest.fixture(scope="session")
def bare_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same without a token in front."""
    return model_folder(tmp_path_factory.mktemp("models") / "bare", "byte_bpe", bos=False)
