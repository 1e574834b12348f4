"""What may come next, byte by byte: a model's distribution over tokens as one over next bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.tokenizer.spec import TokenizerSpec

if TYPE_CHECKING:
    from torch import Tensor

Reals = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

END = 256
"""Place of the end among the outcomes: 256 bytes, the end, then every control token."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prediction.

    Attributes:
        logits: [V], float32.
        log_z: logarithm of their summed exponentials.
    """

    logits: Reals
    log_z: float

    def logs(self, ids: Ids) -> Reals:
        """Log-probabilities of some ids, float64."""
        return self.logits[ids].astype(np.float64) - self.log_z


def rows_of(logits: Tensor) -> list[Row]:
    """Predictions from logits [n, V]; the sums are made by the kernel, in float64 across blocks."""
    import torch
    from tokenkernel import token_stats

    logits = logits.float().contiguous()
    target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    sums = token_stats(logits, target).logz.tolist()
    made = logits.cpu().numpy()
    return [Row(row, float(log_z)) for row, log_z in zip(made, sums, strict=True)]


class Outcomes:
    """The tokens a model can say, sorted by their bytes.

    Attributes:
        spec: whose tokens.
        order: ids that spell text, sorted by bytes.
        zero: ids that stand for no byte of text: the end and control tokens.
        ends: those of them that end a text.
        controls: the others, in the order of the outcomes after ``END``.
        size: number of outcomes.
    """

    def __init__(self, spec: TokenizerSpec, real: int, ends: Sequence[int]) -> None:
        order = spec.trie.order
        pieces = [spec.pieces[i].data for i in order.tolist()]
        self.spec = spec
        self._lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]]).astype(np.int64)
        self._flat = np.frombuffer(b"".join(pieces), np.uint8)
        # Ids the model has no row for, and ends that have bytes, spell nothing here.
        self._dead = (order >= real) | np.isin(order, list(ends))
        self.order: Ids = np.where(self._dead, 0, order)
        self._some_dead = bool(self._dead.any())
        text = np.zeros(real, bool)
        text[order[~self._dead]] = True
        self._text = text
        self.zero: Ids = np.flatnonzero(~text)
        is_end = np.isin(self.zero, list(ends))
        self.ends: Ids = self.zero[is_end]
        self.controls: Ids = self.zero[~is_end]
        self.size = END + 1 + len(self.controls)
        self._nth: dict[int, npt.NDArray[np.uint8]] = {}
        self._heads, self._bounds = np.unique(self._after(0), return_index=True)

    def longer(self, prefix: bytes) -> tuple[int, int]:
        """Places in ``order`` of the tokens that go on after ``prefix``."""
        if not prefix:
            return 0, len(self.order)
        low, high = self.spec.trie.range(prefix)
        # The token that is the prefix itself (there may be two) comes first.
        while low < high and self._lengths[low] == len(prefix):
            low += 1
        return low, high

    def matches(self, data: bytes, place: int) -> list[tuple[int, int]]:
        """(byte after, id) of the tokens the model can say that match in ``data``."""
        found = self.spec.trie.at(data, place)
        return [pair for pair in found if self._says(pair[1])] if self._some_dead else found

    def _says(self, token_id: int) -> bool:
        return token_id < len(self._text) and bool(self._text[token_id])

    def logs(self, row: Row, span: tuple[int, int]) -> Reals:
        """Log-probability of each token of a span, float32; −inf for what cannot be said."""
        low, high = span
        logs = row.logits.take(self.order[low:high])
        logs -= np.float32(row.log_z)
        if self._some_dead:
            logs[self._dead[low:high]] = -np.inf
        return logs

    def byte_masses(self, weights: Reals, span: tuple[int, int], skip: int) -> Reals:
        """Sums of weights by next byte, [256] in float64."""
        masses = np.zeros(256)
        if span[0] == span[1]:
            return masses
        # Tokens that share what is skipped are sorted by the byte after it.
        heads, bounds = self._bytes_of(span, skip)
        masses[heads] = np.add.reduceat(weights, bounds, dtype=np.float64)
        return masses

    def _bytes_of(
        self, span: tuple[int, int], skip: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """The bytes that come next in a span, and where the tokens of each begin in it."""
        if skip == 0:
            return self._heads, self._bounds
        low, high = span
        after = self._after(skip)[low:high]
        bounds = np.concatenate([[0], np.flatnonzero(after[1:] != after[:-1]) + 1])
        return after[bounds], bounds

    def _after(self, skip: int) -> npt.NDArray[np.uint8]:
        """Byte number ``skip`` of every token, in order; of shorter ones anything."""
        if skip not in self._nth:
            places = np.minimum(self._starts + skip, len(self._flat) - 1)
            self._nth[skip] = self._flat.take(places)
        return self._nth[skip]

    def zero_masses(self, row: Row) -> Reals:
        """Probabilities of the end and of each control token, [size − 256]."""
        controls = np.exp(row.logs(self.controls))
        return np.concatenate([[np.exp(row.logs(self.ends)).sum()], controls])

    def whole(self, row: Row) -> Reals:
        """The distribution of the next outcome after a token boundary, [size]; sums to 1."""
        span = (0, len(self.order))
        weights = np.exp(self.logs(row, span))
        masses = np.concatenate([self.byte_masses(weights, span, 0), self.zero_masses(row)])
        return np.asarray(masses / masses.sum())


@lru_cache(maxsize=4)
def outcomes_of(spec: TokenizerSpec, real: int, ends: tuple[int, ...]) -> Outcomes:
    """The outcomes of a model with ``real`` ids, kept for the next request."""
    return Outcomes(spec, real, ends)


def variation(first: Reals, second: Reals) -> float:
    """Total variation, half the summed differences: the probability one has to move."""
    return float(np.abs(first - second).sum() / 2)
