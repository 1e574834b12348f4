"""``statistics.logged``: bounds against brute force, and against the model's own statistics."""

from __future__ import annotations

import itertools
import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.errors import UserError
from engine.readers import recognise
from engine.render.signals import signals_of, values_of
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Candidate, Group, Sampling, Text, Trace, simple_turns
from engine.texts.truncated import SLACK, Known, entropy_bounds
from engine.workspace import Workspace
from tests.engine.logs import chat, completion, entropy, entry, make_fake_openai, position


def logged(workspace: Workspace, subject: Trace | Group, vocabulary: int | None = None) -> Result:
    request = Request("statistics.logged", subject, None, {"vocabulary": vocabulary})
    return run(request, workspace=workspace)[0]


def read(value: Any) -> Trace:
    (subject,) = recognise("log.json", json.dumps(value).encode()).subjects
    assert isinstance(subject, Trace)
    return subject


def make(
    pieces: list[str],
    logprobs: list[float | None],
    candidates: list[list[tuple[str, float]]] | None = None,
    **more: Any,
) -> Trace:
    listed = candidates and tuple(
        tuple(Candidate(piece=t.encode(), logprob=p) for t, p in each) for each in candidates
    )
    n = len(pieces)
    return Trace(
        ids=(-1,) * n,
        pieces=tuple(p.encode() for p in pieces),
        ids_origin="logged",
        turns=simple_turns(n, more.get("response_start", 0)),
        **{
            "signals": {"logprob": tuple(logprobs)},
            "candidates": listed,
            "response_start": 0,
            **more,
        },
    )


# -- the bounds ------------------------------------------------------------------------------


def distributions(least: int = 2, most: int = 9) -> st.SearchStrategy[list[float]]:
    weights = st.one_of(st.floats(0.001, 1.0), st.sampled_from([0.5, 1.0, 1e-4]))
    return st.lists(weights, min_size=least, max_size=most).map(
        lambda w: sorted((x / math.fsum(w) for x in w), reverse=True)
    )


@settings(max_examples=250, deadline=None)
@given(p=distributions(), k=st.integers(1, 9), own=st.integers(0, 8))
def test_every_true_distribution_lies_within(p: list[float], k: int, own: int) -> None:
    k, own = min(k, len(p)), min(own, len(p) - 1)
    known = p[:k] + ([p[own]] if own >= k else [])
    low, high = entropy_bounds(known, p[k - 1], len(p))
    assert high is not None
    assert low - 1e-9 <= entropy(p) <= high + 1e-9
    # Knowing the token beyond the list can only narrow it.
    wide_low, wide_high = entropy_bounds(p[:k], p[k - 1], len(p))
    assert wide_high is not None
    assert wide_low - 1e-9 <= low
    assert high <= wide_high + 1e-9
    # A larger vocabulary leaves more room above and none below.
    far_low, far_high = entropy_bounds(known, p[k - 1], len(p) + 5)
    assert far_low == pytest.approx(low, abs=1e-9)
    assert far_high is not None
    assert far_high >= high - 1e-9
    # Without a vocabulary the lower bound stands, and only a full list has an upper one.
    alone, none = entropy_bounds(known, p[k - 1], None)
    assert alone == pytest.approx(low, abs=1e-9)
    assert none is None or math.fsum(known) >= 1


@settings(max_examples=200, deadline=None)
@given(p=distributions(3, 7), k=st.integers(1, 4), cap_at=st.integers(0, 3))
def test_bounds_are_the_best_there_are(p: list[float], k: int, cap_at: int) -> None:
    """Minimum by all corners of the polytope of tails, maximum by its even point."""
    k = min(k, len(p) - 1)
    known, cap, others = p[:k], p[min(cap_at, k - 1)], len(p) - k
    rest = 1 - math.fsum(known)
    # A concave function is least at a corner: all but one of the tail at 0 or at the cap.
    corners = []
    for at_cap in range(others + 1):
        remains = rest - at_cap * cap
        if -1e-12 <= remains <= cap + 1e-12 and at_cap + (remains > 1e-12) <= others:
            corners.append(known + [cap] * at_cap + [max(remains, 0.0)])
    low, high = entropy_bounds(known, cap, len(p))
    assert corners
    assert low == pytest.approx(min(map(entropy, corners)), abs=1e-9)
    even = known + [rest / others] * others
    assert max(even[k:]) <= cap + 1e-12
    assert high == pytest.approx(entropy(even), abs=1e-9)


def test_bounds_against_a_grid_of_all_tails() -> None:
    known, cap, vocabulary, steps = [0.4, 0.2], 0.2, 5, 40
    tails = [
        (a / steps * 0.4, b / steps * 0.4, 0.4 - (a + b) / steps * 0.4)
        for a, b in itertools.product(range(steps + 1), repeat=2)
        if a + b <= steps
    ]
    inside = [entropy([*known, *t]) for t in tails if max(t) <= cap + 1e-12]
    low, high = entropy_bounds(known, cap, vocabulary)
    assert low == pytest.approx(min(inside), abs=1e-9)  # 0.2, 0.2, 0 is on the grid
    assert high is not None
    assert max(inside) <= high <= max(inside) + 2e-3


def test_a_full_list_gives_the_entropy_itself() -> None:
    p = [0.5, 0.25, 0.125, 0.125]
    assert entropy_bounds(p, p[-1], 4) == (pytest.approx(entropy(p)), pytest.approx(entropy(p)))
    assert entropy_bounds(p, p[-1], 4)[0] != entropy_bounds([*p[:3], 0.0625], 0.0625, 4)[0]
    over = [x * 1.0005 for x in p]  # printed with too few digits
    low, high = entropy_bounds(over, over[-1], 4)
    assert low == high == pytest.approx(entropy(p))
    # 0.4 cannot be held by one token that has at most 0.1.
    assert entropy_bounds([0.5, 0.1], 0.1, 3)[1] is None


@settings(max_examples=200, deadline=None)
@given(
    p=distributions(2, 9).filter(lambda p: all(b < a * (1 - 1e-9) for a, b in pairwise(p))),
    k=st.integers(0, 9),
    own=st.integers(0, 8),
)
def test_rank_first_and_margin_are_right_or_absent(p: list[float], k: int, own: int) -> None:
    k, own = min(k, len(p)), min(own, len(p) - 1)
    listed = [Candidate(piece=bytes([n]), logprob=math.log(p[n])) for n in range(k)]
    found = Known.of(-1, bytes([own]), math.log(p[own]), listed)
    assert found.rank in (own + 1, None)
    if own < k:
        assert found.rank == own + 1
    if found.first is not None:
        assert found.first == pytest.approx(p[0])
    if found.margin is not None:
        assert found.margin == pytest.approx(math.log(p[0] / p[1]))
    if k >= 2:
        assert found.first is not None
        assert found.margin is not None
    # Alone, a token that has more than all the rest together is the first.
    if k == 0:
        assert (found.rank == 1) == (p[own] >= 1 - p[own] + SLACK)


def written(style: str, p: list[float], k: int, own: int) -> dict[str, Any]:
    """One prediction of tokens named by letters, in the manner of a server asked for ``k``."""
    logs = [math.log(x) for x in p]
    names = "abcdefghi"
    top = list(range(k))
    chosen_first = [own, *(n for n in top if n != own)]
    if style == "openai":
        return chat([entry(names[own], logs[own], [(names[n], logs[n]) for n in top])], names[own])
    if style == "vllm":  # cut to k, the chosen token first
        tops = [(names[n], logs[n]) for n in chosen_first[:k]]
        body = chat([entry(names[own], logs[own], tops)], names[own], prompt_logprobs=None)
        return {**body, "prompt_token_ids": None}
    if style == "completion":
        tops_by_text = {names[n]: logs[n] for n in chosen_first}
        return completion([names[own]], [logs[own]], [tops_by_text], names[own])
    place = position(*((n, names[n], logs[n], n + 1) for n in chosen_first))
    output = {"text": names[own], "token_ids": [own], "logprobs": [place]}
    return {"prompt": "", "prompt_token_ids": [], "outputs": [output]}


@settings(max_examples=200, deadline=None)
@given(
    p=distributions(2, 9).filter(lambda p: all(b < a * (1 - 1e-3) for a, b in pairwise(p))),
    k=st.integers(1, 9),
    own=st.integers(0, 8),
    style=st.sampled_from(["openai", "vllm", "completion", "output"]),
)
def test_whatever_the_server_lists_nothing_false_follows(
    p: list[float], k: int, own: int, style: str
) -> None:
    k, own = min(k, len(p)), min(own, len(p) - 1)
    trace = read(written(style, p, k, own))
    listed = trace.candidates[0] if trace.candidates else ()
    value = trace.signals["logprob"][0]
    assert value == pytest.approx(math.log(p[own]))
    found = Known.of(trace.ids[0], trace.pieces[0], value, listed)
    assert found.rank in (own + 1, None)
    # What is kept is the top of the distribution, whatever was in the list.
    assert [c.logprob for c in listed] == pytest.approx([math.log(x) for x in p[: len(listed)]])
    low, high = entropy_bounds(found.probabilities, found.cap, len(p))
    assert high is not None
    assert low - 1e-9 <= entropy(p) <= high + 1e-9
    if style in ("openai", "output") and own < k and k > 1:
        assert found.rank == own + 1


# -- the analysis ----------------------------------------------------------------------------


def test_a_small_log_by_hand(workspace: Workspace) -> None:
    trace = make(
        ["a", "b", "c", "d"],
        [None, math.log(0.25), math.log(0.001), None],
        [
            [],
            [("x", math.log(0.5)), ("b", math.log(0.25))],
            [("x", math.log(0.6)), ("y", math.log(0.3))],
            [("d", math.log(0.9)), ("x", -9999.0)],
        ],
    )
    result = logged(workspace, trace, 100)
    rows = result.table("tokens").to_pylist()
    assert rows[0]["logprob"] is rows[0]["rank"] is rows[0]["entropy_low"] is None
    assert rows[1]["surprisal"] == pytest.approx(math.log(4))
    assert [row["rank"] for row in rows] == [None, 2, None, 1]
    assert [row["token_id"] for row in rows] == [None] * 4
    assert rows[1]["margin"] == pytest.approx(math.log(2))
    assert rows[1]["max_prob"] == pytest.approx(0.5)
    assert rows[1]["kept_mass"] == pytest.approx(0.75)
    assert rows[1]["entropy_low"] == pytest.approx(entropy([0.5, 0.25, 0.25]))
    assert rows[1]["entropy_high"] == pytest.approx(entropy([0.5, 0.25] + [0.25 / 98] * 98))
    assert rows[2]["kept_mass"] == pytest.approx(0.901)
    assert rows[2]["entropy_low"] == pytest.approx(entropy([0.6, 0.3, 0.001, 0.099]))
    assert rows[3]["logprob"] is None
    assert rows[3]["kept_mass"] == pytest.approx(0.9)
    notes = {(n["column"], n["position"]): n["reason"] for n in result.notes.to_pylist()}
    assert notes[None, 0] == "the log gives nothing for this token"
    assert notes["rank", 2] == "the log only shows that it is at least 3"
    assert notes["logprob", 3] == "the log gives no log-probability for this token"
    assert "margin" not in {column for column, at in notes if at in (1, 2)}
    others = result.table("alternatives").to_pylist()
    assert [(o["position"], o["alternative_rank"], o["alternative"]) for o in others[:3]] == [
        (1, 1, "x"),
        (1, 2, "b"),
        (2, 1, "x"),
    ]
    assert others[0]["alternative_id"] is None


def test_without_the_vocabulary_there_is_no_upper_bound(workspace: Workspace) -> None:
    trace = make(["a", "b"], [-1.0, -1.0], [[("a", -1.0)], [("a", -0.5), ("b", -1.0)]])
    result = logged(workspace, trace)
    assert result.table()["entropy_high"].to_pylist() == [None, None]
    assert result.table()["entropy_low"].null_count == 0
    (note,) = [n for n in result.notes.to_pylist() if n["column"] == "entropy_high"]
    assert note["position"] is None
    assert "size of the vocabulary" in note["reason"]
    with pytest.raises(UserError, match="A vocabulary of 1 cannot hold the 2 tokens"):
        logged(workspace, trace, 1)
    # Three tokens are known at most, so what remains must go to one, and it is too much for it.
    small = logged(workspace, make(["a"], [-3.0], [[("x", -2.0), ("y", -2.5)]]), 4)
    assert small.table()["entropy_high"].to_pylist() == [None]


def test_numbers_that_are_no_distribution(workspace: Workspace) -> None:
    over = make(["a"], [-0.1], [[("a", -0.1), ("b", -0.2)]])
    result = logged(workspace, over, 10)
    row = result.table().to_pylist()[0]
    assert row["logprob"] == pytest.approx(-0.1)
    assert row["entropy_low"] is row["rank"] is row["kept_mass"] is None
    assert "sum to 1.724: no distribution" in result.notes.to_pylist()[0]["reason"]
    slightly = make(["a"], [-1e-9], [[("a", -1e-9), ("b", -7.0)]])
    row = logged(workspace, slightly).table().to_pylist()[0]
    assert (row["kept_mass"], row["rank"]) == (1.0, 1)
    assert row["entropy_high"] == row["entropy_low"]
    with pytest.raises(UserError, match=r"Token 0 has the log-probability 0.5, which is above 0"):
        logged(workspace, make(["a"], [0.5]))
    assert logged(workspace, make(["a"], [0.0004])).table()["logprob"].to_pylist() == [0.0]
    assert logged(workspace, make(["a", "b"], [-9999.0, -1.0])).table()["logprob"].null_count == 1
    with pytest.raises(UserError, match="carries no log-probabilities: read it with a model"):
        logged(workspace, make(["a"], [None]))
    with pytest.raises(UserError, match="looks at a trace"):
        run(Request("statistics.logged", Text(response="a")), workspace=workspace)
    far = logged(workspace, make(["a"], [-5000.0], [[("b", -800.0), ("c", -900.0)]]), 50)
    assert far.table()["surprisal"].to_pylist() == [5000.0]


def test_what_the_sampler_here_has_kept_counts_as_a_log(workspace: Workspace) -> None:
    drawn = Sampling(logprobs=(-0.5, None))
    trace = make(["a", "b", "c"], [], response_start=1, signals={}, sampling=drawn)
    assert logged(workspace, trace).table()["logprob"].to_pylist() == [None, -0.5, None]


def test_the_ranks_of_vllm_are_taken_over_where_the_list_does_not_reach(
    workspace: Workspace,
) -> None:
    prompt = [
        None,
        position((10, "Say", -9.0, 400), (11, "The", -1.0, 1)),
        position((13, " 4", -0.5, 1), (14, " 5", -2.0, 2)),
    ]
    body = completion(["x"], [-3.0], [{"x": -3.0, "y": -0.5}], "x")
    body["choices"][0]["prompt_logprobs"] = prompt
    table = logged(workspace, read(body)).table()
    assert table["rank"].to_pylist() == [None, 400, 1, None]
    assert table["token_id"].to_pylist() == [None, 10, 13, None]


def test_it_can_be_drawn_without_a_model(workspace: Workspace) -> None:
    content = [entry("a", -1.0, [("a", -1.0), ("b", -2.0)]), entry("<b>", -3.0, [("a", -0.2)])]
    result = logged(workspace, read(chat(content, "a<b>")), 1000)
    tokens = result.table("tokens")
    declared = engine.analyses()["statistics.logged"].tables["tokens"].columns
    names = {s.name for s in signals_of(tokens, declared)}
    assert {"surprisal", "probability", "rank", "entropy_low", "entropy_high"} <= names
    assert np.isnan(values_of(tokens, "rank")[1])


def test_rollouts_of_a_log_are_lifted(workspace: Workspace) -> None:
    rollouts = (make(["a", "b"], [-1.0, -2.0]), make(["c"], [-3.0]))
    table = logged(workspace, Group(rollouts=rollouts)).table()
    assert table["rollout"].to_pylist() == [0, 0, 1]
    assert table["logprob"].to_pylist() == [-1.0, -2.0, -3.0]


# -- against the model -----------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 5, 20])
def test_a_log_of_the_demo_model_agrees_with_its_statistics(
    workspace: Workspace, top_k: int
) -> None:
    item = engine.gallery()[0]
    request = Request("statistics", item.trace, item.model, {"top_k": top_k})
    whole = run(request, workspace=workspace)[0]
    size = workspace.plan_model(item.model).tokenizer.size
    trace = read(make_fake_openai(item.trace, whole))
    assert trace.pieces == item.trace.pieces[item.trace.response_start :]
    result = logged(workspace, trace, size)
    true = whole.table("tokens").slice(item.trace.response_start).to_pylist()
    assert len(true) == len(trace) > 20
    sure = 0
    for row, want in zip(result.table("tokens").to_pylist(), true, strict=True):
        # Rounding may put the model's own a little above 0; a log's is not let through so.
        assert row["logprob"] == pytest.approx(min(want["logprob"], 0.0), abs=1e-6)
        assert row["entropy_low"] - 1e-3 <= want["entropy"] <= row["entropy_high"] + 1e-3
        for name in ("rank", "margin", "max_prob"):
            if row[name] is not None:
                assert row[name] == pytest.approx(want[name], abs=1e-4), name
                sure += name == "rank"
        if top_k > 1 and want["rank"] <= top_k:
            assert row["rank"] == want["rank"]
    assert sure > len(trace) // 2
    if top_k == 20:
        width = [r["entropy_high"] - r["entropy_low"] for r in result.table().to_pylist()]
        assert np.median(width) < 0.05
        listed = result.table("alternatives")
        first = whole.table("alternatives")
        first = first.filter(np.array(first["position"]) >= item.trace.response_start)
        assert listed["alternative_bytes"].equals(first["alternative_bytes"])


def test_a_full_log_of_a_tiny_model_gives_its_entropy(workspace: Workspace, llama: str) -> None:
    trace = engine.encode(Text(prompt="Wie groß? ", response="12 🤗 x"), llama, workspace)
    whole = run(Request("statistics", trace, llama, {"top_k": 259}), workspace=workspace)[0]
    again = read(make_fake_openai(trace, whole))
    table = logged(workspace, again, 259).table()
    true = whole.table("tokens").slice(trace.response_start)
    for name in ("entropy_low", "entropy_high"):
        np.testing.assert_allclose(table[name].to_pylist(), true["entropy"].to_pylist(), atol=1e-4)
    assert table["rank"].to_pylist() == true["rank"].to_pylist()
    np.testing.assert_allclose(table["kept_mass"].to_pylist(), 1, atol=1e-5)
