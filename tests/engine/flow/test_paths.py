"""A flow as paths: they add up to it, the first is the most probable, the rest is said."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from engine.errors import UserError
from engine.flow.decompose import paths
from engine.flow.edges import flow_of
from engine.flow.recurrences import reach
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Text
from engine.workspace import Workspace
from tests.engine.flow.oracle import by_definition, marks, random_rows
from tests.engine.flow.test_backbone import TEXT, flow, phi_of, summary, trace_of

BOTH = pytest.mark.parametrize("absorbing", [True, False])


@BOTH
def test_complete_paths_add_up_to_the_flow(absorbing: bool) -> None:
    n = 16
    rows = random_rows(n, 1)
    q, a = marks(n, 2, 3, 5), marks(n, 12, 14)
    phi = by_definition(rows, q, a, absorbing)["phi"]
    reached = reach(rows, a, absorbing=absorbing)
    found = list(paths(rows, reached, q / 3, None))
    total = np.zeros((n, n))
    for path in found:
        assert q[path.nodes[0]]
        assert a[path.nodes[-1]]
        assert list(path.nodes) == sorted(set(path.nodes))
        for i, k in itertools.pairwise(path.nodes):
            total[i, k] += path.flow
    np.testing.assert_allclose(total, phi, atol=1e-12)
    assert sum(p.flow for p in found) == pytest.approx(1, abs=1e-12)
    # Each path empties an edge, a source or a sink for good.
    assert len(found) <= np.count_nonzero(phi) + 3 + 2
    some = list(paths(rows, reached, q / 3, 4))
    assert [p.nodes for p in some] == [p.nodes for p in found[:4]]


@BOTH
def test_the_first_path_is_the_most_probable(absorbing: bool) -> None:
    """By all paths of a small graph, and its flow is that of its narrowest edge."""
    n = 11
    for seed in range(4):
        rows = random_rows(n, seed, 3.0)
        q, a = marks(n, 0, 2), marks(n, 8, 10)
        wanted = by_definition(rows, q, a, absorbing)
        reached = reach(rows, a, absorbing=absorbing)
        every = []

        def extend(path, log, step=wanted["step"], h=wanted["h"], every=every, a=a):
            if a[path[-1]]:
                every.append((log + (0 if absorbing else -math.log(h[path[-1]])), path))
            for k in range(path[-1] + 1, n):
                if step[path[-1], k] > 0:
                    extend([*path, k], log + math.log(step[path[-1], k]))

        for start in (0, 2):
            extend([start], 0.0)
        log, best = max(every)
        first = next(paths(rows, reached, q / 2, 1))
        assert list(first.nodes) == best
        assert first.log_weight == pytest.approx(log, abs=1e-10)
        held = [wanted["phi"][i, k] for i, k in itertools.pairwise(best)]
        end = wanted["f"][best[-1]] * (1 if absorbing else 1 / wanted["h"][best[-1]])
        assert first.flow == pytest.approx(min([0.5, end, *held]), rel=1e-12)


def ways(workspace: Workspace, subject, model: str, **params) -> Result:
    return run(Request("flow.paths", subject, model, params), workspace=workspace)[0]


def test_table_and_remainder(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama)
    result = ways(workspace, trace, llama, most=5)
    rows = result.table("paths").to_pylist()
    assert [r["kind"] for r in rows] == ["path"] * 5 + ["remainder"]
    assert [r["path"] for r in rows] == [1, 2, 3, 4, 5, None]
    assert sum(r["share"] for r in rows) == pytest.approx(1, abs=1e-12)
    assert 0 < rows[-1]["flow"] < 1
    steps = result.to_pandas("steps")
    n = trace.spans["answer"].end
    phi = phi_of(flow(workspace, trace, llama), n)
    for row in rows[:-1]:
        own = steps[steps.path == row["path"]]
        assert own.order.tolist() == list(range(row["length"] + 1))
        assert own.position.iloc[0] in trace.spans["question"]
        assert own.position.iloc[-1] in trace.spans["answer"]
        assert own.token.tolist() == [trace.pieces[p].decode() for p in own.position]
        edges = itertools.pairwise(own.position)
        assert row["flow"] <= min(phi[e] for e in edges) + 1e-15
    whole = ways(workspace, trace, llama, complete=True)
    assert whole.table("paths").to_pylist()[-1]["flow"] < 1e-10
    assert len(whole.table("paths")) > 100
    assert summary(whole)["complete"]
    assert whole.table("paths").slice(0, 5).equals(result.table("paths").slice(0, 5))


def test_bad_input_is_a_sentence(workspace: Workspace, llama: str) -> None:
    long = trace_of(workspace, llama, Text(prompt=TEXT.prompt, response="a" * 50 + TEXT.response))
    with pytest.raises(UserError, match="All paths are listed up to 64 tokens"):
        ways(workspace, long, llama, complete=True)
    with pytest.raises(UserError, match="most: Input should be less than or equal to 100"):
        ways(workspace, long, llama, most=101)
    assert len(ways(workspace, long, llama).table("paths")) == 21


def test_lost_flow_is_not_in_the_remainder() -> None:
    n = 12
    rows = random_rows(n, 3)
    rows[:, 1] = 0
    q, a = marks(n, 1, 2), marks(n, 11)
    reached = reach(rows, a)
    found = list(paths(rows, reached, q / 2, None))
    arriving = flow_of(rows, reached, q / 2, 1).sink_inflow
    assert arriving == pytest.approx(0.5, abs=1e-13)
    assert sum(p.flow for p in found) == pytest.approx(arriving, abs=1e-12)
    assert {p.nodes[0] for p in found} == {2}
