"""``statistics`` against the bare forward pass of the same tokens, and a store hit."""

from __future__ import annotations

import statistics as st
import tempfile
import time
from collections.abc import Callable, Iterator

import torch

from engine.encode import trace_from_ids
from engine.result import Request
from engine.running import run as answer
from engine.subjects import Trace
from engine.workspace import Workspace


def _ids(size: int, count: int, seed: int) -> list[int]:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(3, size, (count,), generator=made).tolist()


def _ratio(
    first: Callable[[Trace], None], second: Callable[[Trace], None], traces: Iterator[Trace]
) -> float:
    """Time of second over time of first, one after the other so that both see the same machine."""
    one, two = next(traces), next(traces)
    a = time.perf_counter()
    first(one)
    b = time.perf_counter()
    second(two)
    return (time.perf_counter() - b) / (b - a)


def run(quick: bool = False) -> Iterator[dict[str, str]]:
    """Rows for ``make bench``."""
    rounds = 7 if quick else 25
    with tempfile.TemporaryDirectory() as home, Workspace(home) as workspace:
        planned = workspace.plan_model("demo")
        model = workspace.load(planned)
        size = planned.tokenizer.size
        traces: Iterator[Trace] = (
            trace_from_ids(_ids(size, 512, seed), planned.tokenizer, response_start=256)
            for seed in range(10_000)
        )

        def bare(trace: Trace) -> None:
            with torch.inference_mode():
                model.model(torch.tensor([trace.ids]), use_cache=False)

        def statistics(trace: Trace) -> None:
            answer(Request("statistics", trace, "demo"), workspace=workspace)

        def table_only(trace: Trace) -> None:
            with torch.inference_mode():
                hidden = model.hidden(trace.ids)
                model.token_stats(hidden[:-1], torch.tensor(trace.ids[1:]), 20)

        statistics(next(traces))
        bare(next(traces))
        for label, work in (
            ("statistics of 512 tokens, numbers only / bare forward", table_only),
            ("the same through run(): tables, key, durable store", statistics),
        ):
            ratios = [_ratio(bare, work, traces) for _ in range(rounds)]
            yield {
                "part": "statistics",
                "what": label,
                "target": "<= 1.5 x",
                "measured": f"{st.median(ratios):.2f} x",
            }
        kept = next(traces)
        statistics(kept)
        times = []
        for _ in range(rounds * 4):
            start = time.perf_counter()
            statistics(kept)
            times.append(time.perf_counter() - start)
        yield {
            "part": "statistics",
            "what": "store hit through run(), 512 tokens and 10,220 alternatives (median)",
            "target": "< 50 ms",
            "measured": f"{st.median(times) * 1e3:.1f} ms",
        }


if __name__ == "__main__":
    for row in run():
        print(row)
