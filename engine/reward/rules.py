"""``reward.rules``: which tokens would a trainer's clipping or masking rule drop?

A rule drops a token when the policy that is trained and the one that sampled disagree too much
about it. Each function takes log-probabilities of the sampled token under both and returns the
side on which the token leaves the rule's region: +1 above, −1 below, 0 when it is kept, NaN where
a value it needs is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.context import Context
from engine.errors import UserError
from engine.registry import analysis
from engine.reward.population import Floats, Seen, batches, model_values, signal, survey, tokens_of
from engine.reward.ruletables import DROPS, TOKENS, RulesParams
from engine.schema import Progress, Tables
from engine.subjects import Group, Rollouts, Trace

DCPO_HIGHEST = 10.0
"""The released DCPO code never lets the upper bound exceed this."""

TRAINED = ("trainer_logprob",)
SAMPLED = ("inference_logprob", "old_logprob", "logprob")


def outside(value: Floats, low: Floats | float, high: Floats | float) -> Floats:
    """Side of the interval [low, high] on which a value is: +1, −1, 0 inside, NaN for NaN."""
    side = (value > high).astype(np.float64) - (value < low).astype(np.float64)
    return np.where(np.isnan(value), np.nan, side)


def with_advantage(side: Floats, advantage: Floats) -> Floats:
    """Only what the objective stops: above with a positive advantage, below with a negative one."""
    stopped = np.where(side * advantage > 0, side, 0.0)
    return np.where(np.isnan(side) | np.isnan(advantage), np.nan, stopped)


def clipped(log_ratio: Floats, advantage: Floats, low: float, high: float) -> Floats:
    """PPO's clip: the gradient is 0 outside [1 − low, 1 + high] on the advantage's side."""
    return with_advantage(outside(np.exp(log_ratio), 1 - low, 1 + high), advantage)


def dcpo_bounds(old_probability: Floats, low: float, high: float) -> tuple[Floats, Floats]:
    """DCPO's bounds on the ratio r for a token of old probability q.

    They solve q r (1 − r) = ε_low and q r (r − 1) = ε_high: rare tokens may move further. Where
    no r solves the first, the lower bound is ½; the upper one is at most 10 (released code).
    """
    lower = 0.5 + 0.5 * np.sqrt(np.maximum(1 - 4 * low / old_probability, 0))
    upper = 0.5 + 0.5 * np.sqrt(1 + 4 * high / old_probability)
    return lower, np.minimum(upper, DCPO_HIGHEST)


def dppo(new: Floats, old: Floats, advantage: Floats, low: float, high: float) -> Floats:
    """DPPO's binary total variation: p_new − p_old outside [−low, high] on the advantage's side."""
    return with_advantage(outside(np.exp(new) - np.exp(old), -low, high), advantage)


def mismatch_kl(log_ratio: Floats) -> Floats:
    """e^r − 1 − r ≥ 0 of the log-ratio r: prime-rl's estimate of the divergence."""
    return np.expm1(log_ratio) - log_ratio


RULES = ("clip", "dcpo", "icepop", "dppo")


@analysis(
    "reward.rules",
    version=1,
    subject=(Group, Rollouts),
    models=("model", "old"),
    optional_models=("model", "old"),
    params=RulesParams,
    tables={"tokens": TOKENS, "drops": DROPS},
    title="What would my rule drop?",
    cite=(
        "Schulman et al. (2017), PPO, arXiv 1707.06347, eq. 7: the clip.",
        "Yu et al. (2025), DAPO, arXiv 2503.14476: clip-higher.",
        "Yang et al. (2025), DCPO, arXiv 2509.02333: dynamic bounds.",
        "Ling Team (2025), Ring-1T, arXiv 2510.18855: IcePop's double-sided mask.",
        "Qi et al. (2026), arXiv 2602.04879: DPPO.",
        "prime-rl, its default loss: thresholds of DPPO's mask, mismatch KL.",
    ),
    caveats=(
        "Clip, DCPO and DPPO stop a token only on the side its advantage pushes to; IcePop both.",
        "IcePop compares two engines of one policy, the others two policies.",
        "A log of trainer and inference log-probabilities shows both effects at once.",
        "DCPO's thresholds differ between its sources, so it runs only when both are given.",
        "Where the advantage is 0 there is nothing to clip.",
    ),
)
def rules(ctx: Context) -> Iterator[Progress | Tables]:
    """The ratio of every response token, and what each rule does to it.

    The ratio is p trained / p sampled of the very token. From a log: ``trainer_logprob`` over
    ``inference_logprob``. From models: role ``model`` over role ``old``, or over what the log says
    of the sampler where only ``model`` is named.
    """
    seen = yield from survey(ctx)
    ratios: dict[int, tuple[Floats, Floats, Floats]] = {}
    for one, trace in _with_traces(ctx, seen):
        new, old = _logprobs(ctx, trace)
        hidden = ~one.trained
        advantage = signal(trace, "advantage")
        if np.isnan(advantage).all():
            advantage = np.full(len(trace), one.advantage)
        for values in (new, old, advantage):
            values[hidden] = np.nan
        ratios[one.rollout] = new, old, advantage
        yield Progress(0.9, f"Ratios of rollout {one.rollout + 1:,}")
    if all(np.isnan(new - old).all() for new, old, _ in ratios.values()):
        raise UserError(
            "reward.rules needs two log-probabilities of each token: bring rollouts whose log has"
            " trainer_logprob and inference_logprob, or name models as model=NAME and old=NAME."
        )
    sides = {rollout: judged(ctx.params, *values) for rollout, values in ratios.items()}
    if ctx.params.dcpo_low is None:
        for column in ("dcpo_dropped", "dcpo_lowest", "dcpo_highest"):
            ctx.note("tokens", column, "DCPO's thresholds were not given: set dcpo_low, dcpo_high")
    yield Tables(
        tokens=tokens_of(
            ctx,
            seen,
            TOKENS,
            lambda one, trace: _columns(ctx.params, *ratios[one.rollout], sides[one.rollout]),
        ),
        drops=pa.Table.from_pylist(
            _drops(ctx.params, [(o, sides[o.rollout]) for o in seen]), schema=DROPS.schema()
        ),
    )


def judged(params: RulesParams, new: Floats, old: Floats, advantage: Floats) -> dict[str, Floats]:
    """The side of every token under every rule; see the module's text."""
    log_ratio = new - old
    nothing = np.full(len(new), np.nan)
    found = {
        "clip": clipped(log_ratio, advantage, params.clip_low, params.clip_high),
        "dcpo": nothing,
        "icepop": outside(np.exp(log_ratio), params.icepop_alpha, params.icepop_beta),
        "dppo": dppo(new, old, advantage, params.dppo_low, params.dppo_high),
    }
    if params.dcpo_low is not None and params.dcpo_high is not None:
        lower, upper = dcpo_bounds(np.exp(old), params.dcpo_low, params.dcpo_high)
        found["dcpo"] = with_advantage(outside(np.exp(log_ratio), lower, upper), advantage)
    return found


def _with_traces(ctx: Context, seen: Sequence[Seen]) -> Iterator[tuple[Seen, Trace]]:
    traces = (trace for batch in batches(ctx) for trace in batch.group.rollouts)
    yield from zip(seen, traces, strict=True)


def _logprobs(ctx: Context, trace: Trace) -> tuple[Floats, Floats]:
    """Log-probabilities of the tokens as trained and as sampled, [T] each, NaN where unknown."""
    models = ctx.plan.models if ctx.params.source != "log" else {}
    if ctx.params.source == "models" and not models:
        raise UserError("reward.rules: name the models as model=NAME and old=NAME.")
    new, old = first_signal(trace, TRAINED), first_signal(trace, SAMPLED)
    if "model" in models:
        new = model_values(ctx, trace, ("logprob",), "model")["logprob"].copy()
    if "old" in models:
        old = model_values(ctx, trace, ("logprob",), "old")["logprob"].copy()
    return new, old


def first_signal(trace: Trace, names: Sequence[str]) -> Floats:
    """The first of these signals that the log has; what its sampler kept for ``logprob``."""
    for name in names:
        if name in trace.signals:
            return signal(trace, name)
    whole = np.full(len(trace), np.nan)
    drawn = trace.sampling.logprobs if trace.sampling is not None else None
    if "logprob" in names and drawn and len(drawn) == len(trace) - trace.response_start:
        whole[trace.response_start :] = [np.nan if v is None else v for v in drawn]
    return whole


def _columns(
    params: RulesParams, new: Floats, old: Floats, advantage: Floats, sides: Mapping[str, Floats]
) -> dict[str, Any]:
    log_ratio = new - old
    low = high = np.full(len(new), np.nan)
    if params.dcpo_low is not None and params.dcpo_high is not None:
        low, high = dcpo_bounds(np.exp(old), params.dcpo_low, params.dcpo_high)
    columns: dict[str, Any] = {
        "advantage": advantage,
        "log_ratio": log_ratio,
        "ratio": np.exp(log_ratio),
        "mismatch_kl": mismatch_kl(log_ratio),
        "probability_change": np.exp(new) - np.exp(old),
        "dcpo_lowest": low,
        "dcpo_highest": high,
    }
    for rule in RULES:
        side = sides[rule]
        columns[f"{rule}_dropped"] = np.abs(side)
        columns[f"{rule}_side"] = [{1.0: "high", -1.0: "low"}.get(v) for v in side.tolist()]
    return columns


def _drops(
    params: RulesParams, parts: Sequence[tuple[Seen, Mapping[str, Floats]]]
) -> list[dict[str, Any]]:
    rows = []
    for rule in RULES:
        if rule == "dcpo" and params.dcpo_low is None:
            continue
        sides = np.concatenate([found[rule][one.trained] for one, found in parts])
        known = sides[~np.isnan(sides)]
        dropped = int(np.count_nonzero(known))
        rows.append(
            {
                "rule": rule,
                "tokens": int(known.size),
                "unjudged": int(sides.size - known.size),
                "dropped": dropped,
                "share": dropped / known.size if known.size else None,
                "high": int((known > 0).sum()),
                "low": int((known < 0).sum()),
                "rollouts": sum(bool(np.nansum(np.abs(found[rule]))) for _, found in parts),
            }
        )
    return rows
