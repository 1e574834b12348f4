"""The two recurrences of an answer-targeted flow: reach from the answer back, flow forwards.

Weights come as rows: ``rows[k, i]`` with i < k is the weight of the edge from token *i* to token
*k*, which is how attention has it (query *k*, key *i*); the rest is not looked at. Weights are
0 or at least 1e-150, as float32 always are.

Both are triangular systems. They are solved in blocks: rows of the float32 weights become float64
only a block at a time. A node's reach is ``mantissa · 2^exponent``, because over thousands of
tokens the reach itself may be too large or too small for a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.float32] | Floats

BLOCK = 64
"""Nodes solved at a time; 64 and 128 are equally fast, more is slower (T = 4,096)."""

_BELOW = -np.tri(BLOCK, k=-1)
_LOW, _HIGH = 2.0**-100, 2.0**100
_UP, _DOWN = 700, -900
"""Bounds of an exponent's difference. Above ``_UP`` the weight between the nodes is 0, because
W h(target) ≤ h(source); below ``_DOWN`` the share is 0 to any precision."""


@dataclass(frozen=True)
class Reach:
    """How much of every node's weight leads to the answer, h = mantissa · 2^exponent.

    Attributes:
        mantissa: [n]; 0 where nothing of the answer is reached.
        exponent: [n]; all 0 unless the text is long and its weights extreme.
        stretches: ``(start, end, exponent)``, ascending and without gaps.
        sink: [n], share of a node's flow that leaves to the sink: 1 at absorbing answers.
        passing: [n], whether a node hands flow on: false at absorbing answers.
    """

    mantissa: Floats
    exponent: Ints
    stretches: tuple[tuple[int, int, int], ...]
    sink: Floats
    passing: Marks

    @property
    def log(self) -> Floats:
        """log h in nats, −∞ where nothing is reached."""
        with np.errstate(divide="ignore"):
            return np.log(self.mantissa) + self.exponent * math.log(2)

    def shifted(self, exponent: int, start: int, end: int) -> Floats:
        """2^(exponent − own exponent) / mantissa of nodes ``start`` to ``end``, 0 where h is 0."""
        m = self.mantissa[start:end]
        inverse = np.divide(1.0, m, out=np.zeros_like(m), where=m > 0)
        return np.ldexp(inverse, np.clip(exponent - self.exponent[start:end], _DOWN, _UP))


def reach(rows: Rows, answers: Marks, *, absorbing: bool = True) -> Reach:
    """Solve h(a) = 1 at answers (plus what they lead to, unless absorbing), else Σ W h.

    Args:
        rows: [n, n] weights, ``rows[k, i]`` from *i* to *k*.
        answers: [n], which nodes are the answer.
        absorbing: whether flow ends at the first answer node it meets.
    """
    n = len(answers)
    passing = ~answers if absorbing else np.ones(n, bool)
    sums, powers = answers.astype(np.float64), np.zeros(n, np.int64)
    mantissa, exponent = np.zeros(n), np.zeros(n, np.int64)
    stretches: list[tuple[int, int, int]] = []
    waiting = [(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
    current = 0
    first = n if passing.all() else int(passing.argmin())
    while waiting:
        start, end = waiting.pop()
        here = slice(start, end)
        inner = _inner(rows, passing, start, end)
        solved = _block(inner, sums[here], powers[here] - current)
        if solved is None:
            power = _largest(sums[here], powers[here], current)
            solved = _block(inner, sums[here], powers[here] - power)
            current = current if solved is None else power
        if solved is None:
            middle = (start + end) // 2
            waiting += [(start, middle), (middle, end)]
            continue
        mantissa[here], exponent[here] = solved, current
        stretches.append((start, end, current))
        handed = solved @ rows[here, :start].astype(np.float64)
        if start > first:
            handed[~passing[:start]] = 0.0
        _add(sums[:start], powers[:start], handed, current)
    with np.errstate(over="ignore", divide="ignore"):
        own = np.ldexp(1.0 / mantissa[answers], -np.clip(exponent[answers], -2000, 2000))
    sink = np.zeros(n)
    sink[answers] = 1.0 if absorbing else own
    return Reach(mantissa, exponent, _merged(stretches[::-1]), sink, passing)


def inflow(rows: Rows, reached: Reach, source: Floats) -> Floats:
    """All flow that enters each node, [n]: f(k) = source(k) + Σ_i f(i) W'(i, k).

    Args:
        rows: the weights ``reached`` was solved for.
        reached: the reach of every node.
        source: [n], what is injected; where the answer is not reached it is lost.
    """
    m = reached.mantissa
    found, held = np.zeros(len(m)), np.zeros(len(m))
    for start, end, power in _pieces(reached.stretches):
        here = slice(start, end)
        scale = m[here]
        right = np.divide(source[here], scale, out=np.zeros(end - start), where=scale > 0)
        before = held[:start]
        if len(reached.stretches) > 1:
            before = np.ldexp(before, np.clip(power - reached.exponent[:start], _DOWN, _UP))
        right += rows[here, :start].astype(np.float64) @ before
        solved = _triangular(_inner(rows, reached.passing, start, end), right, transposed=False)
        found[here] = solved * scale
        held[here] = np.where(reached.passing[here] & (scale > 0), solved, 0.0)
    return found


def transitions(
    rows: Rows, reached: Reach, first: int = 0
) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """W'(i, k) = W h(k) / h(i) in blocks of rows: ``(first row k, [rows, last row + 1 − first])``.

    Column *j* of a block is the node ``first + j``; nodes before ``first`` are left out.
    """
    for start, end, power in _pieces(reached.stretches):
        if end <= first:
            continue
        start = max(start, first)
        block = np.tril(rows[start:end, first:end], start - first - 1).astype(np.float64)
        scale = reached.shifted(power, first, end)
        scale[~reached.passing[first:end]] = 0.0
        block *= reached.mantissa[start:end, None]
        block *= scale
        yield start, block


def _block(inner: Floats, sums: Floats, shift: Ints) -> Floats | None:
    """Reach of one block in units of its exponent, or None where these do not hold it."""
    right = sums
    if shift.any():
        with np.errstate(over="ignore"):
            right = np.ldexp(sums, np.clip(shift, -2000, 2000))
    if not _held(right, sums > 0):
        return None
    solved = _triangular(inner, right, transposed=True)
    return solved if _held(solved, solved != 0) else None


def _held(values: Floats, nonzero: Marks) -> bool:
    least = values.min(initial=1.0, where=nonzero)
    return bool(least >= _LOW and values.max() <= _HIGH)


def _largest(sums: Floats, powers: Ints, default: int) -> int:
    """Exponent of the largest of ``sums · 2^powers``."""
    some = sums > 0
    return int((np.frexp(sums[some])[1] + powers[some]).max()) if some.any() else default


def _add(sums: Floats, powers: Ints, handed: Floats, power: int) -> None:
    """``sums · 2^powers += handed · 2^power`` in place; each entry keeps its own exponent."""
    if (powers == power).all():
        sums += handed
        return
    (m, e), (m2, e2) = np.frexp(sums), np.frexp(handed)
    none = np.iinfo(np.int64).min // 4
    e = np.where(m > 0, e + powers, none)
    e2 = np.where(m2 > 0, e2.astype(np.int64) + power, none)
    top = np.maximum(e, e2)
    sums[:] = np.ldexp(m, np.clip(e - top, -2000, 0)) + np.ldexp(m2, np.clip(e2 - top, -2000, 0))
    powers[:] = np.where(sums > 0, top, power)


def _inner(rows: Rows, passing: Marks, start: int, end: int) -> Floats:
    """Identity minus the weights inside a block (the diagonal is left to the solver)."""
    size, here = end - start, passing[start:end]
    inner = np.multiply(rows[start:end, start:end], _BELOW[:size, :size], dtype=np.float64)
    if not here.all():
        inner[:, ~here] = 0.0
    return inner


def _triangular(lower: Floats, right: Floats, *, transposed: bool) -> Floats:
    """Solve a unit lower triangular system, or its transpose; sums of positive terms only."""
    from scipy.linalg.blas import dtrsv

    # Fortran order: the transposed view is passed without a copy, as an upper triangle.
    solved: Any = dtrsv(lower.T, right, lower=0, trans=0 if transposed else 1, diag=1)
    return solved


def _merged(stretches: list[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    merged: list[tuple[int, int, int]] = []
    for start, end, power in stretches:
        if merged and merged[-1][2] == power:
            merged[-1] = (merged[-1][0], end, power)
        else:
            merged.append((start, end, power))
    return tuple(merged)


def _pieces(stretches: tuple[tuple[int, int, int], ...]) -> Iterator[tuple[int, int, int]]:
    for start, end, power in stretches:
        for at in range(start, end, BLOCK):
            yield at, min(at + BLOCK, end), power
