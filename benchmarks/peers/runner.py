"""Runs in the peers' environment: does the jobs of a file, times each, writes the answers.

Knows nothing of TokenScope. A job's function gets the job and returns the work as a function
without arguments (models are loaded before the clock starts); the work returns numbers.
"""

import importlib
import json
import math
import sys
import time
import traceback
import warnings
from typing import Any

import torch


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job; a failure is an answer too."""
    module, _, function = job["call"].partition(":")
    try:
        work = getattr(importlib.import_module(module), function)(job)
        best: dict[str, Any] = {}
        for _ in range(job.get("repeat", 1)):
            torch.manual_seed(job.get("seed", 0))
            cpu, wall = time.process_time(), time.perf_counter()
            scores = work()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if not best or cpu < best["cpu"]:
                best = {"scores": plain(scores), "cpu": cpu, "wall": wall}
        return best
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}


def plain(value: Any) -> Any:
    """Tensors, arrays and lists of them as lists; what is no number becomes null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    answers = [answer(job) for job in jobs]
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(answers, file)
