"""Each format against records written by hand after its documentation, and against wrong ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.readers.dropped import Unreadable
from engine.records import rollout_records
from engine.rollouts.formats import FORMATS, format_of, named
from engine.rollouts.logged import LoggedRollout, Place
from engine.subjects import Group, Trace, simple_turns
from tests.engine.rollouts import logs

PLACE = Place("a.jsonl", 3, 100, 50)


def read(name: str, record: dict[str, Any]) -> LoggedRollout:
    (rollout,) = named(name).read(record, PLACE)
    assert rollout.place == PLACE
    assert rollout.format == name
    return rollout


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (logs.verl(), "verl"),
        (logs.trl(), "trl"),
        (logs.prime_rl(), "prime-rl"),
        (logs.board(), "rlloggingboard"),
        ({"prompt": "p", "response": "r", "reward": 0}, "rlloggingboard"),
        (logs.chat_completion(), "responses"),
        ({"custom_id": "a", "response": {"body": logs.chat_completion()}}, "responses"),
    ],
)
def test_a_record_is_recognised_by_its_content_and_by_one_format_first(
    record: dict[str, Any], name: str
) -> None:
    assert name == format_of([record]).NAME  # type: ignore[union-attr]
    assert name == format_of([{"x": 1}, record, record]).NAME  # type: ignore[union-attr]


@pytest.mark.parametrize("record", [{}, {"input": 3, "output": "x"}, {"token_ids": [1]}, {"a": []}])
def test_other_records_are_of_no_format(record: dict[str, Any]) -> None:
    assert format_of([record]) is None


def test_verl() -> None:
    rollout = read("verl", logs.verl())
    assert (rollout.prompt, rollout.response) == ("Question: 2+3=?\n", " It is 5.\nAnswer: 5")
    assert (rollout.step, rollout.reward, rollout.expected) == (7, 1.0, "5")
    assert rollout.rewards == {"score": 1.0, "acc": 1.0}
    assert not rollout.has_ids
    assert rollout.response_tokens is None
    older = logs.verl()
    del older["gts"], older["step"]
    assert (read("verl", older).step, read("verl", older).expected) == (None, None)
    assert read("verl", logs.verl(score=float("nan"))).reward is None
    assert read("verl", logs.verl(gts=["5", "five"])).expected == '["5","five"]'


def test_trl_sums_reward_functions_and_says_so() -> None:
    rollout = read("trl", logs.trl(step="7", difficulty=3, note="x"))
    assert rollout.rewards == {"accuracy_reward": 1.0, "format_reward": 0.5}
    assert (rollout.reward, rollout.advantage, rollout.step) == (1.5, 0.75, 7)
    assert "accuracy_reward, format_reward" in rollout.remarks[0]
    one = logs.trl()
    del one["format_reward"]
    assert read("trl", one).reward == 1.0
    assert not read("trl", one).remarks
    assert read("trl", logs.trl(format_reward=None)).reward == 1.0
    missing = logs.trl(accuracy_reward=float("nan"), format_reward=float("nan"))
    assert read("trl", missing).reward is None
    assert read("trl", logs.trl(reward=0.25)).reward == 0.25


def test_trl_chats_keep_their_turns() -> None:
    said = [
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": [{"type": "text", "text": "Five."}]},
    ]
    rollout = read("trl", logs.trl(prompt=[{"role": "user", "content": "2+3?"}], completion=said))
    assert rollout.said is not None
    assert [turn.role for turn in rollout.said] == ["assistant", "tool", "assistant"]
    assert [turn.text for turn in rollout.said] == ['\n[{"name":"add"}]', "5", "Five."]
    assert rollout.messages is not None
    assert rollout.messages[0].text == "2+3?"


def test_prime_rl_values_stand_at_their_own_token() -> None:
    rollout = read("prime-rl", logs.prime_rl())
    assert rollout.prompt_ids is not None
    assert rollout.response_ids is not None
    assert rollout.prompt_ids.tolist() == [1, 326, 28]
    assert rollout.response_ids.tolist() == [315, 223, 16, 2]
    assert (rollout.step, rollout.reward, rollout.advantage) == (7, 1.0, 0.5)
    nan = float("nan")
    # The engine's 0 where it drew nothing and the trainer's filling at position 0 are no values.
    drawn = rollout.signals["inference_logprob"]
    np.testing.assert_array_equal(drawn, [nan, nan, nan, -1.0, -2.0, nan, -0.5])
    ours = rollout.signals["trainer_logprob"]
    np.testing.assert_array_equal(ours, [nan, -3.0, -2.5, -1.5, -1.5, -4.0, -0.5])
    np.testing.assert_array_equal(rollout.signals["entropy"][:2], [nan, 1.0])
    drawn_surely = logs.prime_rl(inference_logprobs=[0.0] * 7)
    kept = read("prime-rl", drawn_surely).signals["inference_logprob"]
    np.testing.assert_array_equal(kept, [nan, nan, nan, 0.0, 0.0, nan, 0.0])


def test_prime_rl_rewards_that_differ_are_no_reward_of_the_whole() -> None:
    rollout = read("prime-rl", logs.prime_rl(rewards=[0, 0, 0, 1, 2, 0, 3]))
    assert rollout.reward is None
    assert "differ" in rollout.remarks[0]
    masked = read("prime-rl", logs.prime_rl(rewards=[9, 9, 9, 1, 1, 9, 1]))
    assert masked.reward == 1.0
    assert read("prime-rl", logs.prime_rl(rewards=[None] * 7)).reward is None


def test_rlloggingboard_shorter_values_leave_the_padding_empty() -> None:
    rollout = read("rlloggingboard", logs.board())
    assert rollout.tokens == (" It", " is", " ", "5", ".", "<|pad|>")
    nan = float("nan")
    np.testing.assert_array_equal(
        rollout.signals["trainer_logprob"], [-0.5, -0.25, -0.125, -1.5, -2.0, nan]
    )
    assert set(rollout.signals) == {"trainer_logprob", "ref_logprob", "value", "token_reward"}
    assert (rollout.reward, rollout.step, rollout.expected) == (1.0, 7, "5")


def test_responses_give_one_rollout_for_each_choice() -> None:
    rollouts = named("responses").read(logs.chat_completion(reward=1, step=2), PLACE)
    assert [r.place.part for r in rollouts] == [0, 1]
    assert [len(r.trace) for r in rollouts if r.trace] == [1, 2]
    assert {(r.reward, r.step) for r in rollouts} == {(1.0, 2)}
    np.testing.assert_array_equal(rollouts[1].signals["inference_logprob"], [-0.5, -0.5])


def test_our_own_lines_come_back_as_the_same_trace() -> None:
    trace = Trace(
        ids=(1, 5, 7),
        pieces=(b"a", b"b", b"\xf0"),
        ids_origin="generated",
        response_start=1,
        turns=simple_turns(3, 1),
        trainable=(False, True, True),
        signals={"trainer_logprob": (None, -1.0, -2.0)},
    )
    group = Group(rollouts=(trace,), rewards=(0.5,), prompt_id="g", expected="4")
    (record,) = rollout_records(group)
    rollout = read("tokenscope", record)
    assert rollout.trace == trace
    assert (rollout.name, rollout.reward, rollout.expected) == ("g", 0.5, "4")
    assert rollout.loss_mask is not None
    assert rollout.loss_mask.tolist() == [False, True, True]


WRONG = [
    ("verl", logs.verl(output=3), "output is a number, not text"),
    ("verl", logs.verl(score="high"), "score is text, not a number"),
    ("verl", logs.verl(step=1.5), "step is a number, not a whole number"),
    ("trl", logs.trl(completion=None), "completion is missing"),
    ("trl", logs.trl(completion=[1]), "completion is a list, neither text nor a chat"),
    ("trl", logs.trl(advantage=[1.0]), "advantage is a list, not a number"),
    ("prime-rl", logs.prime_rl(schema_version=2), "the schema is “2”, expected 1"),
    ("prime-rl", logs.prime_rl(token_ids=[1.5] * 7), "token_ids holds something else"),
    ("prime-rl", logs.prime_rl(token_ids=[-1] * 7), "token_ids holds -1, which is no token id"),
    ("prime-rl", logs.prime_rl(entropy=[0.5] * 6), "entropy has 6 values for 7 tokens"),
    ("prime-rl", logs.prime_rl(loss_mask=[2] * 7), "loss_mask holds other values than true"),
    ("prime-rl", logs.prime_rl(trainer_logprobs=["-1"] * 7), "trainer_logprobs holds something"),
    ("rlloggingboard", logs.board(logprobs=[-1.0] * 7), "logprobs has 7 values for 6 tokens"),
    ("rlloggingboard", logs.board(response_tokens="ab"), "response_tokens is not a list of texts"),
    ("tokenscope", {"schema": "tokenscope.rollout/1", "trace": {"ids": [1]}}, "Field required"),
    ("tokenscope", {"schema": "tokenscope.rollout/1"}, "the field trace is missing"),
]


@pytest.mark.parametrize(("name", "record", "sentence"), WRONG)
def test_wrong_types_give_one_sentence(name: str, record: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Unreadable) as caught:
        named(name).read(record, PLACE)
    assert sentence in caught.value.sentence


@pytest.mark.parametrize("junk", [None, [], {}, "x", -1, 2**70, 1e999, [[1]], True, ["\ud800"]])
def test_junk_in_any_column_is_read_or_refused_never_a_crash(junk: Any) -> None:
    good = {
        "verl": logs.verl(),
        "trl": logs.trl(),
        "prime-rl": logs.prime_rl(),
        "rlloggingboard": logs.board(),
        "responses": logs.chat_completion(reward=1),
    }
    assert {*good, "tokenscope"} == {each.NAME for each in FORMATS}
    for name, record in good.items():
        for column in record:
            try:
                rollouts = named(name).read({**record, column: junk}, PLACE)
            except Unreadable:
                continue
            assert all(isinstance(r, LoggedRollout) for r in rollouts)
