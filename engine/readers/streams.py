"""Streamed responses, as server-sent events or one chunk a line, put together again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from engine.readers import openai, responses
from engine.readers.dropped import Dropped
from engine.readers.source import Record, Source

_DONE = ("response.completed", "response.incomplete", "response.failed")
_LISTS = ("content", "refusal", "tokens", "token_logprobs", "top_logprobs", "text_offset")


def sniff(source: Source) -> bool:
    """Whether the records are chunks of responses."""
    return any(_is_event(v) or _is_chunk(v) for _, v in source.objects) or _old_stream(source)


def read(source: Source) -> Dropped:
    """The responses the chunks make.

    Raises:
        Unreadable: when they make none.
    """
    if any(_is_event(v) for _, v in source.objects):
        whole = Record("", _of_events(source))
        return responses.read(replace(source, records=(whole,)), streamed=True)
    joined = _of_chunks(source)
    if not joined:
        raise source.report.refuse("the stream holds no choices")
    places = [Record(f"stream {n + 1}" if len(joined) > 1 else "", b) for n, b in enumerate(joined)]
    return openai.read(replace(source, records=tuple(places)), streamed=True)


def _is_event(value: Mapping[str, Any]) -> bool:
    kind = value.get("type")
    return isinstance(kind, str) and kind.startswith("response.")


def _is_chunk(value: Mapping[str, Any]) -> bool:
    choices = value.get("choices")
    return isinstance(choices, list) and (
        value.get("object") == "chat.completion.chunk"
        or any(isinstance(c, dict) and "delta" in c for c in choices)
    )


def _old_stream(source: Source) -> bool:
    """Chunks of the old completions look like whole ones; only these share an id."""
    ids = [
        v.get("id")
        for _, v in source.objects
        if isinstance(v.get("choices"), list) and isinstance(v.get("id"), str)
    ]
    return len(ids) > 1 and (len(set(ids)) < len(ids))


def _of_chunks(source: Source) -> list[dict[str, Any]]:
    bodies: dict[Any, dict[str, Any]] = {}
    for record, chunk in source.objects:
        if not isinstance(chunk.get("choices"), list):
            source.report.skip(record.place, "no chunk of a response: left out")
            continue
        name = chunk.get("id")
        body = bodies.setdefault(name if isinstance(name, str) else "", {"choices": {}})
        for field in ("model", "usage", "prompt_token_ids", "prompt_logprobs", "id"):
            if chunk.get(field) is not None:
                body.setdefault(field, chunk[field])
        for n, choice in enumerate(chunk["choices"]):
            if not isinstance(choice, dict):
                source.report.skip(record.at(f"choices[{n}]"), "no object: left out")
                continue
            index = choice.get("index")
            index = index if type(index) is int else n
            _add(body["choices"].setdefault(index, {}), choice)
    result = []
    for body in bodies.values():
        parts: dict[int, dict[str, Any]] = body["choices"]
        result.append({**body, "choices": [parts[index] for index in sorted(parts)]})
    return [body for body in result if body["choices"]]


def _add(whole: dict[str, Any], chunk: Mapping[str, Any]) -> None:
    """Append one chunk of a choice to what came before."""
    delta = chunk.get("delta")
    if isinstance(delta, dict):
        message = whole.setdefault("message", {})
        for name in ("content", "refusal", "reasoning_content", "reasoning"):
            if isinstance(delta.get(name), str):
                message.setdefault(name, []).append({"text": delta[name]})
    if isinstance(chunk.get("text"), str):
        whole.setdefault("text", []).append({"text": chunk["text"]})
    logprobs = chunk.get("logprobs")
    if isinstance(logprobs, dict):
        lists = whole.setdefault("logprobs", {})
        for name in _LISTS:
            if isinstance(logprobs.get(name), list):
                lists.setdefault(name, []).extend(logprobs[name])
    if isinstance(chunk.get("token_ids"), list):
        whole.setdefault("token_ids", []).extend(chunk["token_ids"])
    for name in ("finish_reason", "stop_reason", "prompt_token_ids", "prompt_logprobs"):
        if chunk.get(name) is not None:
            whole[name] = chunk[name]


def _of_events(source: Source) -> dict[str, Any]:
    """The response of the last event, with log-probabilities from the deltas where it has none.

    Raises:
        Unreadable: when there is neither a whole response nor text.
    """
    final: dict[str, Any] | None = None
    start: dict[str, Any] = {}
    texts: dict[tuple[int, int], list[str]] = {}
    tokens: dict[tuple[int, int], list[Any]] = {}
    for record, event in source.objects:
        if event.get("type") == "response.created" and (texts or final):
            source.report.skip(record.place, "responses before the last one: left out")
            final, texts, tokens = None, {}, {}
        body = event.get("response")
        if isinstance(body, dict):
            final, start = (body, start) if event.get("type") in _DONE else (final, body)
        if event.get("type") != "response.output_text.delta":
            continue
        key = (_index(event.get("output_index")), _index(event.get("content_index")))
        if isinstance(event.get("delta"), str):
            texts.setdefault(key, []).append(event["delta"])
        if isinstance(event.get("logprobs"), list):
            tokens.setdefault(key, []).extend(event["logprobs"])
    if final is not None and (not tokens or _has_logprobs(final.get("output"))):
        return final
    if not texts and final is None:
        raise source.report.refuse("the stream holds no text")
    if not texts:
        return final or {}
    output = [
        {
            "type": "message",
            "content": [
                {
                    "type": "output_text",
                    "text": "".join(texts[key]),
                    "logprobs": tokens.get(key, []),
                }
                for key in sorted(texts)
                if key[0] == index
            ],
        }
        for index in sorted({key[0] for key in texts})
    ]
    return {**start, **(final or {}), "object": "response", "output": output}


def _index(value: Any) -> int:
    return value if type(value) is int else 0


def _has_logprobs(output: Any) -> bool:
    items: Iterable[Any] = output if isinstance(output, list) else ()
    return any(
        isinstance(part, dict) and part.get("logprobs")
        for item in items
        if isinstance(item, dict) and isinstance(item.get("content"), list)
        for part in item["content"]
    )
