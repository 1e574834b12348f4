"""Reach and flow: by definition, by all paths, by random walks, by SciPy, and at their limits."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg

from engine.flow.edges import flow_of, shares_needed
from engine.flow.marks import checkpoints, hubs
from engine.flow.recurrences import inflow, reach, transitions
from tests.engine.flow.oracle import (
    backbone_by_cuts,
    by_definition,
    by_paths,
    marks,
    random_rows,
)

BOTH = pytest.mark.parametrize("absorbing", [True, False])


def dense(rows, reached) -> np.ndarray:
    """W' [from, to] put together from its blocks."""
    n = len(reached.mantissa)
    step = np.zeros((n, n))
    for start, block in transitions(rows, reached):
        step[: block.shape[1], start : start + len(block)] = block.T
    return step


@BOTH
@pytest.mark.parametrize("n", [12, 64, 65, 200])
def test_by_definition(n: int, absorbing: bool) -> None:
    """Every number against loops, conservation, cuts, sink, on both sides of a block's border."""
    rows = random_rows(n, n)
    questions, answers = marks(n, 1, 2, 3, 5), marks(n, n - 4, n - 3, n - 2)
    wanted = by_definition(rows, questions, answers, absorbing)
    reached = reach(rows, answers, absorbing=absorbing)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(reached.log, np.log(wanted["h"]), rtol=1e-13, atol=1e-13)
    assert np.isneginf(reached.log[n - 1])
    np.testing.assert_allclose(dense(rows, reached), wanted["step"], rtol=1e-12, atol=1e-300)
    flow = flow_of(rows, reached, questions / 4, 10**6)
    np.testing.assert_allclose(flow.inflow, wanted["f"], rtol=1e-12)
    np.testing.assert_allclose(flow.throughput, wanted["tau"], rtol=1e-12)
    edges = flow.edges
    assert len(edges) == flow.count == np.count_nonzero(wanted["phi"])
    np.testing.assert_allclose(edges.flow, wanted["phi"][edges.source, edges.target], rtol=1e-12)
    np.testing.assert_array_equal(edges.weight, rows[edges.target, edges.source])
    assert (np.diff(edges.flow) <= 0).all()
    assert flow.conservation < 1e-12
    assert flow.cut < 1e-12
    assert flow.sink_inflow == pytest.approx(1, abs=1e-12)
    # Every cut by its own sum: what crosses is what was injected minus what was absorbed.
    crossing = [wanted["phi"][: c + 1, c + 1 :].sum() for c in range(n)]
    np.testing.assert_allclose(flow.crossing, crossing, rtol=1e-9, atol=1e-15)
    inner = ~answers & (wanted["h"] > 0)
    np.testing.assert_allclose(flow.throughput[inner], 2 * flow.inflow[inner], rtol=1e-12)
    if absorbing:
        np.testing.assert_array_equal(flow.throughput[answers], flow.inflow[answers])
    else:
        assert (flow.throughput[answers][:-1] > flow.inflow[answers][:-1]).all()


@BOTH
@pytest.mark.parametrize("answers", [(10,), (8, 9), (7, 9, 11)])
def test_all_paths_enumerated(answers: tuple[int, ...], absorbing: bool) -> None:
    n = 12
    rows = random_rows(n, 5)
    q, a = marks(n, 0, 1, 3), marks(n, *answers)
    wanted = by_definition(rows, q, a, absorbing)
    found = inflow(rows, reach(rows, a, absorbing=absorbing), q / 3)
    np.testing.assert_allclose(found, by_paths(wanted["w"], wanted["h"], q, a), rtol=1e-12)
    # One position further is another flow.
    assert np.abs(np.roll(found, 1) - found).max() > 0.1


def test_random_walks() -> None:
    n, walks = 30, 40_000
    rows, rng = random_rows(n, 3), np.random.default_rng(0)
    q, a = marks(n, 2, 4, 5), marks(n, 27, 29)
    reached = reach(rows, a)
    step = dense(rows, reached)
    flow = flow_of(rows, reached, q / 3, 1000)
    at = rng.choice([2, 4, 5], walks)
    visits, taken = np.bincount(at, minlength=n).astype(float), np.zeros((n, n))
    running = np.ones(walks, bool)
    bounds = np.cumsum(step, 1)
    while running.any():
        here = at[running]
        to = (rng.random(len(here))[:, None] > bounds[here]).sum(1)
        np.add.at(taken, (here, to), 1)
        visits += np.bincount(to, minlength=n)
        at[running] = to
        running = ~a[at]
    phi = np.zeros((n, n))
    phi[flow.edges.source, flow.edges.target] = flow.edges.flow
    for seen, p in ((visits, flow.inflow), (taken, phi)):
        error = np.sqrt(np.maximum(p * (1 - p), 1e-12) / walks)
        assert np.abs(seen / walks - p).max() < 0.02
        assert (np.abs(seen / walks - p) < 5 * error + 1e-4).all()


def test_triangular_solve() -> None:
    n = 300
    rows = random_rows(n, 7).astype(np.float32)
    a = marks(n, 298, 299)
    w = np.tril(rows, -1).T.astype(float)
    w[a] = 0
    h = scipy.linalg.solve_triangular(np.eye(n) - w, a.astype(float), unit_diagonal=True)
    np.testing.assert_allclose(np.exp(reach(rows, a).log), h, rtol=1e-12)


def test_a_question_that_does_not_reach_the_answer() -> None:
    """Its part is lost, and sink inflow is the share of those that do."""
    n = 9
    rows = random_rows(n, 2)
    rows[:, 1] = 0.0
    q, a = marks(n, 0, 1, 2), marks(n, 8)
    reached = reach(rows, a)
    assert np.isneginf(reached.log[1])
    flow = flow_of(rows, reached, q / 3, 100)
    assert flow.sink_inflow == pytest.approx(2 / 3, abs=1e-13)
    assert flow.inflow[1] == 0
    assert flow.conservation < 1e-12
    assert flow.cut < 1e-12


@BOTH
@pytest.mark.parametrize(
    ("near", "far"), [(0.001, 0.0), (24.0, 0.0), (1e-30, 0.0), (1e30, 1e-40), (1e-40, 1e-38)]
)
def test_reach_beyond_all_numbers(near: float, far: float, absorbing: bool) -> None:
    """Chains, some of 4,096 tokens, exact by fractions on a shorter one of the same kind."""
    for n in (150, 4096 if near > 1e-10 and not far else 700):
        rows = np.zeros((n, n), np.float32)
        rows[np.arange(1, n), np.arange(n - 1)] = near
        if far:
            rows[np.arange(70, n), np.arange(n - 70)] = far
        a = marks(n, n - 2, n - 1)
        reached = reach(rows, a, absorbing=absorbing)
        flow = flow_of(rows, reached, marks(n, 0) / 1.0, 10**5)
        assert np.isfinite(reached.log).all()
        assert flow.sink_inflow == pytest.approx(1, abs=1e-12)
        assert flow.conservation < 1e-12
        assert flow.cut < 1e-12
        if n == 150 or not far:
            w, v = Fraction(float(np.float32(near))), Fraction(float(np.float32(far)))
            h = [Fraction(0)] * n
            for i in reversed(range(n if n == 150 else 0)):
                on = i < n - 2 or not absorbing
                h[i] = Fraction(int(a[i])) + (w * h[i + 1] if on and i + 1 < n else 0)
                h[i] += v * h[i + 70] if i + 70 < n else 0
            exact = [math.log(x.numerator) - math.log(x.denominator) for x in h if x]
            np.testing.assert_allclose(reached.log[: len(exact)], exact, rtol=1e-11, atol=1e-11)
        if n > 150 and not far:
            end = math.log(float(a[-2]) + (0 if absorbing else float(np.float32(near))))
            closed = end + (n - 2) * math.log(float(np.float32(near)))
            assert reached.log[0] == pytest.approx(closed, rel=1e-12)


def test_a_small_reach_beside_a_large_one_is_not_lost() -> None:
    """Two ways that never meet, one of 1e-3 a step and one of 1e3, interleaved over 800."""
    n = 802
    rows = np.zeros((n, n), np.float32)
    for i in range(n - 2):
        rows[i + 2, i] = 1e-3 if i % 2 else 1e3
    reached = reach(rows, marks(n, n - 2, n - 1))
    steps = (n - 2) // 2
    assert reached.log[0] == pytest.approx(steps * math.log(1e3), rel=1e-9)
    assert reached.log[1] == pytest.approx(steps * math.log(float(np.float32(1e-3))), rel=1e-12)
    flow = flow_of(rows, reached, marks(n, 0, 1) / 2, 10**5)
    np.testing.assert_allclose(flow.inflow, 0.5, rtol=1e-12)


def test_long_and_diffuse() -> None:
    """4,096 tokens of summed attention: a reach that overflows float64, checked against logs."""
    n = 4096
    rng = np.random.default_rng(1)
    rows = np.tril(rng.random((n, n), dtype=np.float32))
    rows *= 24 / rows.sum(1, keepdims=True)
    rows[:, : n // 2] *= np.float32(1e-3)
    rows[np.arange(1, n), np.arange(n - 1)] += 24
    a = marks(n, n - 1)
    reached = reach(rows, a)
    assert reached.log.max() > 800
    assert len(reached.stretches) > 3
    log = np.full(n, -np.inf)
    log[n - 1] = 0
    for i in reversed(range(n - 1)):
        terms = np.log(rows[i + 1 :, i].astype(float)) + log[i + 1 :]
        log[i] = terms.max() + math.log(np.exp(terms - terms.max()).sum())
    np.testing.assert_allclose(reached.log, log, atol=1e-9)
    flow = flow_of(rows, reached, marks(n, 3, 4) / 2, 1000)
    assert flow.conservation < 1e-12
    assert flow.cut < 1e-12
    assert len(flow.edges) == 1000
    assert flow.count > 10**6


@BOTH
def test_backbone_by_cuts(absorbing: bool) -> None:
    """At every share the edges above it are those of a search over every cut."""
    n = 24
    for seed in range(3):
        rows = random_rows(n, seed, 2.5)
        q, a = marks(n, 1, 2, 4), marks(n, 20, 22)
        phi = by_definition(rows, q, a, absorbing)["phi"]
        flow = flow_of(rows, reach(rows, a, absorbing=absorbing), q / 3, 10**4)
        needed, carried = shares_needed(flow.edges, flow.crossing)
        np.testing.assert_allclose(carried, flow.crossing, atol=1e-12)
        for share in (0.05, 0.3, 0.8, 0.97):
            inside = needed < share
            found = set(
                zip(
                    flow.edges.source[inside].tolist(),
                    flow.edges.target[inside].tolist(),
                    strict=True,
                )
            )
            assert found == backbone_by_cuts(phi, share)
    # Lighter edges do not change the shares of the heavier ones.
    some, _ = shares_needed(flow.edges.at_least(flow.edges.flow[150]), flow.crossing)
    np.testing.assert_allclose(some, needed[: len(some)], atol=1e-14)


def test_shares_across_many_blocks() -> None:
    n = 120
    rows = random_rows(n, 4)
    q, a = marks(n, *range(1, 30)), marks(n, *range(110, 115))
    flow = flow_of(rows, reach(rows, a), q / 29, 10**4)
    needed, _ = shares_needed(flow.edges, flow.crossing)
    sums, wanted = np.zeros(n), []
    total = np.maximum(flow.crossing, 1e-300)
    for i, k, x in zip(flow.edges.source, flow.edges.target, flow.edges.flow, strict=True):
        wanted.append((sums[i:k] / total[i:k]).min())
        sums[i:k] += x
    np.testing.assert_allclose(needed, wanted, atol=1e-10)


def test_the_heaviest_edges_are_kept() -> None:
    n = 300
    rows = random_rows(n, 6)
    q, a = marks(n, 1, 2), marks(n, 298)
    reached = reach(rows, a)
    whole = flow_of(rows, reached, q / 2, 10**6)
    for most in (1, 100, 5000):
        some = flow_of(rows, reached, q / 2, most)
        assert some.count == whole.count > 2 * 5000
        assert some.total == whole.total
        np.testing.assert_array_equal(some.edges.source, whole.edges.source[:most])
        np.testing.assert_array_equal(some.edges.target, whole.edges.target[:most])


def test_hubs_and_checkpoints() -> None:
    tau = np.array([9, 1, 5, 2, 2, 8, 1, 1.5, 9.0])
    assert hubs(tau, 1, 8).tolist() == [0, 0, 2, 0, 0, 1, 0, 0, 0]
    assert hubs(tau, 4, 4).tolist() == [0] * 9
    enter, leave = np.array([5, 3, 2, 4, 4, 3]), np.array([0, 2, 0, 4, 1, 1])
    assert checkpoints(enter, leave, np.array([1, 1, 1, 1, 1, 2.0]), 1, 6).tolist() == [
        0, 3, 0, 0, 1, 2,
    ]  # fmt: skip


def test_scale_of_the_weights_matters() -> None:
    """W and W/2 are two flows: the aggregation is part of the method."""
    n = 20
    rows = random_rows(n, 8)
    q, a = marks(n, 1), marks(n, 19)
    flows = [flow_of(rows * c, reach(rows * c, a), q / 1.0, 10).inflow for c in (1, 0.5)]
    assert np.abs(flows[0] - flows[1]).max() > 0.02
    assert all(x >= y for x, y in itertools.pairwise([f[2:19].sum() for f in flows]))
