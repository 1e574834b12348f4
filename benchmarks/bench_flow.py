"""The answer-targeted flow against SciPy's triangular solve and against the forward it follows.

Run alone: ``python -m benchmarks.bench_flow [--quick]``. Works take turns in one process on one
thread, and the best of several rounds counts, in CPU seconds. The model has the bundled model's
shape and random weights.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch

from benchmarks.bench_models import best_of, bundled_shape
from engine.flow.edges import flow_of, shares_needed
from engine.flow.export import to_json
from engine.flow.recurrences import inflow, reach
from engine.flow.rhythm import Measuring, RhythmParams
from engine.models import LoadedModel
from engine.result import Request
from engine.running import run as run_requests
from engine.subjects import Span, Trace, simple_turns
from engine.workspace import Workspace

MOST = 200_000


def text(length: int, vocabulary: int = 1000) -> Trace:
    """Random ids with a question in front and an answer at the end."""
    ids = np.random.default_rng(0).integers(3, min(vocabulary, 250), length).tolist()
    return Trace(
        ids=tuple(ids),
        pieces=tuple(b"x" for _ in ids),
        tokenizer=None,
        ids_origin="generated",
        response_start=length // 8,
        turns=simple_turns(length, length // 8),
        spans={
            "question": Span(start=1, end=length // 8),
            "answer": Span(start=length - 4, end=length - 1),
        },
    )


def whole(model: LoadedModel, trace: Trace) -> np.ndarray:
    """All that ``flow.backbone`` computes, tables aside; returns the aggregated weights."""
    layers = list(range(model.layers // 3, -(-2 * model.layers // 3)))
    rows = model.attention(trace.ids, layers=layers).numpy()[: len(trace) - 1, : len(trace) - 1]
    answers, source = ends(trace)
    flow = flow_of(rows, reach(rows, answers), source, MOST)
    shares_needed(flow.edges, flow.crossing)
    return rows


def ends(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens are the answer, and what is injected where."""
    n = trace.spans["answer"].end
    answers, source = np.zeros(n, bool), np.zeros(n)
    answers[trace.spans["answer"].start :] = True
    question = trace.spans["question"]
    source[question.start : question.end] = 1 / len(question)
    return answers, source


def speed(model: LoadedModel, length: int, rounds: int) -> list[dict[str, Any]]:
    """Recurrences, edges and everything, against a solve and a forward of the same text."""
    trace = text(length)
    what = f"T = {length:,}"
    inputs = {"input_ids": torch.tensor([trace.ids]), "use_cache": False, "logits_to_keep": 1}
    answers, source = ends(trace)

    def plain() -> None:
        with torch.no_grad():
            model.forward(**inputs)

    plain()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = whole(model, trace)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    system = np.eye(len(rows)) - np.where(answers[:, None], 0.0, np.tril(rows, -1).T)
    right = answers.astype(float)

    def recurrences() -> None:
        inflow(rows, reach(rows, answers), source)

    def solve() -> np.ndarray:
        return scipy.linalg.solve_triangular(system, right, unit_diagonal=True)

    def solves() -> None:
        held = source / np.maximum(solve(), 1e-300)
        scipy.linalg.solve_triangular(system, held, trans=1, unit_diagonal=True)

    reached = reach(rows, answers)
    flow = flow_of(rows, reached, source, MOST)
    found = best_of(
        {
            "plain": plain,
            "solve": solve,
            "solves": solves,
            "reach": lambda: reach(rows, answers),
            "both": recurrences,
            "edges": lambda: flow_of(rows, reached, source, MOST),
            "shares": lambda: shares_needed(flow.edges, flow.crossing),
            "whole": lambda: whole(model, trace),
            "rhythm": lambda: model.visit_attention(
                trace.ids, Measuring(length, length // 8, RhythmParams())
            ),
        },
        rounds,
    )
    took = {name: seconds for name, (seconds, _) in found.items()}
    return [
        row(
            f"reach against SciPy's triangular solve, {what}", "<= 2", took["reach"] / took["solve"]
        ),
        row(f"both recurrences against both solves, {what}", "<= 2", took["both"] / took["solves"]),
        row(
            f"both recurrences against the forward, {what}", "<= 0.05", took["both"] / took["plain"]
        ),
        row(f"flow of all edges, {what}, CPU seconds", "", took["edges"]),
        row(f"backbone shares of {len(flow.edges):,} edges, CPU seconds", "", took["shares"]),
        row(f"plain forward, {what}, CPU seconds", "", took["plain"]),
        row(f"backbone with its forward, {what}, CPU seconds", "", took["whole"]),
        row(f"backbone against the forward, {what}", "<= 8", took["whole"] / took["plain"]),
        row(f"rhythm against the forward, {what}", "", took["rhythm"] / took["plain"]),
        row(f"peak memory of the process, {what}, MB", "<= 1536", peak / 1024),
        row(f"peak memory added, {what}, MB", "", (peak - before) / 1024),
    ]


def size(folder: Path) -> list[dict[str, Any]]:
    """Bytes of the JSON export at 256 tokens, and how much of the flow is in it."""
    import orjson

    trace = text(256)
    with Workspace(folder / "home") as workspace:
        asked = Request("flow.backbone", trace, str(folder / "model"))
        data = to_json(run_requests(asked, workspace=workspace)[0])
    left = orjson.loads(data)["flow_left_out"]
    return [
        row("JSON at 256 tokens, MB", "<= 1", len(data) / 1e6),
        row("share of all edges' flow that is not in it", "", left),
    ]


def row(what: str, target: str, measured: float) -> dict[str, Any]:
    """Return one line of the table, three significant digits."""
    return {"part": "flow", "what": what, "target": target, "measured": float(f"{measured:.3g}")}


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows (part, what, target, measured)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = bundled_shape(Path(folder) / "model")
            rows = size(Path(folder))
            for length in (1024,) if quick else (1024, 4096):
                rows += speed(model, length, 3 if quick else 5)
            return rows
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    for line in run("--quick" in sys.argv):
        print(f"{line['what']:<62}{line['target']:>10}{line['measured']:>12}")
