"""What vLLM adds: ``prompt_logprobs``, ids of tokens, and its own ``RequestOutput``.

``prompt_logprobs`` is a list with one mapping a token, ``{id: {logprob, rank, decoded_token}}``,
null for the first. It holds the prompt's token first and then the likeliest ones; ``RequestOutput``
writes the response in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.readers.dropped import Dropped, Report, Unreadable
from engine.readers.exchanges import Answer, Exchange, answer_of, collect, ids_of, unwrap
from engine.readers.logtrace import Reading
from engine.readers.source import Source
from engine.readers.tokens import Logged, written
from engine.readers.values import (
    MAX_ID,
    as_list,
    as_logprob,
    as_object,
    is_unicode,
    kind_of,
    quote,
)


def sniff(source: Source) -> bool:
    """Whether a record is a ``RequestOutput``."""
    return any(fits(unwrap(source.name, record)) for record in source.records)


def read(source: Source) -> Dropped:
    """Every output of every request.

    Raises:
        Unreadable: when no output can be read.
    """
    return collect(source, "request output", fits, answers)


def fits(exchange: Exchange) -> bool:
    """Whether the body is a ``RequestOutput``."""
    outputs = exchange.body.get("outputs")
    return (
        isinstance(outputs, list)
        and any(isinstance(o, dict) and isinstance(o.get("token_ids"), list) for o in outputs)
        and ("prompt_token_ids" in exchange.body or "prompt" in exchange.body)
    )


def answers(exchange: Exchange, report: Report) -> list[Answer]:
    """The outputs of one request; those that cannot be read go to the report."""
    prompt = exchange.body.get("prompt")
    if isinstance(prompt, str) and exchange.request is None:
        exchange = Exchange(
            exchange.name, exchange.record, exchange.body, {"prompt": prompt}, exchange.path
        )
    outputs = exchange.body["outputs"]
    found: list[Answer] = []
    for n, value in enumerate(outputs):
        try:
            found.append(_output(exchange, value, (n, len(outputs)), report))
        except Unreadable as error:
            report.skipped(error)
    return found


def _output(exchange: Exchange, value: Any, number: tuple[int, int], report: Report) -> Answer:
    place = exchange.at(f"outputs[{number[0]}]")
    output = as_object(value, place)
    text = output.get("text")
    text = text if isinstance(text, str) and text else None
    listed = output.get("logprobs")
    tokens: list[Logged] = []
    if listed is not None:
        where = f"{place}.logprobs"
        items = as_list(listed, where)
        ids = ids_of(output.get("token_ids"), len(items), f"{place}.token_ids", report)
        tokens = read_positions(items, ids, where, report)
    reading = Reading(place, tokens, text=text, appended=True)
    reading.prompt = prompt_tokens(exchange, output, place, tokens, report)
    prompt = exchange.body.get("prompt")
    reading.prompt_text = prompt if isinstance(prompt, str) and is_unicode(prompt) else None
    return answer_of(
        exchange,
        reading,
        place=place,
        text=text,
        finish=output.get("finish_reason"),
        number=number,
        report=report,
    )


def prompt_tokens(
    exchange: Exchange,
    choice: Mapping[str, Any],
    place: str,
    response: Sequence[Logged],
    report: Report,
) -> list[Logged]:
    """Tokens of the prompt, from ``prompt_logprobs`` or, when the response has ids too, from
    ``prompt_token_ids``; none when the log has neither, or they cannot be read.
    """
    holders = (choice, exchange.body)
    named = next((h for h in holders if h.get("prompt_token_ids") is not None), {})
    ids = ids_of(named.get("prompt_token_ids"), None, f"{place}.prompt_token_ids", report)
    for holder in holders:
        listed = holder.get("prompt_logprobs")
        if listed is None:
            continue
        where = f"{place}.prompt_logprobs" if holder is choice else exchange.at("prompt_logprobs")
        try:
            items = as_list(listed, where)
            if ids is not None and len(ids) != len(items):
                report.skip(where, f"{len(items):,} places for {len(ids):,} ids of the prompt")
                ids = None
            return read_positions(items, ids, where, report)
        except Unreadable as error:
            report.skip(error.place, f"{error.sentence}: the prompt's tokens are left out")
            return []
    if ids and response and all(token.id is not None for token in response):
        return [written(f"token_id:{number}") for number in ids]
    return []


def read_positions(
    items: Sequence[Any], ids: Sequence[int] | None, place: str, report: Report
) -> list[Logged]:
    """Tokens of a list of mappings by id.

    Args:
        items: a mapping a token, or null.
        ids: which id was the token, None when only the order tells it.
        place: where the list stands.
        report: takes what is left out.

    Raises:
        Unreadable: when a place holds no tokens, or sorting has lost their order.
    """
    tokens: list[Logged] = []
    mixed = ordered = 0
    for n, value in enumerate(items):
        where = f"{place}[{n}]"
        if value is None:
            number = None if ids is None else ids[n]
            if number is None:
                report.skip(where, "the log does not name this token")
            tokens.append(Logged("") if number is None else written(f"token_id:{number}"))
            continue
        listed = [_entry(key, item, where) for key, item in as_object(value, where).items()]
        if not listed:
            raise Unreadable(where, "there is no token here")
        own = 0
        if ids is not None:
            at = next((k for k, t in enumerate(listed) if t.id == ids[n]), None)
            if at is None:
                raise Unreadable(where, f"token {ids[n]} is not among those listed")
            own = at
        mixed += len(listed) > 2
        ordered += len(listed) > 2 and list(value) == sorted(value)
        chosen = listed[own]
        token = written(chosen.text)
        token.id, token.logprob, token.rank = chosen.id, chosen.logprob, chosen.rank
        token.others = listed if all(t.logprob is not None for t in listed) else None
        tokens.append(token)
    if ids is None and mixed >= 4 and ordered == mixed:
        raise Unreadable(
            place, "the ids are sorted, so nobody can tell which one was the token: bring token ids"
        )
    if tokens and all(t.others is None or len(t.others) == 1 for t in tokens):
        for token in tokens:  # only the token itself was asked for
            token.others = None
    return tokens


def _entry(key: str, value: Any, place: str) -> Logged:
    if not (key.isascii() and key.isdecimal() and len(key) <= 10 and int(key) <= MAX_ID):
        raise Unreadable(place, f"a token id is expected, not {quote(key)}")
    where = f"{place}.{key}"
    if not isinstance(value, dict):
        token = written(f"token_id:{key}")
        token.logprob = as_logprob(value, where)
        return token
    text = value.get("decoded_token")
    if text is not None and not isinstance(text, str):
        raise Unreadable(f"{where}.decoded_token", f"text is expected, not {kind_of(text)}")
    token = written(f"token_id:{key}" if text is None else text)
    token.id = int(key)
    token.logprob = as_logprob(value.get("logprob"), f"{where}.logprob")
    rank = value.get("rank")
    token.rank = rank if type(rank) is int and 1 <= rank <= MAX_ID else None
    return token
