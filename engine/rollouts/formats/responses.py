"""Responses of OpenAI's API and of vLLM, one a line, through the readers of dropped files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from engine.errors import UserError
from engine.readers import recognise
from engine.readers.dropped import Unreadable
from engine.rollouts import values
from engine.rollouts.logged import LoggedRollout, Place, Said
from engine.subjects import Text, Trace

NAME = "responses"
TITLE = "OpenAI or vLLM responses"
COLUMNS: Mapping[str, str] = {"reward": "the reward", "step": "the training step"}
_LIMIT = 64 << 20
_ANSWERS = ("expected", "ground_truth", "answer")


def sniff(record: Mapping[str, Any]) -> bool:
    """Whether it is a response, alone, with its request, or in a batch's output."""
    inner = record.get("response", record)
    if isinstance(inner, Mapping) and isinstance(inner.get("body"), Mapping):
        inner = inner["body"]
    if not isinstance(inner, Mapping):
        return isinstance(inner, str) and "request" in record
    return isinstance(inner.get("choices"), list) or isinstance(
        inner.get("outputs", inner.get("output")), list
    )


def read(record: Mapping[str, Any], place: Place) -> tuple[LoggedRollout, ...]:
    """A rollout for each choice.

    Raises:
        Unreadable: when there is none.
    """
    try:
        data = orjson.dumps(record)
    except (TypeError, orjson.JSONEncodeError):
        raise Unreadable("", "the line cannot be written as JSON again") from None
    try:
        dropped = recognise("line", data, limit=_LIMIT)
    except UserError as error:
        sentence = str(error).removeprefix("line: ").removeprefix("line, ").rstrip(".")
        raise Unreadable("", sentence) from None
    if dropped.kind not in ("openai", "vllm", "chat", "trace"):
        raise Unreadable("", "this is no response")
    step = values.whole(record.get("step"), "step")
    reward = values.number(record.get("reward", record.get("score")), "reward")
    given = next((record[n] for n in _ANSWERS if record.get(n) is not None), None)
    known = {
        "format": NAME,
        "step": step,
        "reward": reward,
        "rewards": {} if reward is None else {"reward": reward},
        "name": values.name_of(record.get("prompt_id", record.get("custom_id"))),
        "expected": values.answer(given),
        "remarks": tuple(sentence for _, sentence in dropped.problems),
    }
    return tuple(
        _rollout(subject, text, Place(place.file, place.line, place.offset, place.size, n), known)
        for n, (subject, text) in enumerate(zip(dropped.subjects, dropped.texts, strict=True))
    )


def _rollout(
    subject: Trace | Text, text: Text | None, place: Place, known: dict[str, Any]
) -> LoggedRollout:
    words: dict[str, Any] = {}
    if text is not None and text.messages is not None:
        messages = tuple(Said(values.role_of(m.role), m.content) for m in text.messages)
        answered = bool(messages) and messages[-1].role == "assistant"
        words["messages"] = messages[:-1] if answered else messages
        words["response"] = messages[-1].text if answered else ""
    elif text is not None:
        words["prompt"] = text.prompt or None
        words["response"] = text.response
    if isinstance(subject, Text):
        return LoggedRollout(place=place, **words, **known)
    signals = {}
    if "logprob" in subject.signals:
        drawn = np.array(
            [np.nan if v is None else v for v in subject.signals["logprob"]], np.float64
        )
        drawn[: subject.response_start] = np.nan
        signals["inference_logprob"] = drawn
    finish = None if subject.sampling is None else subject.sampling.finish
    return LoggedRollout(
        place=place,
        trace=subject.evolve(title=None),
        signals=signals,
        finish=finish,
        **words,
        **known,
    )
