"""The compiled kernel where it can, the torch reference everywhere else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenkernel import checks, reference
from tokenkernel.build import HAVE, _kernel, isa
from tokenkernel.results import PairStats, TokenStats

_COMPILED = (torch.float32, torch.bfloat16, torch.float16)


_FLOATS = (
    "logz", "logprob", "entropy", "varentropy", "margin", "max_prob", "sum_p2", "self_certainty",
)  # fmt: skip


def backend(x: Tensor | None = None) -> str:
    """What computes the statistics of ``x``: an instruction set, or ``torch``."""
    return isa() if HAVE and (x is None or _compiled(x)) else "torch"


def _compiled(x: Tensor) -> bool:
    return HAVE and x.device.type == "cpu" and x.dtype in _COMPILED


def _rows(x: Tensor) -> Tensor:
    """With contiguous rows, as the kernel reads them."""
    return x if x.shape[1] == 1 or x.stride(1) == 1 else x.contiguous()


def _empty(n: int, k: int) -> dict[str, Tensor]:
    # In the order of the kernel's arguments.
    made: dict[str, Tensor] = {name: torch.empty(n) for name in _FLOATS}
    made["rank"], made["ties"] = (torch.empty(n, dtype=torch.int64) for _ in "ab")
    made["top_ids"] = torch.empty(n, k, dtype=torch.int64)
    made["top_logprobs"] = torch.empty(n, k)
    return made


def _finish(state: Any) -> TokenStats:
    made = _empty(state.rows, state.k)
    state.finish(*made.values())
    return TokenStats(**made)


def token_stats(
    logits: Tensor,
    target: Tensor,
    k: int = 0,
    *,
    scale: float = 1.0,
    softcap: float = 0.0,
    temperature: float = 1.0,
    real: Tensor | None = None,
    threads: int = 0,
) -> TokenStats:
    """Every next-token statistic of each row, in one sweep over the logits.

    The logits looked at are ``softcap · tanh(scale · x / softcap) / temperature``, or
    ``scale · x / temperature`` without a soft-cap.

    Args:
        logits: [n, V] float32, bfloat16 or float16, read in place; float64 goes to the reference.
            −inf marks ids that cannot occur. Rows may lie apart. A padded vocabulary is left out by
            passing ``logits[:, :real]``.
        target: [n] ids.
        k: how many alternatives to list (at most V).
        scale: factor of the logits.
        softcap: bound of the logits (Gemma); 0 for none.
        temperature: divisor of the logits.
        real: [V] bool, False for ids that cannot occur.
        threads: at most so many; 0 for all.

    Returns:
        ``TokenStats``; no gradients flow through it.

    Raises:
        TypeError: for other types.
        ValueError: for shapes, devices or ids that do not fit.
    """
    change = {"scale": scale, "softcap": softcap, "temperature": temperature}
    if not (isinstance(logits, Tensor) and _compiled(logits)):
        return reference.token_stats(logits, target, k, **change, real=real)
    logits, target, k, real = checks.token_arguments(logits, target, k, **change, real=real)
    return _finish(
        _kernel.token_stats(
            _rows(logits), target.contiguous(), k, scale, softcap, temperature, real,
            threads or torch.get_num_threads(),
        )
    )  # fmt: skip


def pair_stats(
    p_logits: Tensor,
    q_logits: Tensor,
    target: Tensor,
    *,
    js: bool = True,
    beta: float | None = None,
    temperature: float = 1.0,
    real: Tensor | None = None,
    threads: int = 0,
) -> PairStats:
    """Divergences between two distributions over the same ids, row by row.

    KL(p‖q) = Σ p (log p − log q). The contrastive score is the one of "Critical Tokens Matter"
    (Lin et al. 2024, official code): log softmax((1 + β) log p − β log q) at the target.

    Args:
        p_logits: [n, V] float32, bfloat16 or float16.
        q_logits: the same shape, dtype and device.
        target: [n] ids.
        js: whether Jensen–Shannon and total variation are wanted (a second sweep of each row).
        beta: weight of the contrastive score; None for none.
        temperature: divisor of both logits.
        real: [V] bool, False for ids that cannot occur.
        threads: at most so many; 0 for all.

    Raises:
        TypeError: for other types.
        ValueError: for shapes, dtypes, devices or ids that do not fit.
    """
    p_logits, q_logits, target, real = checks.pair_arguments(
        p_logits, q_logits, target, temperature, real
    )
    if not (_compiled(p_logits) and _compiled(q_logits)):
        return reference.pair_stats(
            p_logits, q_logits, target, js=js, beta=beta, temperature=temperature, real=real
        )
    out = torch.empty(9, p_logits.shape[0])
    _kernel.pair_stats(
        _rows(p_logits), _rows(q_logits), target.contiguous(), js, beta, temperature, real, out,
        threads or torch.get_num_threads(),
    )  # fmt: skip
    p, q, *rest = out
    return PairStats(p, q, p - q, *rest)


class Accumulator:
    """Statistics of rows whose ids arrive in blocks; states of disjoint ids merge.

    Block, thread and shard splits give the same numbers, up to rounding.

    Args:
        rows: how many.
        k: how many alternatives to list.
    """

    def __init__(self, rows: int, k: int = 0) -> None:
        self.rows, self.k = checks.sizes(rows, k)
        self._state = _kernel.Accumulator(rows, k) if HAVE else reference.Accumulator(rows, k)

    def update(
        self,
        block: Tensor,
        first: int,
        target: Tensor,
        own: Tensor,
        *,
        scale: float = 1.0,
        softcap: float = 0.0,
        temperature: float = 1.0,
        real: Tensor | None = None,
        threads: int = 0,
    ) -> None:
        """Add ids ``first`` to ``first + block.shape[1] − 1``.

        Args:
            block: [rows, width] their logits, on the CPU.
            first: the first of the ids.
            target: [rows] target ids, of the whole vocabulary.
            own: [rows] float32 logits of the targets after scale, soft-cap and temperature.
            scale, softcap, temperature: as in ``token_stats``.
            real: [width] bool, False for ids that cannot occur.
            threads: at most so many; 0 for all.

        Raises:
            TypeError: for other types.
            ValueError: for shapes that do not fit.
        """
        change = {"scale": scale, "softcap": softcap, "temperature": temperature}
        if isinstance(self._state, reference.Accumulator):
            self._state.update(block, first, target, own, **change, real=real)
            return
        block, real = checks.block_arguments(
            block, first, target, own, self.rows, **change, real=real
        )
        if not _compiled(block):
            raise TypeError("block must be float32, bfloat16 or float16 on the CPU")
        target, own = target.to(torch.int64).contiguous(), own.detach().float().contiguous()
        self._state.update(
            _rows(block), first, target, own, scale, softcap, temperature, real,
            threads or torch.get_num_threads(),
        )  # fmt: skip

    def merge(self, other: Accumulator) -> None:
        """Add what another accumulator saw of other ids of the same rows.

        Raises:
            ValueError: when rows or k differ, or it is this one.
        """
        checks.mergeable(self, other)
        if isinstance(self._state, reference.Accumulator):
            self._state.merge(other._state)
        else:
            self._state.merge(other._state, 0)

    def finish(self) -> TokenStats:
        """The statistics of what was added so far; more may be added afterwards."""
        if isinstance(self._state, reference.Accumulator):
            return self._state.finish()
        return _finish(self._state)
