"""Methods that take tokens away, against Inseq, Captum and interpreto, and on long texts.

Run alone: ``python -m benchmarks.bench_attribution [--quick]``. The peers run in an environment of
their own (``python -m benchmarks.peers.environment``); without it their rows say so. CPU seconds on
one thread: same tiny model, ids, targets and replacement on both sides, values compared too.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import environment
from benchmarks.peers.asking import ask
from demo.stories import generate
from engine.catalogue import Profile, locate
from engine.modelref import ModelRef
from engine.result import Request, Result
from engine.running import run as run_requests
from engine.subjects import Text
from engine.tokenization import Tokenizer
from engine.workspace import Workspace

EMPTY = "_"
"""Token that stands in for what is taken away, on every side."""

STORY = "Ann has 12 red pens in a box; Bob takes 3 of them, and 4 are lost. How many are left? "
SAID = " She has five. Well, now that is all."


def tiny(folder: Path) -> str:
    """Save a tiny random Llama with a byte tokenizer: ASCII text is ids and back."""
    from tests.engine.tiny import tiny_model

    tiny_model("llama", path=folder)
    return str(folder)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def texts(length: int, targets: int) -> tuple[str, str]:
    """A prompt and a response of ``length`` tokens in all, BOS included.

    interpreto drops one of two spaces where they meet, so the prompt ends without one.
    """
    return (STORY * 4)[: length - 2 - targets] + "x", (SAID * 4)[:targets]


def ours(model: str, name: str, prompt: str, response: str, **params: Any) -> tuple[Result, float]:
    """Our result and the CPU seconds of the computation; the model is loaded before."""
    best = float("inf")
    for _ in range(2):
        with tempfile.TemporaryDirectory() as home, Workspace(home, role="client") as workspace:
            subject = Text(prompt=prompt, response=response)
            run_requests(Request("statistics", subject, model, {}), workspace=workspace)
            start = time.process_time()
            result = run_requests(
                Request(f"attribution.{name}", subject, model, params), workspace=workspace
            )[0]
            best = min(best, time.process_time() - start)
    return result, best


def matrix(result: Result) -> np.ndarray[Any, Any]:
    """Scores [targets, positions before the last target], NaN where there is none."""
    rows = result.table("attribution").to_pylist()
    targets = sorted({r["target_position"] for r in rows})
    found = np.full((len(targets), max(targets)), np.nan)
    for r in rows:
        if r["score"] is not None:
            found[targets.index(r["target_position"]), r["source_position"]] = r["score"]
    return found


def numbers(scores: Any) -> np.ndarray[Any, Any]:
    """A peer's answer as an array."""
    return np.array([[np.nan if v is None else v for v in row] for row in scores], float)


def row(what: str, target: str, measured: float | str) -> dict[str, Any]:
    """Return one line of the table, three significant digits."""
    shown = measured if isinstance(measured, str) else float(f"{measured:.3g}")
    return {"part": "attribution", "what": what, "target": target, "measured": shown}


def job(call: str, model: str, prompt: str, response: str, **more: Any) -> dict[str, Any]:
    """A peer's job."""
    both = {"prompt": prompt, "response": response, "text": prompt + response}
    return {"call": call, "model": model, "empty": EMPTY, "repeat": 2, **both, **more}


def difference(own: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Largest difference where both have a number."""
    return float(np.nanmax(np.abs(own - other)))


def replaced(model: str, prompt: str, response: str, **more: Any) -> tuple[Result, float]:
    """Our occlusion of all targets, every token replaced as the peers replace it."""
    asked = {"targets": "response", "removal": "replace", "replacement": EMPTY, "special": True}
    return ours(model, "occlusion", prompt, response, **asked, **more)


def occlusion(model: str, quick: bool) -> Iterator[dict[str, Any]]:
    """All tokens, all targets; it grows with the number of targets."""
    for targets in (16,) if quick else (4, 16, 32):
        prompt, response = texts(64, targets)
        result, cpu = replaced(model, prompt, response)
        kept = job("with_captum:perturbation", model, prompt, response, method="occlusion")
        inseq, captum, plain = ask(
            [
                job("with_inseq:occlusion", model, prompt, response, explain="logit"),
                kept,
                {**kept, "cached": False},
            ]
        )
        what = f"occlusion, 64 tokens, {targets} targets"
        wanted = ">= 10" if targets >= 16 else "grows"
        yield from _against(what, "Inseq", inseq, cpu, wanted)
        yield from _against(what, "Captum (keys kept)", captum, cpu, wanted)
        yield from _against(what, "Captum", plain, cpu, wanted)
        # With keys kept, Captum 0.9 scores later targets wrongly on transformers 5.
        if "error" not in plain:
            gap = difference(matrix(result)[:, 1 : 64 - targets], numbers(plain["scores"]))
            yield row(f"{what}: largest difference to Captum's", "< 1e-4", gap)
        if "error" not in inseq:
            logit, _ = replaced(model, prompt, response, explain="logit")
            gap = difference(np.abs(matrix(logit)), numbers(inseq["scores"])[:, :63])
            yield row(f"{what}: largest difference to Inseq's (no sign)", "< 1e-4", gap)


def _against(
    what: str, name: str, answer: dict[str, Any], cpu: float, wanted: str
) -> Iterator[dict[str, Any]]:
    if "error" in answer:
        yield row(f"{what}: {name}", wanted, f"failed: {answer['error'][:60]}")
    else:
        yield row(f"{what}: {name}'s CPU over ours", wanted, answer["cpu"] / cpu)


def shared_prefix(model: str, quick: bool) -> Iterator[dict[str, Any]]:
    """Interpreto batches too; what is left is the part of the text that is read once."""
    length = 128 if quick else 256
    prompt, response = texts(length, 16)
    result, cpu = replaced(model, prompt, response)
    (answer,) = ask(
        [job("with_interpreto:perturbation", model, prompt, response, method="Occlusion")]
    )
    what = f"occlusion, {length} tokens, 16 targets"
    yield from _against(what, "interpreto", answer, cpu, ">= 1.5")
    if "error" not in answer:
        theirs = numbers(answer["scores"])[-16:, : length - 16]
        gap = difference(matrix(result)[:, : length - 16], theirs)
        yield row(f"{what}: largest difference to interpreto's", "< 1e-4", gap)


def sampling(model: str, quick: bool) -> Iterator[dict[str, Any]]:
    """LIME, KernelSHAP and Shapley sampling; the peers' first two give one sum of the targets."""
    prompt, response = texts(32 if quick else 64, 8 if quick else 16)
    count, orders = (20, 2) if quick else (50, 4)
    cases = {
        "lime": ({"n_samples": count}, {"samples": count, "penalty": 1.0}),
        "kernel_shap": ({"n_samples": count}, {"samples": count, "granularity": "word"}),
        "shapley_sampling": ({"n_samples": orders}, {"permutations": orders}),
    }
    answers = ask(
        [
            job(
                "with_captum:perturbation",
                model,
                prompt,
                response,
                method=name,
                settings=theirs,
                repeat=1,
            )
            for name, (theirs, _) in cases.items()
        ]
    )
    for (name, (_, params)), answer in zip(cases.items(), answers, strict=True):
        _, cpu = ours(
            model,
            name,
            prompt,
            response,
            targets="response",
            removal="replace",
            replacement=EMPTY,
            **params,
        )
        yield from _against(f"{name}, same number of draws", "Captum", answer, cpu, ">= 10")


def exact_shares(model: str) -> Iterator[dict[str, Any]]:
    """Exact Shapley values of a short text, whose peer enumerates all orders."""
    prompt, response = "So it", " is"
    params = {"targets": "response", "removal": "replace", "replacement": EMPTY}
    result, _ = ours(model, "shapley_sampling", prompt, response, permutations=100, **params)
    (answer,) = ask(
        [job("with_captum:perturbation", model, prompt, response, method="shapley", repeat=1)]
    )
    if "error" in answer:
        yield row("exact Shapley values: Captum", "< 1e-4", f"failed: {answer['error'][:60]}")
        return
    # Captum leaves the response as it is, so only the first target has the same sources.
    gap = difference(matrix(result)[:1, 1:6], numbers(answer["scores"])[:1])
    yield row("exact Shapley values: largest difference to Captum's", "< 1e-4", gap)


def context(rng: random.Random, tokenizer: Tokenizer, tokens: int) -> tuple[str, str]:
    """Stories with their solutions, then a question whose first result is the target."""
    last = generate(rng, 3, "test")
    prompt = last.prompt
    while True:
        story = generate(rng, rng.randint(1, 5), "train")
        longer = f"{story.prompt}{story.response}\n{prompt}"
        if len(tokenizer.encode(longer, special=False).ids) > tokens:
            return prompt, last.response[: last.steps[0].span[1] - len(last.prompt)]
        prompt = longer


def hierarchical(quick: bool) -> Iterator[dict[str, Any]]:
    """The top of full leave-one-out, found by a fifth of its forwards."""
    path = locate(ModelRef(source="demo"), Profile()).tokenizer_path
    tokenizer = Tokenizer.load(path)
    tokens, rounds = (500, 1) if quick else (2000, 2)
    found, forwards, cpu = [], [], []
    for seed in range(rounds):
        prompt, response = context(random.Random(seed), tokenizer, tokens)
        subject = Text(prompt=prompt, response=response)
        scores, costs, times = {}, {}, {}
        with tempfile.TemporaryDirectory() as home, Workspace(home, role="client") as workspace:
            for strategy in ("flat", "hierarchical"):
                request = Request("attribution.occlusion", subject, "demo", {"strategy": strategy})
                start = time.process_time()
                result = run_requests(request, workspace=workspace)[0]
                times[strategy] = time.process_time() - start
                scores[strategy] = matrix(result)[0]
                cost = result.table("cost").to_pylist()[0]
                costs[strategy] = cost["forwards"] + 2 * cost["backwards"]
        top = np.argsort(-np.abs(np.nan_to_num(scores["flat"])))[:5]
        found.append(float(np.isfinite(scores["hierarchical"][top]).mean()))
        forwards.append(costs["hierarchical"] / costs["flat"])
        cpu.append(times["hierarchical"] / times["flat"])
    what = f"hierarchical, {tokens:,} tokens, {rounds} contexts"
    yield row(f"{what}: share of the top 5 found", ">= 0.9", float(np.mean(found)))
    yield row(f"{what}: share of the forwards (backward = 2)", "<= 0.2", max(forwards))
    yield row(f"{what}: share of the CPU seconds", "", float(np.mean(cpu)))


_GROWTH = """
import json, resource, sys, tempfile
import torch
from engine.result import Request
from engine.running import run
from engine.subjects import Text
from engine.workspace import Workspace

torch.set_num_threads(1)
text, cap = Text(prompt="Tom has 3 pens. " * int(sys.argv[1]), response=" 7"), int(sys.argv[2])
with tempfile.TemporaryDirectory() as home, Workspace(home, role="client") as workspace:
    run(Request("statistics", text, "demo", {}), workspace=workspace)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asked = {"granularity": "sentence", "memory": cap, "strategy": "flat"}
    run(Request("attribution.occlusion", text, "demo", asked), workspace=workspace)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def memory(quick: bool) -> Iterator[dict[str, Any]]:
    """Growth of the process while a text is attributed under a cap."""
    root = Path(__file__).resolve().parent.parent
    for sentences in (50,) if quick else (50, 200):
        for cap in (64, 256):
            done = subprocess.run(
                [sys.executable, "-c", _GROWTH, str(sentences), str(cap)],
                cwd=root,
                capture_output=True,
                text=True,
                check=True,
            )
            what = f"occlusion, about {sentences * 9:,} tokens, cap {cap} MB: MB grown"
            yield row(what, f"<= {cap} + model", float(done.stdout.split()[-1]))


def run(quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the rows (part, what, target, measured)."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        model = tiny(Path(folder, "llama"))
        if environment.python() is None:
            hint = "no environment: python -m benchmarks.peers.environment"
            yield row("against Inseq, Captum, interpreto", "", hint)
        else:
            parts: list[Callable[[], Iterator[dict[str, Any]]]] = [
                lambda: occlusion(model, quick),
                lambda: shared_prefix(model, quick),
                lambda: sampling(model, quick),
                lambda: exact_shares(model),
            ]
            for part in parts:
                yield from part()
        yield from memory(quick)
        yield from hierarchical(quick)


if __name__ == "__main__":
    for line in run("--quick" in sys.argv):
        print(f"{line['what']:70} {line['measured']!s:>10} {line['target']}", flush=True)
