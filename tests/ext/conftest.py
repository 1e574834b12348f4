"""Every test of the kernel runs for each instruction set this CPU has, and for the reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tokenkernel as tk
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same numbers every time: close to a tie, float32 may put two ids the other way round."""
    torch.manual_seed(0)


@pytest.fixture(params=tk.available() or ["torch"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set in use."""
    name: str = request.param
    if not tk.HAVE:
        yield name
        return
    before = tk.isa()
    tk.use(name)
    yield name
    tk.use(before)
