"""Alignment: nothing lost, nothing moved, the same from either side, and as much as can be kept."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.branching.align import Row, _lcs, align
from engine.trace import Trace, simple_turns

PIECES = st.lists(st.sampled_from([b"a", b" b", b"", b"1", b"\xc3", b"\xa9", b"ab", b"\n"]))


def trace(*pieces: bytes | str, special: tuple[int, ...] = (), tokenizer: str | None = None):
    data = tuple(p.encode() if isinstance(p, str) else p for p in pieces)
    return Trace(
        ids=tuple(range(len(data))),
        pieces=data,
        tokenizer=tokenizer,
        ids_origin="logged",
        response_start=0,
        turns=simple_turns(len(data), 0),
        special=special,
    )


def kinds(a: Trace, b: Trace) -> list[tuple[str, list[bytes], list[bytes]]]:
    return [(r.kind, list(a.pieces[slice(*r.a)]), list(b.pieces[slice(*r.b)])) for r in align(a, b)]


@settings(deadline=None, max_examples=150)
@given(PIECES, PIECES, st.booleans(), st.data())
def test_every_alignment_holds_together(left, right, same_tokenizer, data):
    def marks(n):
        return tuple(sorted(data.draw(st.sets(st.integers(0, n - 1)) if n else st.just(set()))))

    a = trace(*left, special=marks(len(left)), tokenizer="a")
    b = trace(*right, special=marks(len(right)), tokenizer="a" if same_tokenizer else "b")
    rows = align(a, b)
    # Both sides are there once, in order, without gaps.
    for side, n in (("a", len(a)), ("b", len(b))):
        at = 0
        for row in rows:
            start, end = getattr(row, side)
            assert start == at
            at = end
        assert at == n
    sa, sb = set(a.special), set(b.special)
    for row in rows:
        mine = [(a.pieces[i], i in sa or not a.pieces[i]) for i in range(*row.a)]
        theirs = [(b.pieces[j], j in sb or not b.pieces[j]) for j in range(*row.b)]
        texts = [b"".join(p for p, _ in side) for side in (mine, theirs)]
        assert bool(mine) != (row.kind == "only_b")
        assert bool(theirs) != (row.kind == "only_a")
        if row.kind == "same":
            assert mine == theirs
        elif row.kind == "recut":
            assert texts[0] == texts[1]
            assert mine != theirs
        elif row.kind == "changed":
            assert mine != theirs
    swapped = [Row({"only_a": "only_b", "only_b": "only_a"}.get(r.kind, r.kind), r.b, r.a)
               for r in align(b, a)]  # fmt: skip
    assert list(rows) == swapped
    assert [r.kind for r in align(a, a)] == (["same"] if len(a) else [])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, 4)), st.lists(st.integers(0, 4)))
def test_the_common_subsequence_is_a_longest_one(a, b):
    pairs = _lcs(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    assert len(pairs) == table[-1][-1]


def test_one_token_changed():
    a = trace("x", "=", "8", " eggs", ".")
    b = trace("x", "=", "9", " eggs", ".")
    assert kinds(a, b) == [
        ("same", [b"x", b"="], [b"x", b"="]),
        ("changed", [b"8"], [b"9"]),
        ("same", [b" eggs", b"."], [b" eggs", b"."]),
    ]


def test_tokens_on_one_side_only():
    a, b = trace("a", "b", "c", "d"), trace("a", "d", "e")
    assert kinds(a, b) == [
        ("same", [b"a"], [b"a"]),
        ("only_a", [b"b", b"c"], []),
        ("same", [b"d"], [b"d"]),
        ("only_b", [], [b"e"]),
    ]


def test_other_tokenizers_meet_at_common_boundaries():
    a = trace(" has", " 1", "5", " eg", "gs", ".", tokenizer="one")
    b = trace(" h", "as", " ", "15", " eggs", "!", tokenizer="two")
    assert kinds(a, b) == [
        ("recut", [b" has"], [b" h", b"as"]),
        ("recut", [b" 1", b"5"], [b" ", b"15"]),
        ("recut", [b" eg", b"gs"], [b" eggs"]),
        ("changed", [b"."], [b"!"]),
    ]


def test_a_change_takes_the_whole_tokens_it_touches():
    a = trace("12", "34", " a", tokenizer="one")
    b = trace("1", "29", "4", " a", tokenizer="two")
    assert kinds(a, b) == [
        ("changed", [b"12", b"34"], [b"1", b"29", b"4"]),
        ("same", [b" a"], [b" a"]),
    ]


def test_a_special_token_is_not_its_text():
    a, b = trace("<|end|>", special=(0,)), trace("<|end|>")
    assert [r.kind for r in align(a, b)] == ["changed"]
    assert [r.kind for r in align(a, trace("<|end|>", special=(0,)))] == ["same"]


def test_the_same_text_in_other_tokens_of_one_tokenizer():
    assert [r.kind for r in align(trace("1", "5"), trace("15"))] == ["recut"]


@pytest.mark.parametrize("special", [(), (0,)])
def test_empty_traces(special):
    assert align(trace(), trace()) == ()
    one = trace("a", special=special)
    assert align(one, trace()) == (Row("only_a", (0, 1), (0, 0)),)
    assert align(trace(), one) == (Row("only_b", (0, 0), (0, 1)),)
