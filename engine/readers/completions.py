"""Log-probabilities as the old completions write them: parallel lists, alternatives by text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.readers.dropped import Report, Unreadable
from engine.readers.exchanges import Exchange, prompt_of
from engine.readers.logtrace import Reading
from engine.readers.tokens import SAME, Logged, written
from engine.readers.values import NotLogprobs, as_list, as_logprob, as_object, as_text, kind_of


def read_tokens(
    exchange: Exchange,
    given: Mapping[str, Any],
    choice: Mapping[str, Any],
    text: str | None,
    place: str,
    report: Report,
) -> Reading | None:
    """The tokens of a choice; with ``echo``, those of the prompt apart.

    Raises:
        Unreadable: when tokens are no text, or the lists do not fit each other.
    """
    names = as_list(given["tokens"], f"{place}.tokens")
    if not names:
        return None
    tokens = []
    for n, name in enumerate(names):
        if not isinstance(name, str):
            raise Unreadable(f"{place}.tokens[{n}]", f"text is expected, not {kind_of(name)}")
        tokens.append(written(name))
    chances = _parallel(given.get("token_logprobs"), len(tokens), f"{place}.token_logprobs")
    for n, value in enumerate(chances):
        try:
            tokens[n].logprob = as_logprob(value, f"{place}.token_logprobs[{n}]")
        except NotLogprobs:
            raise
        except Unreadable as error:
            report.skipped(error)
    try:
        listed = _parallel(given.get("top_logprobs"), len(tokens), f"{place}.top_logprobs")
    except Unreadable as error:
        report.skipped(error)
        listed = []
    for n, value in enumerate(listed):
        if value is not None:
            tokens[n].others = _others(value, tokens[n], f"{place}.top_logprobs[{n}]", report)
    _collisions(tokens, f"{place}.top_logprobs", report)
    cut = _prompt_length(exchange, given, choice, tokens)
    return Reading(
        place,
        tokens[cut:],
        text=_after(text, prompt_of(exchange)) if cut else text,
        prompt=tokens[:cut],
        prompt_text=prompt_of(exchange) if cut else None,
        appended=True,
    )


def _parallel(value: Any, count: int, place: str) -> list[Any]:
    if value is None:
        return []
    listed = as_list(value, place)
    if len(listed) != count:
        raise Unreadable(place, f"{len(listed):,} values for {count:,} tokens")
    return listed


def _others(value: Any, chosen: Logged, place: str, report: Report) -> list[Logged] | None:
    found = []
    try:
        for name, number in as_object(value, place).items():
            other = written(name)
            other.logprob = as_logprob(number, f"{place}.{as_text(name, place)[:24]}")
            if other.logprob is None:
                raise Unreadable(place, "a log-probability is missing")
            found.append(other)
    except NotLogprobs:
        raise
    except Unreadable as error:
        report.skipped(error)
        return None
    return found


def _collisions(tokens: list[Logged], place: str, report: Report) -> None:
    """Drop lists in which two tokens of one text have met: one of them is lost, perhaps the best.

    The text is the key, so a list that is shorter than others, has a broken or empty text, or
    gives the chosen token another number, has lost somebody.
    """
    usual = max((len(t.others) for t in tokens if t.others and not _lowest(t)), default=0)
    lost = 0
    for token in tokens:
        if not token.others:
            continue
        own = next((o for o in token.others if o.text == token.text), None)
        moved = (
            own is not None
            and token.logprob is not None
            and own.logprob is not None
            and abs(own.logprob - token.logprob) > SAME
        )
        broken = any((o.data is None and o.id is None) or not o.text for o in token.others)
        if moved or broken or len(token.others) < usual:
            token.others = None
            lost += 1
    if lost:
        report.skip(
            place,
            f"the alternatives of {lost:,} token{'s' if lost > 1 else ''}: "
            "some have the same text, and only one of these is in the log",
        )


def _lowest(token: Logged) -> bool:
    own = next((o.logprob for o in token.others or () if o.text == token.text), None)
    return own is not None and all(
        o.logprob is None or o.logprob >= own for o in token.others or ()
    )


def _prompt_length(
    exchange: Exchange, given: Mapping[str, Any], choice: Mapping[str, Any], tokens: list[Logged]
) -> int:
    """Tokens of an echoed prompt: the first of them has no log-probability."""
    if not tokens or tokens[0].logprob is not None:
        return 0
    for holder in (choice, exchange.body):
        ids = holder.get("prompt_token_ids")
        if isinstance(ids, list) and 0 < len(ids) <= len(tokens):
            return len(ids)
    prompt, offsets = prompt_of(exchange), given.get("text_offset")
    if not isinstance(offsets, list) or any(type(o) is not int for o in offsets):
        offsets = []
    if prompt and len(offsets) == len(tokens):
        return sum(o < len(prompt) for o in offsets)
    usage = exchange.body.get("usage")
    if isinstance(usage, dict):
        count = usage.get("prompt_tokens")
        whole = (count or 0, usage.get("completion_tokens") or 0)
        if all(type(n) is int for n in whole) and sum(whole) == len(tokens):
            return int(whole[0])
    return 0


def _after(text: str | None, prompt: str | None) -> str | None:
    if text is None or prompt is None or not text.startswith(prompt):
        return None
    return text[len(prompt) :] or None
