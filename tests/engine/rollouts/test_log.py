"""A file or a folder as a log: what is found, what is not, what is added, and what is kept."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import UserError
from engine.rollouts import RolloutLog, kept
from engine.rollouts.scan import step_of_name
from engine.tokenization import Tokenizer
from tests.engine.rollouts import logs

DEMO = Path(__file__).resolve().parents[3] / "demo" / "models" / "demo"


def numbers(log: RolloutLog, *names: str) -> list[tuple[object, ...]]:
    rows = log.index.to_pylist()
    return [tuple(row[name] for name in names) for row in rows]


def test_a_file_of_each_format_in_one_folder(tmp_path: Path) -> None:
    logs.write(tmp_path / "7.jsonl", [logs.verl()])
    logs.write(tmp_path / "step_7" / "rank_0.jsonl", [logs.prime_rl()])
    logs.write(tmp_path / "board.jsonl", [logs.board()])
    logs.write(tmp_path / "x.json", [logs.chat_completion()])
    logs.write(tmp_path / "config.json", [{"lr": 1e-6}])
    (tmp_path / "completions").mkdir()
    table = pa.Table.from_pylist([logs.trl(), logs.trl(advantage=-0.75)])
    pq.write_table(table, tmp_path / "completions" / "completions_00007.parquet")
    log = RolloutLog.open(tmp_path)
    assert log.count == 7
    assert set(log.formats) == {"verl", "prime-rl", "rlloggingboard", "responses", "trl"}
    assert log.refused == (("config.json", "no rollouts: its columns are “lr”"),)
    for number in range(log.count):
        rollout = log.rollout(number)
        row = log.index.slice(number, 1).to_pylist()[0]
        assert rollout.place == log.place(number)
        assert (rollout.reward, rollout.step) == (row["reward"], row["step"])


def test_groups_are_the_rollouts_of_one_prompt_within_a_step(tmp_path: Path) -> None:
    records = [
        logs.verl(input=prompt, step=step, score=score)
        for step in (1, 2)
        for score in (0.0, 1.0)
        for prompt in ("a", "b")
    ]
    log = RolloutLog.open(logs.write(tmp_path / "all.jsonl", records))
    found = numbers(log, "step", "group", "rollout")
    keys = [(step, group) for step, group, _ in found]
    assert len(set(keys)) == 4
    assert {group for _, group in keys} == {found[0][1], found[1][1]}  # one prompt, both steps
    assert [number for _, _, number in found] == [0, 0, 1, 1, 0, 0, 1, 1]
    group = log.group(str(found[0][1]), 2, Tokenizer.load(DEMO))
    assert group.rewards == (0.0, 1.0)
    assert group.expected == "5"
    assert group.prompt_id == found[0][1]
    with pytest.raises(UserError, match="no prompt"):
        log.group("b", 1)


def test_the_index_of_prime_rl_by_hand(tmp_path: Path) -> None:
    import math

    log = RolloutLog.open(logs.write(tmp_path / "rank_0.jsonl", [logs.prime_rl()]))
    (row,) = log.index.to_pylist()
    assert (row["prompt_tokens"], row["response_tokens"], row["trained_tokens"]) == (3, 4, 3)
    ratios = [-0.5, 0.5, 0.0]
    assert row["log_ratio"] == pytest.approx(0.0, abs=1e-15)
    assert row["mismatch_kl"] == pytest.approx(sum(math.exp(r) - 1 - r for r in ratios) / 3)
    assert row["entropy"] == pytest.approx((0.5 + 0.25 + 0.75) / 3)
    assert row["logprob"] == pytest.approx(-3.5 / 3)
    assert (row["reward"], row["advantage"], row["step"]) == (1.0, 0.5, 7)
    assert row["has_ids"]


def test_missing_columns_are_named_in_one_sentence(tmp_path: Path) -> None:
    record = logs.verl()
    del record["gts"]
    log = RolloutLog.open(logs.write(tmp_path / "7.jsonl", [record]))
    assert log.missing[0] == "verl generations: there is no gts (the right answer)."
    assert "tokenizer" in log.missing[1]
    full = RolloutLog.open(logs.write(tmp_path / "a" / "x.jsonl", [logs.prime_rl()]))
    assert full.missing == ()


def test_the_step_may_stand_in_the_name_of_the_file(tmp_path: Path) -> None:
    record = logs.verl()
    del record["step"]
    log = RolloutLog.open(logs.write(tmp_path / "120.jsonl", [record]))
    assert numbers(log, "step") == [(120,)]
    assert log.rollout(0).step == 120
    names = {
        "token_exports/step_12/rank_3.jsonl": 12,
        "completions/completions_00120.parquet": 120,
        "global_step5.jsonl": 5,
        "rank_3.jsonl": None,
        "run7/samples.jsonl": None,
    }
    assert {name: step_of_name(name) for name in names} == names


def test_bad_lines_are_listed_with_their_numbers_and_the_rest_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "1.jsonl"
    good, wrong = json.dumps(logs.verl()), json.dumps(logs.verl(output=1))
    file.write_text("\ufeff" + "\r\n".join([good, wrong, "{", good, "[" * 10_000, good]) + "\n")
    log = RolloutLog.open(file)
    assert numbers(log, "line") == [(1,), (4,), (6,)]
    assert [(b.file, b.line) for b in log.bad] == [("1.jsonl", n) for n in (2, 3, 5)]
    assert log.bad[0].reason == "output is a number, not text"
    assert [log.rollout(n).response for n in range(3)] == [logs.verl()["output"]] * 3
    many = logs.write(tmp_path / "2.jsonl", [logs.verl(), *[logs.verl(score="x")] * 150])
    log = RolloutLog.open(many)
    assert (log.count, log.bad_count, len(log.bad)) == (1, 150, 100)


def test_a_hundred_megabyte_line_is_refused_with_its_number(tmp_path: Path) -> None:
    file = logs.write(tmp_path / "1.jsonl", [logs.verl()])
    with file.open("ab") as handle:
        handle.write(b'{"input": "')
        for _ in range(100):
            handle.write(b"x" * (1 << 20))
        handle.write(b'"}\n' + json.dumps(logs.verl()).encode() + b"\n")
    log = RolloutLog.open(file)
    assert [(b.line, b.reason) for b in log.bad] == [(2, "longer than 64 MiB")]
    assert numbers(log, "line") == [(1,), (3,)]
    assert log.rollout(1).reward == 1.0


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b'{"lr": 1}\n', "its columns are “lr”; expected verl"),
        ("a.jsonl", b"hello\n", "line 1: not whole JSON"),
        ("a.jsonl", b"\x1f\x8b\x08", "gzip"),
        ("a.jsonl", '{"input": "a"}\n'.encode("utf-16"), "UTF-16"),
        ("a.jsonl", b'{"input": "a", "output": "b", "score": []}\n', "line 1: score is a list"),
        ("a.txt", b"x", "holds no file of rollouts"),
    ],
)
def test_what_is_no_log_gives_one_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        RolloutLog.open(tmp_path)
    assert sentence in str(caught.value)
    with pytest.raises(UserError, match="is not there"):
        RolloutLog.open(tmp_path / "none")


def test_refresh_reads_only_what_was_added(tmp_path: Path) -> None:
    file = logs.write(tmp_path / "run" / "1.jsonl", [logs.verl(step=1)])
    log = RolloutLog.open(tmp_path / "run")
    assert log.refresh() == 0
    line = json.dumps(logs.verl(step=1, score=0.5))
    with file.open("a") as handle:
        handle.write(line[:20])
    assert log.refresh() == 0
    assert log.files[0].waiting
    with file.open("a") as handle:
        handle.write(line[20:] + "\n")
    logs.write(tmp_path / "run" / "2.jsonl", [logs.verl(step=2)])
    assert log.refresh() == 2
    assert numbers(log, "step", "reward") == [(1, 1.0), (1, 0.5), (2, 1.0)]
    assert not log.bad
    assert [log.rollout(n).reward for n in range(3)] == [1.0, 0.5, 1.0]
    assert numbers(RolloutLog.open(tmp_path / "run"), "line", "offset", "size") == numbers(
        log, "line", "offset", "size"
    )


def test_files_that_were_rewritten_or_removed_are_taken_out(tmp_path: Path) -> None:
    first = logs.write(tmp_path / "1.jsonl", [logs.verl(step=1)] * 2 + [logs.verl(score="x")])
    logs.write(tmp_path / "2.jsonl", [logs.verl(step=2)] * 3)
    third = logs.write(tmp_path / "3.jsonl", [logs.verl(step=3)])
    log = RolloutLog.open(tmp_path)
    assert (log.count, log.bad_count) == (6, 1)
    first.unlink()
    logs.write(third, [logs.verl(step=3, output="other, and longer than before")] * 2)
    log.refresh()
    assert numbers(log, "step") == [(2,)] * 3 + [(3,)] * 2
    assert log.bad_count == 0
    assert log.rollout(4).response == "other, and longer than before"
    before = log.index
    os.utime(third, ns=(1, 1))  # as long as before at another time: read anew, and only this one
    assert log.refresh() == 2
    assert log.index.equals(before)
    assert log.refresh() == 0


def test_one_json_document_is_a_log_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "a.json").write_text(json.dumps(logs.chat_completion(), indent=2))
    (run / "b.json").write_text(json.dumps([logs.verl(), 5, logs.verl(score=0.5)]))
    (run / "c.json").write_text('{\n "choices": [')
    log = RolloutLog.open(run)
    assert log.formats == ("responses", "verl")
    assert [log.rollout(n).reward for n in range(4)] == [None, None, 1.0, 0.5]
    assert log.trace(1).trace.response_text == "56"
    assert [(b.file, b.line) for b in log.bad] == [("b.json", 2)]
    assert [s.path for s in log.files if s.waiting] == ["c.json"]
    (run / "c.json").write_text(json.dumps(logs.chat_completion(reward=2), indent=2))
    assert log.refresh() == 2
    assert log.rollout(5).reward == 2.0
    (run / "c.json").write_text("[" * 10_000)
    log.refresh()
    assert log.refused == (("c.json", "the JSON is nested too deeply to be a log"),)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    logs.write(tmp_path / "1.jsonl", [logs.verl()])
    os.mkfifo(tmp_path / "2.jsonl")
    assert RolloutLog.open(tmp_path).count == 1


def test_a_place_that_has_changed_says_so(tmp_path: Path) -> None:
    file = logs.write(tmp_path / "1.jsonl", [logs.verl()] * 2)
    log = RolloutLog.open(file)
    file.write_text("")
    with pytest.raises(UserError, match="no longer what it was"):
        log.rollout(1)
    with pytest.raises(UserError, match="no rollout 2"):
        log.rollout(2)


def test_the_index_is_kept_and_nothing_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    file = logs.write(run / "1.jsonl", [logs.verl(step=1), logs.verl(score="x")] * 3)
    first = RolloutLog.open(run, home=home)
    assert kept.place_of(home, run).is_file()

    def never(*args: object, **options: object) -> None:
        raise AssertionError("it was read again")

    with monkeypatch.context() as patch:
        patch.setattr("engine.rollouts.log.scan", never)
        second = RolloutLog.open(run, home=home)
    assert second.index.equals(first.index)
    assert second.bad == first.bad
    assert second.missing == first.missing
    with file.open("a") as handle:
        handle.write(json.dumps(logs.verl(step=1, score=0.25)) + "\n")
    third = RolloutLog.open(run, home=home)
    assert third.count == 4
    assert third.rollout(3).reward == 0.25
    assert (third.bad_count, [b.line for b in third.bad]) == (3, [2, 4, 6])


def test_a_stored_index_that_is_broken_is_made_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    file = logs.write(tmp_path / "1.jsonl", [logs.verl()])
    RolloutLog.open(file, home=home)
    place = kept.place_of(home, file)
    for junk in (b"", b"PAR1", place.read_bytes()[:-20]):
        place.write_bytes(junk)
        assert RolloutLog.open(file, home=home).count == 1
    pq.write_table(pa.table({"a": [1]}), place)
    assert RolloutLog.open(file, home=home).count == 1


def test_parquet_that_is_still_written_waits(tmp_path: Path) -> None:
    file = tmp_path / "completions_1.parquet"
    rows = [logs.trl(step=n, completion=str(n)) for n in range(700)]
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=300)
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    log = RolloutLog.open(file)
    assert log.count == 0
    assert log.files[0].waiting
    file.write_bytes(whole)
    assert log.refresh() == 700
    assert [log.rollout(n).response for n in (0, 299, 300, 650)] == ["0", "299", "300", "650"]
    assert log.place(650).line == 651


def test_hidden_files_and_links_to_folders_are_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    logs.write(run / "9.jsonl", [logs.verl(step=9)])
    logs.write(run / "10.jsonl", [logs.verl(step=10)])
    logs.write(run / ".11.jsonl.tmp.jsonl", [logs.verl()])
    logs.write(run / ".cache" / "1.jsonl", [logs.verl()])
    (run / "again").symlink_to(run)
    assert numbers(RolloutLog.open(run), "step") == [(9,), (10,)]


@pytest.mark.slow
def test_a_million_lines_in_bounded_memory(tmp_path: Path) -> None:
    file = tmp_path / "1.jsonl"
    with file.open("w") as handle:
        for number in range(1_000_000):
            record = logs.verl(input=f"prompt {number // 8}", step=number // 8000)
            handle.write(json.dumps(record) + "\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log = RolloutLog.open(file)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert log.count == 1_000_000
    assert log.index["rollout"].to_pylist()[:9] == [*range(8), 0]
    assert grown < 600, f"{grown:.0f} MB"
