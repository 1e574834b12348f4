"""Every test of the kernel runs for each instruction set this CPU has, and for the reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tokenkernel as tk


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
