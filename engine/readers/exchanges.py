"""What all responses of a server share: the request beside them, their place, title and chances."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.readers.chat import messages_of
from engine.readers.dropped import (
    LOG_BOUNDS,
    LOG_ONLY,
    READ,
    READ_TEXT,
    Dropped,
    Report,
    Unreadable,
)
from engine.readers.logtrace import Reading, make_text, sampling_of, text_of, trace_of
from engine.readers.source import Record, Source, parse
from engine.readers.values import as_id, as_list, is_unicode, label
from engine.subjects import Message, Text, Trace

ASK = "For statistics from the log, ask the server for logprobs and top_logprobs"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A response, with the request where the file has it.

    Attributes:
        name: of the file.
        record: where it stands.
        body: the response itself.
        request: the request's body, or None.
        path: where the body stands in the record, with a dot at the end.
    """

    name: str
    record: Record
    body: Mapping[str, Any]
    request: Mapping[str, Any] | None
    path: str = ""

    def at(self, path: str) -> str:
        """The place of something in the body."""
        return self.record.at(self.path + path) if self.path + path else self.record.place

    @property
    def is_vllm(self) -> bool:
        """Whether the response has fields that only vLLM writes."""
        marks = {"prompt_logprobs", "prompt_token_ids", "kv_transfer_params", "outputs"}
        choices = self.body.get("choices")
        own = {"stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids"}
        return bool(marks & self.body.keys()) or (
            isinstance(choices, list)
            and any(isinstance(c, dict) and own & c.keys() for c in choices)
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One response as a subject, and as a text for a model."""

    subject: Text | Trace
    text: Text | None


def unwrap(name: str, record: Record) -> Exchange:
    """A response from ``{"request": …, "response": …}``, OpenAI's batch lines, or bare."""
    value, path = record.value, ""
    request: Any = None
    if isinstance(value, dict) and "response" in value and "choices" not in value:
        request = _inner(value.get("request"))
        value, path = _inner(value["response"]), "response."
        if isinstance(value, dict) and isinstance(value.get("body"), dict | str):
            value, path = _inner(value["body"]), "response.body."
        if isinstance(request, dict) and isinstance(request.get("body"), dict):
            request = request["body"]
    body = value if isinstance(value, dict) else {}
    return Exchange(name, record, body, request if isinstance(request, dict) else None, path)


def _inner(value: Any) -> Any:
    """Some loggers keep bodies as JSON in a string."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        try:
            return parse(value)
        except (json.JSONDecodeError, Unreadable):
            return None
    return value


def collect(
    source: Source,
    kind: str,
    fits: Callable[[Exchange], bool],
    read: Callable[[Exchange, Report], list[Answer]],
    *,
    streamed: bool = False,
) -> Dropped:
    """All responses of a file.

    Args:
        source: the file.
        kind: what one of them is called, ``chat completion``.
        fits: whether a record is one.
        read: the answers of one; what it cannot read goes to the report.
        streamed: they were put together from chunks.

    Raises:
        Unreadable: when nothing can be read.
    """
    report = source.report
    answers: list[Answer] = []
    models: list[str] = []
    count, vllm = 0, False
    for record in source.records:
        exchange = unwrap(source.name, record)
        if not fits(exchange):
            report.skip(record.place, f"no {kind}: left out")
            continue
        try:
            found = read(exchange, report)
        except Unreadable as error:
            report.skipped(error)
            continue
        count += bool(found)
        answers += found
        vllm = vllm or exchange.is_vllm
        named = label(exchange.body.get("model")) or label((exchange.request or {}).get("model"))
        models += [named] if named else []
    if not answers:
        raise report.refuse(f"the {kind} holds no answer")
    return Dropped(
        kind="vllm" if vllm else "openai",
        title=_title(f"{'vLLM' if vllm else 'OpenAI'} {kind}", count, answers, streamed),
        subjects=tuple(a.subject for a in answers),
        texts=tuple(a.text for a in answers),
        model=models[0] if len(set(models)) == 1 else None,
        possible=_possible(answers),
        problems=report.problems,
    )


def answer_of(
    exchange: Exchange,
    reading: Reading | None,
    *,
    place: str,
    text: str | None,
    finish: Any,
    number: tuple[int, int],
    report: Report,
) -> Answer:
    """The subject of one response: a trace where there are tokens, else its text.

    Args:
        exchange: the response it belongs to.
        reading: its tokens, None when the log has none.
        place: where it stands.
        text: of the answer.
        finish: why it ended.
        number: of this choice, and of all.
        report: takes what is left out.

    Raises:
        Unreadable: when there is neither token nor text.
    """
    at, of = number
    title = f"{exchange.name}, {at + 1} of {of}" if of > 1 else exchange.name
    words = _words(exchange, text, place, title, report)
    if reading is None or not (reading.tokens or reading.prompt):
        if words is None:
            raise Unreadable(place, "there is neither text nor log-probabilities")
        return Answer(words, words)
    model = label(exchange.body.get("model"))
    sampling = sampling_of(exchange.request, model, finish)
    trace = trace_of(reading, report, title=title, sampling=sampling)
    if words is None or (trace.response_start and words.messages is None):
        words = text_of(trace) or words  # the tokens know where the prompt ends
    return Answer(trace, words)


def _words(
    exchange: Exchange, text: str | None, place: str, title: str, report: Report
) -> Text | None:
    """The answer as text, after its prompt where the request is known."""
    if not text:
        return None
    if not is_unicode(text):
        report.skip(place, "the text holds half of a character (a lone surrogate)")
        return None
    messages = asked(exchange, report)
    if messages:
        answer = Message(role="assistant", content=text)
        return make_text(place, messages=(*messages, answer), title=title)
    prompt = prompt_of(exchange)
    if prompt and text.startswith(prompt) and (exchange.request or {}).get("echo"):
        text = text[len(prompt) :]
    return make_text(place, prompt=prompt or "", response=text, title=title)


def asked(exchange: Exchange, report: Report) -> tuple[Message, ...]:
    """The messages of the request; none when it has none, or they cannot be read."""
    request = exchange.request or {}
    given = request.get("messages", request.get("input"))
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not given:
        return ()
    rules = request.get("instructions")
    first = [{"role": "system", "content": rules}] if isinstance(rules, str) and rules else []
    try:
        return messages_of([*first, *as_list(given, "request")], "request", report)
    except Unreadable as error:
        report.skip(error.place, f"{error.sentence}: the prompt is left out")
        return ()


def prompt_of(exchange: Exchange) -> str | None:
    """The request's prompt as text, of the old completions."""
    prompt = (exchange.request or {}).get("prompt")
    return prompt if isinstance(prompt, str) and is_unicode(prompt) else None


def ids_of(value: Any, count: int | None, place: str, report: Report) -> list[int] | None:
    """A list of token ids of the right length; anything else is noted and not used."""
    if value is None:
        return None
    try:
        ids = [as_id(item, f"{place}[{n}]") for n, item in enumerate(as_list(value, place))]
    except Unreadable as error:
        report.skip(error.place, f"{error.sentence}: the ids are not used")
        return None
    if count is not None and len(ids) != count:
        report.skip(place, f"{len(ids):,} ids for {count:,} tokens: the ids are not used")
        return None
    return ids


def _possible(answers: Sequence[Answer]) -> tuple[str, ...]:
    traces = [a.subject for a in answers if isinstance(a.subject, Trace)]
    readable = any(a.text is not None for a in answers)
    if not traces:
        return (READ_TEXT, ASK)
    known = any(t.candidates is not None for t in traces)
    return (LOG_BOUNDS if known else LOG_ONLY, *((READ,) if readable else ()))


def _title(what: str, count: int, answers: Sequence[Answer], streamed: bool) -> str:
    of = len(answers)
    logged = sum(isinstance(a.subject, Trace) for a in answers)
    if logged == of:
        given = " with log-probabilities"
    else:
        given = f", {logged} with log-probabilities" if logged else " without log-probabilities"
    name = f"{count:,} {what}s" if count > 1 else what
    choices = f"{of:,} choice{'s' if of > 1 else ''}"
    return f"{name}{', streamed' if streamed else ''}, {choices}{given}"
