"""The trie in plain Python: for machines without a compiler, and to test the compiled one."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST = 20_000_000
LONGEST_MERGED = 4096


class Trie:
    """Tokens by their bytes in a dictionary, and sorted; as ``tokenkernel.Trie`` uses it."""

    def __init__(self, tokens: Sequence[bytes], ids: Sequence[int]) -> None:
        pairs = sorted((token, i) for token, i in zip(tokens, ids, strict=True) if token)
        self.ids = [i for _, i in pairs]
        self.longest = max((len(token) for token, _ in pairs), default=0)
        self._sorted = [token for token, _ in pairs]
        self._places: dict[bytes, list[int]] = {}
        for place, token in enumerate(self._sorted):
            self._places.setdefault(token, []).append(place)
        self._prefixes = {token[:n] for token in self._places for n in range(1, len(token) + 1)}

    def _matches(self, data: bytes, start: int) -> list[tuple[int, int]]:
        """(end, place in the order) of the tokens that match at ``start``."""
        found: list[tuple[int, int]] = []
        for end in range(start + 1, min(len(data), start + self.longest) + 1):
            piece = data[start:end]
            if piece not in self._prefixes:
                break
            found += [(end, place) for place in self._places.get(piece, ())]
        return found

    def at(self, data: bytes, place: int) -> list[tuple[int, int]]:
        if not 0 <= place <= len(data):
            raise ValueError("the place must lie in the text")
        return [(end, self.ids[i]) for end, i in self._matches(data, place)]

    def range(self, prefix: bytes) -> tuple[int, int]:
        low = bisect_left(self._sorted, prefix)
        high = low
        while high < len(self._sorted) and self._sorted[high].startswith(prefix):
            high += 1
        return (low, high) if high > low else (0, 0)

    def _edges(self, data: bytes, complete: bool) -> list[tuple[int, int, int]]:
        reached = [not complete] * (len(data) + 1)
        reached[0] = True
        edges: list[tuple[int, int, int]] = []
        for start in range(len(data)):
            if reached[start]:
                for end, place in self._matches(data, start):
                    reached[end] = True
                    edges.append((start, end, place))
                if len(edges) > MOST:
                    raise ValueError("there are more than 20,000,000 matches")
        if complete:
            leads = [False] * len(data) + [True]
            for start, end, _ in reversed(edges):
                leads[start] = leads[start] or leads[end]
            edges = [edge for edge in edges if leads[edge[1]]]
        return edges

    def matches(self, data: bytes, complete: bool) -> tuple[Any, Any, Any]:
        edges = self._edges(data, complete)
        rows = [(start, end, self.ids[place]) for start, end, place in edges]
        columns = np.array(rows, np.int64).reshape(-1, 3).T
        return tuple(np.ascontiguousarray(column) for column in columns)  # type: ignore[return-value]

    def log2_count(self, data: bytes) -> float:
        counts = [1] + [0] * len(data)
        for start in range(len(data)):
            if counts[start]:
                for end, _ in self._matches(data, start):
                    counts[end] += counts[start]
            counts[start] = 0 if start else counts[start]
        return _log2(counts[-1])

    def best(self, data: bytes, k: int, cost: Any) -> tuple[list[int], list[int], list[float]]:
        if k < 1:
            raise ValueError("k must be at least 1")
        if cost is not None and len(cost) != len(self.ids):
            raise ValueError("there must be one cost for each token")
        into: list[list[tuple[int, int]]] = [[] for _ in range(len(data) + 1)]
        for start, end, place in self._edges(data, True):
            into[end].append((start, place))
        # Each path: its cost, its last token, where that starts, which path it continues.
        paths: list[list[tuple[float, int, int, int]]] = [[(0.0, -1, 0, 0)]]
        kept = 0
        for end in range(1, len(data) + 1):
            edges = into[end]
            heap: list[tuple[float, int, int]] = []

            def offer(
                at: int,
                rank: int,
                edges: list[tuple[int, int]] = edges,
                heap: list[tuple[float, int, int]] = heap,
            ) -> None:
                start, place = edges[at]
                if rank < len(paths[start]):
                    own = 1.0 if cost is None else float(cost[place])
                    heapq.heappush(heap, (paths[start][rank][0] + own, at, rank))

            for at in range(len(edges)):
                offer(at, 0)
            here: list[tuple[float, int, int, int]] = []
            while heap and len(here) < k:
                total, at, rank = heapq.heappop(heap)
                here.append((total, edges[at][1], edges[at][0], rank))
                offer(at, rank + 1)
            paths.append(here)
            kept += len(here)
            if kept > MOST:
                raise ValueError("the text is too long for so many sequences")
        return self._unwound(paths)

    def _unwound(
        self, paths: list[list[tuple[float, int, int, int]]]
    ) -> tuple[list[int], list[int], list[float]]:
        tokens: list[int] = []
        lengths: list[int] = []
        costs: list[float] = []
        for last in paths[-1] if len(paths) > 1 else ():
            backwards: list[int] = []
            path = last
            while path[1] >= 0:
                backwards.append(self.ids[path[1]])
                path = paths[path[2]][path[3]]
            tokens += reversed(backwards)
            lengths.append(len(backwards))
            costs.append(last[0])
        return tokens, lengths, costs


def _log2(count: int) -> float:
    if count == 0:
        return -math.inf
    shift = max(0, count.bit_length() - 64)
    return math.log2(count >> shift) + shift


def differences(
    a_ends: Sequence[int], a_ids: Sequence[int], b_ends: Sequence[int], b_ids: Sequence[int]
) -> list[tuple[int, ...]]:
    """See ``tokenkernel.differences``."""
    a, b = _solid(a_ends, a_ids), _solid(b_ends, b_ids)
    found: list[tuple[int, ...]] = []
    i = j = start = i_from = j_from = 0
    while i < len(a) or j < len(b):
        i0, j0 = i, j
        i_end = j_end = start
        while i_end == start or i_end != j_end:
            if i < len(a) and (i_end <= j_end or j == len(b)):
                i_end = a[i][0]
                i += 1
            elif j < len(b):
                j_end = b[j][0]
                j += 1
            else:
                break
        i_to = a[i - 1][2] + 1 if i > i0 else i_from
        j_to = b[j - 1][2] + 1 if j > j0 else j_from
        if [row[:2] for row in a[i0:i]] != [row[:2] for row in b[j0:j]]:
            found.append((start, max(i_end, j_end), i_from, i_to, j_from, j_to))
        start, i_from, j_from = max(i_end, j_end), i_to, j_to
    return found


def _solid(ends: Sequence[int], ids: Sequence[int]) -> list[tuple[int, int, int]]:
    """(end, id, place) of the tokens that stand for bytes."""
    if len(ends) != len(ids):
        raise ValueError("there must be one end for each id")
    solid: list[tuple[int, int, int]] = []
    last = 0
    for place, (end, token) in enumerate(zip(ends, ids, strict=True)):
        if end < last:
            raise ValueError("ends must not fall")
        if end > last:
            solid.append((end, token, place))
        last = end
    return solid


def rank_merges(tokens: Sequence[bytes]) -> list[int]:
    """See ``tokenkernel.rank_merges``."""
    ranks: dict[bytes, int] = {}
    for rank, token in enumerate(tokens):
        ranks.setdefault(token, rank)
    cuts: list[int] = []
    for own, token in enumerate(tokens):
        parts = list(range(len(token) + 1)) if 2 <= len(token) <= LONGEST_MERGED else []
        while len(parts) > 3:
            best, where = own, 0
            for p in range(len(parts) - 2):
                rank = ranks.get(token[parts[p] : parts[p + 2]], own)
                if rank < best:
                    best, where = rank, p + 1
            if where == 0:
                break
            del parts[where]
        cuts.append(parts[1] if len(parts) == 3 else 0)
    return cuts
