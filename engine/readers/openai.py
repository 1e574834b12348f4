"""OpenAI's chat completions and completions, as OpenAI, vLLM and other servers write them.

Chats: ``choices[].logprobs.content[]`` with ``token``, ``bytes``, ``logprob``, ``top_logprobs``.
Completions: ``choices[].logprobs`` with ``tokens``, ``token_logprobs``, ``top_logprobs`` (a mapping
per token) and ``text_offset``. The log-probabilities themselves decide which of the two it is,
since old servers mix them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.readers import completions, vllm
from engine.readers.dropped import Dropped, Report, Unreadable
from engine.readers.exchanges import Answer, Exchange, answer_of, collect, ids_of, unwrap
from engine.readers.logtrace import Reading, is_appended
from engine.readers.source import Source
from engine.readers.tokens import Logged, read_token
from engine.readers.values import as_list, as_object


def sniff(source: Source) -> bool:
    """Whether a record has ``choices``, bare or inside a pair of request and response."""
    return any(fits(unwrap(source.name, record)) for record in source.records)


def read(source: Source, *, streamed: bool = False) -> Dropped:
    """Every choice of every response.

    Raises:
        Unreadable: when no choice can be read.
    """
    chats = any(_is_chat(unwrap(source.name, r).body) for r in source.records)
    kind = "chat completion" if chats else "completion"
    return collect(source, kind, fits, answers, streamed=streamed)


def fits(exchange: Exchange) -> bool:
    """Whether the body is a completion."""
    return isinstance(exchange.body.get("choices"), list)


def answers(exchange: Exchange, report: Report) -> list[Answer]:
    """The choices of one response; those that cannot be read go to the report."""
    choices = exchange.body["choices"]
    found: list[Answer] = []
    for n, choice in enumerate(choices):
        try:
            found.append(_choice(exchange, choice, n, len(choices), report))
        except Unreadable as error:
            report.skipped(error)
    if not choices:
        report.skip(exchange.at("choices"), "the response has no choices")
    return found


def _choice(exchange: Exchange, value: Any, n: int, of: int, report: Report) -> Answer:
    place = exchange.at(f"choices[{n}]")
    choice = as_object(value, place)
    message = choice.get("message")
    said: Mapping[str, Any] = message if isinstance(message, dict) else {}
    text = _text(said.get("content", choice.get("text"))) or _text(said.get("refusal"))
    logprobs = choice.get("logprobs")
    reading: Reading | None = None
    if logprobs is not None:
        where = f"{place}.logprobs"
        given = as_object(logprobs, where)
        if isinstance(given.get("tokens"), list):
            reading = completions.read_tokens(exchange, given, choice, text, where, report)
        else:
            reading = _content(exchange, given, text, where, report)
    if reading is None:
        reading = Reading(place, [], text=text)
    reading.thoughts = _text(said.get("reasoning_content")) or _text(said.get("reasoning"))
    _ids(reading.tokens, choice.get("token_ids"), f"{place}.token_ids", report)
    if not reading.prompt:
        reading.prompt = vllm.prompt_tokens(exchange, choice, place, reading.tokens, report)
    return answer_of(
        exchange,
        reading,
        place=place,
        text=text,
        finish=choice.get("finish_reason"),
        number=(n, of),
        report=report,
    )


def _content(
    exchange: Exchange, given: Mapping[str, Any], text: str | None, place: str, report: Report
) -> Reading | None:
    name = "content" if given.get("content") else "refusal"
    items = given.get(name)
    if not items:
        return None
    where = f"{place}.{name}"
    tokens = read_tokens(items, where, report)
    appended = is_appended(tokens, likely=exchange.is_vllm)
    return Reading(where, tokens, text=text, appended=appended)


def read_tokens(items: Any, place: str, report: Report) -> list[Logged]:
    """A list of tokens as chats have it.

    Raises:
        Unreadable: when one of them is none: those after it would stand at wrong places.
    """
    listed = as_list(items, place)
    return [read_token(item, f"{place}[{n}]", report) for n, item in enumerate(listed)]


def _ids(tokens: list[Logged], value: Any, place: str, report: Report) -> None:
    if not tokens:
        return
    ids = ids_of(value, len(tokens), place, report)
    for token, given in zip(tokens, ids or (), strict=False):
        token.id = given


def _text(value: Any) -> str | None:
    """Text that is there; content parts, of servers that answer with them, are joined."""
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, dict)]
        value = "".join(part for part in parts if isinstance(part, str))
    return value if isinstance(value, str) and value else None


def _is_chat(body: Mapping[str, Any]) -> bool:
    choices = body.get("choices")
    return isinstance(choices, list) and any(
        isinstance(c, dict) and "message" in c for c in choices
    )
