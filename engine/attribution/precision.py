"""``attribution.precision``: does a method find the tokens that a result truly depends on?

Where the true causes are known, a trace marks them as spans: ``result.N`` is a target and
``cause.N.M`` are its causes. The bundled models' stories have them (``demo/causes.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator

from engine.attribution import scored
from engine.attribution.cases import Case, cases_of, judged, ranges, text_of
from engine.attribution.measures import tells
from engine.context import Context
from engine.critical.curve import clopper_pearson
from engine.errors import UserError
from engine.records import iter_groups
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Rollouts, Trace
from engine.texts import bootstrap
from engine.tokenization import show

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000


class PrecisionParams(Params):
    """Which methods, and how they explain."""

    methods: tuple[str, ...] = Field(
        scored.QUICK,
        title="methods",
        description="Names without the family, with commas between; each runs at its defaults.",
    )
    explain: Literal["logprob", "logit", "probability"] = Field(
        "logprob", title="what to explain", description="Which number of the target."
    )
    removal: Literal["neutral", "zero", "delete"] = Field(
        "neutral", title="taken away by", description="Of methods that take tokens away."
    )
    memory: int = Field(
        512, ge=16, le=65_536, title="memory", description="Megabytes that one batch may take."
    )
    seed: int = Field(
        0, ge=0, lt=2**32, title="seed", description="Of equal scores' order and of intervals."
    )

    @field_validator("methods", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return scored.split_names(value)


def _share(doc: str, label: str) -> Column:
    return Column(pa.float64(), doc, "probability", label)


_METHOD = Column(pa.string(), "Name of the method.")

PRECISION = Table(
    doc="One row per method and kind of target, over all targets of all traces.",
    columns={
        "method": _METHOD,
        "kind": Column(
            pa.string(), "computed from its causes, copied from one that reads the same, or all."
        ),
        "targets": Column(pa.int64(), "Targets with known causes."),
        "traces": Column(pa.int64(), "Traces they are from."),
        "precision": _share("Mean share of true causes among the top k, k their number.", "found"),
        "low": _share("Lower end of its 95 % interval, traces drawn anew.", "at least"),
        "high": _share("Upper end of its 95 % interval, traces drawn anew.", "at most"),
        "chance": _share("What a random order finds: k of all sources.", "by chance"),
        "hit": _share("Share of targets whose top source is a true cause.", "first is a cause"),
        "hit_low": _share("Lower end of its exact 95 % interval.", "first, at least"),
        "hit_high": _share("Upper end of its exact 95 % interval.", "first, at most"),
    },
)

CASES = Table(
    doc="One row per method and target.",
    columns={
        "group": Column(pa.string(), "Name of the prompt."),
        "rollout": Column(pa.int64(), "Number of the trace."),
        "method": _METHOD,
        "kind": Column(pa.string(), "computed or copied."),
        "target": Column(pa.string(), "The result, readable."),
        "target_position": Column(pa.int64(), "Its first position."),
        "target_end": Column(pa.int64(), "Position after its last token."),
        "causes": Column(pa.list_(pa.int64()), "Positions of the true causes, k of them."),
        "top": Column(pa.list_(pa.int64()), "Positions of the k highest scores, highest first."),
        "sources": Column(pa.int64(), "Tokens before it that are scored."),
        "precision": _share("Share of the causes among the top k.", "found"),
        "hit": Column(pa.bool_(), "Whether the highest score is on a cause."),
        "chance": _share("k of the sources.", "by chance"),
    },
)


@analysis(
    "attribution.precision",
    version=1,
    subject=(Trace, Group, Rollouts),
    params=PrecisionParams,
    tables={"precision": PRECISION, "cases": CASES},
    title="Which attribution method finds the true causes?",
    cite=(
        "Ours: the generator of the bundled models' stories knows what each result depends on.",
        "Clopper and Pearson 1934; Cameron, Gelbach and Miller 2008: the intervals.",
    ),
    caveats=(
        "The causes are those of the story; that the model used them is likely where it is right.",
        "Only direct causes count: a result's operands in its equation, not where they came from.",
        "What only says that a number comes next, such as =, is no cause here, but is needed too.",
        "What holds for a small model and its arithmetic need not hold elsewhere.",
    ),
)
def precision(ctx: Context) -> Iterator[Progress | Tables]:
    """Precision at k and first hit of each method at the spans ``result.N`` of the traces.

    k is the number of tokens in the spans ``cause.N.M``. A result of several tokens is explained
    by the sum over them of what a source before the result adds; special tokens are no sources.
    Equal scores are ordered at random. Scores that are all equal are left out, with a note.
    """
    names = scored.check_names(ctx.params.methods)
    rows: list[dict[str, Any]] = []
    total = _count(ctx.subject)
    left: Counter[str] = Counter()
    for number, (group, trace) in enumerate(_traces(ctx.subject)):
        cases = cases_of(trace)
        for place, method in enumerate(names):
            fraction = (number + place / len(names)) / max(total, 1)
            what = f"Trace {number + 1:,} of {total:,}: {method.replace('_', ' ')}"
            yield Progress(fraction, what)
            found = _measured(ctx, trace, method, cases, left)
            rows += [{"group": group, "rollout": number, **row} for row in found]
        if rows:
            yield Tables(_tables(ctx, rows, names))
    for reason, times in left.items():
        ctx.note("precision", None, f"left out {times:,} times: {reason}")
    if not rows:
        raise UserError(
            "No trace marks results and their causes: name spans result.0 and cause.0.0 in it."
        )
    yield Tables(_tables(ctx, rows, names))


def _count(subject: Any) -> int:
    if isinstance(subject, Rollouts):
        return subject.count
    return len(subject.rollouts) if isinstance(subject, Group) else 1


def _traces(subject: Any) -> Iterator[tuple[str | None, Trace]]:
    if isinstance(subject, Trace):
        yield None, subject
        return
    for group in iter_groups(subject) if isinstance(subject, Rollouts) else [subject]:
        for trace in group.rollouts:
            yield group.prompt_id, trace


def _measured(
    ctx: Context, trace: Trace, method: str, cases: Sequence[Case], left: Counter[str]
) -> list[dict[str, Any]]:
    """One row per case of a trace."""
    rows = []
    for part in ranges(cases):
        settings = ctx.params.model_dump(include={"explain", "removal", "memory"})
        settings["targets"] = f"{part[0].span.start}:{part[-1].span.end}"
        try:
            result = ctx.run(scored.request(ctx, method, trace, settings)[1])
        except UserError as error:
            left[f"{method}: {error}"] += 1
            continue
        table = result.table("attribution")
        scores = _by_target(table)
        for case in part:
            summed = _summed(scores, case)
            if not tells(np.array(list(summed.values()))):
                left[f"{method} gave all sources of a target the same score"] += 1
                continue
            found = judged(summed, case.causes, ctx.params.seed)
            rows.append(
                {
                    "method": method,
                    "kind": case.kind,
                    "target": show(text_of(trace, case.span)),
                    "target_position": case.span.start,
                    "target_end": case.span.end,
                    **found,
                }
            )
    return rows


def _by_target(table: pa.Table) -> dict[int, dict[int, float]]:
    """Scores by target position and source position."""
    found: dict[int, dict[int, float]] = {}
    columns = (table[n].to_pylist() for n in ("target_position", "source_position", "score"))
    for target, source, score in zip(*columns, strict=True):
        found.setdefault(target, {})[source] = 0.0 if score is None else score
    return found


def _summed(scores: Mapping[int, Mapping[int, float]], case: Case) -> dict[int, float]:
    """What each source before a result adds to all its tokens."""
    start, end = case.span.start, case.span.end
    sources = [source for source in scores[start] if source < start]
    return {s: sum(scores[target][s] for target in range(start, end)) for s in sources}


def _tables(ctx: Context, rows: list[dict[str, Any]], names: Sequence[str]) -> dict[str, pa.Table]:
    summed = []
    for method in names:
        mine = [row for row in rows if row["method"] == method]
        for kind in ("all", "computed", "copied"):
            some = mine if kind == "all" else [row for row in mine if row["kind"] == kind]
            if some:
                summed.append({"method": method, "kind": kind, **_summary(some, ctx.params.seed)})
    return {
        "precision": pa.Table.from_pylist(summed, schema=PRECISION.schema()),
        "cases": pa.Table.from_pylist(rows, schema=CASES.schema()),
    }


def _summary(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    values = np.array([row["precision"] for row in rows])
    _, trace = np.unique([row["rollout"] for row in rows], return_inverse=True)
    group = np.zeros(len(rows), np.int64)
    settings = {"resamples": RESAMPLES, "seed": seed}
    if trace.max() > 0:
        ends = bootstrap.over_traces(values, group, trace, 1, **settings)
    else:
        ends = bootstrap.over_tokens(values, group, 1, **settings)
    low, high = (None if np.isnan(end[0]) else float(end[0]) for end in ends)
    hits = sum(row["hit"] for row in rows)
    hit_low, hit_high = map(float, clopper_pearson(hits, len(rows)))
    return {
        "targets": len(rows),
        "traces": int(trace.max()) + 1,
        "precision": float(values.mean()),
        "low": low,
        "high": high,
        "chance": float(np.mean([row["chance"] for row in rows])),
        "hit": hits / len(rows),
        "hit_low": hit_low,
        "hit_high": hit_high,
    }
