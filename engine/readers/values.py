"""Values of a log, taken only as what they claim to be; a wrong type names its place."""

from __future__ import annotations

import math
from typing import Any

from engine.readers.dropped import Unreadable

LEAST = -9999.0
"""What OpenAI and vLLM write for a log-probability they do not give, or of minus infinity."""

ROUNDING = 1e-3
"""A log-probability this much above 0 is a rounding error; a larger one is something else."""

MAX_ID = 2**31 - 1


def quote(value: object, most: int = 40) -> str:
    """A value of a log inside a sentence: short, in one line, nothing invisible."""
    if isinstance(value, dict | list):
        return kind_of(value)
    text = value if isinstance(value, str) else repr(value)[: 2 * most]
    text = text if len(text) <= most else text[: most - 1] + "…"
    shown = (c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return "“" + "".join(shown) + "”"


def kind_of(value: object) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


def as_object(value: Any, place: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Unreadable: for anything else.
    """
    if not isinstance(value, dict):
        raise Unreadable(place, f"an object is expected here, not {kind_of(value)}")
    return value


def as_list(value: Any, place: str) -> list[Any]:
    """A JSON list.

    Raises:
        Unreadable: for anything else.
    """
    if not isinstance(value, list):
        raise Unreadable(place, f"a list is expected here, not {kind_of(value)}")
    return value


def as_text(value: Any, place: str) -> str:
    """Text without half characters.

    Raises:
        Unreadable: for anything else.
    """
    if not isinstance(value, str):
        raise Unreadable(place, f"text is expected here, not {kind_of(value)}")
    if not is_unicode(value):
        raise Unreadable(place, "the text holds half of a character (a lone surrogate)")
    return value


def is_unicode(text: str) -> bool:
    """Whether the text has no lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def label(value: Any) -> str | None:
    """A name out of a log (a model's), shortened; None when it is no text."""
    if not isinstance(value, str) or not value.strip():
        return None
    return value.strip()[:120].encode("utf-8", "replace").decode("utf-8")


def as_id(value: Any, place: str) -> int:
    """A token id.

    Raises:
        Unreadable: for anything that is no whole number from 0 on.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_ID:
        raise Unreadable(place, f"a token id is expected here, not {quote(value)}")
    return value


def as_logprob(value: Any, place: str) -> float | None:
    """A log-probability in nats; null stays None, minus infinity becomes ``LEAST``.

    Raises:
        Unreadable: for what is no number.
        NotLogprobs: for a number that is clearly positive.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable(place, f"a log-probability is expected here, not {kind_of(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number):
        raise Unreadable(place, "the log-probability is NaN")
    if number > ROUNDING:
        raise NotLogprobs(
            place,
            f"{number:.6g} is no log-probability, which is never above 0: "
            "ask for logprobs, not for probabilities or logits",
        )
    return max(min(number, 0.0), LEAST)


class NotLogprobs(Unreadable):
    """The numbers are of another kind: none of their neighbours can be believed either."""
