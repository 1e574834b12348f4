"""What the tests of the store share."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cache import Store

ROOT = Path(__file__).resolve().parents[2]
Key = Callable[[object], str]
Tokens = Callable[..., pa.Table]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def key() -> Key:
    """Make a key from anything."""
    return lambda value: hashlib.sha256(str(value).encode()).hexdigest()


@pytest.fixture
def tokens() -> Tokens:
    """Make a per-token table."""

    def make(rows: int = 8, seed: int = 0, **more: object) -> pa.Table:
        rng = np.random.default_rng(seed)
        columns = {"position": np.arange(rows), "logprob": rng.normal(size=rows)}
        return pa.table(columns | more)

    return make


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for a store; not there yet."""
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """A store that owns its folder."""
    with Store(home, role="owner") as opened:
        yield opened


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python code in another process; what is left is killed at the end."""
    processes: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: object) -> subprocess.Popen[str]:
        prelude = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        process = subprocess.Popen(
            [sys.executable, "-c", prelude + code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()
