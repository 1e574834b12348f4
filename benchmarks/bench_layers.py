"""Layers: the lens, routes, geometry and the causal check against a plain forward pass.

Run alone: ``python -m benchmarks.bench_layers [--quick]``. All on the bundled model in one process,
one thread, CPU seconds, the best of a few repeats; whole requests, tables and store included. The
texts are random ids, so that nothing is found in the store.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.bench_critical import bundled, threads
from benchmarks.bench_reward import best
from engine.encode import trace_from_ids
from engine.flow.layerparts import read_parts
from engine.flow.streams import read_streams
from engine.gallery import gallery
from engine.loaded import LoadedModel
from engine.result import Request
from engine.running import run as run_requests
from engine.subjects import Trace
from engine.workspace import Workspace

LENGTH = 256
"""Tokens of the text."""

LONG = 4096
"""Tokens of the text whose memory is measured."""


def row(what: str, measured: float | str, target: str = "") -> dict[str, Any]:
    """Return one line of the table, three significant digits."""
    shown = measured if isinstance(measured, str) else float(f"{measured:.3g}")
    return {"part": "layers", "what": what, "target": target, "measured": shown}


class Asking:
    """Asks the bundled model about texts never seen before."""

    def __init__(self, model: LoadedModel, workspace: Workspace) -> None:
        self._model, self._workspace = model, workspace
        self._drawn = torch.Generator().manual_seed(0)
        self._tokenizer = workspace.plan_model("demo").tokenizer

    def text(self, length: int) -> Trace:
        """Random ids, BOS in front."""
        drawn = torch.randint(16, self._model.real_vocab, (length - 1,), generator=self._drawn)
        bos = int(self._model.model.config.bos_token_id)
        return trace_from_ids([bos, *drawn.tolist()], self._tokenizer, response_start=length // 2)

    def ask(self, analysis: str, subject: Any, **params: Any) -> Any:
        """The result of one request."""
        request = Request(analysis, subject, "demo", params)
        return run_requests(request, workspace=self._workspace)[0]


def times(asking: Asking, model: LoadedModel, repeats: int) -> Iterator[dict[str, Any]]:
    """Whole requests against a plain forward pass with its logits."""

    def plain() -> None:
        with torch.no_grad():
            ids = torch.tensor([asking.text(LENGTH).ids])
            model.model(input_ids=ids, use_cache=False)

    forward = best(plain, repeats)
    streams = best(lambda: read_streams(model, asking.text(LENGTH).ids), repeats)
    lens = best(lambda: asking.ask("flow.lens", asking.text(LENGTH)), repeats)
    parts = best(lambda: read_parts(model, asking.text(LENGTH).ids), repeats)
    yield row(f"plain forward pass with logits, {LENGTH} tokens: CPU ms", 1000 * forward)
    yield row("streams of all layers / forward pass", streams / forward)
    yield row(f"flow.lens, {model.layers + 1} heads, whole request / forward pass", lens / forward)
    yield row("layers taken apart (twin) / forward pass", parts / forward)
    for threshold in (0.04, 0.01):
        trace = asking.text(LENGTH)
        sums = asking.ask("flow.routes", trace, threshold=threshold).table("summary")["sums"][0]
        taken = best(
            lambda t=threshold: asking.ask("flow.routes", asking.text(LENGTH), threshold=t), repeats
        )
        what = f"flow.routes at {threshold}, about {sums} sums, whole request / forward pass"
        yield row(what, taken / forward)


def populations(asking: Asking, quick: bool) -> Iterator[dict[str, Any]]:
    """The shape of many states, and the causal check of one trace."""
    count = 512 if quick else 2048
    taken = best(lambda: asking.ask("flow.geometry", asking.text(count + 2), most=count), 1)
    yield row(f"flow.geometry of {count:,} tokens: CPU s", taken)
    stories = [i for i in gallery() if i.trace is not None and i.model == "demo"]
    story = next(i.trace for i in stories if i.trace is not None and "answer" in i.trace.spans)
    seeds = iter(range(100))
    taken = best(lambda: asking.ask("flow.causal", story, seed=next(seeds)), 2)
    yield row(f"flow.causal of one trace of {len(story)} tokens, 7 answers: CPU s", taken)


def memory(asking: Asking) -> Iterator[dict[str, Any]]:
    """Growth of the process's peak; the first call is the largest that is measured here."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    asking.ask("flow.lens", asking.text(64))
    for analysis in ("flow.lens", "flow.routes"):
        before = peak()
        asking.ask(analysis, asking.text(LONG))
        yield row(f"{analysis}, {LONG:,} tokens: MB added to the peak", peak() - before)


def run(quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the rows (part, what, target, measured)."""
    repeats = 3 if quick else 7
    with threads(1), tempfile.TemporaryDirectory() as home, Workspace(home) as workspace:
        model = bundled()
        asking = Asking(model, workspace)
        if not quick:  # first, because memory is read as the growth of the process's peak
            yield from memory(asking)
        yield from times(asking, model, repeats)
        yield from populations(asking, quick)


if __name__ == "__main__":
    for line in run("--quick" in sys.argv):
        print(f"{line['what']:70} {line['measured']!s:>10} {line['target']}", flush=True)
