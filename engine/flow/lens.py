"""``flow.lens``: what the model would say if it stopped after each layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.flow.lenstables import ALTERNATIVES, LAYERS, TOKENS
from engine.flow.streams import Streams, read_streams
from engine.registry import Params, analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_BYTES = 64 * 1024 * 1024
"""Of float32 logits of one layer: rows looked at together follow from the vocabulary."""

TABLE_ROWS = 50_000
"""Most rows of the table ``layers`` that are listed without being asked for."""


class LensParams(Params):
    """Settings of ``flow.lens``."""

    norm: bool = Field(
        True,
        title="Final norm",
        description="Apply the model's final norm to every layer; off is LLM-Microscope's way.",
    )
    top_k: int = Field(
        1, ge=1, le=50, title="Alternatives", description="How many tokens to list per layer."
    )
    positions: tuple[int, ...] = Field(
        (),
        title="Positions",
        description="Tokens whose layers are listed; none lists all, or the last of a long text.",
        max_length=4096,
    )


_NUMBERS = ("entropy", "kl", "rank_final", "rank_actual", "logprob")


@analysis(
    "flow.lens",
    version=1,
    subject=Trace,
    params=LensParams,
    tables={"layers": LAYERS, "tokens": TOKENS, "alternatives": ALTERNATIVES},
    title="At which layer did the model know what to say?",
    cite=(
        "nostalgebraist (2020), interpreting GPT: the logit lens.",
        "Belrose et al. (2023), Tuned Lens, arXiv 2303.08112: KL of the last layer to the lens.",
        "Razzhigaev et al. (2025), LLM-Microscope, arXiv 2502.15007: the lens without the norm.",
    ),
    caveats=(
        "Early layers need not speak the last layer's language: a poor lens is not an empty layer.",
        "The first token has no prediction: its values are empty.",
        "A layer that says the final token early may lose it again: compare exit and settled.",
    ),
)
def lens(ctx: Context) -> Iterator[Progress | Tables]:
    """Every layer's residual stream read through the model's own final norm and head.

    One forward gives all layers; the head is streamed over rows and layers. Row *t* is about the
    prediction of token *t*, made at position *t* − 1. Layer 0 is what enters the first layer,
    layer L what leaves the last, where the lens is the model itself (with ``norm``). ``final`` is
    always what the model itself says. ``exit_depth`` is the first layer whose most probable id is
    the final one, ``settled_depth`` the first from which on every layer says it.
    """
    trace: Trace = ctx.subject
    n = len(trace)
    ctx.note("tokens", None, "the first token has no prediction", position=0)
    positions = _positions(ctx, n)
    yield Progress(None, "Loading the model")
    model = ctx.models["model"]
    if n < 2:
        yield Tables(_tables(ctx, [], positions, model.layers))
        return
    streams = read_streams(model, trace.ids, range(n - 1))
    parts: list[_Part] = []
    rows = max(1, CHUNK_BYTES // (4 * model.real_vocab))
    for start in range(0, n - 1, rows):
        part = _Part(start, min(n - 1, start + rows))
        for layer in range(model.layers, -1, -1):
            part.read(ctx, streams, layer)
            done = (start + (model.layers - layer) / (model.layers + 1) * rows) / n
            yield Progress(min(done, 1.0), f"Read layer {layer} of {part.end:,} tokens")
        parts.append(part)
    yield Tables(_tables(ctx, parts, positions, model.layers))


@dataclass
class _Part:
    """Rows ``start`` to ``end`` − 1: logits of the last layer, numbers of every layer."""

    start: int
    end: int
    final: Tensor | None = None
    best: Tensor | None = None
    columns: dict[str, dict[int, NDArray[Any]]] = field(default_factory=dict)

    def read(self, ctx: Context, streams: Streams, layer: int) -> None:
        """Look at one layer; the last one comes first."""
        import torch
        from tokenkernel import pair_stats, token_stats

        model = ctx.models["model"]
        rows = slice(self.start, self.end)
        with torch.no_grad():
            if self.final is None:
                hidden = streams.head_input(model.layers, rows)
                self.final = model.logits(hidden)[:, : model.real_vocab]
                any_id = torch.zeros_like(hidden[:, 0], dtype=torch.long)
                self.best = token_stats(self.final, any_id, 1).top_ids[:, 0]
            own = layer == model.layers and ctx.params.norm
            logits = self.final
            if not own:
                hidden = streams.head_input(layer, rows, norm=ctx.params.norm)
                logits = model.logits(hidden)[:, : model.real_vocab]
            target = torch.tensor(ctx.subject.ids[self.start + 1 : self.end + 1])
            target = target.to(logits.device)
            stats = token_stats(logits, target, min(ctx.params.top_k, logits.shape[1]))
            assert self.best is not None
            above = logits > logits.gather(1, self.best[:, None])
            made = {
                "entropy": stats.entropy,
                "kl": pair_stats(self.final, logits, target, js=False).kl_pq,
                "rank_final": 1 + above.sum(-1),
                "rank_actual": stats.rank,
                "logprob": stats.logprob,
                "ids": stats.top_ids,
                "logprobs": stats.top_logprobs,
                "final": self.best,
            }
        for name, values in made.items():
            self.columns.setdefault(name, {})[layer] = values.cpu().numpy()

    def whole(self, name: str) -> NDArray[Any]:
        """A column of all layers, [L + 1, rows, …]."""
        by_layer = self.columns[name]
        return np.stack([by_layer[layer] for layer in sorted(by_layer)])


def _positions(ctx: Context, n: int) -> list[int]:
    """Tokens whose layers are listed."""
    asked = sorted(set(ctx.params.positions))
    wrong = [p for p in asked if not 0 <= p < n]
    if wrong:
        raise UserError(
            f"flow.lens: the text has {n:,} tokens, so there is no position {wrong[0]}: "
            f"choose positions from 1 to {n - 1}."
        )
    if asked:
        if asked[0] == 0:
            ctx.note("layers", None, "the first token has no prediction", position=0)
        return [p for p in asked if p]
    return list(range(1, n))


def _tables(
    ctx: Context, parts: list[_Part], positions: list[int], layers: int
) -> dict[str, pa.Table]:
    if not parts:
        empty = {name: [None] * len(ctx.subject) for name in TOKENS.columns}
        return {"tokens": ctx.per_token(empty)}
    names = list(parts[0].columns)
    values = {name: np.concatenate([part.whole(name) for part in parts], 1) for name in names}
    listed = positions
    most = max(1, TABLE_ROWS // (layers + 1))
    if not ctx.params.positions and len(positions) > most:
        listed = positions[-most:]
        ctx.note(
            "layers", None, f"only the last {most:,} tokens are listed: name others as positions"
        )
    return {
        "layers": _layer_table(ctx, values, listed),
        "tokens": ctx.per_token(_depths(ctx, values)),
        "alternatives": _alternatives(ctx, values, listed),
    }


def _layer_table(ctx: Context, values: dict[str, NDArray[Any]], positions: list[int]) -> pa.Table:
    rows = np.array(positions, dtype=np.int64) - 1
    depth = values["entropy"].shape[0]
    columns: dict[str, Any] = {
        "layer": np.tile(np.arange(depth), len(rows)),
        "position": np.repeat(rows + 1, depth),
    }
    for name in _NUMBERS:
        columns[name] = values[name][:, rows].T.reshape(-1)
    ids = values["ids"][:, rows, 0].T.reshape(-1)
    texts, _ = ctx.token_texts(ids)
    columns |= {"top_id": ids, "top": texts}
    columns["top_logprob"] = values["logprobs"][:, rows, 0].T.reshape(-1)
    schema = LAYERS.schema()
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, schema.field(name).type)
        for name, values in columns.items()
    ]
    return pa.table(arrays, schema=schema)


def _depths(ctx: Context, values: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The columns of ``tokens``, empty for the first token."""
    said, final = values["ids"][:, :, 0], values["final"][0]
    actual = np.array(ctx.subject.ids[1:])
    agrees = said == final
    texts, _ = ctx.token_texts(final)
    exits, settled, found = first(agrees), last_from(agrees), first(said == actual)
    for name, reason, made in (
        ("exit_depth", "without the norm no layer says what the model says", exits),
        ("settled_depth", "without the norm the last layer says something else", settled),
        ("found_depth", "no layer says the token that follows", found),
    ):
        if any(value is None for value in made):
            ctx.note("tokens", name, reason)
    return {
        "exit_depth": pa.array([None, *exits], pa.int64()),
        "settled_depth": pa.array([None, *settled], pa.int64()),
        "found_depth": pa.array([None, *found], pa.int64()),
        "final_id": pa.array([None, *final.tolist()], pa.int64()),
        "final": pa.concat_arrays([pa.nulls(1, pa.string()), texts]),
    }


def first(agrees: NDArray[np.bool_]) -> list[int | None]:
    """First layer of each column of [L + 1, n] that is true; None where none is."""
    there = np.asarray(agrees.any(0))
    return [int(at) if any_ else None for at, any_ in zip(agrees.argmax(0), there, strict=True)]


def last_from(agrees: NDArray[np.bool_]) -> list[int | None]:
    """First layer of each column of [L + 1, n] from which on all are true; None where none is."""
    wrong = ~agrees[::-1]
    steady = np.where(wrong.any(0), wrong.argmax(0), len(agrees))
    return [len(agrees) - int(many) if many else None for many in steady]


def _alternatives(ctx: Context, values: dict[str, NDArray[Any]], positions: list[int]) -> pa.Table:
    width = values["ids"].shape[2]
    if width < 2:
        return ALTERNATIVES.schema().empty_table()
    rows = np.array(positions, dtype=np.int64) - 1
    depth = values["ids"].shape[0]
    ids = values["ids"][:, rows].transpose(1, 0, 2).reshape(-1)
    texts, _ = ctx.token_texts(ids)
    return pa.table(
        {
            "layer": np.tile(np.repeat(np.arange(depth), width), len(rows)),
            "position": np.repeat(rows + 1, depth * width),
            "alternative_rank": np.tile(np.arange(1, width + 1), depth * len(rows)),
            "alternative_id": ids,
            "alternative": texts,
            "logprob": values["logprobs"][:, rows].transpose(1, 0, 2).reshape(-1),
        },
        schema=ALTERNATIVES.schema(),
    )
