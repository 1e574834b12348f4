"""OpenAI's Responses API: ``output[]`` messages whose ``output_text`` parts carry ``logprobs``."""

from __future__ import annotations

from typing import Any

from engine.readers.dropped import Dropped, Report, Unreadable
from engine.readers.exchanges import Answer, Exchange, answer_of, collect, unwrap
from engine.readers.logtrace import Reading, is_appended
from engine.readers.openai import read_tokens
from engine.readers.source import Source
from engine.readers.tokens import Logged
from engine.readers.values import as_list, as_object, as_text


def sniff(source: Source) -> bool:
    """Whether a record has an ``output`` of messages."""
    return any(fits(unwrap(source.name, record)) for record in source.records)


def read(source: Source, *, streamed: bool = False) -> Dropped:
    """Every message of every response.

    Raises:
        Unreadable: when no message can be read.
    """
    return collect(source, "response (Responses API)", fits, answers, streamed=streamed)


def fits(exchange: Exchange) -> bool:
    """Whether the body is a response."""
    output = exchange.body.get("output")
    if not isinstance(output, list):
        return False
    return exchange.body.get("object") == "response" or any(
        isinstance(item, dict) and item.get("type") == "message" for item in output
    )


def answers(exchange: Exchange, report: Report) -> list[Answer]:
    """The messages of one response; reasoning and calls of tools hold no log-probabilities."""
    messages = []
    for n, item in enumerate(exchange.body["output"]):
        if isinstance(item, dict) and item.get("type") == "message":
            messages.append((n, item))
        elif not isinstance(item, dict) or item.get("type") != "reasoning":
            report.skip(exchange.at(f"output[{n}]"), "no message: left out")
    found: list[Answer] = []
    for k, (n, item) in enumerate(messages):
        try:
            found.append(_message(exchange, item, n, (k, len(messages)), report))
        except Unreadable as error:
            report.skipped(error)
    if not messages:
        report.skip(exchange.at("output"), "the response has no message")
    return found


def _message(
    exchange: Exchange, item: dict[str, Any], n: int, number: tuple[int, int], report: Report
) -> Answer:
    place = exchange.at(f"output[{n}]")
    texts: list[str] = []
    tokens: list[Logged] = []
    whole = True
    for k, value in enumerate(as_list(item.get("content"), f"{place}.content")):
        where = f"{place}.content[{k}]"
        part = as_object(value, where)
        kind = part.get("type")
        if kind not in ("output_text", "refusal", None):
            report.skip(where, "only text is read: left out")
            continue
        text = as_text(part.get("text", part.get("refusal", "")), f"{where}.text")
        texts.append(text)
        if part.get("logprobs"):
            tokens += read_tokens(part["logprobs"], f"{where}.logprobs", report)
        elif text:
            whole = False
    text = "".join(texts)
    reading = None
    if tokens and whole:
        appended = is_appended(tokens, likely=False)
        reading = Reading(place, tokens, text=text or None, appended=appended)
    elif tokens:
        report.skip(place, "log-probabilities of only some of the parts: they are not used")
    return answer_of(
        exchange,
        reading,
        place=place,
        text=text or None,
        finish=None,
        number=number,
        report=report,
    )
