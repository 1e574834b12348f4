"""Scores of other methods of this family, run as requests of their own and read into arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.attribution.settings import TABLES, RemovalParams
from engine.errors import UserError
from engine.registry import Analysis, analyses
from engine.result import Request
from engine.schema import Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.attribution.work import Floats, Work
    from engine.context import Context

FAMILY = "attribution."

QUICK = (
    "occlusion",
    "input_x_gradient",
    "integrated_gradients",
    "saliency",
    "attention",
    "attention_rollout",
    "value_zeroing",
)
"""Methods that are compared unless others are named."""


@dataclass(frozen=True, eq=False)
class Scored:
    """What a method says about every target.

    Attributes:
        method: its name without the family.
        scores: [n, S], NaN where it has none.
        missing: [n] relative completeness residual |value − baseline − total| / |value − baseline|,
            NaN for methods that do not account for a difference.
        forwards, backwards: sequences read.
    """

    method: str
    scores: Floats
    missing: Floats
    forwards: int
    backwards: int


def method_names() -> list[str]:
    """Names, without the family, of all methods that give scores for targets and sources."""
    return sorted(
        name.removeprefix(FAMILY)
        for name, declared in analyses().items()
        if name.startswith(FAMILY) and all(declared.tables.get(n) is t for n, t in TABLES.items())
    )


def split_names(value: Any) -> Any:
    """Names given as one text with commas, as forms and command lines have it."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once, in order.

    Raises:
        UserError: there are none, or one is not a method.
    """
    chosen = tuple(dict.fromkeys(names))
    known = method_names()
    if not chosen:
        raise UserError(f"Name the methods to compare: {', '.join(known)}.")
    for name in chosen:
        if name not in known:
            raise UserError(
                f"There is no attribution method {name!r}: choose from {', '.join(known)}."
            )
    return chosen


def request(
    ctx: Context, method: str, trace: Any, settings: Mapping[str, Any]
) -> tuple[Analysis, Request]:
    """A method's request about a trace: what it shares of the settings, else its defaults.

    A setting that the method declares otherwise, as ReAGent does what it explains, stays its own.
    """
    declared = analyses()[FAMILY + method]
    own, shared = declared.params.model_fields, RemovalParams.model_fields
    params = {
        name: value
        for name, value in settings.items()
        if name in own and own[name].annotation == shared[name].annotation
    }
    models = {role: model.ref for role, model in ctx.plan.models.items()}
    return declared, Request(declared.name, trace, models, params)


def run_methods(
    ctx: Context, work: Work, names: tuple[str, ...], settings: Mapping[str, Any], table: str
) -> Iterator[Progress | Scored]:
    """What each method says; those that refuse this model or text are noted and left out."""
    for number, name in enumerate(names):
        yield Progress(number / len(names), f"Running {name.replace('_', ' ')}")
        _, asked = request(ctx, name, ctx.subject, settings)
        try:
            result = ctx.run(asked)
        except UserError as error:
            ctx.note(table, None, f"{name} was left out: {error}")
            continue
        cost = result.table("cost").to_pylist()[0]
        yield Scored(
            name,
            score_array(result.table("attribution"), work),
            _missing(result.table("targets"), work),
            cost["forwards"],
            cost["backwards"],
        )


def score_array(table: pa.Table, work: Work) -> Floats:
    """Scores [n, S] of an ``attribution`` table over the targets and sources of ``work``."""
    targets = {target.start: i for i, target in enumerate(work.targets)}
    sources = {source.start: j for j, source in enumerate(work.sources)}
    scores = np.full((len(targets), len(sources)), np.nan)
    rows = [targets[p] for p in table["target_position"].to_pylist()]
    columns = [sources[p] for p in table["source_position"].to_pylist()]
    scores[rows, columns] = table["score"].to_numpy(zero_copy_only=False)
    return scores


def _missing(table: pa.Table, work: Work) -> Floats:
    value, baseline, residual = (
        table[name].to_numpy(zero_copy_only=False).astype(float)
        for name in ("value", "baseline", "residual")
    )
    whole = np.abs(value - baseline)
    known = np.isfinite(residual) & (whole > 0)
    found = np.full(len(work.targets), np.nan)
    found[known] = np.abs(residual[known]) / whole[known]
    return found
