"""``flow.geometry``: the shape of the hidden states, layer by layer, over many tokens."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.flow import shape
from engine.flow.geometrytables import LAYERS, SUMMARY, TOKENS
from engine.flow.streams import read_streams
from engine.plan import check_trace, iter_rollouts
from engine.registry import Params, analysis
from engine.schema import Progress, Tables
from engine.subjects import Group, Rollouts, Trace
from engine.texts.grouping import Part, part_of

if TYPE_CHECKING:
    from torch import Tensor


class GeometryParams(Params):
    """Settings of ``flow.geometry``."""

    segment: Part = Field(
        "all", title="Part", description="Whose predictions count: response, prompt, or all."
    )
    most: int = Field(
        2048,
        ge=16,
        le=16_384,
        title="Most tokens",
        description="How many tokens at most make the population; the first ones are taken.",
    )
    neighbours: int = Field(
        10, ge=1, le=100, title="Neighbours", description="k of the neighbourhood overlap."
    )
    ridge: float = Field(
        0.0,
        ge=0,
        le=10,
        title="Ridge",
        description="Penalty of the linear maps; above 0 they exist for few tokens too.",
    )
    seed: int = Field(0, ge=0, title="Seed", description="Of the shuffled control.")


@analysis(
    "flow.geometry",
    version=1,
    subject=(Trace, Group, Rollouts),
    params=GeometryParams,
    tables={"layers": LAYERS, "summary": SUMMARY, "tokens": TOKENS},
    title="What shape do the hidden states have at each layer?",
    cite=(
        "Razzhigaev et al. (2025), LLM-Microscope, arXiv 2502.15007: linearity, dimension.",
        "Facco et al. (2017), Estimating the intrinsic dimension by a minimal neighborhood.",
        "Doimo et al. (2020), Hierarchical nucleation, arXiv 2007.03506: neighbourhood overlap.",
        "He and Su (2024), A Law of Next-Token Prediction, arXiv 2408.13442.",
    ),
    caveats=(
        "Linear fits need many more tokens than the width of the model: a few traces do not do.",
        "States are those between the layers, before the final norm; special tokens' are left out.",
        "Tokens of one text are not independent: dimension and overlap describe these tokens.",
        "The prediction residual fits the number of the next id, whose order means nothing.",
        "Contextualisation (LLM-Microscope) needs a trained decoder and is not computed.",
    ),
)
def geometry(ctx: Context) -> Iterator[Progress | Tables]:
    """Linearity, dimension, anisotropy, neighbours and the law of prediction, layer by layer.

    All tokens of the subject are one population, up to ``most``; what several rollouts begin with
    counts once. A value of token *t* is about the
    states at position *t* − 1, which predict it. ``linearity`` and ``overlap`` of a layer compare
    it with the layer before. ``residual`` is Σ(y − ŷ)²/Σ(y − ȳ)² of the least-squares fit of the
    next token's id on the layer's states; the law says that its logarithm falls evenly with depth,
    ``rho`` per layer (fitted to the layers 1 to L, without the embeddings).
    """
    yield Progress(None, "Loading the model")
    cloud = yield from _gathered(ctx)
    rows: list[dict[str, Any]] = []
    missed: dict[int, shape.Floats] = {}
    before: _Layer | None = None
    for number in range(len(cloud.layers)):
        layer = _Layer(cloud.points(number), ctx.params.neighbours)
        rows.append(_row(ctx, cloud, number, layer, before, missed))
        before = layer
        done = 0.5 + 0.5 * (number + 1) / len(cloud.layers)
        yield Progress(done, f"Measured layer {number} of {len(cloud.layers) - 1}")
    summary = _law(ctx, cloud, rows)
    _explain(ctx, cloud, rows)
    yield Tables(
        layers=pa.Table.from_pylist(rows, LAYERS.schema()),
        summary=pa.Table.from_pylist([summary], SUMMARY.schema()),
        tokens=_token_table(ctx, cloud, missed),
    )


@dataclass
class _Cloud:
    """The population: which tokens, and their states after every layer."""

    traces: list[tuple[int, Trace, list[int]]]
    layers: list[list[Tensor]]
    targets: list[int]

    @property
    def size(self) -> int:
        return len(self.targets)

    def points(self, layer: int) -> shape.Floats:
        """States after a layer, [N, D] in float64."""
        import torch

        points: shape.Floats = torch.cat(self.layers[layer]).double().cpu().numpy()
        return points


class _Layer:
    """The cloud after one layer, decomposed once for all measures."""

    def __init__(self, points: shape.Floats, neighbours: int) -> None:
        self.points = points
        self.basis = shape.Basis.of(points)
        self.near = shape.nearest(points, neighbours) if len(points) > neighbours + 1 else None


def _gathered(ctx: Context) -> Generator[Progress, None, _Cloud]:
    """Read the states of the first ``most`` tokens."""
    model = ctx.models["model"]
    cloud = _Cloud([], [[] for _ in range(model.layers + 1)], [])
    seen: set[int] = set()
    total = getattr(ctx.subject, "count", None) or len(getattr(ctx.subject, "rollouts", (1,)))
    for index, trace in enumerate(_traces(ctx)):
        room = ctx.params.most - cloud.size
        places = _places(trace, ctx.params.segment, seen)
        if len(places) > room:
            ctx.note("summary", "tokens", f"only the first {ctx.params.most:,} tokens are measured")
        places = places[:room]
        if places:
            streams = read_streams(model, trace.ids, [p - 1 for p in places])
            for kept, states in zip(cloud.layers, streams.layers, strict=True):
                kept.append(states)
            cloud.targets += [trace.ids[p] for p in places]
            cloud.traces.append((index, trace, places))
        yield Progress(0.5 * (index + 1) / total, f"Read trace {index + 1:,} of {total:,}")
        if cloud.size >= ctx.params.most:
            break
    if cloud.size < 2:
        raise UserError(
            f"flow.geometry needs at least two tokens that are no special ones in the part "
            f"{ctx.params.segment!r}: give a longer text or set segment=all."
        )
    return cloud


def _traces(ctx: Context) -> Iterator[Trace]:
    if isinstance(ctx.subject, Trace):
        yield ctx.subject
        return
    for _, trace in iter_rollouts(ctx.subject):
        check_trace(trace, ctx.plan.models["model"])
        yield trace


def _places(trace: Trace, part: Part, seen: set[int]) -> list[int]:
    """Tokens whose prediction counts: those after a token that is no special one.

    A first token draws attention whatever it is, and its state lies far from all others; special
    tokens behave alike, and one of them would be the cloud's whole variance. What rollouts begin
    with together is one state, however many they are: ``seen`` holds the beginnings so far.
    """
    hidden = {*trace.special, *trace.added}
    inside = part_of(trace, part)
    places, beginning = [], 0
    for t in range(1, len(trace)):
        beginning = hash((beginning, trace.ids[t - 1]))
        if t in inside and t - 1 not in hidden and beginning not in seen:
            seen.add(beginning)
            places.append(t)
    return places


def _row(
    ctx: Context,
    cloud: _Cloud,
    number: int,
    layer: _Layer,
    before: _Layer | None,
    missed: dict[int, shape.Floats],
) -> dict[str, Any]:
    """The measures of one layer; what its linear map misses per token is added to ``missed``."""
    params, n, width = ctx.params, cloud.size, layer.points.shape[1]
    row: dict[str, Any] = {
        "layer": number,
        "intrinsic_dimension": shape.two_nn(layer.points),
        "anisotropy": shape.anisotropy(layer.basis),
    }
    if n > width + 1:
        targets = np.array(cloud.targets, float)
        row["residual"] = shape.prediction_residual(layer.basis, targets)
    if before is None:
        return row
    if n > width + 1 or params.ridge > 0:
        row["linearity"], tokens = shape.linearity(before.basis, layer.points, params.ridge)
        step = layer.points - before.points
        row["linearity_increment"], _ = shape.linearity(before.basis, step, params.ridge)
        if tokens is not None:
            missed[number] = tokens
    if before.near is not None and layer.near is not None:
        row["overlap"] = shape.overlap(before.near, layer.near)
        row["overlap_shuffled"] = shape.shuffled_overlap(before.near, layer.near, params.seed)
    return row


def _law(ctx: Context, cloud: _Cloud, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of ``summary``; the fitted residuals are written into ``rows``."""
    known = [row for row in rows[1:] if (row.get("residual") or 0) > 0]
    fitted = shape.law([r["layer"] for r in known], [r["residual"] for r in known])
    if fitted is not None:
        for row, value in zip(known, fitted.fitted, strict=True):
            row["residual_fitted"] = value
    k = ctx.params.neighbours
    return {
        "tokens": cloud.size,
        "traces": len(cloud.traces),
        "width": cloud.layers[0][0].shape[1],
        "overlap_chance": k / (cloud.size - 1) if cloud.size > k + 1 else None,
        "rho": None if fitted is None else fitted.rho,
        "correlation": None if fitted is None else fitted.correlation,
        "law_layers": 0 if fitted is None else len(known),
    }


def _explain(ctx: Context, cloud: _Cloud, rows: list[dict[str, Any]]) -> None:
    """Notes on what is empty."""
    n, width = cloud.size, cloud.layers[0][0].shape[1]
    few = f"{n:,} tokens are too few for a linear fit of width {width:,}: more than {width + 1:,}"
    few += " are needed"
    for name in ("linearity", "linearity_increment", "overlap", "overlap_shuffled"):
        ctx.note("layers", name, "layer 0 has no layer before it")
    if n <= width + 1:
        ctx.note("layers", "residual", few)
        if ctx.params.ridge == 0:
            ctx.note("layers", "linearity", f"{few}, or a ridge")
            ctx.note("layers", "linearity_increment", f"{few}, or a ridge")
            ctx.note("tokens", "nonlinearity", f"{few}, or a ridge")
            ctx.note("tokens", "nonlinear_layer", f"{few}, or a ridge")
    if n <= ctx.params.neighbours + 1:
        reason = f"{n:,} tokens have no {ctx.params.neighbours} neighbours each"
        for name in ("overlap", "overlap_shuffled"):
            ctx.note("layers", name, reason)
        ctx.note("summary", "overlap_chance", reason)
    if any(row["intrinsic_dimension"] is None for row in rows):
        reason = f"fewer than {shape.LEAST_POINTS} distinct states"
        ctx.note("layers", "intrinsic_dimension", reason)
    if all(row.get("residual_fitted") is None for row in rows):
        reason = "the law needs prediction residuals of at least three layers"
        for table, column in (
            ("summary", "rho"),
            ("summary", "correlation"),
            ("layers", "residual_fitted"),
        ):
            ctx.note(table, column, reason)
    else:
        ctx.note("layers", "residual_fitted", "the law is fitted to the layers after the first")


def _token_table(ctx: Context, cloud: _Cloud, missed: dict[int, shape.Floats]) -> pa.Table:
    """Rows of all tokens of the population's traces, empty where a token is not part of it."""
    ctx.note("tokens", None, "tokens outside the population have no value")
    steps = list(missed.values())
    mean = np.mean(steps, 0) if steps else None
    worst = np.array(list(missed))[np.argmax(steps, 0)] if steps else None
    parts, start = [], 0
    for index, trace, places in cloud.traces:
        values: list[float | None] = [None] * len(trace)
        layers: list[int | None] = [None] * len(trace)
        if mean is not None and worst is not None:
            for offset, place in enumerate(places):
                values[place] = float(mean[start + offset])
                layers[place] = int(worst[start + offset])
        start += len(places)
        view = copy.copy(ctx)
        view.subject = trace
        columns = {
            "rollout": pa.array([index] * len(trace), pa.int64()),
            "nonlinearity": pa.array(values, pa.float64()),
            "nonlinear_layer": pa.array(layers, pa.int64()),
        }
        parts.append(view.per_token(columns))
    return pa.concat_tables(parts)
