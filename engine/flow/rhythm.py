"""``flow.rhythm``: where attention jumps back to plan, and which tokens it comes back to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.flow.recurrences import Floats
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from torch import Tensor


class RhythmParams(Params):
    """Settings of ``flow.rhythm``; the defaults are the source's."""

    window: int = Field(
        10, ge=1, le=10_000, title="W", description="Distances above this count as this in WAAD."
    )
    nearest: int = Field(
        10, ge=0, le=100_000, title="From", description="FAI looks from so many tokens later on …"
    )
    farthest: int = Field(
        50, ge=0, le=100_000, title="To", description="… up to so many tokens later."
    )
    head_share: float = Field(
        0.3,
        gt=0,
        le=0.5,
        title="Share of heads",
        description="So many of all heads are local, and as many global.",
    )
    top: float = Field(
        0.4, gt=0, le=1, title="Share marked", description="So many of the tokens are marked."
    )


TOKENS = Table(
    per_token=True,
    doc="One row per token; a value is about the position itself, not about its prediction.",
    columns={
        "waad": Column(
            pa.float64(),
            "How far local heads look back from here on average, at most W.",
            "tokens",
            "WAAD",
        ),
        "waad_change": Column(
            pa.float64(), "|WAAD here − WAAD of the next token|.", "tokens", "change"
        ),
        "fai": Column(
            pa.float64(), "Mean attention of global heads to here from later on.", "", "FAI"
        ),
        "preplan": Column(pa.bool_(), "Among the largest changes of WAAD."),
        "anchor": Column(pa.bool_(), "Among the largest FAI."),
    },
)

HEADS = Table(
    doc="One row per layer and head.",
    columns={
        "layer": Column(pa.int64(), "Layer, from 0."),
        "head": Column(pa.int64(), "Head, from 0."),
        "distance": Column(pa.float64(), "How far it looks back on average.", "tokens"),
        "kind": Column(pa.string(), "local, global, or empty in between."),
    },
)


@dataclass(frozen=True)
class Measured:
    """Per head and token, over the rows R from ``start`` on.

    Attributes:
        distance: [heads] mean of Σ_s A[t, s] (t − s).
        waad: [heads, T] Σ_s A[t, s] min(t − s, W); 0 outside R.
        fai: [heads, T] sum of A[t, s] over t in R with s + nearest ≤ t ≤ s + farthest.
    """

    distance: Floats
    waad: Floats
    fai: Floats


class Measuring:
    """Takes attention block by block; both measures are linear in it, so nothing is kept."""

    def __init__(self, length: int, start: int, params: RhythmParams) -> None:
        self._length, self._start, self._params = length, start, params
        self._found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, layer: int, first: int, weights: Tensor) -> None:
        """One block of attention weights, [H, rows, T]."""
        import torch

        heads, rows, length = weights.shape
        device, params = weights.device, self._params
        if layer not in self._found:
            zeros = torch.zeros(heads, length, dtype=torch.float64, device=device)
            self._found[layer] = (zeros[:, 0].clone(), zeros, zeros.clone())
        t = torch.arange(first, first + rows, device=device)
        skip = min(max(self._start - first, 0), rows)
        if skip == rows:
            return
        t, weights = t[skip:], weights[:, skip:]
        back = (t[:, None] - torch.arange(length, device=device)).clamp(min=0)
        distance, waad, fai = self._found[layer]
        distance += (weights * back).sum((1, 2), dtype=torch.float64)
        near = back.clamp(max=params.window)
        waad[:, t] = (weights * near).sum(2, dtype=torch.float64)
        inside = (back >= params.nearest) & (back <= params.farthest)
        inside &= torch.arange(length, device=device) <= t[:, None]
        fai += (weights * inside).sum(1, dtype=torch.float64)

    def measured(self) -> tuple[list[tuple[int, int]], Measured]:
        """Which heads there are, as (layer, head), and what was found."""
        import torch

        layers = sorted(self._found)
        heads = [(layer, h) for layer in layers for h in range(len(self._found[layer][0]))]
        distance, waad, fai = (
            torch.cat([self._found[layer][part] for layer in layers]).cpu().numpy()
            for part in range(3)
        )
        return heads, Measured(distance / (self._length - self._start), waad, fai)


@analysis(
    "flow.rhythm",
    version=1,
    subject=Trace,
    params=RhythmParams,
    tables={"tokens": TOKENS, "heads": HEADS},
    title="Where does it look back to plan, and which tokens does it come back to?",
    cite=("Attention Illuminates LLM Reasoning: preplan and anchor (2025), arXiv 2510.13554.",),
    caveats=(
        "A row is about the position itself (its own attention row, and later rows' view of it).",
        "Attention to the first token (a sink) counts as looking far back.",
        "The marks are shares of this text: something is always marked.",
    ),
)
def rhythm(ctx: Context) -> Iterator[Progress | Tables]:
    """Preplan and anchor marks over the response, from local and global heads.

    Heads are ordered by how far they look back on average over the response; the nearest share is
    local, the farthest global (⌈share · heads⌉ each). WAAD of a token is how far local heads look
    back from it, distances cut at W; FAI of a token is the mean attention of global heads to it
    from ``nearest`` to ``farthest`` tokens later. Preplan marks are the largest changes of WAAD to
    the next token, anchors the largest FAI.
    """
    params: RhythmParams = ctx.params
    trace: Trace = ctx.subject
    start, length = trace.response_start, len(trace)
    if start >= length:
        raise UserError("The text has no response whose rhythm could be read: give one.")
    if params.farthest < params.nearest:
        raise UserError("FAI looks from nearest to farthest: make farthest the larger one.")
    yield Progress(None, "Reading the attention")
    measuring = Measuring(length, start, params)
    ctx.models["model"].visit_attention(trace.ids, measuring)
    heads, found = measuring.measured()
    local, distant = kinds(found.distance, params.head_share)
    waad, change, fai = tokens(found, local, distant, start, params)
    preplan, anchor = (marked(values, params.top) for values in (change, fai))
    _say(ctx, start)
    kind = np.full(len(heads), None, object)
    kind[local], kind[distant] = "local", "global"
    rows = {
        "layer": [layer for layer, _ in heads],
        "head": [head for _, head in heads],
        "distance": found.distance,
        "kind": kind,
    }
    columns = {"waad": waad, "waad_change": change, "fai": fai}
    outside = np.arange(length) < start
    yield Tables(
        tokens=ctx.per_token(
            {
                **{n: pa.array(v, pa.float64(), from_pandas=True) for n, v in columns.items()},
                "preplan": pa.array(preplan, pa.bool_(), mask=outside | np.isnan(change)),
                "anchor": pa.array(anchor, pa.bool_(), mask=outside | np.isnan(fai)),
            }
        ),
        heads=pa.table(rows, schema=HEADS.schema()),
    )


def kinds(distance: Floats, share: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The local and the global heads, ⌈share · heads⌉ of each; ties by layer and head."""
    order = np.argsort(distance, kind="stable")
    # With a single head it is both.
    count = min(math.ceil(share * len(order) - 1e-9), max(1, len(order) // 2))
    return order[:count], order[len(order) - count :]


def tokens(
    found: Measured,
    local: Sequence[int] | npt.NDArray[np.int64],
    distant: Sequence[int] | npt.NDArray[np.int64],
    start: int,
    params: RhythmParams,
) -> tuple[Floats, Floats, Floats]:
    """WAAD, its change to the next token, and FAI; NaN where there is none."""
    length = found.waad.shape[1]
    position = np.arange(length)
    waad = np.where(position >= start, found.waad[local].mean(0), np.nan)
    change = np.append(np.abs(np.diff(waad)), np.nan)
    first = np.maximum(position + params.nearest, start)
    last = np.minimum(position + params.farthest, length - 1)
    count = last - first + 1
    seen = (position >= start) & (count > 0)
    fai = np.where(seen, found.fai[distant].mean(0) / np.maximum(count, 1), np.nan)
    return waad, change, fai


def marked(values: Floats, share: float) -> npt.NDArray[np.bool_]:
    """The ⌈share · n⌉ largest of n known values; ties by position."""
    known = np.flatnonzero(~np.isnan(values))
    count = math.ceil(share * len(known) - 1e-9)
    marks = np.zeros(len(values), bool)
    marks[known[np.argsort(-values[known], kind="stable")[:count]]] = True
    return marks


def _say(ctx: Context, start: int) -> None:
    if start:
        ctx.note("tokens", None, "only the response is measured")
    last = len(ctx.subject) - 1
    for column in ("waad_change", "preplan"):
        ctx.note("tokens", column, "the last token has none after it", position=last)
    for column in ("fai", "anchor"):
        ctx.note("tokens", column, "too near the end: no token far enough behind it")
    ctx.note("heads", "kind", "heads in between are neither local nor global")
