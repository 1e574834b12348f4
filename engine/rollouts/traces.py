"""From a logged rollout to a trace: its own ids where there are some, else ids made from text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.encode import with_spans
from engine.errors import UserError
from engine.readers import with_tokenizer
from engine.readers.dropped import Unreadable
from engine.rollouts import values
from engine.rollouts.formats import own
from engine.rollouts.logged import Floats, LoggedRollout
from engine.rollouts.parts import Part, prompt_part, response_part
from engine.rollouts.turns import find_turns, joined
from engine.tokenization import Tokenizer
from engine.trace import Role, Sampling, Trace, Turn

Row = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Traced:
    """A trace, and what a person must know about how it was made."""

    trace: Trace
    remarks: tuple[str, ...] = ()


def trace_of(rollout: LoggedRollout, tokenizer: Tokenizer | None = None) -> Traced:
    """A rollout as a trace.

    Ids of the log win. Where it has only text a tokenizer makes them, prompt and response apart,
    and ``ids_origin`` is ``encoded``. ``loss_mask`` becomes ``trainable``; per-token values,
    reward and advantage become ``signals``.

    Raises:
        UserError: when a tokenizer is needed and there is none, or it is the wrong one.
    """
    if rollout.trace is not None:
        return _held(rollout, rollout.trace, tokenizer)
    prompt, response = prompt_part(rollout, tokenizer), response_part(rollout, tokenizer)
    ids = prompt.ids + response.ids
    if not ids:
        raise UserError(f"{rollout.place}: the rollout holds no tokens.")
    start = len(prompt.ids)
    remarks = [*rollout.remarks, *prompt.remarks, *response.remarks]
    signals = _signals(rollout, prompt, response, remarks)
    mask = _mask(rollout, prompt, response)
    owned = tokenizer is not None and min(ids) >= 0
    trace = Trace(
        ids=ids,
        pieces=prompt.pieces + response.pieces,
        tokenizer=tokenizer.digest if owned and tokenizer is not None else None,
        ids_origin="logged" if prompt.logged and response.logged else "encoded",
        response_start=start,
        turns=tuple(joined(["text"] * len(ids))),
        special=(*prompt.special, *(start + p for p in response.special)),
        added=prompt.added,
        trainable=mask,
        exact=prompt.exact and response.exact,
        sampling=None if rollout.finish is None else Sampling(finish=_finish(rollout.finish)),
        signals=signals,
    )
    trace = trace.evolve(turns=_turns(trace, prompt, response, mask))
    return Traced(with_spans(trace) if trace.exact else trace, tuple(dict.fromkeys(remarks)))


def _held(rollout: LoggedRollout, trace: Trace, tokenizer: Tokenizer | None) -> Traced:
    remarks = list(rollout.remarks)
    if tokenizer is not None and trace.tokenizer is None:
        if trace.has_ids:
            trace = with_tokenizer(trace, tokenizer)
        else:
            remarks.append("the log gives no token ids: its own tokens are shown")
    if rollout.format == own.NAME:  # as it is: its digest must not depend on who opens it
        return Traced(trace, tuple(remarks))
    count = len(trace)
    added = {name: _row(found, count, 0) for name, found in rollout.signals.items()}
    added |= _constants(rollout, count, trace.response_start)
    signals = {**added, **trace.signals}
    return Traced(trace.evolve(signals=signals) if signals else trace, tuple(remarks))


def _signals(
    rollout: LoggedRollout, prompt: Part, response: Part, remarks: list[str]
) -> dict[str, Row]:
    """Per-token values over all tokens of the trace."""
    count, start = len(prompt.ids) + len(response.ids), len(prompt.ids)
    found = _constants(rollout, count, start)
    width = rollout.prompt_tokens + (rollout.response_tokens or 0)
    if not response.aligned:
        if rollout.signals:
            remarks.append(
                "the tokenizer cuts the response differently than the log: its per-token values "
                "are left out"
            )
        return found
    for name, values_ in _checked(rollout, width, remarks).items():
        found[name] = _row(values_, count, count - width)
    drawn = found.get("inference_logprob", found.get("trainer_logprob"))
    if drawn is not None:
        found["logprob"] = drawn
    return found


def _checked(rollout: LoggedRollout, width: int, remarks: list[str]) -> Mapping[str, Floats]:
    found = dict(rollout.signals)
    for name, given in rollout.more.items():
        if given is None:
            continue
        try:
            numbers = values.floats(_as_numbers(given), name)
            values.same_length(width, {name: numbers})
        except Unreadable as error:
            remarks.append(error.sentence)
            continue
        if not np.isnan(numbers).all():
            found[name] = numbers
    return found


def _as_numbers(given: object) -> object:
    if isinstance(given, list) and all(v is None or isinstance(v, bool) for v in given):
        return [None if v is None else float(v) for v in given]
    return given


def _constants(rollout: LoggedRollout, count: int, start: int) -> dict[str, Row]:
    """Reward and advantage of the whole rollout, at every token of the response."""
    found: dict[str, Row] = {}
    for name, value in (("reward", rollout.reward), ("advantage", rollout.advantage)):
        if value is not None:
            found[name] = (None,) * start + (value,) * (count - start)
    return found


def _row(found: Floats, count: int, before: int) -> Row:
    known = [None if not np.isfinite(v) else float(v) for v in found]
    return (None,) * before + tuple(known) + (None,) * (count - before - len(known))


def _mask(rollout: LoggedRollout, prompt: Part, response: Part) -> tuple[bool, ...] | None:
    if rollout.loss_mask is None or not response.aligned:
        return None
    before = len(prompt.ids) + len(response.ids) - len(rollout.loss_mask)
    return (False,) * before + tuple(bool(v) for v in rollout.loss_mask)


def _turns(
    trace: Trace, prompt: Part, response: Part, mask: Sequence[bool] | None
) -> tuple[Turn, ...]:
    """Turns the log names win over those that are found by marks in the text."""
    if prompt.roles is None and response.roles is None:
        return find_turns(trace, mask)
    found: list[Role] = [r for t in find_turns(trace, mask) for r in [t.role] * len(t)]
    if prompt.roles is not None:
        found[: len(prompt.ids)] = prompt.roles
    if response.roles is not None:
        found[len(prompt.ids) :] = response.roles
    return tuple(joined(found))


def _finish(value: str) -> Literal["stop", "length"] | None:
    return "stop" if value == "stop" else "length" if value == "length" else None
