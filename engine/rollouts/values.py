"""Values of a log, checked: a wrong type gives one sentence that names the column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from engine.readers.dropped import Unreadable
from engine.readers.values import kind_of, quote
from engine.rollouts.logged import Flags, Floats, Ints, Said
from engine.trace import Role

_LONGEST_NAME = 200
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "environment": "tool",
}


def number(value: Any, name: str) -> float | None:
    """A finite number; null, NaN and infinities become None, true and false 1 and 0.

    Raises:
        Unreadable: for anything else.
    """
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise Unreadable("", f"{name} is {kind_of(value)}, not a number")
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: Any, name: str) -> int | None:
    """A whole number of at most 63 bits, also one written as text.

    Raises:
        Unreadable: for anything else.
    """
    if value is None:
        return None
    if isinstance(value, str) and len(value) < 20 and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unreadable("", f"{name} is {kind_of(value)}, not a whole number")
    if abs(value) >= 2**62:
        raise Unreadable("", f"{name} is too large")
    return value


def text(value: Any, name: str) -> str:
    """Text.

    Raises:
        Unreadable: for anything else.
    """
    if not isinstance(value, str):
        raise Unreadable("", f"{name} is {kind_of(value)}, not text")
    return value


def floats(value: Any, name: str) -> Floats:
    """A list of numbers; null, NaN and infinities become NaN.

    Raises:
        Unreadable: for anything else.
    """
    found = _array(value, name, pa.float64(), "numbers").to_numpy(zero_copy_only=False)
    if np.isinf(found).any():
        found = np.where(np.isinf(found), np.nan, found)
    return found


def ids(value: Any, name: str) -> Ints:
    """A list of token ids.

    Raises:
        Unreadable: for anything else, negative numbers included.
    """
    array = _array(value, name, None, "token ids")
    if not len(array):
        return np.zeros(0, np.int64)
    if not pa.types.is_integer(array.type):  # a type that is given would cut 1.5 to 1
        raise Unreadable("", f"{name} holds something else than token ids")
    if array.null_count:
        raise Unreadable("", f"{name} holds null instead of a token id")
    found: Ints = array.to_numpy(zero_copy_only=False)
    if found.size and (found.min() < 0 or found.max() >= 2**32):
        raise Unreadable("", f"{name} holds {int(found.min()):,}, which is no token id")
    return found


def flags(value: Any, name: str) -> Flags:
    """A list of true and false, or of 1 and 0; null is false.

    Raises:
        Unreadable: for anything else.
    """
    if not isinstance(value, list | tuple):
        raise Unreadable("", f"{name} is {kind_of(value)}, not a list")
    try:
        return np.asarray(pa.array(value, pa.bool_()).fill_null(False))
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        found = np.nan_to_num(floats(value, name))
    if not np.isin(found, (0.0, 1.0)).all():
        raise Unreadable("", f"{name} holds other values than true and false")
    return found.astype(bool)


def _array(value: Any, name: str, kind: pa.DataType | None, what: str) -> pa.Array:
    if not isinstance(value, list | tuple):
        raise Unreadable("", f"{name} is {kind_of(value)}, not a list")
    try:
        return pa.array(value, kind)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeEncodeError):
        raise Unreadable("", f"{name} holds something else than {what}") from None


def same_length(count: int, values: Mapping[str, Sequence[Any] | Floats | Flags]) -> None:
    """Refuse per-token values of another length than the tokens.

    Raises:
        Unreadable: naming the first.
    """
    for name, found in values.items():
        if len(found) != count:
            raise Unreadable("", f"{name} has {len(found):,} values for {count:,} tokens")


def padded(values: Floats, count: int, name: str) -> Floats:
    """Values of the first tokens of ``count``; the last tokens, usually padding, have none.

    Raises:
        Unreadable: when there are more values than tokens.
    """
    if len(values) > count:
        raise Unreadable("", f"{name} has {len(values):,} values for {count:,} tokens")
    return np.concatenate([values, np.full(count - len(values), np.nan)])


def answer(value: Any) -> str | None:
    """The right answer as text; a list or an object as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    try:
        return orjson.dumps(value).decode()
    except (TypeError, orjson.JSONEncodeError):
        return None


def name_of(value: Any) -> str | None:
    """A name: short text or a whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value)[:_LONGEST_NAME] or None


def role_of(value: Any) -> Role:
    """The role that a name in a log stands for."""
    return _ROLES.get(value.strip().lower(), "text") if isinstance(value, str) else "text"


def is_chat(value: Any) -> bool:
    """Whether it is a list of chat messages."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(v, Mapping) and "role" in v for v in value)
    )


def chat(value: Any, name: str) -> tuple[Said, ...]:
    """Chat messages; tool calls are kept as JSON, pictures are not.

    Raises:
        Unreadable: when it is none.
    """
    if not is_chat(value):
        raise Unreadable("", f"{name} is {kind_of(value)}, neither text nor a chat")
    return tuple(Said(role_of(m["role"]), _content(m, name)) for m in value)


def _content(message: Mapping[str, Any], name: str) -> str:
    content = message.get("content")
    if isinstance(content, list | tuple):
        parts = [p.get("text") for p in content if isinstance(p, Mapping)]
        content = "".join(p for p in parts if isinstance(p, str))
    calls = message.get("tool_calls")
    if content is None and not calls:
        return ""
    if content is not None and not isinstance(content, str):
        raise Unreadable("", f"{name} holds a message whose content is {kind_of(content)}")
    return (content or "") + (f"\n{answer(calls)}" if calls else "")


def shown(value: Any) -> str:
    """A value for a sentence."""
    return quote(str(value), 40)
