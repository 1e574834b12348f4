"""Responses of OpenAI and its like, whole and streamed, with log-probabilities."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from engine.errors import UserError
from engine.readers import recognise
from engine.subjects import Text, Trace
from tests.engine.logs import (
    ASKED,
    CONTENT,
    SAID,
    chat,
    completion,
    drop,
    entry,
    reasons,
    response,
    sse,
    stream_chunks,
    trace_in,
    words,
)


def check_content(trace: Trace) -> None:
    assert trace.pieces == (b"4", b" \xe2\x80", b"\x9c", b" yes")
    assert trace.signals == {"logprob": (-0.1, -1.5, 0.0, -4.0)}
    assert trace.ids == (-1, -1, -1, -1)
    assert (trace.tokenizer, trace.ids_origin, trace.exact) == (None, "logged", True)
    assert trace.candidates is not None
    assert [[(c.piece, c.logprob) for c in listed] for listed in trace.candidates] == [
        [(b"4", -0.1), (b"5", -3.0)],
        [(b" ok", -0.4), (b" \xe2\x80", -1.5)],
        [(b"\x9c", 0.0), (b"\x9d", -12.0)],
        [(b"no", -0.2), (b"!", -2.0)],
    ]


def test_chat_completion() -> None:
    found = drop(chat(CONTENT, SAID))
    assert found.kind == "openai"
    assert found.title == "OpenAI chat completion, 1 choice with log-probabilities"
    assert found.model == "gpt-4o-mini-2024-07-18"
    assert "bounds on entropy" in found.possible[0]
    assert not found.problems
    check_content(trace_in(found))
    assert words(found) == [("", SAID)]


def test_several_choices_one_of_them_broken() -> None:
    body = chat(CONTENT, SAID)
    good = body["choices"][0]
    bad = {**good, "logprobs": {"content": [*CONTENT[:1], {"logprob": -1}]}}
    bare = {**good, "logprobs": None}
    found = drop({**body, "choices": [good, bad, bare, "x"]})
    assert found.title == "OpenAI chat completion, 2 choices, 1 with log-probabilities"
    assert isinstance(found.subjects[1], Text)
    assert "choices[1].logprobs.content[1].token: the token's text is missing" in reasons(found)
    assert "choices[3]: an object is expected here, not text" in reasons(found)


@pytest.mark.parametrize("how", ["pair", "batch", "string"])
def test_request_and_response(how: str) -> None:
    body = chat(CONTENT, SAID)
    request = {"model": "gpt-4o-mini", "messages": ASKED, "temperature": 0.5, "seed": 3}
    pair: dict[str, Any] = {"request": request, "response": body}
    if how == "batch":
        pair = {"custom_id": "a", "request": {"body": request}, "error": None}
        pair["response"] = {"status_code": 200, "body": body}
    if how == "string":
        pair = {"request": json.dumps(request), "response": json.dumps(body)}
    found = drop(pair)
    trace = trace_in(found)
    check_content(trace)
    assert trace.sampling is not None
    assert (trace.sampling.temperature, trace.sampling.seed) == (0.5, 3)
    assert trace.sampling.finish == "stop"
    (text,) = found.texts
    assert text is not None
    assert [m.content for m in text.messages or ()] == ["Be brief.", "2+2?", SAID]


def test_without_log_probabilities_it_is_a_text_and_says_how_to_get_them() -> None:
    found = drop(chat(None, "Hello"))
    assert isinstance(found.subjects[0], Text)
    assert words(found) == [("", "Hello")]
    assert "ask the server for logprobs" in found.possible[1]


def test_refusals_have_log_probabilities_too() -> None:
    body = chat([], None)
    body["choices"][0]["message"]["refusal"] = "No."
    body["choices"][0]["logprobs"]["refusal"] = [entry("No", -1.0), entry(".", -0.5)]
    assert trace_in(drop(body)).response_text == "No."


@pytest.mark.parametrize("value", [0.93, 7.0, math.inf, 10**400])
def test_positive_numbers_are_no_log_probabilities(value: float) -> None:
    with pytest.raises(
        UserError, match=r"choices\[0\].logprobs.content\[1\].logprob: .* never above"
    ):
        drop(chat([entry("a", -1.0), entry("b", value)], "ab"))
    with pytest.raises(UserError, match="no log-probability"):
        drop(chat([entry("a", -1.0, [("a", -1.0), ("b", value)])], "a"))


def test_rounding_minus_infinity_nan_and_null() -> None:
    content = [
        entry("a", 0.0009, [("a", 0.0009), ("z", -math.inf)]),
        entry("b", -9999.0),
        entry("c", -math.inf),
        entry("d", math.nan),
        entry("e", None),
        entry("f", -0.5),
    ]
    found = drop(chat(content, "abcdef"))
    trace = trace_in(found)
    assert trace.signals["logprob"] == (0.0, None, None, None, None, -0.5)
    assert trace.candidates is not None
    assert [c.logprob for c in trace.candidates[0]] == [0.0, -9999.0]
    assert "2 times −9999" in reasons(found)
    assert "content[3].logprob: the log-probability is NaN" in reasons(found)


def test_bad_alternatives_are_dropped_together_since_the_best_may_be_missing() -> None:
    content = json.loads(json.dumps(CONTENT))
    content[0]["top_logprobs"][1]["logprob"] = "high"
    content[2]["top_logprobs"] = 5
    found = drop(chat(content, SAID))
    candidates = trace_in(found).candidates
    assert candidates is not None
    assert [len(c) for c in candidates] == [0, 2, 0, 2]
    assert len(found.problems) == 2


def test_completion_with_echo() -> None:
    tokens = ["Say", " 4", ":", "bytes: \\xe2\\x80", "bytes:\\x9c", "4"]
    tops = [
        None,
        {" 4": -1.0, " x": -2.0},
        {":": -0.1, ".": -3.0},
        {" the": -1.0, " a": -1.2, "bytes: \\xe2\\x80": -2.5},
        {"bytes:\\x9c": -0.5, "bytes:\\x9d": -1.5},
        {"4": -0.2, "5": -2.0},
    ]
    chances = [None, -1.0, -0.1, -2.5, -0.5, -0.2]
    body = completion(tokens, chances, tops, "Say 4: “4")
    body["usage"] = {"prompt_tokens": 3, "completion_tokens": 3}
    found = drop(body)
    trace = trace_in(found)
    assert trace.pieces == (b"Say", b" 4", b":", b" \xe2\x80", b"\x9c", b"4")
    assert trace.response_start == 3
    assert [(t.role, t.start, t.end) for t in trace.turns] == [("user", 0, 3), ("assistant", 3, 6)]
    assert trace.signals["logprob"][0] is None
    assert trace.candidates is not None
    # The list may hold the chosen token only because it was chosen: it is taken out where the
    # lowest, so that what stays is the top of the distribution.
    assert [c.piece for c in trace.candidates[3]] == [b" the", b" a"]
    assert [len(c) for c in trace.candidates] == [0, 2, 2, 2, 2, 2]
    assert words(found) == [("Say 4:", " “4")]
    asked = drop({"request": {"prompt": "Say 4:", "echo": True}, "response": {**body, "usage": {}}})
    assert trace_in(asked).response_start == 3


def test_two_tokens_of_one_text_hide_each_other() -> None:
    tops = [
        {"a": -1.0, "b": -2.0, "c": -3.0},
        {"a": -1.0, "b": -2.0},
        {"\ufffd": -1.0, "b": -1, "c": -2},
    ]
    found = drop(completion(["a", "a", "b"], [-1.0, -1.0, -1.0], tops, "aab"))
    candidates = trace_in(found).candidates
    assert candidates is not None
    assert [len(c) for c in candidates] == [3, 0, 0]
    assert "the alternatives of 2 tokens" in reasons(found)
    moved = drop(completion(["a"], [-1.0], [{"a": -4.0, "b": -2.0}], "a"))
    assert "the alternatives of 1 token:" in reasons(moved)


def test_lists_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="token_logprobs: 1 values for 2 tokens"):
        drop(completion(["a", "b"], [-1.0], None, "ab"))
    found = drop(completion(["a", "b"], [-1.0, -2.0], [{}], "ab"))
    assert trace_in(found).candidates is None


def test_responses_api() -> None:
    request = {"input": "2+2?", "instructions": "Be brief."}
    found = drop({"request": request, "response": response([(SAID, CONTENT)])})
    check_content(trace_in(found))
    assert found.title == "OpenAI response (Responses API), 1 choice with log-probabilities"
    assert found.texts[0] is not None
    assert [m.content for m in found.texts[0].messages or ()] == ["Be brief.", "2+2?", SAID]
    two = drop(response([("4", CONTENT[:1]), (SAID[1:], CONTENT[1:])]))
    check_content(trace_in(two))


@pytest.mark.parametrize("how", ["sse", "jsonl", "list"])
def test_streamed_chat(how: str) -> None:
    chunks = stream_chunks()
    data = {
        "sse": sse(chunks),
        "jsonl": "\n".join(map(json.dumps, chunks)).encode(),
        "list": json.dumps(chunks).encode(),
    }[how]
    found = recognise("stream.log", data)
    check_content(trace_in(found))
    assert found.title == "OpenAI chat completion, streamed, 1 choice with log-probabilities"
    assert not found.problems


def test_a_cut_stream_keeps_what_came() -> None:
    data = sse(stream_chunks())
    found = recognise("stream.log", data[: data.index(b" yes")])
    assert trace_in(found).pieces == (b"4", b" \xe2\x80", b"\x9c")
    assert "not whole JSON" in reasons(found)


def test_streamed_choices_and_the_old_completions() -> None:
    shared = {"id": "x", "object": "text_completion", "model": "m"}
    chunks = []
    for index, token in ((1, "x"), (0, "a"), (0, "b"), (1, "y")):
        lists = {"tokens": [token], "token_logprobs": [-1.0], "top_logprobs": [{token: -1.0}]}
        chunks.append({**shared, "choices": [{"index": index, "text": token, "logprobs": lists}]})
    found = recognise("s", sse(chunks))
    assert [trace_in(found, n).response_text for n in (0, 1)] == ["ab", "xy"]


@pytest.mark.parametrize("final", [True, False])
def test_streamed_response(final: bool) -> None:
    texts = ["4", " “", "", " yes"]
    events: list[dict[str, Any]] = [{"type": "response.created", "response": {"model": "gpt-5"}}]
    for t, e in zip(texts, CONTENT, strict=True):
        delta = {"type": "response.output_text.delta", "output_index": 1, "content_index": 0}
        events.append({**delta, "delta": t, "logprobs": [e]})
    if final:
        body = response([(SAID, [])])
        events.append({"type": "response.completed", "response": body})
    found = recognise("s", sse(events, named=True))
    check_content(trace_in(found))
    assert found.model == "gpt-5"
