"""The kernel against reading the logits, torch's own functions and the output matrix product.

All ratios come from one run: candidates take turns, each counted by the CPU time of one thread (two
threads by the clock). Logits are Gaussian with a few likely ids, at a vocabulary of 151,936.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import tokenkernel as tk
import torch

V, T = 151_936, 64
Work = Callable[[], object]


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    """Synthetic logits [rows, V]."""
    made = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, V, generator=made) * 2
    likely = torch.randint(0, V, (rows, 60), generator=made)
    return z.scatter_add_(1, likely, torch.rand(rows, 60, generator=made) * 12)


def best(works: Mapping[str, Work], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Shortest time of each, in turns, after one round to warm up."""
    times = dict.fromkeys(works, float("inf"))
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = clock()
            work()
            took = clock() - start
            if turn:
                times[name] = min(times[name], took)
    return times


def eager(z: torch.Tensor, y: torch.Tensor, rows: int) -> list[object]:
    """The set as one would write it in torch, in chunks of rows."""
    found: list[object] = []
    for part, target in zip(z.split(rows), y.split(rows), strict=True):
        lp = part.log_softmax(-1)
        p = lp.exp()
        h = -(p * lp).sum(-1)
        own = part.gather(1, target[:, None])
        found.append(
            (
                h, (p * lp * lp).sum(-1) - h * h, lp.gather(1, target[:, None]), p.amax(-1),
                (p * p).sum(-1), (part > own).sum(-1), (part == own).sum(-1), part.topk(8),
                part.logsumexp(-1) - part.mean(-1),
            )
        )  # fmt: skip
    return found


def full_set(z: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same for torch.compile."""
    lp = z.log_softmax(-1)
    p = lp.exp()
    h = -(p * lp).sum(-1)
    own = z.gather(1, y[:, None])
    top = z.topk(8)
    return (
        h, (p * lp * lp).sum(-1) - h * h, lp.gather(1, y[:, None]), p.amax(-1), (p * p).sum(-1),
        (z > own).sum(-1), (z == own).sum(-1), *top, z.logsumexp(-1) - z.mean(-1),
    )  # fmt: skip


def row(what: str, target: str, measured: float, unit: str = "x") -> dict[str, str]:
    """One line of the table."""
    return {"part": "kernel", "what": what, "target": target, "measured": f"{measured:.2f} {unit}"}


def from_logits(rounds: int, *, compiled: bool) -> Iterator[dict[str, str]]:
    """Part one: statistics of logits."""
    z, q = logits(T), logits(T, 1)
    half = z.bfloat16()
    y = torch.randint(0, V, (T,))
    torch.set_num_threads(1)
    works: dict[str, Work] = {
        "read": lambda: z.sum(),
        "k8": lambda: tk.token_stats(z, y, 8),
        "k0": lambda: tk.token_stats(z, y, 0),
        "k20": lambda: tk.token_stats(z, y, 20),
        "half": lambda: tk.token_stats(half, y, 8),
        "pair": lambda: tk.pair_stats(z, q, y),
        "log_softmax": lambda: z.log_softmax(-1),
        "eager": lambda: eager(z, y, 8),
    }
    if compiled:
        fused = torch.compile(full_set)
        works["compile"] = lambda: fused(z, y)
    t = best(works, rounds, time.process_time)
    yield row("full set, top-8, 1 thread / reading", "<= 1.8 (1.6) x", t["k8"] / t["read"])
    yield row("chunked eager / full set", ">= 12 x", t["eager"] / t["k8"])
    if compiled:
        yield row("torch.compile / full set", ">= 8 x", t["compile"] / t["k8"])
    yield row("full set / one log_softmax", "< 0.5 x", t["k8"] / t["log_softmax"])
    yield row("pair with JS / one token_stats", "<= 4.5 (3.5) x", t["pair"] / t["k8"])
    yield row("bfloat16 / float32, same ids", "", t["half"] / t["k8"])
    yield row("top-20 / no top-k", "", t["k20"] / t["k0"])
    torch.set_num_threads(2)
    t = best(
        {
            "one": lambda: tk.token_stats(z, y, 8, threads=1),
            "two": lambda: tk.token_stats(z, y, 8, threads=2),
        },
        rounds,
        time.perf_counter,
    )
    # So short a call pays for waking the second thread; a text of some length does not.
    yield row("two threads / one, 64 rows (speed, by the clock)", "", t["one"] / t["two"])
    many, targets = z.repeat(4, 1), y.repeat(4)
    t = best(
        {
            "one": lambda: tk.token_stats(many, targets, 8, threads=1),
            "two": lambda: tk.token_stats(many, targets, 8, threads=2),
        },
        # By the clock, on a machine shared with others: the best of many.
        rounds * 6,
        time.perf_counter,
    )
    yield row("two threads / one, 256 rows (speed, by the clock)", ">= 1.85 x", t["one"] / t["two"])


def from_hidden(rounds: int, *, quick: bool) -> Iterator[dict[str, str]]:
    """Part two: from hidden states."""
    torch.set_num_threads(1)
    tokens, width = 128, 256 if quick else 896
    ids = 40_000 if quick else V
    hidden, weight = torch.randn(tokens, width), torch.randn(ids, width) * 0.05
    y = torch.randint(0, ids, (tokens,))
    narrow, small = hidden.bfloat16(), weight.bfloat16()
    pull = torch.randn(tokens)
    t = best(
        {
            "product": lambda: hidden @ weight.T,
            "stats": lambda: tk.stats_from_hidden(hidden, weight, y, 8),
            "influence": lambda: tk.influence_from_hidden(hidden, weight, y, pull),
            "half product": lambda: narrow @ small.T,
            "half": lambda: tk.stats_from_hidden(narrow, small, y, 8),
        },
        max(2, rounds // 3),
        time.process_time,
    )
    yield row("from hidden, float32 / H @ W.T", "<= 1.05 (1.0) x", t["stats"] / t["product"])
    yield row(
        "bfloat16, exact float32 logits / bfloat16 product",
        "<= 1.25 (1.15) x",
        t["half"] / t["half product"],
    )
    yield row("influence / H @ W.T", "<= 5.5 x", t["influence"] / t["product"])
    matrix = torch.randn(ids // 4, 256) * 0.05
    short, long = torch.randn(512, 256), torch.randn(1024, 256)
    works: dict[str, Work] = {
        name: lambda h=h: tk.influence_from_hidden(
            h, matrix, torch.arange(len(h)), torch.ones(len(h))
        )
        for name, h in (("512", short), ("1024", long))
    }
    t = best(works, max(2, rounds // 3), time.process_time)
    yield row("influence of 1,024 tokens / of 512", "<= 2.2 x", t["1024"] / t["512"])


MEMORY = """
import sys, torch, tokenkernel as tk
torch.set_num_threads(1)
T, D, V = 512, 256, int(sys.argv[2])
hidden, weight, target = torch.randn(T, D), torch.randn(V, D), torch.randint(0, V, (T,))
call = {
    "stats": lambda w, y: tk.stats_from_hidden(hidden, w, y, 8),
    "influence": lambda w, y: tk.influence_from_hidden(hidden, w, y, torch.ones(T)),
}[sys.argv[1]]
call(weight[:2048].clone(), target % 2048) if sys.argv[3] == "warm" else None
def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name))
# The peak so far is forgotten: making the inputs took more than the inputs are.
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")
before = resident("VmRSS")
call(weight, target)
print(resident("VmHWM") - before)
"""


def memory(quick: bool) -> Iterator[dict[str, str]]:
    """Part three: resident memory above the inputs, in a process of its own."""
    for what, target in (("stats", "<= 4 MiB"), ("influence", "<= 64 MiB")):
        grown = [
            float(
                subprocess.run(
                    [sys.executable, "-c", MEMORY, what, str(40_000 if quick else V), warm],
                    capture_output=True, text=True, check=True,
                ).stdout
            )
            for warm in ("warm", "cold")
        ]  # fmt: skip
        label = f"{what} from hidden, T=512, D=256: memory above inputs"
        yield row(label + ", buffers of a first small call kept", target, grown[0], "MiB")
        yield row(label + ", with the libraries' first-use buffers", "", grown[1], "MiB")


def run(quick: bool = False) -> Iterator[dict[str, str]]:
    """Rows for ``make bench``."""
    yield {"part": "kernel", "what": tk.about(), "target": "", "measured": tk.isa()}
    rounds = 3 if quick else 9
    threads = torch.get_num_threads()
    try:
        yield from from_logits(rounds, compiled=not quick)
        yield from from_hidden(rounds, quick=quick)
    finally:
        torch.set_num_threads(threads)
    yield from memory(quick)


if __name__ == "__main__":
    for line in run("--quick" in sys.argv):
        print(line)
