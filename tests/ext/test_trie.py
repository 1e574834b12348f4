"""The byte trie: against plain enumeration, and the compiled against the plain Python one."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import tokenkernel as tk
from tokenkernel import Trie, differences, rank_merges

BOTH = (True, False) if tk.HAVE else (False,)


def spellings(tokens: list[bytes], data: bytes) -> list[tuple[int, ...]]:
    """All sequences of tokens that join to ``data``, by recursion."""
    if not data:
        return [()]
    return [
        (i, *rest)
        for i, token in enumerate(tokens)
        if token and data.startswith(token)
        for rest in spellings(tokens, data[len(token) :])
    ]


@pytest.mark.parametrize("compiled", BOTH)
def test_all_strings_over_a_small_alphabet(compiled: bool) -> None:
    """Counts, lattices and the k cheapest of every string of up to six letters."""
    tokens = [b"a", b"b", b"ab", b"aba", b"b", b"", b"bab", b"aa"]  # one twice, one empty
    trie = Trie(tokens, compiled=compiled)
    assert len(trie) == 7
    assert trie.longest == 3
    costs = [0.0] * len(tokens)
    for i in range(len(tokens)):
        costs[i] = [1.5, 1.0, 2.25, 0.5, 1.25, 9.0, 3.0, 2.0][i]
    ordered = [costs[i] for i in trie.order]
    for length in range(7):
        for letters in itertools.product(b"abc", repeat=length):
            data = bytes(letters)
            every = spellings(tokens, data)
            assert trie.count(data) == len(every)
            wanted = math.log2(len(every)) if every else -math.inf
            assert trie.log2_count(data) == pytest.approx(wanted, abs=1e-12)
            found = trie.best(data, 1000)
            if not data:
                assert found == []
                continue
            assert sorted(s.ids for s in found) == sorted(every)
            assert [s.cost for s in found] == sorted(float(len(s)) for s in every)
            by_cost = trie.best(data, 3, ordered)
            totals = sorted(sum(costs[i] for i in s) for s in every)[:3]
            assert [s.cost for s in by_cost] == pytest.approx(totals)
            assert all(s.cost == pytest.approx(sum(costs[i] for i in s.ids)) for s in by_cost)
            used = set()
            for spelling in every:
                at = 0
                for i in spelling:
                    used.add((at, at + len(tokens[i]), i))
                    at += len(tokens[i])
            assert set(zip(*(x.tolist() for x in trie.lattice(data)), strict=True)) == used
            everywhere = {
                (at, at + len(token), i)
                for at in range(length)
                for i, token in enumerate(tokens)
                if token and data.startswith(token, at)
            }
            loose = trie.lattice(data, complete=False)
            assert set(zip(*(x.tolist() for x in loose), strict=True)) == everywhere


@pytest.mark.skipif(not tk.HAVE, reason="no compiled kernel")
def test_compiled_and_plain_are_equal() -> None:
    rng = random.Random(0)
    for _ in range(400):
        size = rng.randint(0, 9)
        tokens = [bytes(rng.choices(b"ab\xff\x00", k=rng.randint(0, 4))) for _ in range(size)]
        names = rng.sample(range(50), size)
        fast, slow = Trie(tokens, names), Trie(tokens, names, compiled=False)
        data = bytes(rng.choices(b"ab\xff\x00", k=rng.randint(0, 14)))
        assert fast.order.tolist() == slow.order.tolist()
        assert fast.longest == slow.longest
        for place in range(len(data) + 1):
            assert fast.at(data, place) == slow.at(data, place)
        for complete in (True, False):
            pairs = zip(
                fast.lattice(data, complete=complete),
                slow.lattice(data, complete=complete),
                strict=True,
            )
            assert all(np.array_equal(x, y) for x, y in pairs)
        assert fast.log2_count(data) == pytest.approx(slow.log2_count(data), abs=1e-12)
        costs = [rng.choice([0.5, 1.0, -1.0, math.inf]) for _ in range(len(fast))]
        k = rng.randint(1, 9)
        assert fast.best(data, k) == slow.best(data, k)
        assert fast.best(data, k, costs) == slow.best(data, k, costs)
        for prefix in (b"", b"a", b"ab", b"\xff", b"c", data[:3]):
            assert fast.range(prefix) == slow.range(prefix)
        ordered = list(dict.fromkeys([b"a", b"b", *(t for t in tokens if len(t) > 1)]))
        assert rank_merges(ordered) == rank_merges(ordered, compiled=False)


@pytest.mark.parametrize("compiled", BOTH)
def test_range_of_a_prefix(compiled: bool) -> None:
    tokens = [b"the", b"then", b"th", b"a", b"the", b"\xff\xfe"]
    trie = Trie(tokens, compiled=compiled)
    for prefix in (b"", b"t", b"th", b"the", b"then", b"thens", b"\xff", b"b"):
        low, high = trie.range(prefix)
        wanted = {i for i, token in enumerate(tokens) if token.startswith(prefix)}
        assert set(trie.order[low:high].tolist()) == wanted
    assert [tokens[i] for i in trie.order] == sorted(tokens)
    assert trie.at(b"then", 0) == [(2, 2), (3, 0), (3, 4), (4, 1)]


@pytest.mark.parametrize("compiled", BOTH)
def test_long_strings_are_scaled(compiled: bool) -> None:
    """Fibonacci numbers, whose logarithm is known; and a bridge only one long token crosses."""
    trie = Trie([b"a", b"aa"], compiled=compiled)
    n, bridged = (20_000, 2990) if compiled else (2_000, 290)
    golden = (1 + math.sqrt(5)) / 2
    wanted = (n + 1) * math.log2(golden) - math.log2(math.sqrt(5))
    assert trie.log2_count(b"a" * n) == pytest.approx(wanted, rel=1e-12)
    assert trie.count(b"a" * 300) == round_fibonacci(301)
    # The count falls from φ^3000 to φ^10: what is scaled away must not be lost.
    bridge = Trie([b"a", b"aa", b"a" * bridged + b"b"], compiled=compiled)
    assert bridge.log2_count(b"a" * (bridged + 10) + b"b") == pytest.approx(
        math.log2(round_fibonacci(11))
    )
    twice = Trie([b"a", b"a"], compiled=compiled)
    assert twice.log2_count(b"a" * 1500) == 1500


def round_fibonacci(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def cutting(rng: random.Random, size: int) -> tuple[list[int], list[int]]:
    ends: list[int] = []
    at = 0
    while at < size:
        at = min(size, at + rng.choice([0, 1, 1, 2, 3]))
        ends.append(at)
    return ends, [rng.randint(0, 1) for _ in ends]


def by_definition(a: tuple[list[int], list[int]], b: tuple[list[int], list[int]]):
    """(start, end) between neighbouring common boundaries where ends or ids differ."""
    common = sorted({0} | (set(a[0]) & set(b[0])))
    found = []
    for start, end in itertools.pairwise(common):
        inside = [
            [
                (e, i)
                for e, last, i in zip(ends, [0, *ends], ids, strict=False)
                if start < e <= end and e > last
            ]
            for ends, ids in (a, b)
        ]
        if inside[0] != inside[1]:
            found.append((start, end))
    return found


@pytest.mark.parametrize("compiled", BOTH)
def test_differences_by_definition(compiled: bool) -> None:
    rng = random.Random(1)
    for _ in range(1500):
        size = rng.randint(0, 9)
        a, b = cutting(rng, size), cutting(rng, size)
        found = differences(*a, *b, compiled=compiled)
        assert [(d.start, d.end) for d in found] == by_definition(a, b)
        for d in found:
            for (ends, _), first, after in ((a, d.a_from, d.a_to), (b, d.b_from, d.b_to)):
                assert ends[after - 1] == d.end
                assert (ends[first - 1] if first else 0) == d.start
        if tk.HAVE:
            assert found == differences(*a, *b, compiled=not compiled)
    assert differences([1, 2], [0, 0], [2], [5], compiled=compiled)[0][:2] == (0, 2)
    assert differences([3], [7], [3], [7], compiled=compiled) == []


@pytest.mark.parametrize("compiled", BOTH)
def test_merges_of_ranks(compiled: bool) -> None:
    """Cut with the ranks below its own: "abc" is ab + c because ab comes first."""
    tokens = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b"cab", b"xyz", b"bcab"]
    assert rank_merges(tokens, compiled=compiled) == [0, 0, 0, 1, 1, 2, 1, 0, 2]
    assert rank_merges([b"abc", b"a", b"b", b"c", b"ab"], compiled=compiled)[0] == 0
    assert rank_merges([], compiled=compiled) == []


@pytest.mark.parametrize("compiled", BOTH)
def test_what_does_not_fit_is_refused(compiled: bool) -> None:
    with pytest.raises(ValueError, match="one id for each token"):
        Trie([b"a"], [1, 2], compiled=compiled)
    trie = Trie([b"a", b"b"], compiled=compiled)
    with pytest.raises(ValueError, match="k must be at least 1"):
        trie.best(b"ab", 0)
    with pytest.raises(ValueError, match="one cost for each token"):
        trie.best(b"ab", 1, [1.0])
    with pytest.raises(ValueError, match="must be numbers"):
        trie.best(b"ab", 1, [math.nan, 1.0])
    for place in (-1, 3):
        with pytest.raises(ValueError, match="must lie in the text"):
            trie.at(b"ab", place)
    with pytest.raises(ValueError, match="must not fall"):
        differences([2, 1], [0, 0], [2], [0], compiled=compiled)
    with pytest.raises(ValueError, match="one end for each id"):
        differences([2], [0, 0], [2], [0], compiled=compiled)
    empty = Trie([], compiled=compiled)
    assert (len(empty), empty.longest, empty.count(b"a"), empty.count(b"")) == (0, 0, 0, 1)
    assert empty.log2_count(b"a") == -math.inf
    assert empty.log2_count(b"") == 0
    assert empty.range(b"") == (0, 0)


def test_it_needs_no_torch() -> None:
    code = "import sys, tokenkernel as t; t.Trie([b'a']).count(b'a'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
