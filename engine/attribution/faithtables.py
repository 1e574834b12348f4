"""Tables of ``attribution.faithfulness``, and how they are filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.attribution.measures import BETTER, Judged, interval
from engine.attribution.verdict import Standing, agreements, verdicts
from engine.schema import Column, Table

if TYPE_CHECKING:
    from engine.attribution.scored import Scored
    from engine.attribution.work import Work
    from engine.context import Context


def _number(doc: str, label: str = "") -> Column:
    return Column(pa.float64(), doc, "", label)


_METHOD = Column(pa.string(), "Name of the method.")
_METRIC = Column(pa.string(), "Name of the measure.")
_VALUE = _number("The measure of the method's scores.", "value")
_BASE = _number("Mean of the measure over shuffles of the method's own scores.", "shuffled")
_DIFFERENCE = _number("value − baseline.", "difference")

FAITHFULNESS = Table(
    doc="One row per method and measure, averaged over the targets.",
    columns={
        "method": _METHOD,
        "metric": _METRIC,
        "value": _VALUE,
        "baseline": _BASE,
        "difference": _DIFFERENCE,
        "low": _number("Lower end of the difference's 95 % interval.", "at least"),
        "high": _number("Upper end of the difference's 95 % interval.", "at most"),
        "better": Column(
            pa.string(), "Whether a greater value is better (up) or a smaller (down)."
        ),
        "targets": Column(pa.int64(), "Targets with a value."),
        "forwards": Column(pa.int64(), "Sequences the method read forwards."),
        "backwards": Column(pa.int64(), "Sequences the method read backwards."),
    },
)

VERDICT = Table(
    doc="One row per method, the most faithful on this text first.",
    columns={
        "method": _METHOD,
        "rank": Column(pa.int64(), "1 is the most faithful here; equal standings share a rank."),
        "standing": _number(
            "Mean over the measures of the method's rank by difference.", "standing"
        ),
        "measures": Column(pa.int64(), "Measures it has."),
        "better": Column(pa.int64(), "Of them, better than its own scores shuffled."),
        "clearly_better": Column(pa.int64(), "Of them, with an interval that lies beyond 0."),
        "clearly_worse": Column(pa.int64(), "Measures with an interval on the wrong side of 0."),
        "why": Column(pa.string(), "In one sentence."),
    },
)

AGREEMENT = Table(
    doc="One row per pair of methods: how alike they order the sources.",
    columns={
        "method": _METHOD,
        "other": Column(pa.string(), "The method it is compared with."),
        "spearman": _number("Correlation of the ranks, mean over the targets.", "Spearman"),
        "kendall": _number("Kendall's tau b, mean over the targets.", "Kendall"),
        "overlap": _number("Share of the top sources that both have.", "top shared"),
        "by_chance": _number("What two random orders would share.", "by chance"),
        "targets": Column(pa.int64(), "Targets where both order at least three sources."),
    },
)

CURVES = Table(
    doc="Insertion and deletion curves, averaged over the targets.",
    columns={
        "method": _METHOD,
        "metric": Column(pa.string(), "insertion or deletion."),
        "fraction": _number("Share of the sources that are in, or out, highest score first."),
        "value": _number("Chance of the target then (of entropy and kl: their value)."),
        "baseline": _number("The same for shuffled scores."),
    },
)

BY_TARGET = Table(
    doc="One row per method, measure and target.",
    columns={
        "method": _METHOD,
        "metric": _METRIC,
        "target": Column(pa.string(), "The explained token or span, readable."),
        "target_position": Column(pa.int64(), "Its first position."),
        "value": _VALUE,
        "baseline": _BASE,
        "difference": _DIFFERENCE,
    },
)

TABLES = {
    "faithfulness": FAITHFULNESS,
    "verdict": VERDICT,
    "agreement": AGREEMENT,
    "curves": CURVES,
    "by_target": BY_TARGET,
}


def filled(
    params: Any, work: Work, methods: list[Scored], judged: dict[str, dict[int, Judged]]
) -> dict[str, pa.Table]:
    """All tables of what was measured, by method and target."""
    rows: dict[str, list[dict[str, Any]]] = {"faithfulness": [], "by_target": [], "curves": []}
    standings: dict[str, dict[str, Standing]] = {}
    for method in methods:
        found = judged[method.method]
        cost = {"forwards": method.forwards, "backwards": method.backwards}
        standings[method.method] = {}
        for metric, better in BETTER.items():
            row, standing = _summary(params, found, metric, better)
            rows["faithfulness"].append({"method": method.method, "metric": metric, **row, **cost})
            if standing is not None:
                standings[method.method][metric] = standing
            rows["by_target"] += [
                {
                    "method": method.method,
                    "metric": metric,
                    "target": work.targets[target].text,
                    "target_position": work.targets[target].start,
                    **_means([found[target]] if target in found else [], metric),
                }
                for target in range(len(work.targets))
            ]
        complete = {"method": method.method, "metric": "completeness", "better": "down", **cost}
        rows["faithfulness"].append(complete | _completeness(method))
        rows["curves"] += _curves(method.method, list(found.values()), params.steps)
    scores = {m.method: m.scores for m in methods}
    made = {
        **rows,
        "verdict": verdicts(standings),
        "agreement": agreements(scores, work.applies, params.top),
    }
    return {n: pa.Table.from_pylist(made[n], schema=t.schema()) for n, t in TABLES.items()}


def _means(found: list[Judged], metric: str) -> dict[str, float | None]:
    """Value, baseline and difference over targets that have both."""
    measured = [one.measures[metric] for one in found]
    values = np.array([[m.own.mean(), m.shuffled.mean()] for m in measured]).reshape(-1, 2)
    values = values[np.isfinite(values).all(1)]
    if not len(values):
        return {"value": None, "baseline": None, "difference": None}
    value, base = map(float, values.mean(0))
    return {"value": value, "baseline": base, "difference": value - base}


def _summary(
    params: Any, found: dict[int, Judged], metric: str, better: str
) -> tuple[dict[str, Any], Standing | None]:
    """One row of a method and measure, and how it counts."""
    known = [
        one
        for one in found.values()
        if np.isfinite(one.measures[metric].own).all()
        and np.isfinite(one.measures[metric].shuffled).all()
    ]
    row: dict[str, Any] = {**_means(known, metric), "better": better, "targets": len(known)}
    if not known:
        return row, None
    ends = interval([one.measures[metric] for one in known], params.seed)
    row |= {"low": ends[0], "high": ends[1]}
    sign = 1 if better == "up" else -1
    low, high = sorted(sign * end for end in ends)
    return row, Standing(sign * row["difference"], int(low > 0) - int(high < 0))


def _completeness(method: Scored) -> dict[str, Any]:
    known = method.missing[np.isfinite(method.missing)]
    return {"value": float(known.mean()) if len(known) else None, "targets": len(known)}


def _curves(method: str, found: list[Judged], steps: int) -> list[dict[str, Any]]:
    """Mean curves at common shares; between their own points curves are straight."""
    places = np.linspace(0, 1, steps + 1)
    rows = []
    for metric, side in (("insertion", "kept"), ("deletion", "without")):
        if not found:
            continue
        own, base = [], []
        for one in found:
            grid = one.curves.grid
            lines = [
                np.interp(places, grid.shares, getattr(c, side)[grid.steps])
                for c in (one.curves, *one.shuffled)
            ]
            own.append(lines[0])
            base.append(np.mean(lines[1:], 0))
        value, baseline = np.mean(own, 0), np.mean(base, 0)
        rows += [
            {
                "method": method,
                "metric": metric,
                "fraction": float(place),
                "value": None if np.isnan(value[i]) else float(value[i]),
                "baseline": None if np.isnan(baseline[i]) else float(baseline[i]),
            }
            for i, place in enumerate(places)
        ]
    return rows


def say_what_is_empty(ctx: Context, methods: list[Scored], tables: Mapping[str, pa.Table]) -> None:
    """Notes on what is empty in finished tables."""
    ctx.note("faithfulness", "baseline", "completeness has no shuffle: any order has the same sum")
    for method in methods:
        if not np.isfinite(method.missing).any():
            reason = f"{method.method} does not account for a difference"
            ctx.note("faithfulness", "value", f"completeness of {reason}")
    if tables["curves"]["value"].null_count:
        ctx.note("curves", "value", "with so much deleted nothing is left to predict from")
    for row in tables["faithfulness"].to_pylist():
        if row["metric"] == "completeness" or row["value"] is not None:
            continue
        reason = (
            "its scores order nothing, or nothing is left to predict from, or nothing changes "
            "when everything is taken away"
        )
        ctx.note("faithfulness", "value", f"{row['metric']} of {row['method']}: {reason}")
