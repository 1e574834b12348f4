"""``reward.agreement``: do the signals of reinforcement learning point at the same tokens?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.registry import analyses, analysis, find
from engine.result import Request
from engine.reward.delta import Gamma
from engine.reward.population import Floats, Seen, survey
from engine.reward.populationtables import AdvantageParams
from engine.reward.stapo import gradient_norm2
from engine.schema import Column, Progress, Table, Tables
from engine.signalsource import floats
from engine.subjects import Group, Rollouts
from engine.texts.textstats import top_share

FEWEST = 3
"""Tokens below which nothing is said about two signals."""


class AgreementParams(AdvantageParams):
    """Settings of ``reward.agreement``."""

    share: float = Field(
        0.2, gt=0, lt=1, title="Top share", description="Share whose overlap is counted."
    )
    influence: bool = Field(
        True,
        title="Influence over all weights",
        description="Costs a backward and a forward-mode pass over the group.",
    )
    gamma: Gamma | None = Field(
        None, title="γ of DelTA", description="DelTA takes part only where its γ is chosen."
    )


@dataclass(frozen=True, slots=True)
class Signal:
    """A per-token signal of another analysis.

    Attributes:
        name: what it is called in the matrix.
        analysis, column: where it is.
        size: whether its size counts, without the sign.
    """

    name: str
    analysis: str
    column: str
    size: bool = True


OTHERS = (
    Signal("|THR|", "reward.thr", "thr"),
    Signal("|NTHR|", "reward.thr", "nthr"),
    Signal("|influence|", "reward.thr", "influence"),
    Signal("DelTA λ", "reward.delta", "weight", size=False),
    Signal("|HAPO advantage|", "reward.hapo", "advantage"),
    Signal("|UCAS advantage|", "reward.ucas", "advantage"),
    Signal("TW-GRPO weight", "reward.twgrpo", "weight", size=False),
)
"""Signals of analyses that look at the whole group, and need a model."""

MATRIX = Table(
    doc="One row per ordered pair of signals.",
    columns={
        "signal": Column(pa.string(), "One signal.", "", "signal"),
        "other": Column(pa.string(), "The other.", "", "other"),
        "tokens": Column(pa.int64(), "Response tokens that have both.", "", "tokens"),
        "spearman": Column(pa.float64(), "Rank correlation.", "", "rank correlation"),
        "overlap": Column(
            pa.float64(), "Share of the top tokens of one among those of the other.", "probability",
            "top overlap",
        ),
    },
)  # fmt: skip

SIGNALS = Table(
    doc="One row per signal.",
    columns={
        "signal": Column(pa.string(), "Its name.", "", "signal"),
        "analysis": Column(pa.string(), "Where it comes from.", "", "analysis"),
        "tokens": Column(pa.int64(), "Response tokens that have it.", "", "tokens"),
        "missing": Column(pa.int64(), "Those that do not.", "", "missing"),
    },
)


def spearman(one: Floats, other: Floats) -> float:
    """Rank correlation, equal values at their mean rank; NaN where one is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (one, other))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / scale, -1, 1)) if scale else np.nan


def top_overlap(one: Floats, other: Floats, share: float) -> float:
    """|A ∩ B| / k of the k = ⌈share n⌉ largest of each; of equals the earlier; NaN if constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan
    first, second = top_share(one, share)[0], top_share(other, share)[0]
    return float((first & second).sum() / first.sum())


def compare(one: Floats, other: Floats, share: float) -> tuple[int, float, float]:
    """Tokens with both, their rank correlation and their top overlap; NaN where undefined."""
    both = ~np.isnan(one) & ~np.isnan(other)
    n = int(both.sum())
    if n < FEWEST:
        return n, np.nan, np.nan
    a, b = one[both], other[both]
    return n, spearman(a, b), top_overlap(a, b, share)


@analysis(
    "reward.agreement",
    version=1,
    subject=(Group, Rollouts),
    optional_models=("model",),
    params=AgreementParams,
    tables={"matrix": MATRIX, "signals": SIGNALS},
    title="Do the signals point at the same tokens?",
    cite=(
        "Spearman (1904): rank correlation.",
        "The signals are cited where they are computed: see the analyses in the table signals.",
    ),
    caveats=(
        "Signed signals take part with their size: two may agree on the token, not the direction.",
        "Each pair is compared over the tokens that have both: NTHR is of wrong responses only.",
        "By chance the overlap is the share itself.",
        "Tokens of one response are no independent draws: no p-value is given.",
    ),
)
def agreement(ctx: Context) -> Iterator[Progress | Tables]:
    """Spearman's rank correlation and the overlap of the top 20 % of every pair of signals.

    Over the response tokens of all groups handed in. Signals that need a model, or a choice that
    was not made, are left out with a note.
    """
    names = ("logprob", "entropy", "sum_p2") if ctx.plan.models else ("logprob", "entropy")
    seen = yield from survey(ctx, names, table=None)
    signals = _own(seen)
    yield Tables(_tables(ctx, signals, final=False))
    for signal in OTHERS:
        values = yield from _other(ctx, signal, seen)
        if values is not None:
            signals[signal.name] = signal.analysis, values
    yield Tables(_tables(ctx, signals, final=True))


def _own(seen: Sequence[Seen]) -> dict[str, tuple[str, Floats]]:
    """Signals that follow from the statistics and the advantage."""

    def joined(of: Callable[[Seen], Floats]) -> Floats:
        return np.concatenate([of(one)[one.trained] for one in seen])

    found = {
        "surprisal": ("statistics", joined(lambda one: -one.values["logprob"])),
        "entropy": ("statistics", joined(lambda one: one.values["entropy"])),
        "|advantage| × entropy": (
            "reward.d3s",
            joined(lambda one: abs(one.advantage) * one.values["entropy"]),
        ),
    }
    if all("sum_p2" in one.values for one in seen):
        found["gradient in the logits"] = (
            "reward.stapo",
            joined(
                lambda one: gradient_norm2(
                    np.full(len(one.trained), one.advantage),
                    np.exp(one.values["logprob"]),
                    one.values["sum_p2"],
                )
            ),
        )
    return found


def _other(
    ctx: Context, signal: Signal, seen: Sequence[Seen]
) -> Generator[Progress, None, Floats | None]:
    """A signal of another analysis over the trained tokens; None, with a note, if it cannot be."""
    reason = _refusal(ctx, signal)
    if reason is None:
        yield Progress(0.95, f"Computing {signal.name}")
        try:
            values = floats(_table(ctx, signal), signal.column)
        except UserError as error:
            reason = str(error)
        else:
            values = np.abs(values) if signal.size else values
            return values[np.concatenate([one.trained for one in seen])]
    ctx.note("signals", None, f"{signal.name} is left out: {reason}")
    return None


def _refusal(ctx: Context, signal: Signal) -> str | None:
    if signal.analysis not in analyses():
        return f"this version has no {signal.analysis}"
    if not ctx.plan.models:
        return "it needs a model"
    if signal.analysis == "reward.delta" and ctx.params.gamma is None:
        return "its γ is a choice: set gamma=std or gamma=mean_abs"
    if signal.column == "influence" and not ctx.params.influence:
        return "it was not asked for"
    return None


def _table(ctx: Context, signal: Signal) -> pa.Table:
    models = {"model": ctx.plan.models["model"].ref}
    params = shared(ctx, signal.analysis)
    return ctx.run(Request(signal.analysis, ctx.subject, models, params)).table("tokens")


def shared(ctx: Context, name: str) -> dict[str, Any]:
    """Those of the params that another analysis has too."""
    wanted = find(name).params.model_fields
    return {n: v for n, v in ctx.params.model_dump().items() if n in wanted}


def _tables(
    ctx: Context, signals: dict[str, tuple[str, Floats]], final: bool
) -> dict[str, pa.Table]:
    pairs = []
    for one, (_, a) in signals.items():
        for other, (_, b) in signals.items():
            tokens, correlation, overlap = compare(a, b, ctx.params.share)
            if final and np.isnan(correlation) and one <= other:
                why = "too few tokens have both" if tokens < FEWEST else "one of them is constant"
                ctx.note("matrix", "spearman", f"{one} and {other}: {why}")
            pairs.append((one, other, tokens, correlation, overlap))
    columns = list(zip(*pairs, strict=True))
    matrix = {
        name: pa.array(list(values), column.type, from_pandas=True)
        for (name, column), values in zip(MATRIX.columns.items(), columns, strict=True)
    }
    rows = [
        {
            "signal": name,
            "analysis": source,
            "tokens": int((~np.isnan(values)).sum()),
            "missing": int(np.isnan(values).sum()),
        }
        for name, (source, values) in signals.items()
    ]
    return {
        "matrix": pa.table(matrix, schema=MATRIX.schema()),
        "signals": pa.Table.from_pylist(rows, schema=SIGNALS.schema()),
    }
