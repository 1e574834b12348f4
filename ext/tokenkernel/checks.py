"""Checks of arguments, the same for the kernel and its reference."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def matrix(x: Tensor, name: str) -> Tensor:
    """A float matrix without its history.

    Raises:
        TypeError: for anything else.
        ValueError: for another number of dimensions, or no columns.
    """
    if not isinstance(x, Tensor) or x.dtype not in FLOATS:
        kind = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"{name} must be a float32, bfloat16 or float16 tensor, not {kind}")
    if x.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, not {x.ndim}")
    if x.shape[1] == 0:
        raise ValueError(f"{name} has no columns")
    return x.detach()


def targets(target: Tensor, rows: int, vocabulary: int, like: Tensor) -> Tensor:
    """Target ids as int64.

    Raises:
        TypeError: when they are no whole numbers.
        ValueError: when their number, range or device does not fit.
    """
    if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex():
        raise TypeError("target must be a tensor of ids")
    if target.shape != (rows,):
        raise ValueError(f"target must have one id for each of {rows} rows, not {target.shape}")
    if target.device != like.device:
        raise ValueError(f"target is on {target.device}, the rest on {like.device}")
    target = target.to(torch.int64)
    if rows and not (int(target.min()) >= 0 and int(target.max()) < vocabulary):
        raise ValueError(f"target ids must lie between 0 and {vocabulary - 1}")
    return target


def top(k: int) -> int:
    """A number of alternatives.

    Raises:
        ValueError: outside 0 to 65,536.
    """
    if not 0 <= k <= 65_536:
        raise ValueError("k must lie between 0 and 65,536")
    return k


def change(scale: float, softcap: float, temperature: float) -> None:
    """What happens to the logits first.

    Raises:
        ValueError: for values that mean nothing.
    """
    if not math.isfinite(scale) or scale == 0:
        raise ValueError("scale must be finite and not 0")
    if not math.isfinite(softcap) or softcap < 0:
        raise ValueError("softcap must be 0 (none) or above")
    if not math.isfinite(temperature) or temperature <= 0:
        raise ValueError("temperature must be above 0")


def mask(real: Tensor | None, vocabulary: int, like: Tensor) -> Tensor | None:
    """Which ids are possible.

    Raises:
        ValueError: when it is no bool for each id.
    """
    if real is None:
        return None
    if real.dtype != torch.bool or real.shape != (vocabulary,) or real.device != like.device:
        raise ValueError(f"real must be a bool for each of {vocabulary} ids, on {like.device}")
    return real.contiguous()


def token_arguments(
    logits: Tensor,
    target: Tensor,
    k: int,
    scale: float,
    softcap: float,
    temperature: float,
    real: Tensor | None,
) -> tuple[Tensor, Tensor, int, Tensor | None]:
    """Arguments of ``token_stats``: logits, target, k (at most V) and mask.

    Raises:
        TypeError: for other types.
        ValueError: for shapes, devices or ids that do not fit.
    """
    logits = matrix(logits, "logits")
    n, vocabulary = logits.shape
    target = targets(target, n, vocabulary, logits)
    real = mask(real, vocabulary, logits)
    change(scale, softcap, temperature)
    return logits, target, min(top(k), vocabulary), real


def pair_arguments(
    p_logits: Tensor, q_logits: Tensor, target: Tensor, temperature: float, real: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Arguments of ``pair_stats``: both logits, target and mask.

    Raises:
        TypeError: for other types.
        ValueError: for shapes, dtypes, devices or ids that do not fit.
    """
    p_logits, q_logits = matrix(p_logits, "p_logits"), matrix(q_logits, "q_logits")
    if p_logits.dtype != q_logits.dtype:
        raise ValueError("p_logits and q_logits must have the same dtype")
    if p_logits.shape != q_logits.shape or p_logits.device != q_logits.device:
        raise ValueError("p_logits and q_logits must have the same shape and device")
    n, vocabulary = p_logits.shape
    target = targets(target, n, vocabulary, p_logits)
    change(1, 0, temperature)
    return p_logits, q_logits, target, mask(real, vocabulary, p_logits)


def sizes(rows: int, k: int) -> tuple[int, int]:
    """Rows and alternatives of an accumulator.

    Raises:
        ValueError: when there cannot be so many.
    """
    if rows < 0:
        raise ValueError("rows must not be negative")
    return rows, top(k)


def block_arguments(
    block: Tensor,
    first: int,
    target: Tensor,
    own: Tensor,
    rows: int,
    scale: float,
    softcap: float,
    temperature: float,
    real: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Arguments of an accumulator's ``update``: block and mask.

    Raises:
        TypeError: for other types.
        ValueError: for shapes that do not fit.
    """
    block = matrix(block, "block")
    if block.shape[0] != rows:
        raise ValueError("block must have a row for each of the accumulator's")
    if target.shape != (rows,) or own.shape != (rows,):
        raise ValueError("target and own must have one entry for each row")
    if first < 0:
        raise ValueError("first must not be negative")
    change(scale, softcap, temperature)
    return block, mask(real, block.shape[1], block)


class Sized(Protocol):
    """An accumulator, as far as merging asks."""

    rows: int
    k: int


def mergeable(one: Sized, other: Sized) -> None:
    """Two accumulators that may become one.

    Raises:
        ValueError: when rows or k differ, or they are the same.
    """
    if other is one:
        raise ValueError("an accumulator cannot be merged into itself")
    if (other.rows, other.k) != (one.rows, one.k):
        raise ValueError("both accumulators must have the same rows and k")
