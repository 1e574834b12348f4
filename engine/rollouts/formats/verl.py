"""verl: ``{step}.jsonl`` of ``RayPPOTrainer._dump_generations`` (``trainer.rollout_data_dir``).

A line holds ``input``, ``output`` (decoded, special tokens skipped), ``score``, ``step``, in newer
versions ``gts``, and whatever the reward function returned beside its score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.readers.dropped import Unreadable
from engine.rollouts import values
from engine.rollouts.logged import LoggedRollout, Place

NAME = "verl"
TITLE = "verl generations"
COLUMNS: Mapping[str, str] = {
    "score": "the reward",
    "step": "the training step",
    "gts": "the right answer",
}
_KNOWN = frozenset({"input", "output", "gts", "score", "step", "uid", "request_id", "data_source"})


def sniff(record: Mapping[str, Any]) -> bool:
    """Whether it is a line of verl's dump."""
    return isinstance(record.get("input"), str) and isinstance(record.get("output"), str)


def read(record: Mapping[str, Any], place: Place) -> tuple[LoggedRollout, ...]:
    """The one rollout of a line.

    Raises:
        Unreadable: for wrong types.
    """
    for name in ("input", "output"):
        if name not in record:
            raise Unreadable("", f"{name} is missing")
    score = values.number(record.get("score"), "score")
    named: dict[str, float | None] = {"score": score} if "score" in record else {}
    for name, value in record.items():
        if name not in _KNOWN and isinstance(value, int | float):
            named[name] = values.number(value, name)
    return (
        LoggedRollout(
            format=NAME,
            place=place,
            prompt=values.text(record["input"], "input"),
            response=values.text(record["output"], "output"),
            step=values.whole(record.get("step"), "step"),
            name=values.name_of(record.get("uid")),
            reward=score,
            rewards=named,
            expected=values.answer(record.get("gts")),
        ),
    )
