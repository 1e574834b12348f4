"""Summaries of an index against loops over its rows."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import UserError
from engine.rollouts import across_steps, by_step, interesting, prompts
from engine.rollouts.groups import numbers_in_groups, sorted_numbers
from engine.rollouts.index import SCHEMA


def row(**known: Any) -> dict[str, Any]:
    return {**dict.fromkeys(SCHEMA.names), "file": 0, "line": 1, "part": 0, "offset": 0, **known}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    made = []
    for _ in range(400):
        judged, counted = rng.random() < 0.95, rng.random() < 0.9
        made.append(
            row(
                step=None if rng.random() < 0.1 else int(rng.integers(-1, 5)),
                group=f"g{rng.integers(12)}",
                reward=float(rng.choice([0.0, 0.5, 1.0])) if judged else None,
                response_tokens=int(rng.integers(1, 40)) if counted else None,
                response_chars=int(rng.integers(1, 200)),
                trained_tokens=int(rng.integers(0, 40)) if counted else None,
                log_ratio=float(rng.normal()) if counted else None,
                mismatch_kl=float(rng.random()) if rng.random() < 0.8 else None,
            )
        )
    return made


@pytest.fixture(scope="module")
def index(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def grouped(rows: list[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    found = defaultdict(list)
    for each in rows:
        found[each["step"], each["group"]].append(each)
    return found


def pearson(pairs: list[tuple[float, float]]) -> float | None:
    x, y = zip(*pairs, strict=True) if pairs else ((), ())
    if len(pairs) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return statistics.correlation(x, y)


def weighted(part: list[dict[str, Any]], name: str) -> float | None:
    pairs = [(r[name], r["trained_tokens"]) for r in part]
    pairs = [(v, w) for v, w in pairs if v is not None and w]
    return sum(v * w for v, w in pairs) / sum(w for _, w in pairs) if pairs else None


def close(found: float | None, expected: float | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)


def test_prompts_agree_with_a_loop(rows: list[dict[str, Any]], index: pa.Table) -> None:
    found = prompts(index).to_pylist()
    expected = grouped(rows)
    assert [(f["step"], f["group"]) for f in found] == list(expected)
    for line, part in zip(found, expected.values(), strict=True):
        rewards = [r["reward"] for r in part if r["reward"] is not None]
        assert rows[line["first"]] is part[0]
        assert (line["rollouts"], line["rewarded"]) == (len(part), len(rewards))
        if rewards:
            assert close(line["reward_mean"], statistics.fmean(rewards))
            assert close(line["variance"], statistics.pvariance(rewards))
            assert (line["reward_min"], line["reward_max"]) == (min(rewards), max(rewards))
            assert close(line["right"], sum(r >= 0.5 for r in rewards) / len(rewards))
        else:
            assert line["reward_mean"] is line["variance"] is line["reward_min"] is None
        pairs = [(r["response_tokens"] or r["response_chars"], r["reward"]) for r in part]
        assert close(line["length_reward"], pearson([(x, y) for x, y in pairs if y is not None]))
        for name in ("log_ratio", "mismatch_kl", "entropy"):
            assert close(line[name], weighted(part, name))


def test_steps_agree_with_a_loop(rows: list[dict[str, Any]], index: pa.Table) -> None:
    found = by_step(index, threshold=1.0).to_pylist()
    assert [f["step"] for f in found] == [-1, 0, 1, 2, 3, 4, None]
    for line in found:
        part = [r for r in rows if r["step"] == line["step"]]
        rewards = [r["reward"] for r in part if r["reward"] is not None]
        assert line["rollouts"] == len(part)
        assert close(line["reward_mean"], statistics.fmean(rewards))
        assert close(line["reward_median"], statistics.median(rewards))
        lengths = [r["response_tokens"] for r in part if r["response_tokens"] is not None]
        assert close(line["tokens_mean"], statistics.fmean(lengths))
        groups = [g for (step, _), g in grouped(rows).items() if step == line["step"]]
        assert line["groups"] == len(groups)
        judged = [[r["reward"] for r in g] for g in groups]
        judged = [g for g in judged if len(g) > 1 and None not in g]
        assert line["judged_groups"] == len(judged)
        right = sum(min(g) >= 1 for g in judged)
        wrong = sum(max(g) < 1 for g in judged)
        assert close(line["all_right"], right / len(judged) if judged else None)
        assert close(line["all_wrong"], wrong / len(judged) if judged else None)
        mixed = (len(judged) - right - wrong) / len(judged) if judged else None
        assert close(line["mixed"], mixed)
        flat = sum(len(set(g)) == 1 for g in judged) / len(judged) if judged else None
        assert close(line["flat"], flat)
        assert close(line["mismatch_kl"], weighted(part, "mismatch_kl"))


def test_interesting_prompts_come_in_order(index: pa.Table) -> None:
    found = prompts(index)
    for by, column, sign in (
        ("variance", "variance", -1), ("best", "reward_mean", -1), ("worst", "reward_mean", 1),
    ):  # fmt: skip
        values = interesting(found, by, 1000)[column].to_pylist()  # type: ignore[arg-type]
        assert values == sorted(values, key=lambda v: sign * v)
        assert len(values) == found.num_rows - found[column].null_count
        assert interesting(found, by, 3)[column].to_pylist() == values[:3]  # type: ignore[arg-type]
    strong = interesting(found, "length_reward", 5)["length_reward"].to_pylist()
    assert [abs(v) for v in strong] == sorted((abs(v) for v in strong), reverse=True)
    with pytest.raises(UserError, match="use variance"):
        interesting(found, "group")  # type: ignore[arg-type]


def test_equal_rewards_have_no_variance_and_no_correlation() -> None:
    rows = [row(step=1, group="g", reward=0.1, response_tokens=n) for n in range(3)]
    (line,) = prompts(pa.Table.from_pylist(rows, SCHEMA)).to_pylist()
    assert line["variance"] == 0.0
    assert line["length_reward"] is None


def test_one_prompt_across_steps(rows: list[dict[str, Any]], index: pa.Table) -> None:
    found = across_steps(index, "g3").to_pylist()
    steps = {r["step"] for r in rows if r["group"] == "g3"}
    assert {f["step"] for f in found} == steps
    known = [f["step"] for f in found if f["step"] is not None]
    assert known == sorted(known)
    assert {f["group"] for f in found} == {"g3"}


def test_nothing_gives_empty_tables() -> None:
    empty = SCHEMA.empty_table()
    assert by_step(empty).num_rows == prompts(empty).num_rows == 0
    assert interesting(prompts(empty)).num_rows == 0


def test_numbers_within_groups_and_the_order_by_groups(
    rows: list[dict[str, Any]], index: pa.Table
) -> None:
    seen: dict[Any, int] = defaultdict(int)
    for each, number in zip(rows, numbers_in_groups(index).tolist(), strict=True):
        key = each["step"], each["group"]
        assert number == seen[key]
        seen[key] += 1
    order = sorted_numbers(index).tolist()
    expected = [r for part in grouped(rows).values() for r in part]
    assert all(rows[n] is each for n, each in zip(order, expected, strict=True))
