"""Networks in double precision all the way through."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any


def wide() -> AbstractContextManager[Any]:
    """Inside, float64 stays float64 where a network's code turns it to float32.

    Norms and softmaxes of transformers do so to be safe with half precision; with float64 weights
    it would cost the very digits they are there for. Acts on this thread only.
    """
    made: AbstractContextManager[Any] = _mode()()
    return made


@cache
def _mode() -> Any:
    # Method files import no torch; this one is imported with them.
    import torch
    from torch.overrides import TorchFunctionMode

    conversions = (torch.Tensor.to, torch.Tensor.type)

    class Wide(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            kwargs = dict(kwargs or {})
            first = args[0] if args else None
            if isinstance(first, torch.Tensor) and first.dtype == torch.float64:
                if func is torch.Tensor.float:
                    return first
                if func in conversions:
                    args = (first, *(torch.float64 if a is torch.float32 else a for a in args[1:]))
                if kwargs.get("dtype") is torch.float32:
                    kwargs["dtype"] = torch.float64
            return func(*args, **kwargs)

    return Wide
