"""RLLoggingBoard, and plain lines of prompt, response and reward.

A line holds ``prompt``, ``response``, ``response_tokens`` (the tokenizer's own strings), lists for
them: ``logprobs`` (policy), ``ref_logprobs``, ``values``, ``token_rewards``; and ``reward``,
``step``, ``ground_truth``. Its own example has one value less than tokens: the padding at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.readers.dropped import Unreadable
from engine.rollouts import values
from engine.rollouts.logged import LoggedRollout, Place, Said

NAME = "rlloggingboard"
TITLE = "RLLoggingBoard samples"
COLUMNS: Mapping[str, str] = {
    "response_tokens": "the tokens",
    "logprobs": "the policy's log-probabilities",
    "ref_logprobs": "the divergence from the reference model",
    "reward": "the reward",
    "step": "the training step",
}
_INDEXED = {"logprobs": "trainer_logprob", "rollout_logprobs": "inference_logprob"}
_MORE = {
    "ref_logprobs": "ref_logprob",
    "values": "value",
    "token_rewards": "token_reward",
    "entropy": "entropy",
    "advantages": "advantage",
}
_ANSWERS = ("ground_truth", "answer", "expected", "gts")


def sniff(record: Mapping[str, Any]) -> bool:
    """Whether it is a line of RLLoggingBoard, or has its three plain columns."""
    if "prompt" not in record or "response" not in record:
        return False
    return any(name in record for name in ("response_tokens", "response_ids", "reward", "logprobs"))


def read(record: Mapping[str, Any], place: Place) -> tuple[LoggedRollout, ...]:
    """The one rollout of a line.

    Raises:
        Unreadable: for wrong types, and lists that are longer than the tokens.
    """
    for name in ("prompt", "response"):
        if record.get(name) is None:
            raise Unreadable("", f"{name} is missing")
    prompt, messages = _words(record["prompt"], "prompt")
    response, said = _words(record["response"], "response")
    tokens = ids = None
    if record.get("response_ids") is not None:
        ids = values.ids(record["response_ids"], "response_ids")
    elif record.get("response_tokens") is not None:
        given = record["response_tokens"]
        if not isinstance(given, list) or not all(isinstance(t, str) for t in given):
            raise Unreadable("", "response_tokens is not a list of texts")
        tokens = tuple(given)
    count = len(ids) if ids is not None else len(tokens) if tokens is not None else None
    signals = {}
    for theirs, ours in {**_INDEXED, **_MORE}.items():
        if isinstance(record.get(theirs), list) and count is not None:
            found = values.floats(record[theirs], theirs)
            signals[ours] = values.padded(found, count, theirs)
    reward = values.number(record.get("reward"), "reward")
    advantage = record.get("advantage")
    return (
        LoggedRollout(
            format=NAME,
            place=place,
            prompt=prompt,
            messages=messages,
            response=response,
            said=said,
            response_ids=ids,
            tokens=tokens,
            step=values.whole(record.get("step"), "step"),
            name=values.name_of(record.get("prompt_id", record.get("group"))),
            reward=reward,
            rewards={} if reward is None else {"reward": reward},
            advantage=values.number(advantage, "advantage"),
            expected=values.answer(
                next((record[n] for n in _ANSWERS if record.get(n) is not None), None)
            ),
            signals=signals,
        ),
    )


def _words(value: Any, name: str) -> tuple[str | None, tuple[Said, ...] | None]:
    return (value, None) if isinstance(value, str) else (None, values.chat(value, name))
