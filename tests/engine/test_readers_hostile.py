"""Truncated, mixed, wrong, deep and hostile files: a sentence or what can be kept, no fault."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.readers import Dropped, recognise
from engine.subjects import Text, Trace
from tests.engine.logs import (
    ASKED,
    CONTENT,
    SAID,
    chat,
    completion,
    entry,
    position,
    response,
    rollout,
    sse,
    stream_chunks,
)

HOSTILE = "<img src=x onerror=alert(1)>![a](http://x)\u202e\x1b[31m\u0000$\\href{x}$\n=1+1"


def _samples() -> list[Any]:
    tops = [{"a": -0.1, "b": -3.0}, None, {"\ufffd": -1.0, "": -2.0}]
    old = completion(["a", "token_id:7", "bytes:\\xe2"], [None, -1.0, -2.0], tops, "a b")
    vllm = chat([entry("\ufffd", -1.0, [("\ufffd", -1.0)]), entry("x", -2.0)], "“x")
    vllm |= {
        "prompt_logprobs": [None, position((3, "p", -1.0, 2), (4, "q", -0.5, 1))],
        "prompt_token_ids": [1, 3],
    }
    vllm["choices"][0]["token_ids"] = [8, 9]
    output = {
        "prompt": "p",
        "prompt_token_ids": [1],
        "outputs": [{"text": "a", "token_ids": [2], "logprobs": [position((2, "a", -1.0, 1))]}],
    }
    seed = {"seed": 1, "temperature": 1.0, "logprobs": [-0.5]}
    more = {
        "sampling": seed,
        "signals": {"logprob": [-0.5]},
        "spans": {"answer": {"start": 0, "end": 1}},
    }
    candidates = [
        [{"piece": "a", "logprob": -0.5, "id": 1}, {"piece": {"hex": "ff"}, "logprob": -2}]
    ]
    return [
        chat(CONTENT, SAID),
        {"request": {"messages": ASKED, "prompt": "a", "echo": True}, "response": old},
        vllm,
        output,
        response([(SAID, CONTENT)]),
        {"messages": [*ASKED, {"role": "assistant", "content": [{"type": "text", "text": "x"}]}]},
        stream_chunks(),
        {**rollout(**more, candidates=candidates), "reward": 1.0, "expected": "4"},
    ]


SAMPLES = _samples()


def check(data: bytes, name: str = "x.json") -> Dropped | None:
    """Read it; whatever comes back must be whole."""
    try:
        found = recognise(name, data)
    except UserError as error:
        sentence = str(error)
        assert sentence.startswith(("x.json", "…"))
        assert "\n" not in sentence
        assert len(sentence) < 600
        return None
    assert found.subjects or found.kind == "result"
    assert len(found.texts) == len(found.subjects)
    for subject, text in zip(found.subjects, found.texts, strict=True):
        assert len(subject.digest) == 64
        assert text is None or text.digest
        assert isinstance(subject, Text | Trace)
    for place, reason in found.problems:
        assert (place + reason).isprintable()
        assert len(place) < 200
        assert len(reason) < 500
    assert found.title.isprintable()
    assert len(found.problems) <= 110
    return found


def dump(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 2**70, -(10**30), 10**400]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["", "\ud83d", "\ufffd", "token_id:99999999999", "bytes:\\xff", HOSTILE]),
)
NAMES = [
    "choices",
    "messages",
    "logprobs",
    "content",
    "tokens",
    "token",
    "bytes",
    "logprob",
    "request",
    "response",
    "output",
    "outputs",
    "schema",
    "trace",
    "role",
    "delta",
    "type",
    "1",
    "top_logprobs",
]
KEYS = st.sampled_from(NAMES)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(KEYS, st.text(max_size=3)), inner, max_size=4),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(data=st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode)))
def test_any_bytes(data: bytes) -> None:
    check(data)


@settings(max_examples=150, deadline=None)
@given(value=VALUES)
def test_any_json(value: Any) -> None:
    check(dump(value))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sample=st.sampled_from(range(len(SAMPLES))), data=st.data())
def test_valid_logs_with_wrong_nodes(sample: int, data: st.DataObject) -> None:
    tree = copy.deepcopy(SAMPLES[sample])
    for _ in range(data.draw(st.integers(1, 3))):
        nodes = _nodes(tree)
        holder, key = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        if data.draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = data.draw(st.one_of(LEAVES, VALUES))
        if not _nodes(tree):
            break
    check(dump(tree))


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    found, stack = [], [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict | list):
            items = list(node.items() if isinstance(node, dict) else enumerate(node))
            found += [(node, key) for key, _ in items]
            stack += [child for _, child in items]
    return found


@pytest.mark.parametrize("sample", range(len(SAMPLES)))
def test_cut_anywhere(sample: int) -> None:
    whole = check(dump(SAMPLES[sample]))
    assert whole is not None
    assert whole.kind != "unknown"
    data = dump(SAMPLES[sample])
    for end in sorted(random.Random(sample).sample(range(1, len(data)), min(40, len(data) - 1))):
        found = check(data[:end])
        # A whole object cut anywhere is broken JSON, never a text to be read aloud.
        assert found is None


def test_cut_streams_and_lines_keep_what_is_whole() -> None:
    data = sse(stream_chunks())
    kept = [found for end in range(400, len(data), 97) if (found := check(data[:end])) is not None]
    assert any(isinstance(f.subjects[0], Trace) for f in kept)
    lines = b"\n".join([dump(SAMPLES[0]), b'{"choices": [', dump(SAMPLES[0])[:-20]])
    found = check(lines)
    assert found is not None
    assert [place for place, _ in found.problems] == ["line 2", "line 3"]


def test_mixed_formats_keep_the_more_explicit_one() -> None:
    found = check(b"\n".join(map(dump, [SAMPLES[0], {"messages": ASKED}, {"foo": 1}, SAMPLES[4]])))
    assert found is not None
    assert found.kind == "openai"
    assert len(found.subjects) == 1
    assert [place for place, _ in found.problems] == ["line 2", "line 3", "line 4"]


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"messages":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"choices":[{"logprobs":' + b"[" * 500 + b"]" * 500 + b"}]}",
        b'{"messages":[{"role":' + b"[" * 990 + b"]" * 990 + b"}]}",
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"{}" * 20_000,
        b'{"choices": [' + b"1," * 100_000 + b"1]}",
        b'{"":0}\n' * 5_000,
    ],
    ids=["lists", "objects", "messages", "logprobs", "role", "digits", "many", "choices", "lines"],
)
def test_bombs(bomb: bytes) -> None:
    check(bomb)


def test_many_problems_are_counted_not_listed() -> None:
    found = check(dump(SAMPLES[0]) + b"\n" + b"{]\n" * 5_000)
    assert found is not None
    assert found.problems[-1] == ("", "and 4,900 more like these")
    with pytest.raises(UserError, match="more than 50,000 faults: this is no log"):
        recognise("x", dump(SAMPLES[0]) + b"\n" + b"{]\n" * 50_200)


def test_hostile_words_stay_data() -> None:
    body = chat([entry(HOSTILE, -1.0, [(HOSTILE, -1.0)])], HOSTILE, model=HOSTILE)
    found = check(dump(body), "<b>x.json")
    assert found is not None
    trace = found.subjects[0]
    assert isinstance(trace, Trace)
    assert trace.pieces == (HOSTILE.encode(),)
    assert found.model is not None
    check(dump([{"role": HOSTILE, "content": HOSTILE}]))
    check(dump({HOSTILE: HOSTILE}))
    name = "a/b\\" + "\u202e\n" * 50 + "x" * 500 + "\ud800"
    with pytest.raises(UserError) as caught:
        recognise(name, b"")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 100


def test_names_do_not_decide() -> None:
    for name in ("a.txt", "a.png", "a.parquet", "a.zip", ""):
        assert recognise(name, dump(SAMPLES[0])).kind == "openai"
