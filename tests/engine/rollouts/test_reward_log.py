"""``reward.log`` against its formulas, and what it says of columns that a log lacks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.result import Request, Result
from engine.rollouts import RolloutLog
from engine.running import run
from engine.subjects import Group, Trace, simple_turns
from engine.tokenization import Tokenizer
from engine.workspace import Workspace
from tests.engine.rollouts import logs

DEMO = Tokenizer.load(Path(__file__).resolve().parents[3] / "demo" / "models" / "demo")


def trace(**signals: tuple[float | None, ...]) -> Trace:
    return Trace(
        ids=(1, 5, 7, 9),
        pieces=(b"a", b"b", b"c", b"d"),
        ids_origin="logged",
        response_start=2,
        turns=simple_turns(4, 2),
        signals=signals,
    )


def ask(workspace: Workspace, subject: Trace | Group) -> Result:
    return run(Request("reward.log", subject), workspace=workspace)[0]


def reasons(result: Result, column: str) -> list[str]:
    rows = result.notes.to_pylist()
    return [row["reason"] for row in rows if row["column"] == column]


def test_ratio_and_divergence_by_hand(workspace: Workspace) -> None:
    subject = trace(
        inference_logprob=(None, None, -1.0, -2.0),
        trainer_logprob=(None, -9.0, -1.5, -1.0),
        ref_logprob=(None, None, -1.0, -4.0),
    )
    table = ask(workspace, subject).table()
    assert table["position"].to_pylist() == [0, 1, 2, 3]
    assert table["log_ratio"].to_pylist() == [None, None, -0.5, 1.0]
    for name, values in {
        "ratio": [math.exp(-0.5), math.e],
        "mismatch_kl": [math.exp(-0.5) + 0.5 - 1, math.e - 2],
        "kl_ref": [math.exp(0.5) - 1.5, math.exp(-3) + 2],
    }.items():
        found = table[name].to_pylist()
        assert found[:2] == [None, None]
        assert found[2:] == pytest.approx(values, rel=1e-12)


def test_the_estimator_is_unbiased_for_the_divergence() -> None:
    """Over all tokens of a small vocabulary: E_q[e^r - 1 - r] = KL(q, p) with r = log p - log q."""
    from engine.reward.log import k3

    q, p = (0.5, 0.3, 0.2), (0.1, 0.6, 0.3)
    mean = sum(b * k3(math.log(a / b)) for a, b in zip(p, q, strict=True))  # type: ignore[operator]
    assert mean == pytest.approx(sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)))
    assert k3(0.0) == 0.0
    assert k3(1e-9) == pytest.approx(5e-19, rel=1e-6, abs=1e-25)
    assert k3(1000.0) is None
    assert k3(-1000.0) == pytest.approx(999.0)


def test_the_log_of_prime_rl_and_lifting(workspace: Workspace, tmp_path: Path) -> None:
    records = [logs.prime_rl(), logs.prime_rl(rewards=[0.0] * 7)]
    log = RolloutLog.open(logs.write(tmp_path / "rank_0.jsonl", records))
    group = log.group(log.index["group"][0].as_py(), 7, DEMO)
    result = ask(workspace, group)
    table = result.table().to_pylist()
    assert len(table) == 14
    first = [row for row in table if row["rollout"] == 0]
    assert [row["log_ratio"] for row in first] == [None, None, None, -0.5, 0.5, None, 0.0]
    assert [row["loss_mask"] for row in first] == logs.prime_rl()["loss_mask"]
    assert [row["entropy"] for row in first][:3] == [None, 1.0, 2.0]
    assert {(row["rollout"], row["reward"]) for row in table if row["position"] > 2} == {
        (0, 1.0),
        (1, 0.0),
    }
    where = [row for row in first if row["loss_mask"]]
    mean = sum(row["mismatch_kl"] for row in where) / len(where)
    assert log.index["mismatch_kl"][0].as_py() == pytest.approx(mean, rel=1e-12)


def test_what_a_log_lacks_is_null_with_the_reason(workspace: Workspace) -> None:
    result = ask(workspace, trace(trainer_logprob=(None, None, -1.0, -1.0)))
    table = result.table()
    for name in ("inference_logprob", "log_ratio", "ratio", "mismatch_kl", "ref_logprob", "kl_ref",
                 "entropy", "loss_mask", "reward", "advantage"):  # fmt: skip
        assert table[name].null_count == 4
        assert reasons(result, name), name
    with pytest.raises(UserError, match="nothing of a training log"):
        ask(workspace, trace())


def test_a_ratio_beyond_all_numbers_is_null_with_its_place(workspace: Workspace) -> None:
    subject = trace(
        inference_logprob=(None, None, -1000.0, -1.0), trainer_logprob=(None, None, -1.0, -1.0)
    )
    result = ask(workspace, subject)
    assert result.table()["ratio"].to_pylist() == [None, None, None, 1.0]
    assert result.table()["log_ratio"].to_pylist()[2] == 999.0
    assert "too large for a number" in reasons(result, "ratio")


def test_a_log_ratio_without_its_parts_is_taken(workspace: Workspace) -> None:
    table = ask(workspace, trace(logged_log_ratio=(None, None, 0.5, 0.0))).table()
    assert table["ratio"].to_pylist() == [None, None, pytest.approx(math.exp(0.5)), 1.0]
