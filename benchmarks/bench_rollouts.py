"""Reading a log of rollouts: our index against DuckDB's ``read_json`` on the same file.

Run alone: ``python -m benchmarks.bench_rollouts [--quick]``. The file is a prime-rl token export
with about 1,000 tokens a line and ten lists of numbers. Both sides read all of it, in turn, in
processes of their own with one thread; CPU seconds, the best of several turns.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson

MEGABYTES = 200
TURNS = 3
PROMPT, TOKENS, GROUP = 128, 1_024, 8


def write_log(file: Path, megabytes: float) -> int:
    """Write a token export of about that size; return its lines."""
    draw = np.random.default_rng(0)
    lines = 0
    with file.open("wb") as handle:
        while handle.tell() < megabytes * 1e6:
            asked = draw.integers(0, 150_000, PROMPT).tolist()
            for number in range(GROUP):
                handle.write(orjson.dumps(_record(draw, asked, lines // 512, number % 2)) + b"\n")
                lines += 1
    return lines


def _record(
    draw: np.random.Generator, asked: list[int], step: int, reward: int
) -> dict[str, object]:
    count = int(draw.integers(TOKENS // 2, TOKENS * 3 // 2))
    total = PROMPT + count
    drawn = np.r_[np.zeros(PROMPT), -draw.exponential(0.5, count)]
    ratio = draw.normal(0, 0.02, total)
    return {
        "schema_version": 1,
        "step": step,
        "export_step": step,
        "rank": 0,
        "env_name": "bench",
        "token_ids": asked + draw.integers(0, 150_000, count).tolist(),
        "position_ids": list(range(total)),
        "loss_mask": [False] * PROMPT + [True] * count,
        "advantages": [0.0] * PROMPT + [reward - 0.5] * count,
        "rewards": [float(reward)] * total,
        "inference_logprobs": drawn.tolist(),
        "trainer_logprobs": (drawn + ratio).tolist(),
        "entropy": draw.exponential(0.4, total).tolist(),
        "mismatch_kl": (np.expm1(ratio) - ratio).tolist(),
        "log_importance_ratio": ratio.tolist(),
        "importance_ratio": np.exp(ratio).tolist(),
    }


def ours(file: Path) -> int:
    """Index the file; return its rollouts."""
    from engine.rollouts import RolloutLog

    return RolloutLog.open(file).index.num_rows


def theirs(file: Path) -> int:
    """Read all columns of the file into DuckDB; return its rows."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    query = "CREATE TABLE log AS SELECT * FROM read_json(?, maximum_object_size = 100000000)"
    connection.execute(query, [str(file)])
    row = connection.execute("SELECT count(*) FROM log").fetchone()
    assert row is not None
    return int(row[0])


def measured(read: Callable[[Path], int], file: Path) -> tuple[float, float, int]:
    """CPU seconds, growth of the peak resident memory in MB, and rows of one call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    rows = read(file)
    seconds = time.process_time() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, rows


def _apart(name: str, file: Path) -> tuple[float, float, int]:
    """One measurement in a process of its own, libraries loaded before the clock starts."""
    command = [sys.executable, "-m", "benchmarks.bench_rollouts", "--one", name, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory, rows = done.stdout.split()
    return float(seconds), float(memory), int(rows)


def run(quick: bool = False) -> Iterator[dict[str, object]]:
    """Measure both sides; yield the rows of the table."""
    megabytes, turns = (40, 1) if quick else (MEGABYTES, TURNS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rank_0.jsonl"
        lines = write_log(file, megabytes)
        size = file.stat().st_size / 1e6
        found = [(_apart("ours", file), _apart("theirs", file)) for _ in range(turns)]
    assert all(side[2] == lines for turn in found for side in turn)
    seconds = [min(turn[side][0] for turn in found) for side in (0, 1)]
    memory = [max(turn[side][1] for turn in found) for side in (0, 1)]
    what = f"log of {size:.0f} MB, {lines:,} lines of tokens"
    ratio = f"{seconds[1] / seconds[0]:.2f} x"
    speeds = [f"{size / spent:.0f} MB/s CPU" for spent in seconds]
    for says, target, measured_ in (
        (f"{what}: indexed, against read_json", ">= 0.5 x", ratio),
        (f"{what}: indexed", "", speeds[0]),
        (f"{what}: DuckDB read_json", "", speeds[1]),
        (f"{what}: memory while indexing", "<= 200 MB", f"+{memory[0]:.0f} MB"),
        (f"{what}: memory of read_json", "", f"+{memory[1]:.0f} MB"),
    ):
        yield {"part": "rollouts", "what": says, "target": target, "measured": measured_}


def main() -> None:
    """Print the rows, or measure one side."""
    if "--one" in sys.argv:
        name, file = sys.argv[-2:]
        import duckdb  # noqa: F401

        import engine.rollouts  # noqa: F401

        print(*measured({"ours": ours, "theirs": theirs}[name], Path(file)))
        return
    for row in run("--quick" in sys.argv):
        print(f"{row['what']!s:<62}{row['target']!s:>12}{row['measured']!s:>16}")


if __name__ == "__main__":
    main()
