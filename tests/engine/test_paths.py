"""Values from rollouts alone: against counting by hand, as a martingale, and what is left out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.critical.curve import clopper_pearson
from engine.critical.paths import Trie
from engine.encode import trace_from_ids
from engine.errors import UserError
from engine.records import open_rollouts, write_rollouts
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group, Trace
from engine.tokenization import Tokenizer
from engine.workspace import Workspace
from tests.engine.test_cli import call, here
from tests.engine.tiny import BOS, EOS, tiny_folder

__all__ = ["here"]

PROMPT = (BOS, *b"Q?\n")
ROLLOUTS = tuple(
    (*text, *end)
    for text, end in (
        (b"a=7", [EOS]),
        (b"a=8", [EOS]),
        (b"a=7", []),
        (b"c=7", [EOS]),
        (b"a=7", [EOS]),
        (b"a", []),
    )
)
REWARDS = (1.0, 0.0, 1.0, 0.0, 1.0, 0.0)


def trace(ids: tuple[int, ...], prompt: tuple[int, ...] = PROMPT) -> Trace:
    tokenizer = Tokenizer.load(tiny_folder("llama"))
    return trace_from_ids((*prompt, *ids), tokenizer, response_start=len(prompt))


def group(rewards: tuple[float | None, ...] = REWARDS, **more) -> Group:
    return Group(rollouts=tuple(trace(ids) for ids in ROLLOUTS), rewards=rewards, **more)


def ask(workspace: Workspace, subject, **params) -> Result:
    return run(Request("critical.paths", subject, None, params), workspace=workspace)[0]


def reasons(result: Result) -> list[str]:
    return result.notes["reason"].to_pylist()


def test_every_value_by_counting(workspace: Workspace) -> None:
    result = ask(workspace, group())
    rows = result.table("tokens").to_pylist()
    assert len(rows) == sum(len(PROMPT) + len(ids) for ids in ROLLOUTS)
    start = len(PROMPT)
    sequences = [(*PROMPT, *ids) for ids in ROLLOUTS]
    values = {}
    for row in rows:
        prefix = sequences[row["rollout"]][: row["position"] + 1]
        assert row["token_id"] == prefix[-1]
        if row["position"] < start - 1:
            assert row["paths"] is row["correct"] is row["value"] is row["low"] is row["fall"]
            assert row["fall"] is None
            continue
        through = [r for s, r in zip(sequences, REWARDS, strict=True) if s[: len(prefix)] == prefix]
        assert (row["paths"], row["correct"]) == (len(through), sum(through))
        assert row["value"] == sum(through) / len(through)
        assert (row["low"], row["high"]) == clopper_pearson(int(sum(through)), len(through))
        values[prefix] = row["value"]
        if row["position"] < start:
            assert row["fall"] is None
        else:
            assert row["fall"] == values[prefix[:-1]] - row["value"]
    assert {row["value"] for row in rows if row["position"] == start - 1} == {0.5}


def test_the_mistake_is_where_the_value_falls(workspace: Workspace) -> None:
    rows = ask(workspace, group()).table("tokens").to_pylist()
    wrong = [row for row in rows if row["rollout"] == 1 and row["fall"] is not None]
    assert max(wrong, key=lambda row: row["fall"])["token"] == "8"


sequences = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple), st.booleans()),
    min_size=1,
    max_size=14,
)


@settings(deadline=None)
@given(sequences)
def test_a_value_is_the_weighted_mean_of_the_next_ones(drawn) -> None:
    ids, right = [d[0] for d in drawn], [d[1] for d in drawn]
    trie = Trie.of(ids, right)
    value: dict[tuple, float] = {(): trie.root}
    paths: dict[tuple, int] = {(): len(ids)}
    for number, sequence in enumerate(ids):
        through, correct = trie.along(number)
        for end in range(1, len(sequence) + 1):
            prefix = sequence[:end]
            brute = [r for s, r in zip(ids, right, strict=True) if s[:end] == prefix]
            assert (through[end - 1], correct[end - 1]) == (len(brute), sum(brute))
            value[prefix] = correct[end - 1] / through[end - 1]
            paths[prefix] = through[end - 1]
    assert trie.root == pytest.approx(np.mean(right))
    ends = Counter(ids)
    for prefix, mine in value.items():
        total = sum(r for s, r in zip(ids, right, strict=True) if s == prefix)
        total += sum(
            paths[child] * v
            for child, v in value.items()
            if len(child) == len(prefix) + 1 and child[:-1] == prefix
        )
        assert mine == pytest.approx(total / paths[prefix])
        children = [c for c in value if len(c) == len(prefix) + 1 and c[:-1] == prefix]
        assert paths[prefix] == ends[prefix] + sum(paths[c] for c in children)


def test_rollouts_without_a_reward_are_left_out(workspace: Workspace) -> None:
    rewards = (1.0, None, 1.0, 0.0, 1.0, None)
    result = ask(workspace, group(rewards))
    rows = result.table("tokens").to_pylist()
    assert {row["rollout"] for row in rows} == {0, 2, 3, 4}
    assert {row["value"] for row in rows if row["position"] == len(PROMPT) - 1} == {0.75}
    left = [n for n in result.notes.to_pylist() if "no reward" in n["reason"]]
    assert [n["rollout"] for n in left] == [1, 5]


def test_real_rewards_by_a_threshold(workspace: Workspace) -> None:
    rewards = (0.5, 0.49, 2.0, -1.0, 0.6, 0.0)
    accuracy = {}
    for threshold in (0.5, 0.55, 3.0):
        rows = ask(workspace, group(rewards), threshold=threshold).table("tokens").to_pylist()
        accuracy[threshold] = rows[len(PROMPT) - 1]["correct"]
    assert accuracy == {0.5: 3, 0.55: 2, 3.0: 0}


def test_without_rewards_the_checker_judges(workspace: Workspace) -> None:
    none = (None,) * len(ROLLOUTS)
    with pytest.raises(UserError, match="have no rewards: give the right answer"):
        ask(workspace, group(none))
    result = ask(workspace, group(none), answer=7, checker="last_number")
    verdicts = {r["rollout"]: r["value"] for r in result.table("tokens").to_pylist()}
    assert result.table("tokens")["correct"].to_pylist()[len(PROMPT) - 1] == 4
    assert verdicts[1] == 0.0
    silent = [n for n in result.notes.to_pylist() if "counts as wrong" in n["reason"]]
    assert [n["rollout"] for n in silent] == [5], "the last one gives no number at all"
    own = ask(workspace, group(none, expected="8"), checker="contains")
    assert own.table("tokens")["correct"].to_pylist()[len(PROMPT) - 1] == 1


def test_a_response_without_prompt_begins_at_the_accuracy(workspace: Workspace) -> None:
    pair = Group(rollouts=(trace(tuple(b"ab"), ()), trace(tuple(b"ac"), ())), rewards=(1.0, 0.0))
    rows = ask(workspace, pair).table("tokens").to_pylist()
    assert [row["value"] for row in rows] == [0.5, 1.0, 0.5, 0.0]
    assert [row["fall"] for row in rows] == [0.0, -0.5, 0.0, 0.5]


def test_logs_without_ids_and_prompts_that_differ(workspace: Workspace) -> None:
    def bare(ids: tuple[int, ...], prompt: tuple[int, ...] = PROMPT) -> Trace:
        made = trace(ids, prompt)
        return made.evolve(ids=(-1,) * len(made), tokenizer=None)

    one = Group(rollouts=(bare(tuple(b"ab")), bare(tuple(b"ac"))), rewards=(1.0, 0.0))
    result = ask(workspace, one)
    assert [r["value"] for r in result.table("tokens").to_pylist()][len(PROMPT) - 1 :][:3] == [
        0.5,
        0.5,
        1.0,
    ]
    assert result.table("tokens")["token_id"].null_count == result.table("tokens").num_rows
    assert any("compared by their bytes" in reason for reason in reasons(result))
    other = Group(
        rollouts=(trace(tuple(b"ab")), trace(tuple(b"ab"), (BOS, *b"R?\n"))), rewards=(1.0, 0.0)
    )
    result = ask(workspace, other)
    assert any("do not all have the same prompt" in reason for reason in reasons(result))
    rows = result.table("tokens").to_pylist()
    assert rows[len(PROMPT) - 1]["value"] == 1.0


def test_a_file_of_groups_and_the_command_line(here: Path, workspace: Workspace, capsys) -> None:
    second = Group(rollouts=(trace(tuple(b"ab7")),), rewards=(0.0,), prompt_id="two")
    write_rollouts(here / "r.jsonl", [group(prompt_id="one"), second])
    result = ask(workspace, open_rollouts(here / "r.jsonl"))
    rows = result.table("tokens").to_pylist()
    assert {(row["group"], row["rollout"]) for row in rows} == {
        *(("one", n) for n in range(6)),
        ("two", 6),
    }
    assert rows[-1]["value"] == 0.0, "groups do not mix"
    alone = ask(workspace, group(prompt_id="one")).table("tokens")
    assert result.table("tokens").slice(0, alone.num_rows).equals(alone)
    out = here / "paths.jsonl"
    asked = ("run", "critical.paths", "--rollouts", str(here / "r.jsonl"), "--out", str(out))
    code, said, error = call(capsys, *asked)
    assert code == 0, error
    assert "51 rows" in said
    lines = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert [line["value"] for line in lines] == [row["value"] for row in rows]
