"""The gallery: stories the bundled models answered, with their results computed beforehand.

``python -m demo.gallery`` writes ``demo/gallery/items.jsonl`` and ``demo/gallery/results/``. Pages
open on these without torch; run it again after retraining, or when an analysis's version changes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from demo.stories import Problem, gallery_problems
from demo.verify import Verdict, verify
from engine import Request, Text, Trace, encode, group_from_samples, run
from engine.records import TRACE_SCHEMA
from engine.workspace import GALLERY, Workspace

SAMPLES = 16
PROBLEMS = 40
WANTED = ("statistics",)
"""Analyses whose default results every item carries."""


@dataclass(frozen=True)
class Pick:
    """One kind of example: the first sample that fits becomes the item."""

    name: str
    model: str
    title: str
    description: str
    fits: Callable[[Verdict], bool]


def _kinds(verdict: Verdict) -> tuple[str, ...]:
    return tuple(error.kind for error in verdict.step_errors)


PICKS = (
    Pick(
        "solved",
        "demo",
        "{name}: solved",
        "A story of four steps, solved. Where was the model in doubt, and where certain?",
        lambda v: v.correct and not v.step_errors,
    ),
    Pick(
        "wrong-sum",
        "demo",
        "{name}: one wrong digit",
        "Every step is the right one, but one result is miscalculated. Look for the surprise.",
        lambda v: not v.correct and _kinds(v) == ("arithmetic",),
    ),
    Pick(
        "wrong-operand",
        "demo",
        "{name}: a wrong number",
        "One step calculates with a number that does not belong there.",
        lambda v: not v.correct and _kinds(v) == ("operands",),
    ),
    Pick(
        "wrong-operation",
        "demo",
        "{name}: a wrong operation",
        "One step does something the story does not ask for.",
        lambda v: not v.correct and _kinds(v) == ("operation",),
    ),
    Pick(
        "solved-multidigit",
        "demo-multidigit",
        "{name}: solved, whole numbers as tokens",
        "The sibling model that reads and writes numbers in one piece.",
        lambda v: v.correct and not v.step_errors,
    ),
    Pick(
        "wrong-multidigit",
        "demo-multidigit",
        "{name}: wrong, whole numbers as tokens",
        "With numbers in one piece the mistakes are of another kind.",
        lambda v: not v.correct and len(v.step_errors) == 1,
    ),
)

CURIOSITIES = (
    (
        "unicode",
        "Naïve café 🤗",
        "Text the model never saw: accents and an emoji fall apart into bytes.",
        Text(
            prompt="Question: Zoë\u00a0has 3 cafés ☕ and\ta 🤗. How many?\n", response="3\u200b?"
        ),
    ),
)


def _answers(workspace: Workspace, problem: Problem, model: str) -> Iterator[tuple[Trace, Verdict]]:
    request = Request("generate", Text(prompt=problem.prompt), model, {"n": SAMPLES, "seed": 0})
    result = run(request, workspace=workspace)[0]
    texts = result.table("samples")["text"].to_pylist()
    for trace, said in zip(group_from_samples(result).rollouts, texts, strict=True):
        yield trace, verify(problem, said)


def _name(problem: Problem) -> str:
    words = problem.question.split(".")[0].split()
    return " ".join(words[:6]).rstrip(",") + (" …" if len(words) > 6 else "")


def _find(workspace: Workspace, pick: Pick, used: set[str]) -> dict[str, object]:
    for problem in gallery_problems(PROBLEMS):
        if problem.prompt in used:
            continue
        for trace, verdict in _answers(workspace, problem, pick.model):
            ended = trace.sampling is not None and trace.sampling.finish == "stop"
            if pick.fits(verdict) and ended:
                used.add(problem.prompt)
                return _item(
                    pick.name,
                    pick.title.format(name=_name(problem)),
                    pick.description,
                    pick.model,
                    trace,
                    str(problem.answer),
                )
    raise SystemExit(f"no sample fits {pick.name!r}: raise PROBLEMS or SAMPLES")


def _item(
    name: str, title: str, description: str, model: str, trace: Trace, expected: str | None
) -> dict[str, object]:
    return {
        "name": name,
        "title": title,
        "description": description,
        "model": model,
        "expected": expected,
        "trace": trace.evolve(title=title),
    }


def main() -> None:
    """Make the gallery anew."""
    with tempfile.TemporaryDirectory() as folder, Workspace(folder, role="client") as workspace:
        used: set[str] = set()
        items = [_find(workspace, pick, used) for pick in PICKS]
        for name, title, description, text in CURIOSITIES:
            made = encode(text, "demo", workspace)
            items.append(_item(name, title, description, "demo", made, None))
        results = GALLERY / "results"
        shutil.rmtree(GALLERY, ignore_errors=True)
        results.mkdir(parents=True)
        with (GALLERY / "items.jsonl").open("wb") as file:
            for item in items:
                trace = item["trace"]
                assert isinstance(trace, Trace)
                for analysis in WANTED:
                    request = Request(analysis, trace, str(item["model"]))
                    key = run(request, workspace=workspace)[0].key
                    _copy(Path(folder), results, key)
                record = {**item, "trace": trace.model_dump(mode="json")}
                file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
                print(f"{item['name']}: {len(trace)} tokens, {item['title']}")
    size = sum(f.stat().st_size for f in GALLERY.rglob("*") if f.is_file())
    print(f"{len(items)} items ({TRACE_SCHEMA}), {size / 1024:.0f} KiB")


def _copy(home: Path, results: Path, key: str) -> None:
    """Move a result file of a store to the gallery, under the same name."""
    source = home / "results" / key[:2] / f"{key}.zip"
    target = results / key[:2] / f"{key}.zip"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
