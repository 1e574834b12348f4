"""Tables of ``critical.whatif``: what was tried, with and without the token, pairs to train on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from engine.critical.curve import Point
from engine.critical.instead import Instead
from engine.critical.passk import pass_at_k
from engine.schema import Column, Table
from engine.subjects import Trace
from engine.tokenization import show

Tried = Sequence[tuple[Instead, Point]]


def _chance(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "probability", label)


_COUNTS = {
    "samples": Column(
        pa.int64(), "Continuations judged; 0 where it ends the response.", "", "samples"
    ),
    "correct": Column(pa.int64(), "How many of them are right.", "", "right"),
    "cut": Column(
        pa.int64(), "How many were cut off at the limit; they count as wrong.", "", "cut off"
    ),
    "value": _chance("chance of a right answer", "Share of continuations that are right."),
    "low": _chance("at least", "Lower end of the exact 95 % interval of the value."),
    "high": _chance("at most", "Upper end of the exact 95 % interval of the value."),
}

ALTERNATIVES = Table(
    doc="One row for each thing put at the position; what was said comes first.",
    columns={
        "position": Column(pa.int64(), "Where it stands."),
        "alternative_id": Column(
            pa.int64(), "Its id; empty for text of several tokens.", "", "token id"
        ),
        "alternative": Column(
            pa.string(), "Its text; bytes that are no UTF-8 as \\xNN.", "", "token"
        ),
        "alternative_bytes": Column(pa.binary(), "Its exact bytes."),
        "said": Column(pa.bool_(), "Whether it is what the response says.", "", "said"),
        "probability": _chance(
            "probability", "The model's own, at temperature 1, nothing left out."
        ),
        **_COUNTS,
    },
)

CONDITIONS = Table(
    doc="with: the token stays. without: another is drawn from the model each time.",
    columns={
        "condition": Column(pa.string(), "with or without the token.", "", "condition"),
        **_COUNTS,
    },
)

PASS_AT_K = Table(
    doc="One row for each k: chance that one of k continuations is right, 1 − C(n−c, k) / C(n, k).",
    columns={
        "k": Column(pa.int64(), "Continuations taken.", "", "k"),
        "with": _chance("with the token", "The token stays."),
        "without": _chance("without it", "Another is drawn from the model each time."),
    },
)

PAIRS = Table(
    doc=(
        "Preference pairs, as TRL's DPO reads them: one for each alternative whose interval lies "
        "wholly above or below that of what was said."
    ),
    columns={
        "prompt": Column(pa.string(), "The text before, without what the tokenizer adds itself."),
        "chosen": Column(pa.string(), "What goes on to more right answers."),
        "rejected": Column(pa.string(), "What goes on to fewer."),
        "chosen_id": Column(pa.int64(), "Its id; empty for text of several tokens."),
        "rejected_id": Column(pa.int64(), "Its id; empty for text of several tokens."),
        "chosen_value": _chance("chosen", "Chance of a right answer after the chosen one."),
        "rejected_value": _chance("rejected", "Chance of a right answer after the rejected one."),
        "chosen_low": _chance("chosen, at least", "Lower end of its exact 95 % interval."),
        "rejected_high": _chance("rejected, at most", "Upper end of its exact 95 % interval."),
        "position": Column(pa.int64(), "Where they stand."),
    },
)

TABLES: Mapping[str, Table] = {
    "alternatives": ALTERNATIVES,
    "conditions": CONDITIONS,
    "pass_at_k": PASS_AT_K,
    "pairs": PAIRS,
}


def tables(trace: Trace, position: int, tried: Tried, without: Point | None) -> dict[str, pa.Table]:
    """The tables as far as things were tried; the first thing tried is what was said."""
    said = tried[0][1]
    conditions = [{"condition": "with", **_counts(said)}]
    conditions.append({"condition": "without", **(_counts(without) if without else {})})
    rows: dict[str, list[dict[str, Any]]] = {
        "alternatives": [_alternative(position, one, point) for one, point in tried],
        "conditions": conditions,
        "pass_at_k": _pass_at_k(said, without),
        "pairs": [pair for pair, problem in pairs(trace, position, tried) if not problem],
    }
    return {name: pa.Table.from_pylist(rows[name], TABLES[name].schema()) for name in TABLES}


def pairs(trace: Trace, position: int, tried: Tried) -> Iterator[tuple[dict[str, Any], str]]:
    """Preference pairs; a pair that cannot be written comes with the reason."""
    (said, mine), *others = tried
    prompt = _text(b"".join(trace.pieces[p] for p in range(position) if p not in set(trace.added)))
    for other, its in others:
        if its.low > mine.high:
            chosen, best, rejected, worst = other, its, said, mine
        elif mine.low > its.high:
            chosen, best, rejected, worst = said, mine, other, its
        else:
            continue
        texts = prompt, _text(chosen.data), _text(rejected.data)
        problem = ""
        if texts[0] is None:
            problem = "the text before it ends inside a character"
        elif None in texts:
            problem = f"{show(said.data)} or {show(other.data)} is no whole character"
        elif texts[1] == texts[2]:
            problem = f"{show(other.data)} reads as what was said, only its tokens differ"
        yield (
            {
                **dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)),
                "chosen_id": _id(chosen),
                "rejected_id": _id(rejected),
                "chosen_value": best.value,
                "rejected_value": worst.value,
                "chosen_low": best.low,
                "rejected_high": worst.high,
                "position": position,
            },
            problem,
        )


def _alternative(position: int, one: Instead, point: Point) -> dict[str, Any]:
    return {
        "position": position,
        "alternative_id": _id(one),
        "alternative": show(one.data),
        "alternative_bytes": one.data,
        "said": one.said,
        "probability": one.probability,
        **_counts(point),
    }


def _pass_at_k(said: Point, without: Point | None) -> list[dict[str, Any]]:
    kept = pass_at_k(said.samples, said.correct)
    changed = [None] * len(kept) if without is None else pass_at_k(without.samples, without.correct)
    both = zip(kept, changed, strict=True)
    return [{"k": k, "with": a, "without": b} for k, (a, b) in enumerate(both, start=1)]


def _counts(point: Point) -> dict[str, Any]:
    return {name: getattr(point, name) for name in _COUNTS}


def _id(one: Instead) -> int | None:
    return one.ids[0] if len(one.ids) == 1 else None


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
