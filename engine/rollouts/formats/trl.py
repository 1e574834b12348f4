"""TRL: ``completions/completions_{step}.parquet`` of ``GRPOTrainer`` with ``log_completions``.

A row holds ``step``, ``prompt``, ``completion``, a column for each reward function, in newer
versions ``advantage``, and columns that reward functions logged on their own. The weights of the
reward functions are not in the log: their plain sum is taken as the reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.readers.dropped import Unreadable
from engine.rollouts import values
from engine.rollouts.logged import LoggedRollout, Place, Said

NAME = "trl"
TITLE = "TRL completions"
COLUMNS: Mapping[str, str] = {
    "step": "the training step",
    "advantage": "the advantage",
}
_ANSWERS = ("ground_truth", "solution", "answer", "gold_answer", "expected")
_KNOWN = frozenset(
    {"step", "prompt", "completion", "advantage", "mode", "epoch", "length", "id", "index", "seed"}
    | set(_ANSWERS)
)
_REWARDS = ("reward", "score", "acc", "correct")


def sniff(record: Mapping[str, Any]) -> bool:
    """Whether it is a row of TRL's table."""
    return all(
        isinstance(record.get(name), str) or values.is_chat(record.get(name))
        for name in ("prompt", "completion")
    )


def read(record: Mapping[str, Any], place: Place) -> tuple[LoggedRollout, ...]:
    """The one rollout of a row.

    Raises:
        Unreadable: for wrong types.
    """
    for name in ("prompt", "completion"):
        if record.get(name) is None:
            raise Unreadable("", f"{name} is missing")
    prompt, messages = _words(record["prompt"], "prompt")
    response, said = _words(record["completion"], "completion")
    named = {
        name: values.number(value, name)
        for name, value in record.items()
        if name not in _KNOWN and _is_reward(name, value)
    }
    reward, remark = _reward(named)
    given = next((record[name] for name in _ANSWERS if record.get(name) is not None), None)
    return (
        LoggedRollout(
            format=NAME,
            place=place,
            prompt=prompt,
            messages=messages,
            response=response,
            said=said,
            step=values.whole(record.get("step"), "step"),
            reward=reward,
            rewards=named,
            advantage=values.number(record.get("advantage"), "advantage"),
            expected=values.answer(given),
            remarks=remark,
        ),
    )


def _words(value: Any, name: str) -> tuple[str | None, tuple[Said, ...] | None]:
    return (value, None) if isinstance(value, str) else (None, values.chat(value, name))


def _is_reward(name: str, value: Any) -> bool:
    """Rewards are floating-point columns; whole numbers only where the name says so."""
    if isinstance(value, float):
        return not name.startswith("__")
    return isinstance(value, int) and any(word in name.lower() for word in _REWARDS)


def _reward(named: Mapping[str, float | None]) -> tuple[float | None, tuple[str, ...]]:
    if "reward" in named:
        return named["reward"], ()
    known = [value for value in named.values() if value is not None]
    if not known:
        return None, ()
    if len(named) == 1:
        return known[0], ()
    names = ", ".join(sorted(named))
    said = f"the reward is the plain sum of {names}: the log does not hold their weights"
    return math.fsum(known), (said,)
