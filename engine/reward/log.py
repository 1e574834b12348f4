"""``reward.log``: what a training log says of every token, without a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pyarrow as pa

from engine.context import Context
from engine.errors import UserError
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

Row = Sequence[float | None]


def _nats(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "nats", label)


TOKENS = Table(
    per_token=True,
    doc="One row per token; a value describes the prediction of that token.",
    columns={
        "inference_logprob": _nats(
            "inference log-probability", "Of the engine that drew the token, as logged."
        ),
        "trainer_logprob": _nats(
            "trainer log-probability", "Of the policy as the trainer computed it, as logged."
        ),
        "log_ratio": _nats("log ratio", "Trainer minus inference log-probability."),
        "ratio": Column(
            pa.float64(), "Importance ratio: trainer over inference probability.", "", "ratio"
        ),
        "mismatch_kl": _nats(
            "mismatch KL", "e^r - 1 - r with r the log ratio; its mean estimates the divergence."
        ),
        "ref_logprob": _nats("reference log-probability", "Of the reference model, as logged."),
        "kl_ref": _nats(
            "KL to reference", "e^r - 1 - r with r = reference minus policy log-probability."
        ),
        "entropy": _nats("entropy", "Of the trainer's prediction, as logged."),
        "loss_mask": Column(
            pa.bool_(), "Whether the trainer learns from the token.", "", "trained"
        ),
        "reward": Column(pa.float64(), "Reward of the rollout, as logged.", "", "reward"),
        "advantage": Column(pa.float64(), "Advantage, as logged.", "", "advantage"),
    },
)
_NEEDED = {
    "inference_logprob": "log-probabilities of the inference engine",
    "trainer_logprob": "log-probabilities of the trainer",
    "ref_logprob": "log-probabilities of a reference model",
    "entropy": "entropy",
    "loss_mask": "loss mask",
    "reward": "reward in its per-token values",
    "advantage": "advantage",
}


@analysis(
    "reward.log",
    version=1,
    subject=Trace,
    models=(),
    tables={"tokens": TOKENS},
    title="What does the training log say of every token?",
    cite=(
        "Schulman (2020), Approximating KL Divergence: the estimator e^r - 1 - r.",
        "Prime Intellect, prime-rl, trainer/rl/token_export.py: log ratio and mismatch KL.",
        "Shao et al. (2024), DeepSeekMath, arXiv 2402.03300, eq. 4: divergence from a reference.",
    ),
    caveats=(
        "A log does not say whether its numbers are those after temperature, top-k or top-p.",
        "A single token's e^r - 1 - r is no divergence: only its mean over drawn tokens is one.",
        "Where the log has one set of log-probabilities only, there is no importance ratio.",
    ),
)
def log(ctx: Context) -> Iterator[Progress | Tables]:
    """Importance ratio, mismatch KL, KL to the reference, and what else the log brought along.

    r = log p_trainer - log p_inference is the log of the importance ratio; ``mismatch_kl`` is
    e^r - 1 - r. ``kl_ref`` is the same of log p_reference - log p_policy, the policy being the
    trainer's where it is logged, else the inference engine's. A log ratio that was logged without
    its two parts is taken as it is.
    """
    trace: Trace = ctx.subject
    logged = {name: _logged(trace, name) for name in _NEEDED if name != "loss_mask"}
    direct = trace.signals.get("logged_log_ratio")
    if trace.trainable is None and direct is None and not any(_some(v) for v in logged.values()):
        raise UserError(
            "This trace carries nothing of a training log: open the log of the run as rollouts."
        )
    ratio: Row = _minus(logged["trainer_logprob"], logged["inference_logprob"])
    if not _some(ratio) and direct is not None:
        ratio = direct
    drawn = logged["trainer_logprob"]
    policy = drawn if _some(drawn) else logged["inference_logprob"]
    away = _minus(logged["ref_logprob"], policy)
    columns: dict[str, Sequence[float | bool | None]] = {
        **logged,
        "log_ratio": ratio,
        "ratio": [_exp(r) for r in ratio],
        "mismatch_kl": [k3(r) for r in ratio],
        "kl_ref": [k3(r) for r in away],
        "loss_mask": trace.trainable or (None,) * len(trace),
    }
    _explain(ctx, columns)
    arrays = {name: pa.array(columns[name], c.type) for name, c in TOKENS.columns.items()}
    yield Tables(tokens=ctx.per_token(arrays))


def k3(r: float | None) -> float | None:
    """e^r - 1 - r, at least 0; None where it is unknown or too large for a number."""
    grown = None if r is None else _exp(r)
    return None if grown is None or r is None else max(math.expm1(r) - r, 0.0)


def _logged(trace: Trace, name: str) -> Row:
    return trace.signals.get(name, (None,) * len(trace))


def _some(values: Row) -> bool:
    return any(value is not None for value in values)


def _minus(left: Row, right: Row) -> list[float | None]:
    return [None if a is None or b is None else a - b for a, b in zip(left, right, strict=True)]


def _exp(r: float | None) -> float | None:
    try:
        return None if r is None else math.exp(r)
    except OverflowError:
        return None


def _explain(ctx: Context, columns: dict[str, Sequence[float | bool | None]]) -> None:
    """A note for every column without a value, and for single values that are missing."""
    for name, what in _NEEDED.items():
        if not any(v is not None for v in columns[name]):
            ctx.note("tokens", name, f"the log has no {what}")
    for name, why in (
        ("log_ratio", "it needs the log-probabilities of both trainer and inference engine"),
        ("kl_ref", "it needs the log-probabilities of the reference model and of the policy"),
    ):
        if not any(v is not None for v in columns[name]):
            for column in (name, *(("ratio", "mismatch_kl") if name == "log_ratio" else ())):
                ctx.note("tokens", column, why)
        elif any(v is None for v in columns[name]):
            ctx.note("tokens", name, "tokens without logged log-probabilities have none")
    for position, (r, ratio) in enumerate(zip(columns["log_ratio"], columns["ratio"], strict=True)):
        if r is not None and ratio is None:
            for column in ("ratio", "mismatch_kl"):
                ctx.note("tokens", column, "too large for a number", position=position)
