"""Pure parts of value curves: intervals, early stop, differences, the scan, where to look."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from engine.critical.curve import (
    Point,
    clopper_pearson,
    critical_position,
    decides,
    difference,
    stopping_index,
)
from engine.critical.places import Search, around, coarse_to_fine, every, sentences
from engine.critical.valuetables import _falls, largest
from engine.subjects import Trace, Turn


def counted(counts: list[int], n: int = 64) -> dict[int, Point]:
    return {p: Point.counted(n, c, 0) for p, c in enumerate(counts)}


def spelled(text: str, prompt: str = "Q") -> Trace:
    """A trace with a token for every byte."""
    data = (prompt + text).encode()
    start = len(prompt.encode())
    turns = [Turn(role="user", start=0, end=start)]
    if len(data) > start:
        turns.append(Turn(role="assistant", start=start, end=len(data)))
    return Trace(
        ids=tuple(data),
        pieces=tuple(bytes([b]) for b in data),
        ids_origin="encoded",
        response_start=start,
        turns=tuple(turns),
    )


@settings(deadline=None)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_solves_the_binomial_tails(pair: tuple[int, int]) -> None:
    c, n = pair
    low, high = map(float, clopper_pearson(c, n))
    assert 0 <= low <= c / n <= high <= 1
    if c:
        assert binom.sf(c - 1, n, low) == pytest.approx(0.025)
    if c < n:
        assert binom.cdf(c, n, high) == pytest.approx(0.025)


@pytest.mark.parametrize("n", [1, 2, 32, 64, 4096])
def test_the_interval_at_none_and_all(n: int) -> None:
    edge = 1 - 0.025 ** (1 / n)
    np.testing.assert_allclose(np.ravel(clopper_pearson(0, n)), [0, edge], rtol=1e-9)
    np.testing.assert_allclose(np.ravel(clopper_pearson(n, n)), [1 - edge, 1], rtol=1e-9)
    low, high = clopper_pearson([0, n], [n, n])
    assert (low.shape, high.shape) == ((2,), (2,))


def outcomes(n: int, stop: int, p: float) -> list[tuple[float, Point]]:
    """Every way in which drawing until ``stop`` right ones, at most n, can end."""
    found = [
        (
            comb(m - 1, stop - 1) * p**stop * (1 - p) ** (m - stop),
            Point.counted(m, stop, 0, stopped=True),
        )
        for m in range(stop, n + 1)
    ]
    found += [(comb(n, k) * p**k * (1 - p) ** (n - k), Point.counted(n, k, 0)) for k in range(stop)]
    assert sum(chance for chance, _ in found) == pytest.approx(1)
    return found


@pytest.mark.parametrize("stop", [2, 4, 7])
@pytest.mark.parametrize("p", [0.0, 0.01, 0.06, 0.3, 0.5, 0.93, 1.0])
def test_the_value_after_an_early_stop_is_unbiased(stop: int, p: float) -> None:
    expected = sum(chance * point.value for chance, point in outcomes(32, stop, p))
    assert expected == pytest.approx(p, abs=1e-12)
    naive = sum(chance * point.correct / point.samples for chance, point in outcomes(32, stop, p))
    if 0.2 < p < 0.9:
        assert naive > p + 0.005, "the plain share would be too high"


@pytest.mark.parametrize("p", np.linspace(0.002, 0.998, 61))
def test_the_interval_holds_after_a_stop_at_four_too(p: float) -> None:
    held = sum(c for c, point in outcomes(64, 4, float(p)) if point.low <= p <= point.high)
    assert held >= 0.95


def test_where_it_stops() -> None:
    right = [False, True, False, True, True]
    assert [stopping_index(right, k) for k in (1, 2, 3, 4)] == [2, 4, 5, None]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.02, 0.05, 0.3, 0.9]), min_size=1, max_size=9), st.data()
)
def test_a_stop_at_four_changes_no_verdict(chances: list[float], data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    full, early = {}, {}
    for position, chance in enumerate(chances):
        right = (rng.random(64) < chance).tolist()
        full[position] = Point.counted(64, sum(right), 0)
        last = stopping_index(right, 4)
        early[position] = (
            full[position] if last is None else Point.counted(last, 4, 0, stopped=True)
        )
    assert critical_position(full, 64) == critical_position(early, 64)


def test_which_stops_decide_the_scan() -> None:
    assert [decides(stop, 64) for stop in (None, 2, 3, 4, 9)] == [True, False, False, True, True]
    assert [decides(stop, 256) for stop in (12, 13)] == [False, True]


def test_the_interval_of_a_fall_holds() -> None:
    """By enumeration: at least 95 % of what two shares of 16 can give, at every pair."""
    n = 16
    points = [Point.counted(n, k, 0) for k in range(n + 1)]
    limits = np.array([[difference(a, b) for b in points] for a in points])
    for p, q in product((0.02, 0.1, 0.35, 0.5, 0.8, 0.97), repeat=2):
        chance = np.outer(binom.pmf(range(n + 1), n, p), binom.pmf(range(n + 1), n, q))
        held = (limits[..., 0] <= p - q) & (p - q <= limits[..., 1])
        assert chance[held].sum() >= 0.95
    one, none = Point.certain(True), Point.certain(False)
    assert difference(one, none) == (1.0, 1.0)
    assert difference(points[4], points[9])[0] == -difference(points[9], points[4])[1]


@pytest.mark.parametrize(
    ("counts", "critical"),
    [
        ([9, 0, 0, 2, 5, 0, 0], 5),
        ([9, 0, 3, 0], 1),
        ([9, 0, 4, 0], 3),
        ([0, 0, 0], 0),
        ([5, 4, 1], None),
        ([0, 64], None),
        ([], None),
    ],
)
def test_the_scan_on_counts_of_64(counts: list[int], critical: int | None) -> None:
    assert critical_position(counted(counts), 64) == critical


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 0, 0, 1, 3, 4, 40]), max_size=12))
def test_the_scan_by_its_definition(counts: list[int]) -> None:
    """The last restart is the last count above 3; the first zero after it is what is left."""
    restart = max((p for p, c in enumerate(counts) if c > 3), default=-1)
    zeros = (p for p in range(restart + 1, len(counts)) if counts[p] == 0)
    assert critical_position(counted(counts), 64) == next(zeros, None)


def test_of_equal_falls_the_first_counts() -> None:
    trace = spelled("abcdefgh")
    points = {p: Point.counted(4, c, 0) for p, c in zip(range(4, 9), (4, 2, 2, 0, 3), strict=True)}
    falls = _falls(points)
    assert [round(falls[p]["fall"], 2) for p in sorted(falls)] == [0.5, 0.0, 0.5, -0.75]
    assert largest(trace, points, falls)["position"] == 5
    assert largest(trace, points, {6: falls[6], 8: falls[8]}) == {}


# -- where to look -----------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 300), st.integers(1, 50))
def test_places_and_their_order(first: int, length: int, step: int) -> None:
    found = every(first, first + length, step)
    assert found == sorted(set(found))
    if length:
        assert (found[0], found[-1]) == (first, first + length - 1)
    order = coarse_to_fine(found)
    assert sorted(order) == found
    for part in (2, 4, 8):
        taken = [-1, *sorted(found.index(p) for p in order[: len(order) // part]), len(found)]
        assert max(np.diff(taken), default=0) <= 4 * part, "gaps stay even"


def test_both_sides_of_what_a_score_points_at() -> None:
    scores = {3: 9.0, 5: 1.0, 6: 4.0, 7: 4.0, 8: 0.5}
    assert around(scores, 4, 9, 0.25) == [4, 5, 6, 8]  # 3 is outside; of 6 and 7 the first
    assert around(scores, 4, 9, 0.5) == [4, 5, 6, 7, 8]
    assert around({}, 4, 9, 0.5) == [4, 8]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three", ["One.", " Two!", " Three"]),
        ("It is 3.5 now.\nSo (yes.) No?", ["It is 3.5 now.", "\nSo (yes.)", " No?"]),
        ("a\n\nb\n", ["a\n", "\nb\n"]),
        ("x", ["x"]),
        ("", []),
        (" \n ", [" \n "]),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    trace = spelled(text)
    spans = sentences(trace, len(trace))
    assert [b"".join(trace.pieces[s.start : s.end]).decode() for s in spans] == parts


@settings(deadline=None)
@given(st.text("ab.!?\n ").filter(lambda t: len(t) < 60))
def test_sentences_are_a_partition(text: str) -> None:
    trace = spelled(text)
    spans = sentences(trace, len(trace))
    covered = [p for s in spans for p in range(s.start, s.end)]
    assert covered == list(range(trace.response_start, len(trace)))


@settings(deadline=None)
@given(st.integers(2, 400), st.data())
def test_a_search_finds_the_only_step(length: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, length - 1))
    values: dict[int, float] = {}
    search = Search(0, length, 0.2)
    while wanted := search.wanted(values):
        assert not set(wanted) & set(values), "nothing is asked for twice"
        values |= {p: 0.9 if p < step else 0.1 for p in wanted}
    assert {step - 1, step} <= set(values)
    assert len(values) <= 2 + 2 * np.ceil(np.log2(length))


def test_a_search_over_nothing_ends() -> None:
    assert Search(3, 3, 0.2).wanted({}) == []
    search = Search(3, 4, 0.2)
    assert search.wanted({}) == [3]
    assert search.wanted({3: 1.0}) == []
    flat = Search(0, 50, 0.2)
    assert flat.wanted({}) == [0, 49]
    assert flat.wanted({0: 0.5, 49: 0.6}) == []
