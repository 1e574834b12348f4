"""GRPO's advantage of a group of rollouts: one definition for every signal that uses it.

Shao et al. 2024 (DeepSeekMath), arXiv 2402.03300, eq. 3 and section 4.1: the reward minus the mean
of its group, divided by the group's standard deviation. Trainers use the unbiased deviation
(``torch.std``) and add a small number to it: TRL adds 1e-4, verl 1e-6. Dr. GRPO (Liu et al. 2025,
arXiv 2503.20783) leaves the division out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Std = Literal["unbiased", "population", "none"]

TRL_EPSILON = 1e-4
"""What TRL's GRPOTrainer adds to the standard deviation."""
VERL_EPSILON = 1e-6
"""What verl's ``compute_grpo_outcome_advantage`` adds to the standard deviation."""

Rewards = Sequence[float | None] | ArrayLike


def reward_array(rewards: Rewards) -> NDArray[np.float64]:
    """The rewards as float64 [G]; a missing reward (``None`` or NaN) is NaN."""
    if isinstance(rewards, np.ndarray):
        return rewards.astype(np.float64)
    if isinstance(rewards, Sequence):
        return np.array([np.nan if r is None else float(r) for r in rewards], dtype=np.float64)
    return np.asarray(rewards, dtype=np.float64)


def advantages(
    rewards: Rewards, std: Std = "unbiased", epsilon: float = VERL_EPSILON
) -> NDArray[np.float64]:
    """GRPO's advantage of each rollout of one group: ``(r - mean) / (std + epsilon)``.

    Args:
        rewards: one real reward for each rollout [G]; a missing one is ``None`` or NaN.
        std: "unbiased" divides the squared deviations by n - 1 (TRL, verl), "population" by n
            (the papers), "none" does not divide at all (Dr. GRPO).
        epsilon: added to the standard deviation; not used with "none".

    Returns:
        Float64 [G]. A rollout without a finite reward is NaN and does not enter the mean; a group
        with fewer than two rewards is all NaN. Equal rewards give exactly 0, as in the trainers;
        ``undefined`` says why such a group teaches nothing.
    """
    values = reward_array(rewards)
    known = np.isfinite(values)
    out = np.full(values.shape, np.nan)
    held = values[known]
    if held.size < 2:
        return out
    if float(held.min()) == float(held.max()):  # the mean may be off by one rounding
        out[known] = 0.0
        return out
    centred = held - held.mean()
    if std == "none":
        out[known] = centred
    else:
        out[known] = centred / (held.std(ddof=1 if std == "unbiased" else 0) + epsilon)
    return out


def undefined(rewards: Rewards) -> str | None:
    """Why a group gives no token of it a direction, or ``None`` where it does.

    Args:
        rewards: one reward for each rollout [G]; a missing one is ``None`` or NaN.

    Returns:
        One sentence for the notes table, or ``None``.
    """
    values = reward_array(rewards)
    held = values[np.isfinite(values)]
    if held.size == 0:
        return "No rollout of this group has a reward."
    if held.size < 2:
        return "Only one rollout of this group has a reward, so there is nothing to compare it to."
    if float(held.min()) == float(held.max()):
        return (
            f"All {held.size} rewards of this group are equal ({held[0]:g}): the advantage of each"
            " rollout is 0 and the step has no direction."
        )
    return None
