"""What puts tokens into one group: keys of tokens, order and names of the groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from engine.subjects import Role, Segment, Trace
from engine.texts.tokenclass import CLASS_DOCS, CLASSES, token_classes
from engine.tokenization import show

By = Literal["token", "class", "frequency_decile", "position", "position_decile", "role", "segment"]
Part = Literal["response", "prompt", "all"]

_ORDERS: Mapping[str, tuple[str, ...]] = {
    "class": CLASSES,
    "role": get_args(Role),
    "segment": get_args(Segment),
}


def part_of(trace: Trace, part: Part) -> range:
    """The positions of a part of a trace."""
    cut, end = trace.response_start, len(trace)
    return {"response": range(cut, end), "prompt": range(cut), "all": range(end)}[part]


def keys_of(trace: Trace, by: By, part: Part, width: int) -> Sequence[Hashable]:
    """One key per position of the part; positions with equal keys belong together.

    ``frequency_decile`` needs the whole population: its keys are those of ``token``, to be
    replaced by ``deciles``.
    """
    inside = part_of(trace, part)
    cut = slice(inside.start, inside.stop)
    match by:
        case "token" | "frequency_decile":
            return list(zip(trace.ids[cut], trace.pieces[cut], strict=True))
        case "class":
            return token_classes(trace)[cut]
        case "role":
            return trace.roles[cut]
        case "segment":
            return trace.segments[cut]
        case "position":
            return [i // width for i in range(len(inside))]
        case "position_decile":
            return [10 * i // len(inside) for i in range(len(inside))]


def deciles(counts: Mapping[Hashable, int]) -> dict[Hashable, int]:
    """Decile of every distinct token by its count, 10 for the most frequent.

    The n distinct tokens are ranked by count, equal counts by their mean rank r; the decile is
    ⌈10 r / n⌉. So tokens of one count are never parted, and deciles may stay empty.
    """
    numbers, many = np.unique(list(counts.values()), return_counts=True)
    ranks = np.cumsum(many) - (many - 1) / 2
    of_number = {
        int(number): math.ceil(10 * rank / len(counts) - 1e-9)
        for number, rank in zip(numbers, ranks, strict=True)
    }
    return {key: of_number[count] for key, count in counts.items()}


def ordered(counts: Mapping[Any, int], by: By) -> list[Any]:
    """The groups' keys in their own order; tokens by count, the most frequent first."""
    if by == "token":
        return sorted(counts, key=lambda key: (-counts[key], key[1], key[0]))
    if by in _ORDERS:
        return [name for name in _ORDERS[by] if name in counts]
    return sorted(counts)


def named(
    keys: Iterable[Any], by: By, width: int, seen: Mapping[Any, tuple[int, int]]
) -> list[dict[str, Any]]:
    """``group``, ``detail``, ``token_id`` and ``token_bytes`` of every group.

    Args:
        keys: of the groups.
        by: what they are.
        width: tokens in one bin of ``position``.
        seen: smallest and largest count of a token in each frequency decile.
    """
    return [{"token_id": None, "token_bytes": None, **_name(key, by, width, seen)} for key in keys]


def _name(key: Any, by: By, width: int, seen: Mapping[Any, tuple[int, int]]) -> dict[str, Any]:
    match by:
        case "token":
            number, piece = key
            known = number if number >= 0 else None
            detail = "" if known is None else f"id {known}"
            return {
                "group": show(piece),
                "detail": detail,
                "token_id": known,
                "token_bytes": piece,
            }
        case "class":
            return {"group": key, "detail": CLASS_DOCS[key]}
        case "frequency_decile":
            return {"group": str(key), "detail": f"seen {_times(*seen[key])}"}
        case "position":
            first, last = key * width, (key + 1) * width - 1
            name = f"{first}–{last}" if last > first else f"{first}"
            return {"group": name, "detail": f"From token {first} of the part, counted from 0."}
        case "position_decile":
            return {
                "group": f"{10 * key}–{10 * key + 10} %",
                "detail": f"From {10 * key} to {10 * key + 10} % of the part.",
            }
        case "role":
            return {"group": key, "detail": f"What {key} says."}
        case "segment":
            return {"group": key, "detail": f"Tokens of the {key}."}


def _times(low: int, high: int) -> str:
    if low < high:
        return f"{low:,} to {high:,} times"
    return "once" if low == 1 else f"{low:,} times"


def counts_by_decile(
    counts: Counter[Hashable], decile: Mapping[Hashable, int]
) -> dict[Hashable, tuple[int, int]]:
    """Smallest and largest count of a token in each decile."""
    found: dict[Hashable, tuple[int, int]] = {}
    for key, count in counts.items():
        low, high = found.get(decile[key], (count, count))
        found[decile[key]] = min(low, count), max(high, count)
    return found
