"""Small logs as servers write them, built from plain values; used by the readers' tests."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from engine.readers import Dropped, recognise
from engine.result import Result
from engine.subjects import Trace

Tops = Sequence[tuple[str | bytes, float]]


def entry(token: str | bytes, logprob: float | None, tops: Tops | None = None) -> dict[str, Any]:
    """A token of a chat completion with its true bytes."""
    data = token if isinstance(token, bytes) else token.encode()
    made: dict[str, Any] = {
        "token": data.decode("utf-8", "backslashreplace"),
        "bytes": list(data),
        "logprob": logprob,
    }
    if tops is not None:
        made["top_logprobs"] = [entry(t, p) for t, p in tops]
    return made


def chat(content: list[dict[str, Any]] | None, text: str | None, **more: Any) -> dict[str, Any]:
    """A chat completion with one choice."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": None if content is None else {"content": content, "refusal": None},
        "finish_reason": "stop",
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [choice],
        "usage": {"prompt_tokens": 9, "completion_tokens": len(content or ())},
        **more,
    }


def completion(
    tokens: list[str], logprobs: list[float | None], tops: list[Any] | None, text: str, **more: Any
) -> dict[str, Any]:
    """A completion of the old kind with one choice."""
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    lists = {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops}
    choice = {"index": 0, "text": text, "logprobs": {**lists, "text_offset": offsets}, **more}
    return {"id": "cmpl-1", "object": "text_completion", "model": "davinci", "choices": [choice]}


def response(parts: list[tuple[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """A response of the Responses API."""
    content = [
        {"type": "output_text", "text": t, "annotations": [], "logprobs": p} for t, p in parts
    ]
    return {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-5",
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "role": "assistant", "content": content},
        ],
    }


def position(*listed: tuple[int, str | None, float, int]) -> dict[str, Any]:
    """One place of vLLM's ``prompt_logprobs``: id, text, log-probability, rank."""
    return {
        str(number): {"logprob": p, "rank": rank, "decoded_token": text}
        for number, text, p, rank in listed
    }


def make_fake_openai(trace: Trace, result: Result) -> dict[str, Any]:
    """What OpenAI would have answered, had its model had these statistics."""
    rows = result.table("tokens").to_pylist()
    tops: dict[int, list[tuple[bytes, float]]] = {}
    for row in result.table("alternatives").to_pylist():
        tops.setdefault(row["position"], []).append((row["alternative_bytes"], row["logprob"]))
    content = [
        entry(row["token_bytes"], row["logprob"], tops[row["position"]])
        for row in rows[trace.response_start :]
    ]
    return chat(content, trace.response_text)


def entropy(probabilities: Sequence[float]) -> float:
    """In nats."""
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


def vllm(content: list[dict[str, Any]], text: str, **more: Any) -> dict[str, Any]:
    body = chat(content, text, prompt_logprobs=None, **more)
    body["choices"][0] |= {"stop_reason": None, "token_ids": None}
    return body


def sse(chunks: list[dict[str, Any]], named: bool = False) -> bytes:
    lines = [
        (f"event: {c.get('type')}\n" if named else "") + f"data: {json.dumps(c)}\n\n"
        for c in chunks
    ]
    return (": ping\n\n" * named + "".join(lines) + "data: [DONE]\n\n").encode()


def stream_chunks() -> list[dict[str, Any]]:
    shared = {"id": "c1", "object": "chat.completion.chunk", "model": "m"}
    texts = ["4", " “", "", " yes"]
    made = [
        {**shared, "choices": [{"index": 0, "delta": {"content": t}, "logprobs": {"content": [e]}}]}
        for t, e in zip(texts, CONTENT, strict=True)
    ]
    first = {**shared, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    last = {**shared, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return [first, *made, last, {**shared, "choices": [], "usage": {"prompt_tokens": 1}}]


def rollout(**changes: Any) -> dict[str, Any]:
    trace = {
        "ids": [1],
        "pieces": ["a"],
        "ids_origin": "logged",
        "response_start": 0,
        "turns": [{"role": "text", "start": 0, "end": 1}],
    }
    return {"schema": "tokenscope.rollout/1", "group": "g", "trace": {**trace, **changes}}


ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]


CONTENT = [
    entry("4", -0.1, [("4", -0.1), ("5", -3.0)]),
    entry(b" \xe2\x80", -1.5, [(" ok", -0.4), (b" \xe2\x80", -1.5)]),
    entry(b"\x9c", 0.0, [(b"\x9c", 0.0), (b"\x9d", -12.0)]),
    entry(" yes", -4.0, [("no", -0.2), ("!", -2.0)]),
]
SAID = "4 “ yes"


def drop(value: Any, name: str = "log.json") -> Dropped:
    return recognise(name, value if isinstance(value, bytes) else json.dumps(value).encode())


def trace_in(found: Dropped, index: int = 0) -> Trace:
    subject = found.subjects[index]
    assert isinstance(subject, Trace)
    return subject


def words(found: Dropped) -> list[tuple[str, str] | None]:
    return [text and (text.prompt, text.response) for text in found.texts]


def reasons(found: Dropped) -> str:
    return "\n".join(f"{place}: {reason}" for place, reason in found.problems)
