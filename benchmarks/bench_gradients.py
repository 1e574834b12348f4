"""Gradient methods against Inseq and Captum: time beside values, on the same tiny models.

Run alone: ``python -m benchmarks.bench_gradients [--quick]``. One thread each, CPU seconds, the
best of a few repeats; theirs in their own environment (``python -m benchmarks.peers.environment``).
Against Inseq probabilities are explained, against Captum log-probabilities.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.bench_critical import threads
from benchmarks.peers import environment
from benchmarks.peers.asking import ask

STEPS = 32
LETTERS = "the quick brown fox jumps over a lazy dog and rests. "


def row(what: str, target: str, measured: str) -> dict[str, Any]:
    """One line of the benchmark's table."""
    return {"part": "gradients", "what": what, "target": target, "measured": measured}


def jobs(folder: str, prompt: int, targets: int, repeat: int) -> list[dict[str, Any]]:
    """What the peers are asked."""
    text = (LETTERS * 9)[: prompt + targets]
    shared = {
        "model": folder,
        "prompt": text[:prompt],
        "text": text,
        "response": text[prompt:],
        "empty": "_",
        "repeat": repeat,
    }
    inseq = {**shared, "call": "with_inseq:attribution", "explain": "probability"}
    steps = {"settings": {"n_steps": STEPS}}
    return [
        {**inseq, "method": "saliency", "target": "<= 1.15"},
        {**inseq, "method": "input_x_gradient", "target": "<= 1.15"},
        {**inseq, **steps, "method": "integrated_gradients", "target": "<= 0.7"},
        {
            **shared,
            **steps,
            "call": "with_gradients:captum",
            "method": "integrated_gradients",
            "target": "",
        },
    ]


def ours(model: Any, job: dict[str, Any]) -> tuple[np.ndarray[Any, Any], float]:
    """Our scores [targets, sources] of a job, and the CPU seconds of the whole analysis."""
    from tests.engine.attribution import toys

    captum = "captum" in job["call"]
    params: dict[str, Any] = {"targets": "response", "special": not captum}
    params["explain"] = "logprob" if captum else "probability"
    if job["method"] == "integrated_gradients":
        params |= {"baseline": "token", "baseline_token": "_", "steps": STEPS}
    if captum:  # which moves the prompt alone
        places = ",".join(str(p) for p in range(1, len(job["prompt"]) + 1))
        params |= {"granularity": "spans", "spans": places}
    trace, best = toys.text(job["prompt"], job["response"]), float("inf")
    for _ in range(job["repeat"] + 1):
        start = time.process_time()
        ran = toys.run(f"attribution.{job['method']}", model, trace, **params)
        best = min(best, time.process_time() - start)
    return ran.matrix(), best


def theirs(job: dict[str, Any], answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The peer's scores [targets, sources]."""
    found = np.array(answer["scores"], float)
    if found.ndim == 3:
        norm = job["method"] == "saliency"
        found = np.linalg.norm(found, axis=-1) if norm else found.sum(-1)
    return found


def against(family: str, folder: str, sizes: tuple[int, int], repeat: int) -> Iterator[Any]:
    """Rows of one model and text."""
    from tests.engine.attribution import toys

    model = toys.loaded(_network(folder), torch.float32)
    asked = jobs(folder, *sizes, repeat)
    for job, answer in zip(asked, ask(asked), strict=True):
        peer = "Captum" if "captum" in job["call"] else "Inseq"
        what = f"{family} {sizes[0]}+{sizes[1]} tokens, {job['method']} / {peer}"
        if "error" in answer:
            yield row(what, job["target"], answer["error"][:60])
            continue
        found, seconds = ours(model, job)
        other = theirs(job, answer)[:, : found.shape[1]]
        off, size = np.nanmax(np.abs(found - other)), np.nanmax(np.abs(other))
        yield row(f"{what}: CPU time", job["target"], f"{seconds / answer['cpu']:.2f}")
        near = "<= 1e-6" if peer == "Inseq" else "<= 1e-5"  # log-probabilities are larger numbers
        yield row(f"{what}: largest difference", near, f"{off:.0e} of {size:.0e}")


def memory_cap(folder: str) -> Iterator[dict[str, Any]]:
    """The same scores under a small cap as under a large one."""
    from tests.engine.attribution import toys

    model, text = toys.loaded(_network(folder), torch.float32), (LETTERS * 9)[:200]
    trace, found = toys.text(text[:180], text[180:]), []
    for memory in (16, 4096):
        ran = toys.run(
            "attribution.integrated_gradients",
            model,
            trace,
            targets="response",
            memory=memory,
            baseline="mean",
        )
        found.append(ran.matrix())
    off = np.nanmax(np.abs(found[0] - found[1])) / np.nanmax(np.abs(found[1]))
    yield row("IG in batches for 16 MB / for 4 GB: differ by (relative)", "<= 1e-5", f"{off:.1e}")


def _network(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def run(quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the benchmark's rows."""
    from tests.engine.tiny import tiny_model

    if environment.python() is None:
        yield row("peers: run python -m benchmarks.peers.environment", "", "not made")
    repeat = 1 if quick else 3
    with threads(1), TemporaryDirectory() as place:
        for family in ("llama", "gpt2"):
            folder = str(Path(place, family))
            tiny_model(family, path=Path(folder))
            if environment.python() is not None:
                yield from against(family, folder, (24, 8), repeat)
                if not quick and family == "llama":  # a minute or more of the peers' time
                    yield from against(family, folder, (128, 64), 1)
        yield from memory_cap(folder)


if __name__ == "__main__":
    for line in run(quick="--quick" in sys.argv):
        print(f"{line['what']:<75}{line['target']:>10}{line['measured']:>18}")
