"""The gallery: stories the bundled models answered, with their results computed beforehand.

``python -m demo.gallery`` writes ``demo/gallery/items.jsonl`` and ``demo/gallery/results/``
(``engine.gallery`` says what is in them). Pages open on these without torch; run it again after
retraining, or when an analysis's version changes. Everything is chosen by rules, so another model
gives another gallery; if nothing fits, it says what to raise. ``--home FOLDER`` keeps the work
between runs; ``--explain`` leaves the texts as they are and makes only what Attribution, Flow
and Tokenizer open on anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow.compute as pc

from demo import causes, explained
from demo.blame import whatif_request
from demo.curiosities import CURIOSITIES
from demo.examples import MODELS, choose, groups
from demo.packing import pack
from demo.stories import problems
from engine import (
    Group,
    Request,
    Text,
    Trace,
    UserError,
    encode,
    group_from_samples,
    open_rollouts,
    run,
    write_rollouts,
)
from engine.answers import check, response_text
from engine.critical.value import value_request
from engine.gallery import Culprit, gallery
from engine.subjects import TokenizerRef
from engine.workspace import GALLERY, Workspace

ROOT = Path(__file__).resolve().parents[1]

LONG = 1_500
"""Tokens of the long text, at least."""

WRONG = 24
"""Wrong answers, taken as they come, over which the scores are compared."""

CAUSES = 24
"""Right answers, taken as they come, whose true causes are known."""

WRONG_LEVEL = 3
"""Steps of their stories."""

VALUED = ("solved", "solved-multidigit")
"""Right stories whose value curve is computed, too."""

LEAST = {"trace": 12, "wrong": 4}
"""Items a gallery must have."""


def main() -> None:
    """Make the gallery anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--home", type=Path, help="folder that keeps the work between runs")
    families = list(explained.FAMILIES)
    parser.add_argument(
        "--explain", nargs="*", choices=families, metavar="FAMILY",
        help=f"only these families of analyses ({', '.join(families)}; all by default)",
    )  # fmt: skip
    parsed = parser.parse_args()
    given = parsed.home
    if parsed.explain is not None:
        _explain(given, parsed.explain or families)
        return
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "gallery"
        # What the gallery holds now may be of older code.
        with Workspace(given or temporary, role="client", gallery=False) as workspace:
            items = _items(workspace)
            _write(items, made, workspace)
            for model in MODELS:
                _compare(model, made, workspace)
                _explain_model(model, explained.FAMILIES, made, workspace)
        shutil.rmtree(GALLERY, ignore_errors=True)
        shutil.copytree(made, GALLERY)
    size = sum(file.stat().st_size for file in GALLERY.rglob("*") if file.is_file())
    _tell(f"{len(items)} items, {size / 1024:.0f} KiB, {time.process_time():.0f} CPU seconds")


def _explain(home: Path | None, families: Sequence[str]) -> None:
    """Results about the texts as they are; those of older code are taken away."""
    for file in (GALLERY / "results").rglob("*.zip"):
        with zipfile.ZipFile(file) as result:
            analysis = orjson.loads(result.read("meta.json"))["meta"]["analysis"]
        if analysis.split(".")[0] in families:
            file.unlink()
    with (
        tempfile.TemporaryDirectory() as temporary,
        Workspace(home or temporary, role="client", gallery=False) as workspace,
    ):
        for item in gallery():
            asked = explained.requests(item.name, item.trace, item.model, item.expected)
            _store(asked, families, GALLERY, workspace)
            _tell(f"{item.name}: explained")
        for model in MODELS:
            _explain_model(model, families, GALLERY, workspace)


def _store(
    requests: Iterable[Request], families: Sequence[str], folder: Path, workspace: Workspace
) -> None:
    wanted = [r for r in requests if r.analysis.split(".")[0] in families]
    for result in run(*wanted, workspace=workspace):
        pack(workspace, result.key, folder / "results")


def _explain_model(model: str, families: Sequence[str], folder: Path, workspace: Workspace) -> None:
    """Right answers as they come, with their true causes; what holds of the tokenizer."""
    file = folder / f"causes-{model}.jsonl"
    subject = causes.rollouts(model, CAUSES, file, workspace)
    requests = [Request(name, subject, model) for name in explained.OVER_CAUSES]
    planned = workspace.plan_model(model)
    # By the project's folder: a stored result names no path of this machine.
    place = os.path.relpath(planned.located.tokenizer_path, ROOT)
    ref = TokenizerRef(path=place, tokenizer=planned.tokenizer.digest, title=model)
    _store([*requests, *explained.of_model(model, ref)], families, folder, workspace)
    _tell(f"{model}: explained, with the true causes of {CAUSES} right answers")


def _items(workspace: Workspace) -> list[dict[str, Any]]:
    used: set[str] = set()
    items = []
    for item in choose(workspace, used, _tell):
        items.append(item)
        if item["name"] == "solved":
            items.append(_recut(workspace, item))
    wrong = sum(item.get("culprit") is not None for item in items)
    if wrong < LEAST["wrong"]:
        raise SystemExit(f"Only {wrong} wrong stories fit: raise STORIES or SAMPLES.")
    items += groups(workspace, used)
    items.append(_long(workspace))
    for each in CURIOSITIES:
        trace = encode(each.text, each.model, workspace)
        items.append(_item(each.name, each.title, each.description, each.model, trace))
    if sum("trace" in item for item in items) < LEAST["trace"]:
        raise SystemExit("Too few traces fit: raise STORIES or SAMPLES.")
    return items


def _recut(workspace: Workspace, solved: dict[str, Any]) -> dict[str, Any]:
    """The same words in the tokens of the other model."""
    trace, model = solved["trace"], "demo-multidigit"
    text = Text(prompt=trace.prompt_text, response=response_text(trace))
    return {
        **_item(
            "solved-recut",
            f"{solved['title']}, cut otherwise",
            "The very same words as the story before it, but numbers are in one piece.",
            model,
            encode(text, model, workspace),
        ),
        "expected": solved["expected"],
    }


def _long(workspace: Workspace) -> dict[str, Any]:
    stream = problems("gallery:long", "test", 2)
    first = next(stream)
    told = first.response
    while True:
        trace = encode(Text(prompt=first.prompt, response=told), "demo", workspace)
        if len(trace) >= LONG:
            return _item(
                "long",
                "Many stories in a row",
                "Far longer than anything the model learned from: watch its surprise grow.",
                "demo",
                trace,
            )
        told += f"\n{next(stream).text}"


def _item(name: str, title: str, description: str, model: str, trace: Trace) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "description": description,
        "model": model,
        "trace": trace.evolve(title=title),
    }


def _write(items: list[dict[str, Any]], folder: Path, workspace: Workspace) -> None:
    """Write items and results, each result as small as it gets."""
    (folder / "results").mkdir(parents=True)
    for item in items:
        model, group = item["model"], item.get("group")
        trace = item["trace"] if group is None else group.rollouts[item["shown"]]
        subjects = [trace, *(s for s in (group, item.get("branch")) if s is not None)]
        requests = [Request("statistics", subject, model) for subject in subjects]
        culprit = item.get("culprit")
        if culprit is not None or item["name"] in VALUED:
            requests.append(value_request(trace, model, item["expected"]))
            requests.append(Request("critical.contrast", trace, model))
        if culprit is not None:
            known = {"answer": item["expected"]}
            requests += _fitted(trace, model, known, workspace)
            requests.append(Request("critical.agreement", trace, model, known))
            requests.append(whatif_request(trace, model, item["expected"], culprit.position))
        if group is not None:
            requests += _rewards(group, model, workspace)
        requests += explained.requests(item["name"], trace, model, item.get("expected"))
        for result in run(*requests, workspace=workspace):
            pack(workspace, result.key, folder / "results")
        rollouts = (trace,) if group is None else group.rollouts
        _tell(f"{item['name']}: {item['title']}, {sum(map(len, rollouts)):,} tokens")
        record = {"kind": "trace" if group is None else "group", **item}
        with (folder / "items.jsonl").open("ab") as file:
            plain = {key: _plain(value) for key, value in record.items()}
            file.write(orjson.dumps(plain, option=orjson.OPT_APPEND_NEWLINE))


def _rewards(group: Group, model: str, workspace: Workspace) -> list[Request]:
    """What the Rewards page opens on: hidden rewards, and the largest one taken apart."""
    thr = Request("reward.thr", group, model)
    (result,) = run(thr, workspace=workspace)
    tokens = result.table("tokens")
    size = pc.abs(tokens["influence"])
    (best,) = tokens.slice(pc.index(size, pc.max(size)).as_py(), 1).to_pylist()
    chosen = {"rollout": best["rollout"], "position": best["position"]}
    return [
        thr,
        Request("reward.effects", group, model, chosen),
        Request("reward.step", group, model),
        Request("reward.agreement", group, model),
    ]


def _fitted(trace: Trace, model: str, known: dict[str, Any], workspace: Workspace) -> list[Request]:
    """A pair for this prompt, where its samples hold both right and wrong ones."""
    request = Request("critical.fitted", trace, model, known)
    try:
        run(request, workspace=workspace)
    except UserError as error:
        _tell(f"no pair: {error}")
        return []
    return [request]


def _compare(model: str, folder: Path, workspace: Workspace) -> None:
    """Wrong answers as they come, and where each score would have looked in them.

    The stories above were chosen for a sharp fall; these were not, so they say how often.
    """
    file = folder / f"wrong-{model}.jsonl"
    write_rollouts(file, islice(_wrong_answers(model, workspace), WRONG))
    began = time.monotonic()
    request = Request("critical.agreement", open_rollouts(file), model)
    (result,) = run(request, workspace=workspace)
    pack(workspace, result.key, folder / "results")
    rows = result.table("scores").to_pylist()
    said = ", ".join(f"{row['score']} {row['first']:.2f}/{row['first_three']:.2f}" for row in rows)
    _tell(f"{model}: first/first three: {said} ({time.monotonic() - began:.0f} s)")


def _wrong_answers(model: str, workspace: Workspace) -> Iterator[Group]:
    """The first answer to every story, where it ends and is wrong."""
    for problem in problems("gallery:wrong", "test", WRONG_LEVEL):
        asked = Request("generate", Text(prompt=problem.prompt), model, {"n": 1})
        (trace,) = group_from_samples(run(asked, workspace=workspace)[0]).rollouts
        expected = str(problem.answer)
        finished = trace.sampling is not None and trace.sampling.finish == "stop"
        if finished and check(trace, expected) is False:
            yield Group(rollouts=(trace,), rewards=(0.0,), expected=expected)


def _plain(value: Any) -> Any:
    if isinstance(value, Trace | Group):
        return value.model_dump(mode="json", exclude_defaults=True)
    return asdict(value) if isinstance(value, Culprit) else value


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
