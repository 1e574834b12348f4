"""Tokens and their alternatives as a log writes them.

What is no whole character is written in many ways: OpenAI's completions have ``bytes:\\xe2\\x80``,
its chats give the true ``bytes``; vLLM and Ollama put U+FFFD in the text *and* in the bytes, or
nothing, and the whole character at its last token; with ``return_tokens_as_token_ids`` vLLM writes
``token_id:123``. Bytes are taken over only where they can be the token's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from engine.readers.dropped import Report, Unreadable
from engine.readers.values import (
    MAX_ID,
    NotLogprobs,
    as_id,
    as_list,
    as_logprob,
    as_object,
    is_unicode,
    kind_of,
)

_BROKEN = "\ufffd"
TOKEN_ID = re.compile(r"token_id:(\d{1,10})\Z")
_HEX = re.compile(r"\\x([0-9a-fA-F]{2})")


@dataclass(slots=True)
class Logged:
    """One token, or one alternative, of a log.

    Attributes:
        text: as written.
        data: its bytes when they can be believed, else None.
        id: its id when the log tells it.
        logprob: nats.
        rank: 1 + tokens above it, when the log tells it.
        others: the alternatives at its place, None when the log gives none.
    """

    text: str
    data: bytes | None = None
    id: int | None = None
    logprob: float | None = None
    rank: int | None = None
    others: list[Logged] | None = None

    @property
    def shown(self) -> bytes:
        """The bytes, or what the log writes in their place."""
        return self.data if self.data is not None else self.text.encode("utf-8", "replace")

    def same(self, other: Logged) -> bool:
        """Whether both are one token, by their ids or else by what is written and how likely."""
        if self.id is not None and other.id is not None:
            return self.id == other.id
        if (self.text, self.data) != (other.text, other.data):
            return False
        known = self.logprob is not None and other.logprob is not None
        return not known or abs(self.logprob - other.logprob) <= SAME  # type: ignore[operator]


SAME = 1e-3
"""Two log-probabilities of one token, once as the chosen one and once in the list, agree so far."""


def read_token(value: Any, place: str, report: Report) -> Logged:
    """A token with ``token``, ``logprob``, ``bytes``, ``top_logprobs`` and perhaps an id.

    Raises:
        Unreadable: without a token's text, or with numbers that are no log-probabilities.
    """
    entry = as_object(value, place)
    token = _read_one(entry, place)
    try:
        token.logprob = as_logprob(entry.get("logprob"), f"{place}.logprob")
    except NotLogprobs:
        raise
    except Unreadable as error:
        report.skipped(error)
    if entry.get("top_logprobs") is not None:
        token.others = _others(entry["top_logprobs"], f"{place}.top_logprobs", report)
    return token


def _others(value: Any, place: str, report: Report) -> list[Logged] | None:
    """The alternatives; all or none, since one that is missing might be the likeliest."""
    found: list[Logged] = []
    try:
        for n, item in enumerate(as_list(value, place)):
            here = f"{place}[{n}]"
            other = _read_one(as_object(item, here), here)
            other.logprob = as_logprob(item.get("logprob"), f"{here}.logprob")
            if other.logprob is None:
                raise Unreadable(f"{here}.logprob", "the log-probability is missing")
            found.append(other)
    except NotLogprobs:
        raise
    except Unreadable as error:
        report.skipped(error)
        return None
    return found


def _read_one(entry: dict[str, Any], place: str) -> Logged:
    text = entry.get("token")
    if not isinstance(text, str):
        raise Unreadable(f"{place}.token", f"the token's text is missing ({kind_of(text)})")
    data = _given_bytes(entry.get("bytes"), f"{place}.bytes")
    token = written(text, data)
    given = next((entry[k] for k in ("id", "token_id") if entry.get(k) is not None), None)
    if given is not None:
        token.id = as_id(given, f"{place}.id")
    return token


def _given_bytes(value: Any, place: str) -> bytes | None:
    if value is None:
        return None
    try:
        return bytes(value) if isinstance(value, list) and all(map(_is_byte, value)) else _no(place)
    except ValueError:
        return _no(place)


def _is_byte(value: Any) -> bool:
    return type(value) is int


def _no(place: str) -> bytes:
    raise Unreadable(place, "bytes are whole numbers from 0 to 255")


def written(text: str, data: bytes | None = None) -> Logged:
    """A token from its text and, where given, bytes: neither is believed blindly."""
    match = TOKEN_ID.match(text)
    if match and (number := int(match.group(1))) <= MAX_ID:
        # The bytes are those of the placeholder, except in newer versions.
        real = data if data is not None and data != text.encode() else None
        return Logged(text, None if real is None else _believed(real), number)
    if data is not None:
        return Logged(text, _believed(data))
    if text.startswith("bytes:") and _HEX.search(text):
        return Logged(text, _unescape(text[6:]))
    if not is_unicode(text) or _BROKEN in text:
        return Logged(text)
    return Logged(text, text.encode("utf-8"))


def _believed(data: bytes) -> bytes | None:
    return None if b"\xef\xbf\xbd" in data else data


def _unescape(text: str) -> bytes:
    parts = _HEX.split(text)
    return b"".join(
        bytes([int(part, 16)]) if n % 2 else part.encode("utf-8", "replace")
        for n, part in enumerate(parts)
    )
