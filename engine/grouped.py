"""``grouped``: any per-token signal by token, kind, frequency or place, over one trace or many."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator

from engine.context import Context
from engine.errors import UserError
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.signalsource import Source
from engine.subjects import Group, Rollouts, Trace
from engine.texts import bootstrap
from engine.texts.grouping import (
    By,
    Part,
    counts_by_decile,
    deciles,
    keys_of,
    named,
    ordered,
    part_of,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_MOST_DRAWS = 20_000_000


class GroupedParams(Params):
    """Settings of ``grouped``."""

    signal: str = Field(
        "entropy",
        validate_default=True,
        title="Signal",
        description="A column of statistics, analysis:column for another per-token one, "
        "or log:name for one that came with a log.",
    )
    by: By = Field("class", title="Group by", description="What puts tokens into one group.")
    segment: Part = Field(
        "response", title="Part", description="Which tokens: response, prompt, or all."
    )
    width: int = Field(
        16, ge=1, le=100_000, title="Bin", description="Tokens in one bin of by=position."
    )
    resamples: int = Field(
        1000, ge=100, le=20_000, title="Resamples", description="Draws behind each interval."
    )
    seed: int = Field(0, ge=0, title="Seed", description="Of these draws.")

    @field_validator("signal")
    @classmethod
    def _known(cls, name: str) -> str:
        return str(Source.parse(name))


def _number(doc: str, label: str = "", unit: str = "") -> Column:
    return Column(pa.float64(), doc, unit, label)


GROUPS = Table(
    doc="One row per group that holds a value, in the groups' own order.",
    columns={
        "group": Column(pa.string(), "What the tokens have in common.", "", "group"),
        "detail": Column(pa.string(), "What that means.", "", "detail"),
        "token_id": Column(pa.int64(), "The token's id, for groups of one token.", "", "token id"),
        "token_bytes": Column(pa.binary(), "The token's exact bytes, for groups of one token."),
        "count": Column(pa.int64(), "Tokens with a value.", "", "tokens"),
        "traces": Column(pa.int64(), "Traces they are from.", "", "traces"),
        "mean": _number("Mean of the signal.", "mean"),
        "low": _number("Lower end of the mean's 95 % interval.", "low"),
        "high": _number("Upper end of the mean's 95 % interval.", "high"),
        "median": _number("Half of the tokens are below.", "median"),
        "q25": _number("A quarter of the tokens is below.", "lower quartile"),
        "q75": _number("Three quarters of the tokens are below.", "upper quartile"),
        "share": _number("Share of all tokens with a value.", "share of tokens", "probability"),
        "sum_share": _number(
            "Share of the signal's sum; empty where values are negative or all are 0.",
            "share of the sum",
            "probability",
        ),
    },
)

POPULATION = Table(
    doc="All tokens together: one row.",
    columns={
        "signal": Column(pa.string(), "The signal, with the version of its analysis."),
        "segment": Column(pa.string(), "Which tokens: response, prompt, or all."),
        "traces": Column(pa.int64(), "Traces with such tokens.", "", "traces"),
        "tokens": Column(pa.int64(), "Such tokens.", "", "tokens"),
        "missing": Column(pa.int64(), "Those without a value: in no group.", "", "missing"),
        "mean": _number("Mean of the signal.", "mean"),
        "low": _number("Lower end of the mean's 95 % interval.", "low"),
        "high": _number("Upper end of the mean's 95 % interval.", "high"),
        "interval": Column(pa.string(), "What was drawn anew: traces or tokens."),
    },
)


@analysis(
    "grouped",
    version=1,
    subject=(Trace, Group, Rollouts),
    optional_models=("model",),
    params=GroupedParams,
    tables={"groups": GROUPS, "population": POPULATION},
    title="On which tokens is the model unsure?",
    cite=(
        "Wang et al. (2025), Beyond the 80/20 Rule, arXiv 2506.01939: entropy by token.",
        "Zhang, Lin and Li (2025), arXiv 2510.08203: function tokens and content tokens.",
        "Pinto et al. (2024), The Fair Language Model Paradox, arXiv 2410.11985: token frequency.",
        "Miralles-González et al. (2025), arXiv 2501.03940: predictability by token and position.",
        "Cameron, Gelbach and Miller (2008): the cluster bootstrap.",
        "Universal Dependencies v2 (closed classes), Unicode Standard Annex 29: token classes.",
    ),
    caveats=(
        "Intervals come from drawing whole traces anew; with few traces they are too narrow.",
        "With a single trace its tokens are drawn as if they were independent; they are not.",
        "Frequency is counted in the very tokens shown here, not in the training data.",
        "Tokens of the same count share a frequency decile, so some deciles may be empty.",
        "Function words are English; other languages in Latin letters count as content.",
        "Punctuation, which arXiv 2510.08203 counts as function tokens, is a class of its own.",
    ),
)
def grouped(ctx: Context) -> Iterator[Progress | Tables]:
    """Mean, interval, quartiles and count of a signal in every group of tokens.

    Groups: ``token`` (one id), ``class`` (function, content, number, …), ``frequency_decile``
    (distinct tokens ranked by their count in the population, equal counts by their mean rank;
    10 holds the most frequent), ``position`` (bins of ``width`` tokens from the start of the
    part), ``position_decile`` (tenths of the part), ``role``, ``segment``. Over a group or a file
    of rollouts all traces are one population. The order of the traces does not matter.
    """
    params: GroupedParams = ctx.params
    source = Source.parse(params.signal)
    pieces: list[_Piece] = []
    total = getattr(ctx.subject, "count", None) or len(getattr(ctx.subject, "rollouts", (1,)))
    for index, (trace, values) in enumerate(source.values(ctx)):
        inside = part_of(trace, params.segment)
        if inside:
            keys = keys_of(trace, params.by, params.segment, params.width)
            pieces.append(_Piece(trace.digest, values[inside.start : inside.stop], keys))
        yield Progress((index + 1) / (total + 1), f"Read trace {index + 1:,} of {total:,}")
    _check(pieces, source, params)
    yield Tables(_tables(ctx, sorted(pieces, key=lambda piece: piece.digest)))


@dataclass(slots=True)
class _Piece:
    """What a trace adds: value (NaN where missing) and key of every token of the part."""

    digest: str
    values: Floats
    keys: Sequence[Hashable]


def _check(pieces: list[_Piece], source: Source, params: GroupedParams) -> None:
    if not pieces:
        other = "all" if params.segment == "response" else "response"
        raise UserError(f"There is no {params.segment} to look at: set segment={other}.")
    if all(np.isnan(piece.values).all() for piece in pieces):
        if source.analysis:
            raise UserError(f"{source.analysis} has no value of {source.column} for these tokens.")
        raise UserError(
            f"No trace brought a signal {source.column!r} along: name one that the log has, "
            "or a column of statistics."
        )
    if len(pieces) * params.resamples > _MOST_DRAWS:
        most = max(100, _MOST_DRAWS // len(pieces))
        raise UserError(
            f"{len(pieces):,} traces are too many for {params.resamples:,} resamples: "
            f"set resamples to {most:,} or fewer."
        )


def _tables(ctx: Context, pieces: list[_Piece]) -> dict[str, pa.Table]:
    params: GroupedParams = ctx.params
    keys = [key for piece in pieces for key in piece.keys]
    seen: dict[Hashable, tuple[int, int]] = {}
    if params.by == "frequency_decile":
        counts = Counter(keys)
        decile = deciles(counts)
        seen = counts_by_decile(counts, decile)
        keys = [decile[key] for key in keys]
    values = np.concatenate([piece.values for piece in pieces])
    known = ~np.isnan(values)
    order = ordered(Counter(k for k, there in zip(keys, known, strict=True) if there), params.by)
    code = {key: i for i, key in enumerate(order)}
    group = np.array([code.get(key, -1) for key in keys], np.int64)[known]
    trace = np.repeat(np.arange(len(pieces)), [len(piece.values) for piece in pieces])[known]
    _, trace = np.unique(trace, return_inverse=True)
    values = values[known]
    rows = _rows(ctx, values, group, trace, len(order))
    names = named(order, params.by, params.width, seen)
    (whole,) = _rows(ctx, values, np.zeros_like(group), trace, 1)
    population = {
        **{name: whole[name] for name in ("traces", "mean", "low", "high")},
        "signal": params.signal,
        "segment": params.segment,
        "tokens": int(known.size),
        "missing": int(known.size - known.sum()),
        "interval": "traces" if whole["traces"] > 1 else "tokens",
    }
    _explain(ctx, rows, population)
    full = [{**name, **row} for name, row in zip(names, rows, strict=True)]
    return {
        "groups": pa.Table.from_pylist(full, GROUPS.schema()),
        "population": pa.Table.from_pylist([population], POPULATION.schema()),
    }


def _rows(
    ctx: Context, values: Floats, group: Ints, trace: Ints, groups: int
) -> list[dict[str, Any]]:
    """The numbers of every group, in order."""
    draws = {"resamples": ctx.params.resamples, "seed": ctx.params.seed}
    if trace.max() > 0:
        low, high = bootstrap.over_traces(values, group, trace, groups, **draws)
    else:
        low, high = bootstrap.over_tokens(values, group, groups, **draws)
    # Sorted, so that no sum depends on the order of the traces.
    order = np.lexsort((values, group))
    values, group, trace = values[order], group[order], trace[order]
    cuts = np.searchsorted(group, np.arange(groups + 1))
    total = math.fsum(values)
    shared = bool(values.min() >= 0 and total > 0)
    rows = []
    for one in range(groups):
        part = slice(cuts[one], cuts[one + 1])
        inside = values[part]
        q25, median, q75 = np.quantile(inside, (0.25, 0.5, 0.75))
        rows.append(
            {
                "count": inside.size,
                "traces": int(np.unique(trace[part]).size),
                "mean": float(inside.mean()),
                "low": None if np.isnan(low[one]) else float(low[one]),
                "high": None if np.isnan(high[one]) else float(high[one]),
                "median": float(median),
                "q25": float(q25),
                "q75": float(q75),
                "share": inside.size / values.size,
                "sum_share": math.fsum(inside) / total if shared else None,
            }
        )
    return rows


def _explain(ctx: Context, rows: list[dict[str, Any]], population: dict[str, Any]) -> None:
    """Notes on what is empty."""
    if any(row["low"] is None for row in rows):
        alone = "one trace" if population["interval"] == "traces" else "a single token"
        for column in ("low", "high"):
            ctx.note("groups", column, f"no interval for a group found in {alone} only")
    if population["low"] is None:
        ctx.note("population", "low", "no interval for a single token")
        ctx.note("population", "high", "no interval for a single token")
    if rows[0]["sum_share"] is None:
        ctx.note("groups", "sum_share", "some values are negative, or all are 0")
