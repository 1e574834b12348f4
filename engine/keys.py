"""Canonical JSON, digests and result keys.

A key names a computation completely: same key, same numbers. It is the SHA-256 of a canonical
JSON document that is stored beside the result, so that a key can always be explained.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import orjson

KEY_SCHEMA = 1


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8; bytes become ``{"hex": …}``.

    Args:
        value: JSON-like data; tuples, bytes and frozen sets are allowed, NaN and infinities not.

    Raises:
        ValueError: for a float that JSON cannot carry.
    """
    return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, 64 hex characters."""
    return hashlib.sha256(canonical(value)).hexdigest()


def request_document(
    *,
    analysis: str,
    version: int,
    subject: str,
    models: Mapping[str, Mapping[str, Any]],
    params: Mapping[str, Any],
) -> dict[str, Any]:
    """The document whose digest is the result's key; stored with the result."""
    return {
        "schema": KEY_SCHEMA,
        "analysis": analysis,
        "version": version,
        "subject": subject,
        "models": {role: dict(entry) for role, entry in models.items()},
        "params": dict(params),
    }


_CANONICAL = {int, str, bool, type(None)}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} cannot be part of a key")
        # 1 and 1.0 are the same setting and must be the same key.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, frozenset | set):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        # Token ids and texts, thousands of them, are canonical as they stand.
        if _CANONICAL.issuperset(map(type, value)):
            return list(value)
        return [_plain(item) for item in value]
    return value
