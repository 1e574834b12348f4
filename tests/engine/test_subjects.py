"""Subjects: positions, offsets, spans, digests, chat turns, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.encode import encode_text, trace_from_ids
from engine.errors import UserError
from engine.records import (
    iter_groups,
    open_rollouts,
    read_subject,
    write_rollouts,
    write_trace,
)
from engine.spans import find_spans
from engine.subjects import Group, Message, Span, Text, Trace, Turn, simple_turns
from engine.tokenization import Tokenizer
from tests.engine.test_tokenization import TEXTS, TOKENIZERS, byte_level

BYTES = byte_level(merges=False)


def trace_of(prompt: str, response: str, tokenizer: Tokenizer = BYTES) -> Trace:
    return encode_text(Text(prompt=prompt, response=response), tokenizer)


@settings(max_examples=80, deadline=None)
@given(prompt=TEXTS, response=TEXTS)
def test_offsets_are_exact_bytes_of_the_text(prompt: str, response: str) -> None:
    if not prompt and not response:
        return
    trace = trace_of(prompt, response, TOKENIZERS["byte_level"])
    data = (prompt + response).encode()
    assert trace.text_bytes == data
    assert all(
        data[a:b] == p for (a, b), p in list(zip(trace.offsets, trace.pieces, strict=True))[1:]
    )
    assert trace.offsets[0] == (0, 0)
    assert trace.offsets[-1][1] == len(data)
    assert trace.prompt_text == prompt
    assert trace.response_text == response


def test_prompt_and_response_are_encoded_separately_and_the_trace_says_so() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    split = encode_text(Text(prompt="on t", response="he mat"), tokenizer)
    whole = tokenizer.encode("on the mat", special=True)
    assert split.ids != whole.ids
    assert split.joint_encoding is False
    assert split.ids[0] == 0, "prompt gets the tokenizer's BOS"
    assert 0 not in split.ids[1:], "response gets none"
    assert encode_text(Text(prompt="on", response=" the mat"), tokenizer).joint_encoding is True


@pytest.mark.parametrize(
    ("response", "answer", "reasoning_end"),
    [
        ("Solution: 3+4=7.\nAnswer: 7", "7", "7."),
        ("so it is \\boxed{42}.", "42", "is"),
        ("work #### 1,234\n", "1,234", "work"),
        ("Thus the answer is 12.", "12", "Thus"),
        ("Answer: 3\nno wait\nAnswer: 5.", "5", "wait"),
        ("**Final answer:** 9", "9", None),
        ("no mark at all", None, "all"),
    ],
)
def test_spans_by_format(response: str, answer: str | None, reasoning_end: str | None) -> None:
    trace = trace_of("Question: how many?\n", response)
    spans = find_spans(trace)

    def said(name: str) -> str:
        span = spans[name]
        return b"".join(trace.pieces[span.start : span.end]).decode()

    assert said("question") == "how many?"
    if answer is None:
        assert "answer" not in spans
    else:
        assert said("answer") == answer
        assert trace.segments[spans["answer"].start] == "answer"
    if reasoning_end is not None:
        assert said("reasoning").endswith(reasoning_end)


def test_thinking_ends_the_reasoning() -> None:
    trace = trace_of("hi", "<think>hm</think>done")
    span = find_spans(trace)["reasoning"]
    assert b"".join(trace.pieces[span.start : span.end]) == b"<think>hm"


def test_answer_in_the_prompt_is_not_the_answer() -> None:
    assert "answer" not in find_spans(trace_of("Answer: 3\n", "I do not know"))


def test_digest_ignores_the_title_and_nothing_else() -> None:
    trace = trace_of("ab", "cd")
    assert trace.evolve(title="x").digest == trace.digest
    assert trace.evolve(ids_origin="logged").digest != trace.digest
    other = trace.evolve(spans={"answer": Span(start=1, end=2)})
    assert other.digest != trace.digest
    assert other.segments != trace.segments, "a copy must not keep stale values"
    assert Trace.model_validate_json(trace.model_dump_json()).digest == trace.digest


@pytest.mark.parametrize(
    "change",
    [
        {"ids": (1,)},
        {"response_start": 99},
        {"turns": ()},
        {"turns": (Turn(role="user", start=1, end=5),)},
        {"trainable": (True,)},
        {"spans": {"answer": Span(start=0, end=99)}},
        {"signals": {"reward": (1.0,)}},
        {"special": (77,)},
    ],
)
def test_inconsistent_traces_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        trace_of("ab", "cd").evolve(**change)


@settings(max_examples=60, deadline=None)
@given(data=st.lists(st.binary(max_size=4), min_size=1, max_size=12))
def test_any_bytes_survive_the_file(
    data: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    trace = Trace(
        ids=tuple(range(len(data))),
        pieces=tuple(data),
        ids_origin="logged",
        response_start=0,
        turns=simple_turns(len(data), 0),
    )
    file = tmp_path_factory.mktemp("t") / "t.jsonl"
    write_trace(file, trace)
    assert read_subject(file) == trace


def test_rollouts_round_trip_and_stream(tmp_path: Path) -> None:
    groups = [
        Group(
            rollouts=tuple(trace_of(f"q{g}", f"a{i}é") for i in range(3)),
            rewards=(1.0, None, 0.0),
            prompt_id=f"p{g}",
            expected="7",
        )
        for g in range(2)
    ]
    file = tmp_path / "r.jsonl"
    write_rollouts(file, groups)
    rollouts = open_rollouts(file)
    assert rollouts.count == 6
    assert list(iter_groups(rollouts)) == groups
    line = json.loads(file.read_text().splitlines()[0])
    assert (line["schema"], line["prompt"], line["response"]) == (
        "tokenscope.rollout/1",
        "q0",
        "a0é",
    )
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(file.read_bytes())
    assert open_rollouts(moved).digest == rollouts.digest


GOOD = '{"prompt": "a", "response": "b"}'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        ("{", "line 1: not valid JSON"),
        ("[1]", "line 1: expected a JSON object"),
        ("\n\n{nope}", "line 3: not valid JSON"),
        (GOOD + "\n" + GOOD, "holds 2 lines"),
        ('{"schema": "other/9"}', "the schema is 'other/9'"),
        ('{"schema": "tokenscope.trace/1", "ids": [1]}', "Field required"),
        ('{"schema": "tokenscope.trace/1", "ids": "x", "pieces": []}', "line 1: ids"),
        ('{"prompt": 3}', "line 1: prompt"),
        ('{"prompt": "a", "messages": []}', "not both"),
    ],
)
def test_malformed_trace_files_name_the_line(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "t.json"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        read_subject(file)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_file_with_bom_and_crlf(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n")
    assert read_subject(file) == Text(prompt="a", response="b")


def test_unwritable_place_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be written"):
        write_trace(tmp_path / "missing" / "t.jsonl", trace_of("a", "b"))
    assert list(tmp_path.iterdir()) == []


def test_ids_win_over_text() -> None:
    trace = trace_from_ids([0, 70, 71], BYTES, response_start=2)
    assert trace.ids_origin == "logged"
    assert trace.added == (0,)
    with pytest.raises(UserError, match="at least one"):
        trace_from_ids([], BYTES, response_start=0)


TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def chat_tokenizer(template: str = TEMPLATE) -> Tokenizer:
    return Tokenizer(str(BYTES._backend.to_str()), settings={"chat_template": template})


def test_chat_turns_and_segments() -> None:
    messages = (
        Message(role="system", content="be kind"),
        Message(role="user", content="hi 🤗"),
        Message(role="assistant", content="yo"),
    )
    trace = encode_text(Text(messages=messages), chat_tokenizer())
    rendered = "<s>system\nbe kind</s>\n<s>user\nhi 🤗</s>\n<s>assistant\nyo</s>\n"
    assert trace.text == rendered
    assert trace.response_text == "yo</s>\n"
    spoken = {turn.role: b"".join(trace.pieces[turn.start : turn.end]) for turn in trace.turns[:2]}
    assert spoken["system"] == b"<s>system\nbe kind</s>\n"
    assert spoken["user"].startswith(b"<s>user\nhi \xf0\x9f\xa4\x97</s>\n")
    assert trace.roles[-1] == "assistant"
    assert set(trace.segments[: trace.response_start]) == {"prompt"}


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ raise_exception('no system') }}", "refused these messages"),
        ("{% for %}", "refused these messages"),
        ("{{ ''.__class__.__mro__ }}", "refused these messages"),
    ],
)
def test_a_hostile_template_is_one_sentence(template: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        encode_text(Text(messages=(Message(role="user", content="x"),)), chat_tokenizer(template))


def test_chat_refusals() -> None:
    with pytest.raises(UserError, match="no chat template"):
        encode_text(Text(messages=(Message(role="user", content="x"),)), BYTES)
    with pytest.raises(UserError, match="role 'robot'"):
        encode_text(Text(messages=(Message(role="robot", content="x"),)), chat_tokenizer())
    with pytest.raises(UserError, match="no text"):
        encode_text(Text(), BYTES)
