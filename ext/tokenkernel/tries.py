"""A byte trie over a vocabulary: compiled where it can be, plain Python everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tokenkernel import trie_reference
from tokenkernel.build import HAVE, _kernel

Ids = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


class Lattice(NamedTuple):
    """All matches of a vocabulary in some bytes, by start, then length, then id.

    Attributes:
        start: first byte of each match.
        end: byte after its last one.
        id: which token it is.
    """

    start: Ids
    end: Ids
    id: Ids


class Spelling(NamedTuple):
    """A token sequence that spells some bytes.

    Attributes:
        ids: its tokens.
        cost: their number, or the sum of their costs.
    """

    ids: tuple[int, ...]
    cost: float


class Difference(NamedTuple):
    """A stretch between two boundaries that two cuttings share, where they differ.

    Attributes:
        start, end: its bytes.
        a_from, a_to: tokens of the first cutting in it.
        b_from, b_to: tokens of the second.
    """

    start: int
    end: int
    a_from: int
    a_to: int
    b_from: int
    b_to: int


class Trie:
    """A byte trie over tokens; tokens of zero bytes stand for nothing and are left out.

    Args:
        tokens: the tokens' bytes; two may be equal.
        ids: an id for each, their places by default.
        compiled: False for the plain Python one.

    Raises:
        ValueError: when tokens and ids are not of one length.
    """

    def __init__(
        self, tokens: Sequence[bytes], ids: Sequence[int] | None = None, *, compiled: bool = True
    ) -> None:
        names = range(len(tokens)) if ids is None else ids
        if len(names) != len(tokens):
            raise ValueError("there must be one id for each token")
        self.compiled = compiled and HAVE
        if self.compiled:
            numbers = np.fromiter(names, np.int64, len(tokens))
            self._trie: Any = _kernel.Trie(b"".join(tokens), _offsets(tokens), numbers)
            self.order: Ids = self._trie.order()
        else:
            self._trie = trie_reference.Trie(tokens, names)
            self.order = np.array(self._trie.ids, np.int64)
        """Ids in the order of their bytes; equal bytes by id."""

    @property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return int(self._trie.longest)

    def __len__(self) -> int:
        return len(self.order)

    def at(self, data: bytes, place: int = 0) -> list[tuple[int, int]]:
        """(byte after the match, id) of every token that matches at ``place``, shortest first.

        Raises:
            ValueError: for a place outside of the bytes.
        """
        return list(self._trie.at(data, place))

    def range(self, prefix: bytes) -> tuple[int, int]:
        """The tokens that start with ``prefix`` are ``order[low:high]``; (0, 0) if none does."""
        low, high = self._trie.range(prefix)
        return int(low), int(high)

    def lattice(self, data: bytes, *, complete: bool = True) -> Lattice:
        """All matches in ``data``; ``complete`` leaves out those on no path from end to end.

        Raises:
            ValueError: for more than 20 million matches.
        """
        return Lattice(*self._trie.matches(data, complete))

    def count(self, data: bytes) -> int:
        """How many token sequences spell ``data``, exactly; for at most some thousand bytes.

        ``c[e] = sum over matches that end at e of c[start]``, ``c[0] = 1``.
        """
        counts = [1] + [0] * len(data)
        lattice = self.lattice(data)
        for start, end in zip(lattice.start.tolist(), lattice.end.tolist(), strict=True):
            counts[end] += counts[start]
        return counts[-1]

    def log2_count(self, data: bytes) -> float:
        """log2 of ``count``, for any length; −inf if no sequence spells ``data``."""
        return float(self._trie.log2_count(data))

    def best(
        self, data: bytes, k: int, costs: Sequence[float] | Reals | None = None
    ) -> list[Spelling]:
        """The ``k`` cheapest token sequences that spell ``data``; none for no bytes.

        Args:
            data: what is spelled.
            k: how many.
            costs: of each token, in the order of ``order``; 1 each by default (fewest tokens).

        Equal costs: longer last token first, then smaller id, then what comes first before it.

        Raises:
            ValueError: for a cost that is no number, or more than 20 million partial sequences.
        """
        numbers = None
        if costs is not None:
            numbers = np.ascontiguousarray(costs, np.float64)
            if np.isnan(numbers).any():
                raise ValueError("costs must be numbers")
        ids, lengths, totals = self._trie.best(data, k, numbers)
        cut = np.split(np.asarray(ids, np.int64), np.cumsum(lengths)[:-1]) if len(lengths) else []
        return [
            Spelling(tuple(row.tolist()), float(total))
            for row, total in zip(cut, totals, strict=True)
        ]


def differences(
    a_ends: Sequence[int] | Ids,
    a_ids: Sequence[int] | Ids,
    b_ends: Sequence[int] | Ids,
    b_ids: Sequence[int] | Ids,
    *,
    compiled: bool = True,
) -> list[Difference]:
    """Where two cuttings of the same bytes differ, in time linear in their tokens.

    Args:
        a_ends, b_ends: byte after each token, from 0 on, never falling.
        a_ids, b_ids: the tokens; those of zero bytes are passed over.
        compiled: False for the plain Python one.

    Raises:
        ValueError: for ends that fall, or as many as there are no ids.
    """
    arrays = [np.ascontiguousarray(x, np.int64) for x in (a_ends, a_ids, b_ends, b_ids)]
    if compiled and HAVE:
        flat = _kernel.differences(*arrays)
        return [Difference(*row) for row in flat.reshape(-1, 6).tolist()]
    return [Difference(*row) for row in trie_reference.differences(*(x.tolist() for x in arrays))]


def rank_merges(tokens: Sequence[bytes], *, compiled: bool = True) -> list[int]:
    """Where each token is put together from two, in a vocabulary ordered by rank.

    A token's bytes are merged with the ranks below its own; if two parts are left, the place
    between them is the answer, else 0 (single bytes, and tokens that no merge makes).
    """
    if compiled and HAVE:
        found: list[int] = _kernel.rank_merges(b"".join(tokens), _offsets(tokens)).tolist()
        return found
    return trie_reference.rank_merges(tokens)


def _offsets(tokens: Sequence[bytes]) -> Ids:
    offsets = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)), out=offsets[1:])
    return offsets
