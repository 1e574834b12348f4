"""What this installation has: the compiled kernel and its instruction sets. Needs no torch."""

from __future__ import annotations

import contextlib
import os
from typing import Any

_kernel: Any = None
with contextlib.suppress(ImportError):  # installed without a compiler
    from tokenkernel import _kernel  # type: ignore[attr-defined, no-redef]

HAVE: bool = _kernel is not None
"""Whether there is a compiled kernel."""


def available() -> list[str]:
    """Instruction sets this build has and this CPU runs, best first; empty without the kernel."""
    return list(_kernel.available()) if HAVE else []


def isa() -> str:
    """The instruction set in use, or ``torch``."""
    return str(_kernel.isa()) if HAVE else "torch"


def has_bf16() -> bool:
    """Whether bfloat16 products with float32 sums run here."""
    return bool(HAVE and _kernel.has_bf16())


def use(name: str) -> None:
    """Choose an instruction set for this process (``TOKENKERNEL_ISA`` does so at import).

    Raises:
        ValueError: when this build or this CPU has none of that name.
    """
    if not HAVE:
        raise ValueError(f"no instruction set {name!r}: tokenkernel has no compiled part here")
    _kernel.use(name)


def about() -> str:
    """One sentence on what computes the statistics on this machine."""
    if not HAVE:
        return "Statistics are computed in torch: tokenkernel was installed without a C++ compiler."
    products = ", bfloat16 products" if has_bf16() else ""
    return f"Statistics are computed by the compiled kernel ({isa()}{products}); on GPUs by torch."


if HAVE and os.environ.get("TOKENKERNEL_ISA"):
    use(os.environ["TOKENKERNEL_ISA"])
