"""TokenScope's own rollouts, ``tokenscope.rollout/1``: what ``generate`` and ``--out`` write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from engine.readers.dropped import Unreadable
from engine.records import ROLLOUT_SCHEMA
from engine.rollouts import values
from engine.rollouts.logged import Floats, LoggedRollout, Place
from engine.trace import Trace

NAME = "tokenscope"
TITLE = "TokenScope rollouts"
COLUMNS: Mapping[str, str] = {"reward": "the reward"}
_INDEXED = ("inference_logprob", "trainer_logprob", "entropy", "advantage")


def sniff(record: Mapping[str, Any]) -> bool:
    """Whether it names the schema."""
    return record.get("schema") == ROLLOUT_SCHEMA


def read(record: Mapping[str, Any], place: Place) -> tuple[LoggedRollout, ...]:
    """The one rollout of a line.

    Raises:
        Unreadable: when the trace is no trace.
    """
    body = record.get("trace")
    if not isinstance(body, dict):
        raise Unreadable("", "the field trace is missing")
    try:
        trace = Trace.model_validate({k: v for k, v in body.items() if k != "schema"})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:3])
        reason = first["msg"].removeprefix("Value error, ")
        raise Unreadable("", f"{where + ': ' if where else ''}{reason}") from None
    signals = {name: _floats(trace, name) for name in _INDEXED if name in trace.signals}
    reward = values.number(record.get("reward"), "reward")
    advantage = values.number(record.get("advantage"), "advantage")
    if advantage is None and "advantage" in signals:
        known = signals["advantage"][~np.isnan(signals["advantage"])]
        advantage = float(known.mean()) if known.size else None
    sampling = trace.sampling
    return (
        LoggedRollout(
            format=NAME,
            place=place,
            loss_mask=None if trace.trainable is None else np.array(trace.trainable, bool),
            step=values.whole(record.get("step"), "step"),
            name=values.name_of(record.get("group")),
            reward=reward,
            rewards={} if reward is None else {"reward": reward},
            advantage=advantage,
            expected=values.answer(record.get("expected")),
            finish=None if sampling is None else sampling.finish,
            signals=signals,
            trace=trace,
        ),
    )


def _floats(trace: Trace, name: str) -> Floats:
    return np.array([np.nan if v is None else v for v in trace.signals[name]], np.float64)
