"""Critical tokens: continuations of every prefix of a response, against transformers' generate.

Run alone: ``python -m benchmarks.bench_critical [--quick]``. Both sides of each comparison run in
turn in one process on the bundled model, in CPU seconds. The response has about 60 tokens.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.catalogue import Profile, locate
from engine.critical.value import value_request
from engine.gallery import gallery
from engine.loaded import LoadedModel
from engine.modelref import ModelRef
from engine.models import load
from engine.running import run as run_requests
from engine.sampling.generation import Sampler, sample, sample_after
from engine.tokenization import Tokenizer
from engine.workspace import Workspace

SAMPLES = 64
"""Continuations of each prefix, as ``num_return_sequences``."""

LENGTH = 60
"""Tokens of the response."""

SAMPLER = Sampler()
SEARCH = {"where": "search"}


def bundled() -> LoadedModel:
    """Return the bundled model, over the ids of its tokenizer."""
    located = locate(ModelRef(source="demo"), Profile())
    model = load(located, "bench")
    model.real_vocab = min(Tokenizer.load(located.tokenizer_path).size, model.vocab_size)
    return model


def response(model: LoadedModel) -> tuple[list[int], range]:
    """Return a prompt of the gallery with a sampled answer, and the prefixes to be continued."""
    item = next(item for item in gallery() if item.name == "wrong-step" and item.trace)
    assert item.trace is not None
    prompt = list(item.trace.ids[: item.trace.response_start])
    drawn = [c for batch in sample(model, prompt, SAMPLER, range(256)) for c in batch]
    ended = [c for c in drawn if c.finish == "stop"]
    best = min(ended, key=lambda c: (abs(len(c.ids) - LENGTH), c.index))
    ids = [*prompt, *best.ids]
    return ids, range(len(prompt), len(ids))


def ours(model: LoadedModel, ids: list[int], lengths: range) -> tuple[int, int]:
    """Continue all prefixes together; return how many continuations and tokens that made."""
    wanted = {n: range(SAMPLES) for n in lengths}
    batches = sample_after(model, ids, wanted, SAMPLER)
    made = [len(c.ids) for batch in batches for _, c in batch]
    return len(made), sum(made)


def theirs(model: LoadedModel, ids: list[int], lengths: range) -> tuple[int, int]:
    """Continue each prefix by ``generate``; tokens after the end are not counted."""
    tokens = 0
    for n in lengths:
        output = model.model.generate(
            torch.tensor([ids[:n]]),
            attention_mask=torch.ones(1, n, dtype=torch.long),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            num_return_sequences=SAMPLES,
            max_new_tokens=SAMPLER.max_new_tokens,
            pad_token_id=0,
        )
        ends = torch.isin(output[:, n:], torch.tensor(model.eos_ids)).long()
        # A row's own tokens are those before its first end, and that end.
        tokens += int((ends.cumsum(-1) - ends == 0).sum())
    return SAMPLES * len(lengths), tokens


def greedy_equal(model: LoadedModel, ids: list[int], lengths: range) -> str:
    """Count the prefixes whose greedy continuation is that of ``generate``."""
    sampler = Sampler(temperature=0, max_new_tokens=64)
    batches = sample_after(model, ids, {n: [0] for n in lengths}, sampler)
    found = {n: list(c.ids) for batch in batches for n, c in batch}
    equal = 0
    for n in lengths:
        output = model.model.generate(
            torch.tensor([ids[:n]]),
            attention_mask=torch.ones(1, n, dtype=torch.long),
            do_sample=False,
            max_new_tokens=64,
            pad_token_id=0,
        )
        equal += output[0, n:].tolist() == found[n]
    return f"{equal} of {len(lengths)}"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def against_generate(
    model: LoadedModel, ids: list[int], lengths: range, count: int
) -> Iterator[dict[str, Any]]:
    """Compare continuations per CPU second over some prefixes."""
    works: dict[str, Callable[[LoadedModel, list[int], range], tuple[int, int]]] = {
        "generate, prefix by prefix": theirs,
        "sample_after": ours,
    }
    rates = {}
    with threads(count):
        ours(model, ids, lengths[:1])
        for name, work in works.items():
            start = time.process_time()
            made, tokens = work(model, ids, lengths)
            took = time.process_time() - start
            rates[name] = made / took
            what = f"{name}, {threads_of(count)}"
            yield row(f"{what}: continuations per CPU s", "", made / took)
            yield row(f"{what}: tokens per CPU s", "", tokens / took)
    ratio = rates["sample_after"] / rates["generate, prefix by prefix"]
    yield row(f"sample_after against generate, {threads_of(count)}", ">= 2.5", ratio)


def whole_trace(
    model: LoadedModel, ids: list[int], lengths: range, count: int
) -> Iterator[dict[str, Any]]:
    """Time all prefixes of the response, as ``critical.value`` asks for them."""
    what = f"{len(lengths)} prefixes x {SAMPLES}, {threads_of(count)}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first, left = 0.0, SAMPLES
    with threads(count):
        start, wall = time.process_time(), time.monotonic()
        for batch in sample_after(model, ids, {n: range(SAMPLES) for n in lengths}, SAMPLER):
            left -= sum(n == lengths[0] for n, _ in batch)
            if not left and not first:
                first = time.monotonic() - wall
        took = time.process_time() - start
        wall = time.monotonic() - wall
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    yield row(f"{what}: seconds", "< 120", wall)
    yield row(f"{what}: CPU seconds", "", took)
    yield row(f"{what}: first prefix, seconds", "< 5", first)
    yield row(f"{what}: peak memory added, MB", "< 600", grown)


def threads_of(count: int) -> str:
    """Say how many threads."""
    return "1 thread" if count == 1 else f"{count} threads"


def row(what: str, target: str, measured: float | str) -> dict[str, Any]:
    """Return one line of the table, three significant digits."""
    shown = measured if isinstance(measured, str) else float(f"{measured:.3g}")
    return {"part": "critical", "what": what, "target": target, "measured": shown}


def sampling(quick: bool) -> Iterator[dict[str, Any]]:
    """Sampling all prefixes of one response."""
    model = bundled()
    with threads(1):
        ids, lengths = response(model)
    some = lengths[::12] if quick else lengths[::4]
    # First, because memory is read as the growth of the process's peak.
    yield from whole_trace(model, ids, some if quick else lengths, 2)
    for count in (1, 2):
        yield from against_generate(model, ids, some, count)
    with threads(1):
        equal = greedy_equal(model, ids, some)
    yield row("greedy continuations equal to generate's", f"{len(some)} of {len(some)}", equal)


def saving(quick: bool) -> Iterator[dict[str, Any]]:
    """What an early stop and a search leave undrawn, over the gallery's wrong stories."""
    wrong = [item for item in gallery() if item.culprit is not None and item.expected]
    early, searched, same, found = [], [], 0, 0
    with tempfile.TemporaryDirectory() as home, Workspace(home, role="client") as workspace:
        for item in wrong[: 1 if quick else None]:
            rows = {}
            for name, params in (("full", {}), ("stop", {"stop": 4}), ("search", SEARCH)):
                request = value_request(item.trace, item.model, str(item.expected), **params)
                (rows[name],) = (
                    run_requests(request, workspace=workspace)[0].table("summary").to_pylist()
                )
            early.append(1 - rows["stop"]["drawn"] / rows["full"]["full"])
            searched.append(1 - rows["search"]["drawn"] / rows["full"]["full"])
            same += rows["stop"]["critical_position"] == rows["full"]["critical_position"]
            found += rows["search"]["position"] == rows["full"]["position"]
    count = len(early)
    yield row("stop at 4 right: samples saved, mean over wrong stories", ">= 0.3", _mean(early))
    yield row("stop at 4 right: least and most saved", "", f"{min(early):.2f}-{max(early):.2f}")
    yield row("stop at 4 right: same critical token", f"{count} of {count}", f"{same} of {count}")
    yield row("search: samples saved, mean over wrong stories", "> 0", _mean(searched))
    yield row("search: the token of the largest fall found", "", f"{found} of {count}")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def run(quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the rows (part, what, target, measured)."""
    yield from sampling(quick)
    yield from saving(quick)


if __name__ == "__main__":
    for line in run("--quick" in sys.argv):
        print(f"{line['what']:70} {line['measured']!s:>10} {line['target']}", flush=True)
