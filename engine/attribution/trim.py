"""``attribution.trim``: which tokens look like those that the target samples attend to."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.attribution.fingerprints import Fingerprints, Floats, Saliency, directions, score
from engine.attribution.settings import ATTRIBUTION
from engine.context import Context
from engine.errors import UserError
from engine.limits.caps import READS
from engine.plan import check_trace
from engine.records import iter_groups
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Rollouts, Trace
from engine.tokenization import show

if TYPE_CHECKING:
    from engine.models import LoadedModel


class TrimParams(Params):
    """How saliency and fingerprints are made. The defaults are ours: the paper's are not public."""

    layers: int = Field(
        4, ge=1, le=1000, title="layers", description="How many of the last layers are read."
    )
    penalty: float = Field(
        0.5,
        gt=0,
        le=1,
        title="penalty",
        description="Factor of tokens that no target sample has: they take the nearest's place.",
    )
    samples: int = Field(
        8,
        ge=1,
        le=1000,
        title="target samples",
        description="Of several rollouts the first so many are the target samples (paper: 5-10).",
        json_schema_extra=READS,
    )


def _number(doc: str, label: str) -> Column:
    return Column(pa.float64(), doc, "", label)


TOKENS = Table(
    doc="One row per token that is scored or in a target sample; special tokens are neither.",
    columns={
        "group": Column(pa.string(), "Name of the prompt."),
        "rollout": Column(pa.int64(), "Number of the trace."),
        "position": Column(pa.int64(), "Place in the sequence, from 0."),
        "token_id": Column(pa.int64(), "Id in the model's vocabulary."),
        "token": Column(pa.string(), "The token's text; bytes that are no UTF-8 as \\xNN."),
        "part": Column(pa.string(), "sample (makes the fingerprints) or candidate (is scored)."),
        "row_saliency": _number("Our form: 1 − entropy of its attention / the most possible.", "Q"),
        "column_saliency": _number("Our form: mean attention from later tokens over the max.", "K"),
        "saliency": _number("½ Q + ½ K: its weight in the fingerprint.", "saliency"),
        "score": _number("Cosine with the fingerprint of its id, or of the nearest one.", "score"),
        "compared_id": Column(pa.int64(), "Id whose fingerprint that is."),
        "known": Column(pa.bool_(), "Whether its own id has a fingerprint."),
    },
)

SAMPLES = Table(
    doc="One row per trace that is scored.",
    columns={
        "group": Column(pa.string(), "Name of the prompt."),
        "rollout": Column(pa.int64(), "Number of the trace."),
        "tokens": Column(pa.int64(), "Tokens scored."),
        "known": Column(pa.int64(), "Of them, with a fingerprint of their own id."),
        "score": _number("½ mean + ½ largest score of its tokens.", "score"),
    },
)


@analysis(
    "attribution.trim",
    version=1,
    subject=(Trace, Group, Rollouts),
    params=TrimParams,
    tables={"tokens": TOKENS, "samples": SAMPLES, "attribution": ATTRIBUTION},
    title="Which tokens look like what the target attends to (TRIM, in our form)?",
    cite=("TRIM, arXiv 2510.07118: fingerprints of target samples, scores of candidate tokens.",),
    caveats=(
        "The paper's exact saliencies are not public: their form, layers and penalty are ours.",
        "States are those of the token's own position, not of the prediction of it.",
        "Saliency is about the target samples; how a candidate is attended to does not count.",
    ),
)
def trim(ctx: Context) -> Iterator[Progress | Tables]:
    """``f_t = norm(Σ α ĥ)`` for each token id t of the target samples; score cos(ĥ_j, f_{t_j}).

    α is half row and half column saliency over the last layers, ĥ the last hidden state at length
    1. An id without a fingerprint takes that of the nearest id by input embedding, times
    ``penalty``. Of a single trace the response is the target sample and the prompt's tokens are
    scored; of several rollouts the first ``samples`` are, and the responses of the others are
    scored. The first and the last position have no saliency and are in no fingerprint.
    """
    model = ctx.models["model"]
    traces = _traces(ctx)
    one = isinstance(ctx.subject, Trace)
    wanted = 1 if one else ctx.params.samples
    prints = Fingerprints()
    rows: list[dict[str, Any]] = []
    chosen = list(islice(traces, wanted))
    for number, (group, trace) in enumerate(chosen):
        yield Progress(number / max(wanted, 1), f"Target sample {number + 1:,} of {wanted:,}")
        rows += _sample(ctx, model, trace, prints, {"group": group, "rollout": number})
    if not prints.sums:
        raise UserError("The target samples have no response tokens with a saliency: give others.")
    scorer = _Scorer(model, prints, ctx.params.penalty)
    scored: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    candidates: Any = (
        [(0, *chosen[0])] if one else ((len(chosen) + i, *t) for i, t in enumerate(traces))
    )
    for number, group, trace in candidates:
        yield Progress(None, f"Scoring trace {number + 1:,}")
        label = {"group": group, "rollout": number}
        mine = scorer.rows(trace, label, prompt=one)
        scored += mine
        samples.append({**label, **_sample_score(mine)})
    if not samples:
        raise UserError(
            f"All {len(chosen):,} rollouts are target samples: give more, or set samples to fewer."
        )
    _say_what_is_empty(ctx, one, samples)
    yield Tables(
        tokens=pa.Table.from_pylist(rows + scored, schema=TOKENS.schema()),
        samples=pa.Table.from_pylist(samples, schema=SAMPLES.schema()),
        attribution=_attribution(ctx.subject if one else None, scored),
    )


def _traces(ctx: Context) -> Iterator[tuple[str | None, Trace]]:
    subject = ctx.subject
    if isinstance(subject, Trace):
        yield None, subject
        return
    for group in iter_groups(subject) if isinstance(subject, Rollouts) else [subject]:
        for trace in group.rollouts:
            if isinstance(subject, Rollouts):  # others were checked before
                check_trace(trace, ctx.plan.models["model"])
            yield group.prompt_id, trace


def _places(trace: Trace, *, prompt: bool) -> list[int]:
    """Positions of the prompt's, or the response's, tokens without special ones."""
    cut, special = trace.response_start, set(trace.special)
    span = range(cut) if prompt else range(cut, len(trace))
    return [p for p in span if p not in special]


def _row(trace: Trace, position: int, part: str, label: dict[str, Any]) -> dict[str, Any]:
    return {
        **label,
        "position": position,
        "token_id": trace.ids[position],
        "token": show(trace.pieces[position]),
        "part": part,
    }


def _sample(
    ctx: Context,
    model: LoadedModel,
    trace: Trace,
    prints: Fingerprints,
    label: dict[str, Any],
) -> list[dict[str, Any]]:
    """Add the response of a target sample to the fingerprints; its rows."""
    places = _places(trace, prompt=False)
    if not places:
        return []
    saliency = Saliency(len(trace))
    last = range(max(0, model.layers - ctx.params.layers), model.layers)
    model.visit_attention(trace.ids, saliency, layers=list(last))
    states = directions(model, trace.ids)
    alpha = saliency.both
    prints.add([trace.ids[p] for p in places], states[places], alpha[places])
    return [
        {
            **_row(trace, p, "sample", label),
            "row_saliency": _known(saliency.rows[p]),
            "column_saliency": _known(saliency.columns[p]),
            "saliency": _known(alpha[p]),
        }
        for p in places
    ]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


class _Scorer:
    """Scores tokens of candidates against finished fingerprints."""

    def __init__(self, model: LoadedModel, prints: Fingerprints, penalty: float) -> None:
        self.model, self.penalty = model, penalty
        self.known, self.prints = prints.made()
        self._embeddings = self._embed(self.known)

    def _embed(self, ids: list[int]) -> Floats:
        import torch

        table: Any = self.model.model.get_input_embeddings()
        with torch.no_grad():
            found: Floats = (
                table(torch.tensor(ids, device=self.model.device)).double().cpu().numpy()
            )
        return found

    def rows(self, trace: Trace, label: dict[str, Any], *, prompt: bool) -> list[dict[str, Any]]:
        """Rows of the scored tokens of a trace."""
        places = _places(trace, prompt=prompt)
        if not places:
            return []
        ids = [trace.ids[p] for p in places]
        states = directions(self.model, trace.ids)[places]
        values, compared = score(
            ids,
            states,
            self.known,
            self.prints,
            self._embed(ids),
            self._embeddings,
            self.penalty,
        )
        return [
            {
                **_row(trace, p, "candidate", label),
                "score": float(value),
                "compared_id": other,
                "known": other == trace.ids[p],
            }
            for p, value, other in zip(places, values, compared, strict=True)
        ]


def _sample_score(rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = [row["score"] for row in rows]
    return {
        "tokens": len(rows),
        "known": sum(row["known"] for row in rows),
        "score": (float(np.mean(values)) + max(values)) / 2 if values else None,
    }


def _attribution(trace: Trace | None, rows: list[dict[str, Any]]) -> pa.Table:
    """Scores of the prompt's tokens with the whole response as the target."""
    if trace is None:
        return ATTRIBUTION.schema().empty_table()
    start, end = trace.response_start, len(trace)
    text = show(b"".join(trace.pieces[start:end]))
    made = [
        {
            "target": text,
            "target_position": start,
            "target_end": end,
            "source": row["token"],
            "source_position": row["position"],
            "source_end": row["position"] + 1,
            "score": row["score"],
        }
        for row in rows
    ]
    return pa.Table.from_pylist(made, schema=ATTRIBUTION.schema())


def _say_what_is_empty(ctx: Context, one: bool, samples: list[dict[str, Any]]) -> None:
    ctx.note("tokens", "saliency", "the first and the last position of a text have none")
    ctx.note("tokens", "score", "tokens of target samples are not scored")
    ctx.note("tokens", "row_saliency", "saliency is read in target samples only")
    if not one:
        ctx.note("attribution", None, "of several rollouts no one has a target: see tokens")
    if any(row["score"] is None for row in samples):
        ctx.note("samples", "score", "there is no token to score")
