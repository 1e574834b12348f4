"""A small world for page tests: a random demo model and a gallery whose results are stored.

Used until model and gallery are shipped with the source; from then on the real ones are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

ROOT = Path(__file__).parents[2]
PROMPT = "Question: Ann has 3 pens and buys 4. How many?\n"
RESPONSE = "Solution: 3+4=8.\nAnswer: 8"


def shipped() -> bool:
    """Whether the real gallery and the real demo model are there."""
    weights = ROOT / "demo" / "models" / "demo" / "model.safetensors"
    return weights.is_file() and (ROOT / "demo" / "gallery" / "items.jsonl").is_file()


def build(folder: Path) -> None:
    """Make model and gallery below ``folder``; imports torch, so run it in its own process."""
    from tests.engine.tiny import tiny_model

    tiny_model("llama", path=folder / "models" / "demo")
    install(folder)
    import engine

    text = engine.Text(prompt=PROMPT, response=RESPONSE, title="Ann's pens")
    with engine.Workspace(folder / "build") as workspace:
        trace = engine.encode(text, "demo", workspace)
        request = engine.Request("statistics", trace, {"model": "demo"}, {"top_k": 20})
        (result,) = engine.run(request, workspace=workspace)
        source = next((folder / "build").rglob(f"{result.key}.zip"))
        target = folder / "gallery" / "results" / result.key[:2] / source.name
        target.parent.mkdir(parents=True)
        source.rename(target)
    item = {
        "name": "ann",
        "title": "Ann’s pens",
        "description": "A short story, solved wrongly.",
        "model": "demo",
        "expected": "7",
        "trace": trace.model_dump(mode="json"),
    }
    (folder / "gallery" / "items.jsonl").write_bytes(orjson.dumps(item) + b"\n")


def install(folder: Path) -> None:
    """Let this process see that model and gallery in place of the shipped ones."""
    import engine.catalogue
    import engine.workspace

    engine.catalogue.BUNDLED_FOLDER = folder / "models"
    engine.workspace.GALLERY = folder / "gallery"
    sys.modules["engine.gallery"].GALLERY = folder / "gallery"  # type: ignore[attr-defined]
    sys.modules["engine.gallery"].gallery.cache_clear()  # type: ignore[attr-defined]


if __name__ == "__main__":
    build(Path(sys.argv[1]))
