"""A chain with a token of doom: value, scan, search and early stop against exact numbers."""

from __future__ import annotations

from functools import cache

import pytest
from scipy.stats import binomtest, fisher_exact

from engine.critical.value import value_request
from engine.encode import encode_text
from engine.gallery import wrong_rollouts
from engine.records import iter_groups
from engine.result import Request
from engine.running import run
from engine.subjects import Text, Trace
from engine.workspace import Workspace
from tests.engine.markov import markov_folder
from tests.engine.tiny import EOS

A, B, X = ord("a"), ord("b"), ord("x")
SEVEN, EIGHT = ord("7"), ord("8")
# From a and b one comes to 7 or, rarely, to x; after x there is only b's double, y, and 8.
CHAIN = {
    ord("\n"): {A: 1.0},
    A: {B: 0.9, X: 0.1},
    B: {A: 0.55, SEVEN: 0.4, X: 0.05},
    X: {ord("y"): 1.0},
    ord("y"): {X: 0.5, EIGHT: 0.5},
    SEVEN: {EOS: 1.0},
    EIGHT: {EOS: 1.0},
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return markov_folder(tmp_path_factory.mktemp("models") / "doom", CHAIN, other=ord("\n"))


@cache
def exact(last: int) -> float:
    """P(a 7 comes) after a token; a and b by their two equations, nothing is cut off in time."""
    b = 0.4 / (1 - 0.55 * 0.9)
    known = {B: b, A: 0.9 * b, ord("\n"): 0.9 * b, SEVEN: 1.0}
    return known.get(last, 0.0)


def told(workspace: Workspace, chain: str, response: str) -> Trace:
    tokenizer = workspace.plan_model(chain).tokenizer
    return encode_text(Text(prompt="Q?\n", response=response), tokenizer)


ASKED = {"checker": "contains", "max_new_tokens": 200}


@pytest.mark.parametrize("response", ["ababaxyxy8", "abxyxyxyxyxy8"])
def test_values_and_the_doom_token(workspace: Workspace, chain: str, response: str) -> None:
    trace = told(workspace, chain, response)
    result = run(value_request(trace, chain, "7", n=200, **ASKED), workspace=workspace)[0]
    doom = trace.response_start + response.index("x")
    rows = result.table("tokens").to_pylist()
    outside = 0
    for row in rows[trace.response_start - 1 :]:
        truth = exact(trace.ids[row["position"]])
        # Two-sided p far below any fluke: a fixed seed, and a shift by one token fails.
        assert binomtest(row["correct"], row["samples"], truth).pvalue > 1e-4, row
        outside += not row["low"] <= truth <= row["high"]
    assert outside <= 2
    (summary,) = result.table("summary").to_pylist()
    assert summary["critical_position"] == doom
    assert summary["after"] == 0 < summary["before"]
    if response.startswith("abx"):
        assert summary["position"] == doom


def test_a_search_and_an_early_stop_find_it_too(workspace: Workspace, chain: str) -> None:
    trace = told(workspace, chain, "abababababababaxyxyxyxyxyxyxyxyxyxyxy8")
    doom = trace.ids.index(X)
    found = {}
    for name, params in (
        ("full", {}),
        ("stop", {"stop": 4}),
        ("search", {"where": "search", "least": 0.3}),
    ):
        request = value_request(trace, chain, "7", n=64, **params, **ASKED)
        (found[name],) = run(request, workspace=workspace)[0].table("summary").to_pylist()
    assert found["full"]["critical_position"] == found["stop"]["critical_position"] == doom
    assert found["search"]["position"] == doom
    assert found["search"]["from_position"] == doom - 1
    assert found["stop"]["drawn"] < 0.75 * found["full"]["drawn"]
    assert found["search"]["drawn"] < 0.4 * found["full"]["drawn"]


@pytest.mark.slow
def test_another_token_at_the_critical_place_helps(workspace: Workspace) -> None:
    """On the bundled model, wrong answers as they come; seeded, one test over all of them."""
    subject = wrong_rollouts("demo")
    assert subject is not None
    kept, changed = [0, 0], [0, 0]
    tried = 0
    for group in iter_groups(subject):
        (trace,) = group.rollouts
        expected = str(group.expected)
        request = value_request(trace, "demo", expected, n=8, where="search", least=0.4)
        (row,) = run(request, workspace=workspace)[0].table("summary").to_pylist()
        if row["position"] is None or row["fall"] < 0.4:
            continue
        # Samples of another seed: those that chose the token say nothing about it.
        params = {"position": row["position"], "answer": expected, "n": 24, "seed": 1}
        asked = Request("critical.whatif", trace, "demo", {**params, "alternatives": 0})
        (result,) = run(asked, workspace=workspace)
        for condition, total in zip(
            result.table("conditions").to_pylist(), (kept, changed), strict=True
        ):
            total[0] += condition["correct"]
            total[1] += condition["samples"]
        tried += 1
        if tried == 2:
            break
    assert tried == 2
    table = [[right, drawn - right] for right, drawn in (changed, kept)]
    assert fisher_exact(table, alternative="greater").pvalue < 1e-4
    assert changed[0] / changed[1] > kept[0] / kept[1] + 0.2
