"""Which kernel computes the next-token statistics here: for people, and for programs."""

from __future__ import annotations

from typing import Any

import tokenkernel


def described() -> dict[str, Any]:
    """The kernel of this installation: whether it is compiled, and for which instruction set.

    Returns:
        ``compiled``; ``isa``, the instruction set in use (``torch`` without the compiled kernel);
        ``available``, all that this build has and this CPU runs, best first; ``bf16``, whether
        bfloat16 products with float32 sums run; ``about``, one sentence for a person.
    """
    return {
        "compiled": tokenkernel.HAVE,
        "isa": tokenkernel.isa(),
        "available": tokenkernel.available(),
        "bf16": tokenkernel.has_bf16(),
        "about": tokenkernel.about(),
    }


def sentence(computed: object = None) -> str:
    """What a person reads about it.

    Args:
        computed: the kernel a shown result was computed with, as its provenance has it; said
            only where it is another than the one in use here.
    """
    here = tokenkernel.about()
    if not isinstance(computed, str) or computed == tokenkernel.isa():
        return here
    by = "torch" if computed == "torch" else f"the kernel for {computed[:40]}"
    return f"{here} The result that is shown was computed with {by}, on this machine or another."
