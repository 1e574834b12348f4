"""Ask the peers: jobs go to a process in their environment as JSON, answers come back so."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import environment


def ask(
    jobs: Sequence[Mapping[str, Any]], *, threads: int = 1, timeout: float = 1800
) -> list[dict[str, Any]]:
    """Run jobs one after the other in one process of the peers' environment.

    Args:
        jobs: each has ``call`` (``module:function`` in this package), ``model`` (a folder), and
            what that function reads; ``repeat`` times the work is done, the fastest counts.
        threads: of torch.
        timeout: seconds for all of them.

    Returns:
        For each job ``scores``, ``cpu`` and ``wall`` seconds of the work alone; or ``error``.

    Raises:
        RuntimeError: the environment is not made, or the process failed.
    """
    program = environment.python()
    if program is None:
        raise RuntimeError(
            "The peers' environment is missing: run python -m benchmarks.peers.environment."
        )
    with tempfile.TemporaryDirectory() as folder:
        asked, said = Path(folder, "jobs.json"), Path(folder, "answers.json")
        asked.write_text(json.dumps(list(jobs)), "utf-8")
        settings = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": "",
        }
        runner = Path(__file__).with_name("runner.py")
        done = subprocess.run(
            [program, runner, asked, said],
            env=settings,
            timeout=timeout,
            capture_output=True,
            text=True,
        )
        if done.returncode or not said.is_file():
            raise RuntimeError(f"The peers' process failed: {done.stderr[-2000:]}")
        return list(json.loads(said.read_text("utf-8")))
