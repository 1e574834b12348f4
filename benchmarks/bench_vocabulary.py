"""The audit of a production vocabulary, and detectors over a large text against encoding it."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from engine.result import Request
from engine.running import run as answer
from engine.tokenizer import TokenizerSpec, installed, load_spec, reference
from engine.tokenizer.corpusfindings import Findings
from engine.tokenizer.counting import Reader
from engine.workspace import Workspace

_ROOT = Path(__file__).resolve().parent.parent
_PART = "vocabulary"


def _tekken() -> Path | None:
    """Tekken's file, of mistral-common or below the folder TOKENSCOPE_MISTRAL names."""
    given = os.environ.get("TOKENSCOPE_MISTRAL")
    found = sorted(Path(given).rglob("tekken_240718.json")) if given else []
    found += [entry.path for entry in installed() if entry.name == "tekken_240718"]
    return found[0] if found else None


def _documents(size: int) -> list[str]:
    """Python sources as documents, over and over again up to ``size`` bytes."""
    packages = Path(os.__file__).parent
    sources: list[str] = []
    total = 0
    for path in sorted(packages.rglob("*.py")):
        text = path.read_text("utf-8", errors="replace")
        sources.append(text)
        total += len(text.encode())
        if total >= size:
            return sources
    return (sources * (size // max(1, total) + 1))[: len(sources) * size // max(1, total)]


def _audit(path: Path) -> Iterator[dict[str, str]]:
    ref = reference(path)
    with tempfile.TemporaryDirectory() as home, Workspace(home) as workspace:
        start, used = time.perf_counter(), time.process_time()
        result = answer(Request("tokenizer.vocabulary", ref, None, {}), workspace=workspace)[0]
        wall, used = time.perf_counter() - start, time.process_time() - used
    ids = result.table("ids")
    open_ = ids["reachable"].to_pylist().count("undecided")
    yield {
        "part": _PART,
        "what": f"audit of {ids.num_rows:,} ids, {open_} of them left open (wall)",
        "target": "<= 3.5 s",
        "measured": f"{wall:.2f} s",
    }
    yield {
        "part": _PART,
        "what": "the same, processor time",
        "target": "",
        "measured": f"{used:.2f} s",
    }


def _corpus(spec: TokenizerSpec, size: int) -> Iterator[dict[str, str]]:
    documents = _documents(size)
    total = sum(len(text.encode()) for text in documents)
    some = documents[:: max(1, total // 4_000_000)]
    part = sum(len(text.encode()) for text in some)
    start = time.process_time()
    for text in some:
        spec.encode_ids([text])
    encoding = (time.process_time() - start) / part
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    findings = Findings(spec)
    reader = Reader(spec, (findings,))
    start = time.process_time()
    for text in documents:
        reader.read(text)
        findings.document(text)
    reader.flush()
    counting = (time.process_time() - start) / total
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    yield {
        "part": _PART,
        "what": f"counts and detectors over {total / 1e6:.0f} MB, time over that of encoding",
        "target": "<= 3",
        "measured": f"{counting / encoding:.2f}",
    }
    yield {
        "part": _PART,
        "what": f"memory it took beside the text, {reader.counts.forms:,} different pre-tokens",
        "target": "bounded",
        "measured": f"{grown:.0f} MB",
    }


def run(quick: bool = False) -> Iterator[dict[str, str]]:
    """Rows for ``make bench``."""
    path = _tekken()
    if path is None:
        yield {
            "part": _PART,
            "what": "Tekken is not installed (pip install mistral-common)",
            "target": "<= 3.5 s",
            "measured": "not measured",
        }
        path = _ROOT / "demo" / "models" / "demo"
    else:
        yield from _audit(path)
    yield from _corpus(load_spec(path), 4_000_000 if quick else 100_000_000)
