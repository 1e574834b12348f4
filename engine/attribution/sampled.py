"""What methods that draw at random share: seeded draws, coalitions, and tables of their spread."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from engine.attribution.settings import TABLES, RemovalParams
from engine.attribution.work import Bools, Floats, Ints, Reading, Work
from engine.schema import Column, Progress, Table, Tables

PARTIAL_SECONDS = 1.0
"""How often a running method says what it knows already."""

CHUNK = 512
"""Coalitions asked for at a time, so that a long run has tables while it goes on; even."""

NOTHING_LEFT = "With it taken away nothing is left that the target could be predicted from."

R = TypeVar("R")


class SampledParams(RemovalParams):
    """Also: what is drawn at random."""

    seed: int = Field(0, ge=0, le=2**32 - 1, title="seed", description="Of all random draws.")


SPREAD = Table(
    doc="One row per target and source before it: how far the score is known.",
    columns={
        "target_position": Column(pa.int64(), "First position of the target."),
        "source_position": Column(pa.int64(), "First position of the source."),
        "standard_error": Column(
            pa.float64(),
            "Standard error of the score from drawing at random; 0 where nothing was drawn.",
        ),
        "low": Column(pa.float64(), "Score − 1.96 standard errors."),
        "high": Column(pa.float64(), "Score + 1.96 standard errors."),
    },
)

SAMPLED_TABLES = {**TABLES, "spread": SPREAD}


def uniforms(seed: int, purpose: str, index: int, count: int) -> Floats:
    """``count`` numbers in [0, 1), always the same for the same arguments.

    A Philox generator keyed by seed and purpose, a counter of its own for each ``index``: what
    else is drawn does not matter, and asking for more only adds.
    """
    text = f"tokenscope.attribution/1 {purpose} {seed}".encode()
    key = np.frombuffer(hashlib.sha256(text).digest()[:16], "<u8")
    raw = np.random.Philox(key=key, counter=[0, 0, index, 0]).random_raw(count)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53, np.float64)


def order(seed: int, purpose: str, index: int, count: int) -> Ints:
    """A random order of ``count`` things."""
    return np.argsort(uniforms(seed, purpose, index, count), kind="stable")


def all_subsets(count: int) -> Bools:
    """Every subset of ``count`` things, [2^count, count]; row *r* holds those whose bit is set."""
    found: Bools = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)
    return found


def staged(steps: Reading, start: float, share: float) -> Reading:
    """The same reading as a part of a longer one, from ``start`` on for ``share`` of it."""
    while True:
        try:
            said = next(steps)
        except StopIteration as end:
            found: Floats = end.value
            return found
        fraction = None if said.fraction is None else start + share * said.fraction
        yield replace(said, fraction=fraction)


def lively(steps: Generator[Progress, None, R]) -> Generator[Progress | Tables, None, R]:
    """The same reading, with the tables it knows already now and then.

    Tables, not only progress: they are what a cancelled job leaves.
    """
    last = time.monotonic()
    while True:
        try:
            said = next(steps)
        except StopIteration as end:
            found: R = end.value
            return found
        yield said
        if said.so_far is not None and time.monotonic() - last >= PARTIAL_SECONDS:
            yield Tables(said.so_far())
            last = time.monotonic()


def spread(work: Work, scores: Floats, errors: Floats) -> pa.Table:
    """The table ``spread``; scores and errors [n, S], NaN where unknown."""
    rows, columns = np.nonzero(work.applies)
    score, error = scores[rows, columns], errors[rows, columns]
    return pa.table(
        {
            "target_position": [work.targets[i].start for i in rows],
            "source_position": [work.sources[j].start for j in columns],
            "standard_error": nullable(error),
            "low": nullable(score - 1.96 * error),
            "high": nullable(score + 1.96 * error),
        }
    )


def nullable(values: npt.ArrayLike) -> pa.Array:
    """Numbers as a column, null where they are none."""
    array = np.asarray(values, float)
    return pa.array(array, pa.float64(), mask=~np.isfinite(array))


def read_all(
    work: Work,
    make: Callable[[int, int], Bools],
    total: int,
    tables: Callable[[Bools, Floats], Mapping[str, pa.Table]],
) -> Generator[Progress, None, tuple[Bools, Floats]]:
    """Read coalitions in pieces.

    Args:
        work: targets and sources.
        make: coalitions number ``first`` to ``last`` − 1, [last − first, S].
        total: how many there are.
        tables: makes the tables of coalitions [N, S] and values [N, n] read so far.

    Returns:
        All coalitions and their values.
    """
    keep = np.zeros((total, len(work.sources)), bool)
    values = np.zeros((total, len(work.targets)))
    for first in range(0, total, CHUNK):
        last = min(first + CHUNK, total)
        keep[first:last] = make(first, last)
        reading = work.kept(keep[first:last], "Taking random selections away")
        values[first:last] = yield from staged(reading, first / total, (last - first) / total)
        yield Progress(
            last / total,
            f"{last:,} of {total:,} selections",
            so_far=partial(tables, keep[:last], values[:last]),
        )
    return keep, values


def note_undefined(work: Work, scores: Floats, reason: str, column: str = "score") -> None:
    """One note if a value [n, S] of a source before its target is undefined."""
    table = {"score": "attribution", "standard_error": "spread"}.get(column, "targets")
    if np.isnan(scores[work.applies]).any():
        work.ctx.note(table, column, reason)


def emptied(work: Work) -> Reading:
    """Values [n] with every source taken away."""
    none = np.zeros((1, len(work.sources)), bool)
    values = yield from work.kept(none, "Taking everything away")
    found: Floats = values[0]
    return found
