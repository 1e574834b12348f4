"""Do cheap scores find the measured fall: by brute force, and over hand-made responses."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.critical import agreement
from engine.critical.agreement import SCORES, compare
from engine.encode import encode_text
from engine.errors import UserError
from engine.records import open_rollouts, write_rollouts
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group, Text, Trace
from engine.workspace import Workspace

FALLS = st.lists(
    st.sampled_from([float("nan"), -0.2, 0.0, 0.0, 0.1, 0.3, 0.9]), min_size=2, max_size=12
)


@settings(deadline=None)
@given(FALLS, st.data())
def test_rank_and_area_by_brute_force(falls: list[float], data: st.DataObject) -> None:
    scores = data.draw(
        st.lists(
            st.sampled_from([float("nan"), 0.0, 0.0, 1.0, 2.0, 5.0]),
            min_size=len(falls),
            max_size=len(falls),
        )
    )
    if all(np.isnan(falls)):
        return
    found = compare(np.array(falls), np.array(scores), 0.25)
    top = max((p for p in range(len(falls)) if not np.isnan(falls[p])), key=lambda p: falls[p])
    if np.isnan(scores[top]):
        assert found is None
        return
    assert found is not None
    both = [p for p in range(len(falls)) if not np.isnan(falls[p]) and not np.isnan(scores[p])]
    assert found["tokens"] == len(both)
    assert found["rank"] == sum(scores[p] >= scores[top] for p in both)
    high = [p for p in both if falls[p] > 0.25]
    low = [p for p in both if falls[p] <= 0.25]
    assert found["falls"] == len(high)
    if not high or not low:
        assert found["auc"] is None
        return
    wins = [
        1.0 if scores[a] > scores[b] else 0.5 if scores[a] == scores[b] else 0.0
        for a, b in product(high, low)
    ]
    assert found["auc"] == pytest.approx(sum(wins) / len(wins))


def test_a_perfect_and_an_opposite_score() -> None:
    falls = np.array([0.0, 0.1, 0.9, 0.0])
    assert compare(falls, falls, 0.25) == {"tokens": 4, "falls": 1, "rank": 1, "auc": 1.0}
    assert compare(falls, -falls, 0.25) == {"tokens": 4, "falls": 1, "rank": 4, "auc": 0.0}
    same = compare(falls, np.zeros(4), 0.25)
    assert same is not None
    assert (same["rank"], same["auc"]) == (4, 0.5), "a constant score finds nothing"


def test_shares_and_intervals_are_counted() -> None:
    rows = [
        {"score": "entropy", "rank": rank, "auc": auc, "tokens": 10}
        for rank, auc in ((1, 1.0), (2, 0.8), (4, 0.5), (1, None))
    ]
    made = agreement._tables([{**_empty(), **row} for row in rows])["scores"].to_pylist()
    (row,) = made
    assert (row["score"], row["traces"]) == ("entropy", 4)
    assert (row["first"], row["first_three"]) == (0.5, 0.75)
    assert row["first_low"] == pytest.approx(0.0676, abs=1e-3)
    assert row["first_high"] == pytest.approx(0.9324, abs=1e-3)
    assert row["auc"] == pytest.approx((1.0 + 0.8 + 0.5) / 3)
    assert row["auc_low"] <= row["auc"] <= row["auc_high"]
    assert row["by_chance_first"] == pytest.approx(0.1)
    assert row["by_chance_three"] == pytest.approx(0.3)


def _empty() -> dict:
    return dict.fromkeys(agreement.TRACES_TABLE.columns)


@pytest.fixture
def told(workspace: Workspace, seven: str) -> list[Trace]:
    tokenizer = workspace.plan_model(seven).tokenizer

    def trace(response: str) -> Trace:
        return encode_text(Text(prompt="Q?\n", response=response), tokenizer)

    return [
        trace("Answer: 8\n<eos>"),  # wrong: 7 was right
        trace("Answer: 7\n<eos>"),  # right
        trace("no idea<eos>"),  # no answer
        trace("Answer: 8\n"),  # never ended
    ]


ASKED = {"n": 24, "max_new_tokens": 2, "least": 0.05}


def test_over_a_group(workspace: Workspace, seven: str, told: list[Trace]) -> None:
    group = Group(rollouts=tuple(told), expected="7")
    (result,) = run(Request("critical.agreement", group, seven, ASKED), workspace=workspace)
    rows = result.table("traces").to_pylist()
    assert {row["rollout"] for row in rows} == {0}
    eight = told[0].pieces.index(b"8")
    assert {(row["position"], row["token"]) for row in rows} == {(eight, "8")}
    by_score = {row["score"]: row for row in rows}
    assert {"surprisal", "entropy"} <= set(by_score) <= set(SCORES)
    stats = run(Request("statistics", told[0], seven), workspace=workspace)[0].table("tokens")
    own = range(told[0].response_start, len(told[0]))
    surprisal = stats["surprisal"].to_pylist()
    assert by_score["surprisal"]["tokens"] == len(own)
    assert by_score["surprisal"]["rank"] == sum(surprisal[p] >= surprisal[eight] for p in own)
    assert result.table("scores").num_rows == len(by_score)
    said = " ".join(result.notes["reason"].to_pylist())
    for reason in ("1 responses were left out: they are right", "give no answer", "never ended"):
        assert reason in said
    assert "no tuned siblings" in said
    value = Request("critical.value", told[0], seven, {"answer": "7", "n": 24, "max_new_tokens": 2})
    (measured,) = run(value, workspace=workspace)
    assert measured.origin == "cache", "the truth is the value curve, computed once"
    assert rows[0]["fall"] == measured.table("tokens")["fall"][eight].as_py()


def test_over_a_file_and_over_one_text(
    workspace: Workspace,
    seven: str,
    told: list[Trace],
    tmp_path: Path,
) -> None:
    file = tmp_path / "some.jsonl"
    groups = [
        Group(rollouts=(told[0],), expected="7", prompt_id="a"),
        Group(rollouts=(told[1], told[0]), expected="7", prompt_id="b"),
    ]
    write_rollouts(file, groups)
    request = Request("critical.agreement", open_rollouts(file), seven, ASKED)
    many = _traces(run(request, workspace=workspace)[0])
    assert {(row["group"], row["rollout"]) for row in many} == {("a", 0), ("b", 2)}
    alone = Request("critical.agreement", told[0], seven, {**ASKED, "answer": "7"})
    one = _traces(run(alone, workspace=workspace)[0])
    keep = ("position", "fall", "score", "rank", "auc", "tokens")
    assert [[r[k] for k in keep] for r in one] == [[r[k] for k in keep] for r in many[: len(one)]]


def test_bad_input_is_a_sentence(
    workspace: Workspace,
    seven: str,
    told: list[Trace],
) -> None:
    with pytest.raises(UserError, match="needs the right answer"):
        run(Request("critical.agreement", told[0], seven, ASKED), workspace=workspace)
    right = Request("critical.agreement", told[1], seven, {**ASKED, "answer": "7"})
    (result,) = run(right, workspace=workspace)
    assert result.table("scores").num_rows == 0
    assert "nothing to compare" in " ".join(result.notes["reason"].to_pylist())


def test_a_program_never_comes_from_a_file(
    workspace: Workspace, seven: str, told: list[Trace]
) -> None:
    group = Group(rollouts=(told[0],), expected="len(response) > 1")
    request = Request("critical.agreement", group, seven, {**ASKED, "checker": "python"})
    with pytest.raises(UserError, match="only what was typed as answer"):
        run(request, workspace=workspace)


def _traces(result: Result) -> list[dict]:
    table: pa.Table = result.table("traces")
    return table.to_pylist()
