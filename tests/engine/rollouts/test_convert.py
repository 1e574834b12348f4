"""Any log as TokenScope rollouts, and the command line over both."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import cli
from engine.errors import UserError
from engine.records import iter_groups, open_rollouts
from engine.rollouts import RolloutLog, convert, own_file
from engine.tokenization import Tokenizer
from tests.engine.rollouts import logs

FOLDER = Path(__file__).resolve().parents[3] / "demo" / "models" / "demo"
DEMO = Tokenizer.load(FOLDER)


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(argv)
    return code, *capsys.readouterr()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_every_group_stands_together_and_keeps_what_the_log_says(tmp_path: Path) -> None:
    records = [
        logs.verl(input=prompt, step=step, score=score, gts=prompt)
        for step in (2, 1)
        for score in (0.0, 1.0)
        for prompt in ("a", "b")
    ]
    log = RolloutLog.open(logs.write(tmp_path / "all.jsonl", records))
    out = tmp_path / "out.jsonl"
    done = convert(log, out, DEMO)
    assert (done.rollouts, done.skipped_count) == (8, 0)
    groups = list(iter_groups(open_rollouts(out)))
    assert [(g.expected, g.rewards) for g in groups] == [(e, (0.0, 1.0)) for e in "abab"]
    assert [str(g.prompt_id).split("/")[0] for g in groups] == ["2", "2", "1", "1"]
    for group in groups:
        key = str(group.prompt_id).split("/")[1]
        step = int(str(group.prompt_id).split("/")[0])
        assert log.group(key, step, DEMO).rollouts == group.rollouts
    again = RolloutLog.open(out)
    assert again.formats == ("tokenscope",)
    assert again.index["step"].to_pylist() == [2] * 4 + [1] * 4
    assert again.count == 8


def test_a_round_trip_keeps_ids_values_and_mask(tmp_path: Path) -> None:
    log = RolloutLog.open(logs.write(tmp_path / "a.jsonl", [logs.prime_rl()]))
    for tokenizer in (DEMO, None):
        out = tmp_path / f"{tokenizer is None}.jsonl"
        convert(log, out, tokenizer)
        (group,) = iter_groups(open_rollouts(out))
        assert group.rollouts == (log.trace(0, tokenizer).trace,)
        again = RolloutLog.open(out).index.to_pylist()[0]
        first = log.index.to_pylist()[0]
        for name in ("reward", "advantage", "step", "log_ratio", "mismatch_kl", "entropy",
                     "prompt_tokens", "response_tokens", "trained_tokens"):  # fmt: skip
            assert again[name] == first[name], name


def test_rollouts_that_cannot_be_traces_are_named_and_left_out(tmp_path: Path) -> None:
    file = logs.write(
        tmp_path / "a.jsonl", [logs.prime_rl(), logs.prime_rl(token_ids=[9_999_999] * 7)]
    )
    done = convert(RolloutLog.open(file), tmp_path / "out.jsonl", DEMO)
    assert (done.rollouts, done.skipped_count) == (1, 1)
    assert done.skipped[0][0] == "a.jsonl, line 2"
    assert "9999999" in done.skipped[0][1]
    nothing = logs.write(tmp_path / "b.jsonl", [logs.prime_rl(token_ids=[9_999_999] * 7)])
    with pytest.raises(UserError, match=r"b\.jsonl, line 1: demo has no token id"):
        convert(RolloutLog.open(nothing), tmp_path / "none.jsonl", DEMO)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_converted_file_is_made_once_for_the_same_content(tmp_path: Path) -> None:
    file = logs.write(tmp_path / "run" / "1.jsonl", [logs.verl()])
    first = own_file(file, tmp_path, lambda: DEMO)
    stamp = first.stat().st_mtime_ns
    assert own_file(file, tmp_path, lambda: DEMO) == first
    assert first.stat().st_mtime_ns == stamp
    assert own_file(first, tmp_path, lambda: pytest.fail("not asked")) == first
    with file.open("a") as handle:
        handle.write(json.dumps(logs.verl(score=0.0)) + "\n")
    second = own_file(file, tmp_path, lambda: DEMO)
    assert second != first
    assert open_rollouts(second).count == 2
    with pytest.raises(UserError, match="name the tokenizer"):
        own_file(file, tmp_path, lambda: None)


def test_the_command_says_what_a_log_holds(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [logs.verl(score=float(n % 2)) for n in range(4)]
    file = logs.write(tmp_path / "run" / "7.jsonl", [*good, logs.verl(output=1)])
    with file.open("a") as handle:
        handle.write('{"input": "')
    code, out, err = call(capsys, "rollouts", str(file.parent))
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == [
        "run: verl generations; 1 file",
        "4 rollouts of 1 prompt, step 7",
    ]
    assert "7.jsonl, line 5: output is a number, not text" in out
    assert "The end of 7.jsonl is not written yet" in out
    code, out, err = call(capsys, "rollouts", str(file), "--json")
    found = json.loads(out)
    assert (found["rollouts"], found["bad_lines"], found["groups"]) == (4, 1, 1)
    assert found["steps"][0]["mixed"] == 1.0
    code, out, err = call(capsys, "rollouts", str(tmp_path / "none"))
    assert code == 2
    assert err == "tokenscope: none is not there: check the path.\n"


def test_the_command_converts_and_run_reads_what_it_wrote(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = logs.write(tmp_path / "7.jsonl", [logs.verl()])
    out = str(tmp_path / "own.jsonl")
    code, _, err = call(capsys, "rollouts", str(file), "--out", out)
    assert code == 2
    assert "name the tokenizer" in err
    assert not Path(out).exists()
    code, said, err = call(capsys, "rollouts", str(file), "--out", out, "--tokenizer", str(FOLDER))
    assert (code, err) == (0, "")
    assert said.splitlines()[-1] == f"{out}: 1 rollout"
    table = str(tmp_path / "t.parquet")
    code, said, err = call(capsys, "run", "reward.log", "--rollouts", out, "--out", table)
    assert (code, err) == (0, "")
    assert pq.read_table(table)["reward"].to_pylist()[-1] == 1.0


def test_run_takes_a_foreign_log_as_it_is(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.Table.from_pylist([logs.trl(), logs.trl(advantage=-0.75)])
    pq.write_table(table, tmp_path / "completions_7.parquet")
    out = str(tmp_path / "t.csv")
    argv = ("run", "reward.log", "--rollouts", str(tmp_path / "completions_7.parquet"))
    code, _, err = call(capsys, *argv, "--out", out)
    assert code == 2
    assert "name the tokenizer" in err
    argv += ("--out", out, "--tokenizer", "demo")
    assert [call(capsys, *argv)[1].split()[-1] for _ in range(2)] == ["computed", "cache"]
    broken = tmp_path / "own.jsonl"
    broken.write_text('{"schema": "tokenscope.rollout/1"}\n')
    code, _, err = call(capsys, "run", "reward.log", "--rollouts", str(broken), "--out", out)
    assert "line 1: the field trace is missing" in err
