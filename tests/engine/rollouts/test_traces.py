"""From a logged rollout to a trace: ids, bytes, roles, masks and values at their positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.rollouts import LoggedRollout, Place, trace_of
from engine.rollouts.formats import named
from engine.tokenization import Tokenizer
from tests.engine.rollouts import logs

DEMO = Tokenizer.load(Path(__file__).resolve().parents[3] / "demo" / "models" / "demo")
PLACE = Place("a.jsonl", 1)


def rollout(name: str, record: dict[str, Any]) -> LoggedRollout:
    return named(name).read(record, PLACE)[0]


def test_logged_ids_win_and_values_stay_at_their_tokens() -> None:
    made = trace_of(rollout("prime-rl", logs.prime_rl()), DEMO)
    trace = made.trace
    assert trace.ids == tuple(logs.prime_rl()["token_ids"])
    assert trace.ids_origin == "logged"
    assert trace.pieces == DEMO.pieces(trace.ids)
    assert trace.tokenizer == DEMO.digest
    assert (trace.response_start, trace.added) == (3, (0,))
    assert trace.trainable == (False, False, False, True, True, False, True)
    assert trace.signals["trainer_logprob"] == (None, -3.0, -2.5, -1.5, -1.5, -4.0, -0.5)
    assert trace.signals["inference_logprob"] == (None, None, None, -1.0, -2.0, None, -0.5)
    assert trace.signals["advantage"] == (None, None, None, 0.5, 0.5, None, 0.5)
    assert trace.signals["reward"] == (None,) * 3 + (1.0,) * 4
    assert trace.signals["is_masked"] == (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    assert trace.signals["logged_log_ratio"][4] == 0.5
    assert "logged_mismatch_kl" not in trace.signals  # all null
    assert made.remarks == ()


def test_tokens_of_the_environment_have_a_turn_of_their_own() -> None:
    trace = trace_of(rollout("prime-rl", logs.prime_rl()), DEMO).trace
    assert trace.roles == ("user",) * 3 + ("assistant", "assistant", "tool", "assistant")
    last = logs.prime_rl(loss_mask=[False, False, False, True, True, False, False])
    assert trace_of(rollout("prime-rl", last), DEMO).trace.roles[3:] == ("assistant",) * 4


def test_ids_without_a_tokenizer_are_shown_as_numbers() -> None:
    made = trace_of(rollout("prime-rl", logs.prime_rl()))
    assert made.trace.pieces[1] == b"[326]"
    assert not made.trace.exact
    assert made.trace.tokenizer is None
    assert "name the tokenizer" in made.remarks[0]


def test_a_wrong_column_is_left_out_with_a_remark() -> None:
    made = trace_of(rollout("prime-rl", logs.prime_rl(is_masked=["x"] * 7)), DEMO)
    assert "is_masked" not in made.trace.signals
    assert "is_masked holds something else than numbers" in made.remarks


def test_an_id_of_another_tokenizer_is_refused() -> None:
    wrong = rollout("prime-rl", logs.prime_rl(token_ids=[99_999] * 7))
    with pytest.raises(UserError, match="no token id 99999"):
        trace_of(wrong, DEMO)


def test_text_needs_a_tokenizer_and_is_marked() -> None:
    given = rollout("verl", logs.verl())
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: .* name the tokenizer"):
        trace_of(given)
    made = trace_of(given, DEMO)
    trace = made.trace
    prompt = DEMO.encode(logs.verl()["input"], special=True)
    assert trace.ids[: trace.response_start] == prompt.ids
    assert trace.ids_origin == "encoded"
    assert trace.prompt_text == logs.verl()["input"]
    assert trace.response_text == logs.verl()["output"]
    assert trace.trainable is None
    assert "made with demo" in made.remarks[0]
    assert trace.spans["answer"].start == len(trace) - 1


def test_a_prompt_with_its_special_tokens_does_not_get_them_twice() -> None:
    trace = trace_of(rollout("verl", logs.verl(input="<|bos|>Question: 1+1=?\n")), DEMO).trace
    assert trace.ids.count(logs.BOS) == 1
    plain = trace_of(rollout("verl", logs.verl(input="Question: 1+1=?\n")), DEMO).trace
    assert trace.ids == plain.ids


def test_token_strings_become_ids_where_the_vocabulary_has_them() -> None:
    spelled = [DEMO._backend.id_to_token(i) for i in DEMO.encode(" It is 5.", special=False).ids]
    record = logs.board(response_tokens=[*spelled, "<|pad|>"])
    trace = trace_of(rollout("rlloggingboard", record), DEMO).trace
    start = trace.response_start
    assert trace.response_text == " It is 5.<|pad|>"
    assert trace.signals["trainer_logprob"][start:] == (-0.5, -0.25, -0.125, -1.5, -2.0, None)
    assert trace.signals["trainer_logprob"][:start] == (None,) * start
    assert trace.signals["ref_logprob"][start] == -0.75
    assert trace.signals["logprob"] == trace.signals["trainer_logprob"]


def test_decoded_tokens_keep_their_values_only_where_the_cuts_agree() -> None:
    agreed = trace_of(rollout("rlloggingboard", logs.board()), DEMO).trace
    assert agreed.ids_origin == "encoded"
    assert agreed.signals["trainer_logprob"][agreed.response_start] == -0.5
    other = logs.board(response_tokens=[" It is", " 5", ".", "<|pad|>", "", ""])
    made = trace_of(rollout("rlloggingboard", other), DEMO)
    assert set(made.trace.signals) == {"reward"}
    assert any("cuts the response differently" in remark for remark in made.remarks)
    bare = trace_of(rollout("rlloggingboard", logs.board())).trace
    assert bare.ids == (-1,) * 6
    assert bare.response_text == " It is 5.<|pad|>"
    assert bare.signals["value"][4] == 0.5


def test_a_chat_without_a_template_stands_one_message_a_line() -> None:
    record = logs.trl(
        prompt=[{"role": "system", "content": "Add."}, {"role": "user", "content": "2+3?"}],
        completion=[
            {"role": "assistant", "content": "call"},
            {"role": "tool", "content": "5"},
            {"role": "assistant", "content": "Five."},
        ],
    )
    made = trace_of(rollout("trl", record), DEMO)
    trace = made.trace
    assert [turn.role for turn in trace.turns] == [
        "system", "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    said = [b"".join(trace.pieces[t.start : t.end]) for t in trace.turns]
    assert said == [b"<|bos|>Add.\n", b"2+3?\n", b"call", b"5", b"Five."]
    assert trace.response_start == trace.turns[2].start
    assert any("no chat template" in remark for remark in made.remarks)


def test_marks_of_templates_name_the_speaker() -> None:
    prompt = "<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n2?<|im_end|>\n"
    prompt += "<|im_start|>assistant\n"
    answer = "<think>well</think>call<|im_end|>\n<|im_start|>user\n<tool_response>5"
    answer += "</tool_response><|im_end|>\n<|im_start|>assistant\nFive."
    trace = trace_of(rollout("verl", logs.verl(input=prompt, output=answer)), DEMO).trace
    said = [(t.role, b"".join(trace.pieces[t.start : t.end]).decode()) for t in trace.turns]
    assert [role for role, _ in said] == [
        "system", "user", "assistant", "thinking", "assistant", "user", "tool", "user", "assistant",
    ]  # fmt: skip
    spoken = dict(said)
    assert "<think>well" in spoken["thinking"]
    assert "<tool_response>5" in spoken["tool"]
    assert spoken["assistant"].endswith("Five.")


def test_our_own_trace_is_not_changed() -> None:
    from engine.records import rollout_records
    from engine.subjects import Group

    trace = trace_of(rollout("prime-rl", logs.prime_rl()), DEMO).trace
    (record,) = rollout_records(Group(rollouts=(trace,), rewards=(0.0,)))
    assert trace_of(rollout("tokenscope", record), DEMO).trace.digest == trace.digest


def test_a_response_of_an_api_keeps_its_tokens() -> None:
    made = trace_of(rollout("responses", logs.chat_completion(reward=0.5)))
    assert made.trace.pieces == (b"5",)
    assert made.trace.signals["inference_logprob"] == (-0.5,)
    assert made.trace.signals["reward"] == (0.5,)
