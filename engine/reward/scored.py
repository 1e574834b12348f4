"""A group of rollouts with its rewards: who is right, which advantage, which tokens are trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from engine.checkers import expected_of, judge
from engine.context import Context
from engine.errors import UserError
from engine.plan import check_trace
from engine.records import iter_groups
from engine.registry import Params
from engine.reward.grpo import VERL_EPSILON, Std, advantages, undefined
from engine.subjects import Group, Rollouts, Trace

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class RewardParams(Params):
    """Where rewards come from and what GRPO makes of them."""

    answer: str | None = Field(
        None,
        title="Right answer",
        description="Judges rollouts that came without a reward; a log's own answer if empty.",
        coerce_numbers_to_str=True,
    )
    checker: str = Field(
        "answer", title="Checker", description="How an answer is compared with the right one."
    )
    success_threshold: float = Field(
        0.5, title="Right from", description="A rollout is right if its reward is at least this."
    )
    std: Std = Field(
        "unbiased",
        title="Deviation",
        description="Of the rewards, dividing by n − 1 (trainers) or n (papers); none: Dr. GRPO.",
    )
    epsilon: float = Field(
        VERL_EPSILON,
        ge=0,
        le=1,
        title="ε",
        description="Added to the deviation: verl takes 1e-6, TRL 1e-4.",
    )
    average: Literal["response", "tokens"] = Field(
        "response",
        title="Averaged over",
        description="The loss is a mean of each response's mean (GRPO), or of all tokens (DAPO).",
    )


class OneGroupParams(RewardParams):
    """The same for one group of a file."""

    group: str | None = Field(
        None,
        title="Group",
        description="The log's name of the prompt, where a file holds several.",
        coerce_numbers_to_str=True,
    )


@dataclass(frozen=True, eq=False)
class Scored:
    """A group as a trainer sees it. A *row* is a trained token of a rollout that has a reward.

    Attributes:
        name: the log's name of the prompt.
        first: number of its first rollout in the subject.
        traces: its G rollouts.
        rewards: [G], NaN where there is none.
        judged: [G], whether the reward came from the checker.
        correct: [G], False where there is no reward.
        advantage: [G], NaN where there is none.
        rollout: [N] index of each row's rollout within the group, ascending.
        position: [N] each row's position in its trace, ascending within a rollout.
        lengths: [G] rows of each rollout, |y_i|.
        average: see ``RewardParams``.
    """

    name: str | None
    first: int
    traces: tuple[Trace, ...]
    rewards: Floats
    judged: npt.NDArray[np.bool_]
    correct: npt.NDArray[np.bool_]
    advantage: Floats
    rollout: Ints
    position: Ints
    lengths: Ints
    average: Literal["response", "tokens"]

    @property
    def target(self) -> Ints:
        """[N] ids of the rows' tokens."""
        pairs = zip(self.rollout, self.position, strict=True)
        return np.array([self.traces[i].ids[p] for i, p in pairs], np.int64)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """[N] whether a row's rollout is correct."""
        return self.correct[self.rollout]

    @property
    def per_length(self) -> Floats:
        """[N] 1/|y_i|."""
        return 1.0 / self.lengths[self.rollout]

    @property
    def weights(self) -> Floats:
        """[N] what GRPO's gradient multiplies ∇ log p of a row with, on policy.

        A_j / (G |y_j|), or A_j / Σ|y| when averaged over tokens; G counts rollouts with a reward.
        Zero where the advantage is undefined.
        """
        advantage = np.nan_to_num(self.advantage)[self.rollout]
        if self.average == "tokens":
            return advantage / max(1, len(self.rollout))
        return advantage * self.per_length / np.isfinite(self.rewards).sum()

    @property
    def one_sided(self) -> str | None:
        """Why no token can be said to help or hurt the right answers; None where it can."""
        known = np.isfinite(self.rewards)
        if not known.any():
            return undefined(self.rewards)
        if not self.correct.any():
            return f"None of the {known.sum():,} rollouts is right: there is nothing to help."
        if (self.correct == known).all():
            return f"All {known.sum():,} rollouts are right: there is nothing to compare them with."
        if not self.lengths[self.correct].any():
            return "No right rollout has a token that is trained."
        return None

    def row(self, rollout: int, position: int) -> int | None:
        """Index of the row at a place, rollouts counted within the group; None if there is none."""
        found = np.flatnonzero((self.rollout == rollout) & (self.position == position))
        return int(found[0]) if found.size else None


def groups_of(ctx: Context) -> Iterator[Scored]:
    """The groups of a ``Group`` or of ``Rollouts``, one at a time, with notes on missing rewards.

    Raises:
        UserError: for ids the model cannot read, or a checker that cannot judge.
    """
    first = 0
    groups = iter_groups(ctx.subject) if isinstance(ctx.subject, Rollouts) else [ctx.subject]
    for group in groups:
        for trace in group.rollouts:
            for model in ctx.plan.models.values():
                check_trace(trace, model)
        yield score(ctx, group, first)
        first += len(group.rollouts)


def the_group(ctx: Context) -> Scored:
    """The one group an analysis is about: the subject, or the one of a file that is named.

    Its rollouts are numbered from 0.

    Raises:
        UserError: the file holds several and none of them is named, or no such one.
    """
    name = ctx.params.group
    if isinstance(ctx.subject, Group):
        return score(ctx, ctx.subject)
    known: list[str] = []
    found: Group | None = None
    for group in iter_groups(ctx.subject):
        known.append(str(group.prompt_id))
        if name is None and found is not None:
            raise UserError(
                f"The file holds several prompts, {known[0]} and {known[1]} among them: name one "
                "as group."
            )
        if name is None or name == group.prompt_id:
            found = group
            if name is not None:
                break
    if found is None:
        few = ", ".join(known[:3])
        raise UserError(f"The file holds no prompt {name!r}: name one of {few} as group.")
    for trace in found.rollouts:
        for model in ctx.plan.models.values():
            check_trace(trace, model)
    return score(ctx, found)


def score(ctx: Context, group: Group, first: int = 0) -> Scored:
    """Give every rollout its reward and advantage.

    A reward of the log stands. Where it is missing the checker gives 1 or 0; a response without an
    answer is wrong.
    """
    params: RewardParams = ctx.params
    rewards = np.array([np.nan if r is None else r for r in group.rewards], np.float64)
    rewards[~np.isfinite(rewards)] = np.nan
    judged = np.isnan(rewards)
    if judged.any():
        expected = expected_of(params.checker, params.answer, group.expected)
        verdict = judge(params.checker, expected) if expected else None
        for index in np.flatnonzero(judged):
            if verdict is not None:
                rewards[index] = float(verdict(group.rollouts[index]) is True)
                continue
            reason = "the log gives no reward, and no right answer is known: give it as answer"
            ctx.note("tokens", "reward", reason, rollout=first + int(index))
    correct = rewards >= params.success_threshold
    rows = [
        trained(trace) if np.isfinite(reward) else np.empty(0, np.int64)
        for trace, reward in zip(group.rollouts, rewards, strict=True)
    ]
    lengths = np.array([len(r) for r in rows], np.int64)
    return Scored(
        name=group.prompt_id,
        first=first,
        traces=group.rollouts,
        rewards=rewards,
        judged=judged & np.isfinite(rewards),
        correct=correct,
        advantage=advantages(rewards, params.std, params.epsilon),
        rollout=np.repeat(np.arange(len(rows)), lengths),
        position=np.concatenate(rows),
        lengths=lengths,
        average=params.average,
    )


def trained(trace: Trace) -> Ints:
    """Positions of the tokens a trainer's loss is about: the response inside the loss mask.

    The first token of a sequence is never among them: nothing predicts it.
    """
    mask = trace.trainable
    places = range(max(1, trace.response_start), len(trace))
    return np.array([p for p in places if mask is None or mask[p]], np.int64)
