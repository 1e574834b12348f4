"""prime-rl: the trainer's token export, ``token_exports/step_N/rank_R.jsonl``.

A line is one training sequence, prompt included, with lists as long as ``token_ids``:
``loss_mask``, ``advantages``, ``rewards``, ``inference_logprobs``, ``trainer_logprobs``,
``entropy`` and what follows from them. Value *t* belongs to token *t*: the trainer shifts its
log-probabilities to the right and fills position 0, which therefore is left out here. The
inference engine's are 0 where it did not draw the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.readers.dropped import Unreadable
from engine.rollouts import values
from engine.rollouts.logged import Floats, LoggedRollout, Place

NAME = "prime-rl"
TITLE = "prime-rl token export"
COLUMNS: Mapping[str, str] = {
    "loss_mask": "the tokens that are trained",
    "advantages": "the advantages",
    "rewards": "the rewards",
    "inference_logprobs": "importance ratio and mismatch KL",
    "trainer_logprobs": "importance ratio and mismatch KL",
    "entropy": "the entropy",
    "step": "the training step",
}
SCHEMAS = (1,)
_INDEXED = {
    "inference_logprobs": "inference_logprob",
    "trainer_logprobs": "trainer_logprob",
    "entropy": "entropy",
    "advantages": "advantage",
}
_MORE = {
    "mismatch_kl": "logged_mismatch_kl",
    "log_importance_ratio": "logged_log_ratio",
    "is_masked": "is_masked",
}


def sniff(record: Mapping[str, Any]) -> bool:
    """Whether it is a line of the token export."""
    names = ("loss_mask", "trainer_logprobs", "inference_logprobs", "advantages")
    return isinstance(record.get("token_ids"), list) and any(name in record for name in names)


def read(record: Mapping[str, Any], place: Place) -> tuple[LoggedRollout, ...]:
    """The one sequence of a line.

    Raises:
        Unreadable: for wrong types, lists of other lengths, and schemas that are not known.
    """
    schema = record.get("schema_version", record.get("schema", 1))
    if schema not in SCHEMAS:
        raise Unreadable("", f"the schema is {values.shown(schema)}, expected {SCHEMAS[-1]}")
    ids = values.ids(record.get("token_ids"), "token_ids")
    lists = ("loss_mask", "rewards", *_INDEXED, *_MORE)
    values.same_length(len(ids), {n: record[n] for n in lists if isinstance(record.get(n), list)})
    mask = None
    if record.get("loss_mask") is not None:
        mask = values.flags(record["loss_mask"], "loss_mask")
    signals = {
        ours: values.floats(record[theirs], theirs)
        for theirs, ours in _INDEXED.items()
        if record.get(theirs) is not None
    }
    _clear(signals, mask)
    start = _start(mask, len(ids))
    trained = mask if mask is not None else np.arange(len(ids)) >= start
    reward, remarks = _reward(record.get("rewards"), trained)
    more = {ours: record[theirs] for theirs, ours in _MORE.items() if theirs in record}
    if remarks:
        more["token_reward"] = record["rewards"]
    return (
        LoggedRollout(
            format=NAME,
            place=place,
            prompt_ids=ids[:start],
            response_ids=ids[start:],
            loss_mask=mask,
            step=values.whole(record.get("export_step", record.get("step")), "step"),
            reward=reward,
            rewards={} if reward is None else {"reward": reward},
            advantage=_mean(signals.get("advantage"), trained),
            signals=signals,
            more=more,
            remarks=remarks,
        ),
    )


def _clear(signals: dict[str, Floats], mask: Any) -> None:
    """Take out what only fills places."""
    if "trainer_logprob" in signals and len(signals["trainer_logprob"]):
        signals["trainer_logprob"] = _without(signals["trainer_logprob"], slice(0, 1))
    if "entropy" in signals and len(signals["entropy"]):
        signals["entropy"] = _without(signals["entropy"], slice(0, 1))
    drawn = signals.get("inference_logprob")
    if drawn is not None and mask is not None:
        signals["inference_logprob"] = _without(drawn, ~mask & (drawn == 0.0))
    if "advantage" in signals and mask is not None:
        signals["advantage"] = _without(signals["advantage"], ~mask)


def _without(found: Floats, where: Any) -> Floats:
    changed = found.copy()
    changed[where] = np.nan
    return changed


def _start(mask: Any, count: int) -> int:
    """The first trained token; everything before it is prompt."""
    if mask is None:
        return 0
    return int(mask.argmax()) if mask.any() else count


def _reward(given: Any, trained: Any) -> tuple[float | None, tuple[str, ...]]:
    if given is None:
        return None, ()
    if not isinstance(given, list):
        return values.number(given, "rewards"), ()
    found = values.floats(given, "rewards")[trained]
    known = found[~np.isnan(found)]
    if not known.size:
        return None, ()
    if (known == known[0]).all():
        return float(known[0]), ()
    return None, ("rewards differ between the tokens: there is no reward of the whole rollout",)


def _mean(found: Floats | None, where: Any) -> float | None:
    if found is None:
        return None
    known = found[where & ~np.isnan(found)]
    return float(known.mean()) if known.size else None
