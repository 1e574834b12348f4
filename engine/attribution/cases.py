"""Results whose true causes a trace marks, and how well scores by position find them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engine.attribution.curves import ranking
from engine.subjects import Span, Trace

Kind = Literal["computed", "copied"]

GAP = 8
"""Results with fewer tokens between them are explained in one request."""

_RESULT = re.compile(r"result\.(\d+)\Z")
_CAUSE = re.compile(r"cause\.(\d+)\.\d+\Z")


@dataclass(frozen=True, slots=True)
class Case:
    """A result and the positions it depends on."""

    span: Span
    causes: frozenset[int]
    kind: Kind


def cases_of(trace: Trace) -> list[Case]:
    """Results with known causes before them, in the order of the text."""
    special = set(trace.special)
    causes: dict[str, set[int]] = {}
    texts: dict[str, list[bytes]] = {}
    for name, span in trace.spans.items():
        match = _CAUSE.match(name)
        if match:
            places = set(range(span.start, span.end)) - special
            causes.setdefault(match[1], set()).update(places)
            texts.setdefault(match[1], []).append(text_of(trace, span))
    found = []
    for name, span in trace.spans.items():
        match = _RESULT.match(name)
        if match and causes.get(match[1]) and max(causes[match[1]]) < span.start and len(span):
            copied = texts[match[1]] == [text_of(trace, span)]
            kind: Kind = "copied" if copied else "computed"
            found.append(Case(span, frozenset(causes[match[1]]), kind))
    return sorted(found, key=lambda case: case.span.start)


def text_of(trace: Trace, span: Span) -> bytes:
    """Bytes of a span without space around them."""
    return b"".join(trace.pieces[span.start : span.end]).strip()


def ranges(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases that stand close together, in one list each."""
    found: list[list[Case]] = []
    for case in cases:
        if found and case.span.start - found[-1][-1].span.end < GAP:
            found[-1].append(case)
        else:
            found.append([case])
    return found


def judged(scores: Mapping[int, float], causes: frozenset[int], seed: int) -> dict[str, Any]:
    """Where scores by position put the causes."""
    places = np.array(sorted(scores))
    values = np.array([scores[int(p)] for p in places])
    ties = np.random.default_rng(seed).random(len(places))
    order = places[ranking(values, ties)]
    k = len(causes)
    top = [int(p) for p in order[:k]]
    return {
        "causes": sorted(causes),
        "top": top,
        "sources": len(places),
        "precision": len(causes.intersection(top)) / k,
        "hit": top[0] in causes,
        "chance": k / len(places),
    }
