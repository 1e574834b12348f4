"""Rollouts as a population: rewards, advantages, trained tokens, and tables with their keys.

A threshold of the RLVR literature (a quantile of the entropy, a z-score, a min-max) is one number
of a whole batch. Here the batch is what was handed in: a group, or a file of groups, which is
streamed twice: once for the numbers, once for the rows. Between the passes only arrays are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.checkers import expected_of, judge
from engine.context import Context
from engine.errors import UserError
from engine.records import iter_groups
from engine.result import Request
from engine.reward.grpo import advantages, reward_array, undefined
from engine.reward.populationtables import POPULATION, AdvantageParams, JudgedParams
from engine.schema import Progress, Table
from engine.signalsource import floats
from engine.subjects import Group, Rollouts, Trace

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LOGGED: Mapping[str, tuple[str, ...]] = {
    "logprob": ("trainer_logprob", "logprob", "inference_logprob"),
    "entropy": ("entropy",),
}
"""Names under which a log may bring what ``statistics`` computes, the best first."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One group of the population.

    Attributes:
        group: the group itself.
        number: of the group, from 0.
        first: number of its first rollout in the population.
    """

    group: Group
    number: int
    first: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of one rollout between the passes.

    Attributes:
        name: of its group.
        group: number of its group.
        rollout: its number in the population.
        reward, advantage: NaN where unknown or undefined.
        trained: response tokens that count in the loss, [T].
        values: statistics by name, [T] each, NaN where missing.
    """

    name: str | None
    group: int
    rollout: int
    reward: float
    advantage: float
    trained: Bools
    values: Mapping[str, Floats]

    def trained_values(self, name: str) -> Floats:
        """A statistic of the trained tokens only, NaN included."""
        return self.values[name][self.trained]

    def spread(self, values: Floats) -> Floats:
        """Values of the trained tokens at their places, NaN elsewhere, [T]."""
        whole = np.full(len(self.trained), np.nan)
        whole[self.trained] = values
        return whole


def batches(ctx: Context) -> Iterator[Batch]:
    """The groups of the subject, streamed from a file."""
    subject = ctx.subject
    groups = iter_groups(subject) if isinstance(subject, Rollouts) else [subject]
    first = 0
    for number, group in enumerate(groups):
        yield Batch(group, number, first)
        first += len(group.rollouts)


def count_of(ctx: Context) -> int:
    """How many rollouts the subject has."""
    subject = ctx.subject
    return max(1, subject.count if isinstance(subject, Rollouts) else len(subject.rollouts))


def rewards_of(group: Group, checker: str = "answer", answer: str | None = None) -> Floats:
    """The group's rewards [G], NaN where there is none.

    A reward of the log stands. Where it is missing the checker gives 1 or 0, if the right answer
    is known; a response without an answer is wrong.

    Raises:
        UserError: for an unknown checker, or one that would run a file's text as a program.
    """
    rewards = reward_array(group.rewards)
    rewards[~np.isfinite(rewards)] = np.nan
    missing = np.flatnonzero(np.isnan(rewards))
    expected = expected_of(checker, answer, group.expected) if missing.size else ""
    if expected:
        verdict = judge(checker, expected)
        for index in missing:
            rewards[index] = float(verdict(group.rollouts[index]) is True)
    return rewards


def trained_of(trace: Trace) -> Bools:
    """Tokens that count in the loss [T]: the response, less what the log's loss mask leaves out.

    The first token of a sequence has no prediction and never counts.
    """
    marks = np.zeros(len(trace), bool)
    marks[max(trace.response_start, 1) :] = True
    if trace.trainable is not None:
        marks &= np.array(trace.trainable, bool)
    return marks


def token_values(ctx: Context, trace: Trace, names: Sequence[str]) -> dict[str, Floats]:
    """Statistics of every token by name, [T]: of the model, else of the log; NaN if neither."""
    if not names:
        return {}
    if "model" in ctx.plan.models:
        return model_values(ctx, trace, names, "model")
    return {name: _logged(trace, LOGGED.get(name, (name,))) for name in names}


def model_values(ctx: Context, trace: Trace, names: Sequence[str], role: str) -> dict[str, Floats]:
    """Statistics of every token under the model of a role, [T] each."""
    ref = ctx.plan.models[role].ref
    table = ctx.run(Request("statistics", trace, {"model": ref})).table("tokens")
    return {name: floats(table, name) for name in names}


def _logged(trace: Trace, names: Sequence[str]) -> Floats:
    for name in names:
        if name in trace.signals:
            return signal(trace, name)
    drawn = trace.sampling.logprobs if trace.sampling is not None else None
    whole = np.full(len(trace), np.nan)
    if "logprob" in names and drawn and len(drawn) == len(trace) - trace.response_start:
        whole[trace.response_start :] = [np.nan if v is None else v for v in drawn]
    return whole


def signal(trace: Trace, name: str) -> Floats:
    """A signal of the log, [T], NaN where it has none."""
    given = trace.signals.get(name, (None,) * len(trace))
    return np.array([np.nan if v is None else v for v in given], dtype=np.float64)


def survey(
    ctx: Context, names: Sequence[str] = (), table: str | None = "tokens"
) -> Generator[Progress, None, list[Seen]]:
    """First pass: rewards, advantages and statistics of every rollout.

    Args:
        names: columns of ``statistics`` that are needed.
        table: where to note that a group has no advantage; None when that does not matter.

    Raises:
        UserError: when neither a model nor the log gives a statistic to any token.
    """
    seen: list[Seen] = []
    total = count_of(ctx)
    for batch in batches(ctx):
        rewards, advantage = advantages_of(ctx, batch, table)
        for index, trace in enumerate(batch.group.rollouts):
            seen.append(
                Seen(
                    name=batch.group.prompt_id,
                    group=batch.number,
                    rollout=batch.first + index,
                    reward=float(rewards[index]),
                    advantage=float(advantage[index]),
                    trained=trained_of(trace),
                    values=token_values(ctx, trace, names),
                )
            )
            yield Progress(0.9 * len(seen) / total, f"Rollout {len(seen):,} of {total:,}")
    for name in names:
        if all(np.isnan(one.trained_values(name)).all() for one in seen):
            raise UserError(
                f"{ctx.plan.analysis.name} needs the {name} of the response tokens, which neither"
                " a model nor the log gives: name a model, for example demo."
            )
    return seen


def advantages_of(ctx: Context, batch: Batch, table: str | None) -> tuple[Floats, Floats]:
    """Rewards and advantages of a group, NaN and noted where the group gives no direction."""
    params = ctx.params
    if not isinstance(params, JudgedParams):
        return reward_array(batch.group.rewards), np.full(len(batch.group.rollouts), np.nan)
    rewards = rewards_of(batch.group, params.checker, params.answer)
    reason = undefined(rewards)
    found = advantages(rewards)
    if isinstance(params, AdvantageParams):
        found = advantages(rewards, params.std, params.epsilon)
    if reason is not None:
        found = np.full(len(rewards), np.nan)
    for index, value in enumerate(found):
        if np.isnan(value) and table is not None:
            why = reason or "This rollout has no reward."
            ctx.note(table, "advantage", why, rollout=batch.first + index)
    return rewards, found


def pooled(seen: Sequence[Seen], name: str) -> Floats:
    """A statistic of all trained tokens of the population, in order, without missing ones."""
    parts = [one.trained_values(name) for one in seen]
    values = np.concatenate(parts) if parts else np.zeros(0)
    return values[~np.isnan(values)]


def unpooled(seen: Sequence[Seen], name: str, values: NDArray[Any]) -> dict[int, Floats]:
    """Values computed over ``pooled`` back at their places: by rollout, [T] each, NaN elsewhere."""
    found: dict[int, Floats] = {}
    start = 0
    for one in seen:
        places = np.flatnonzero(one.trained & ~np.isnan(one.values[name]))
        whole = np.full(len(one.trained), np.nan)
        whole[places] = values[start : start + places.size]
        found[one.rollout] = whole
        start += places.size
    return found


def population_row(
    seen: Sequence[Seen], name: str, quantity: str, level: float | None, threshold: float | None
) -> dict[str, Any]:
    """A row of the table ``population`` for a threshold over the trained tokens."""
    parts = [one.trained_values(name) for one in seen]
    known = [int((~np.isnan(part)).sum()) for part in parts]
    there = [one for one, count in zip(seen, known, strict=True) if count]
    return {
        "quantity": quantity,
        "level": level,
        "threshold": threshold,
        "tokens": sum(known),
        "missing": sum(part.size for part in parts) - sum(known),
        "rollouts": len(there),
        "groups": len({one.group for one in there}),
    }


def population_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The table ``population`` of these rows."""
    return pa.Table.from_pylist(list(rows), schema=POPULATION.schema())


def rollout_row(one: Seen) -> dict[str, Any]:
    """What every table of rollouts says of a rollout."""
    return {
        "group": one.name,
        "rollout": one.rollout,
        "tokens": int(one.trained.sum()),
        "reward": none_if_nan(one.reward),
        "advantage": none_if_nan(one.advantage),
    }


def none_if_nan(value: float) -> float | None:
    """The value, None for NaN."""
    return None if np.isnan(value) else float(value)


def looking_at(ctx: Context, trace: Trace) -> Context:
    """The same context with one of the traces as its subject; notes are shared."""
    view = copy.copy(ctx)
    view.subject = trace
    return view


def tokens_of(
    ctx: Context,
    seen: Sequence[Seen],
    declared: Table,
    columns_of: Callable[[Seen, Trace], Mapping[str, Any]],
) -> pa.Table:
    """Second pass: one row per token of every rollout, prompts included.

    Args:
        seen: of the first pass.
        declared: the table, made by ``tokens_schema``.
        columns_of: the method's columns of a rollout, [T] each; NaN is null.
    """
    ctx.note("tokens", None, "prompt tokens and tokens outside the loss mask are not trained")
    parts = []
    traces = (trace for batch in batches(ctx) for trace in batch.group.rollouts)
    for one, trace in zip(seen, traces, strict=True):
        keys = {"group": [one.name] * len(trace), "rollout": [one.rollout] * len(trace)}
        given = {**keys, **columns_of(one, trace)}
        arrays = {
            name: _array(given[name], column.type) for name, column in declared.columns.items()
        }
        parts.append(looking_at(ctx, trace).per_token(arrays))
    if not parts:
        return declared.schema().empty_table()
    return pa.concat_tables(parts).combine_chunks()  # one chunk is stored much faster than many


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray):
        return pa.array(values.astype(np.float64), pa.float64(), from_pandas=True).cast(kind)
    return pa.array(values, kind)
