"""What one request may cost: the profile's limits, applied to any analysis from its declaration.

A params class says which of its fields multiply work, and the limits then hold by themselves::

    n: int = Field(4, ge=1, json_schema_extra=DRAWS)
    max_new_tokens: int = Field(256, ge=1, json_schema_extra=NEW_TOKENS)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.config import JsonDict

from engine.checkers import check_allowed
from engine.errors import UserError
from engine.limits.profile import Profile
from engine.records import iter_groups
from engine.subjects import INSTALLED, Corpus, Group, Rollouts, Subject, Text, TokenizerRef, Trace

DRAWS: JsonDict = {"cost": "samples"}
"""Marks a param as a number of draws or repeats; several in one class multiply."""

NEW_TOKENS: JsonDict = {"cost": "new tokens"}
"""Marks a param as the most tokens that are generated at once."""

READS: JsonDict = {"cost": "reads"}
"""Marks a param as a number of times that the text is read anew, which costs far less."""

READS_PER_SAMPLE = 64
"""Readings that may be asked for in place of one sample."""

BYTES_PER_TOKEN = 16
"""Text that is not cut into tokens may have this many bytes for each allowed token."""


def check_place(
    subject: Subject, profile: Profile, folders: Callable[[], tuple[Path, ...]]
) -> None:
    """Refuse a subject that is a file outside ``folders`` where files cannot be named.

    Raises:
        UserError: It is one.
    """
    if isinstance(subject, Text) and subject.tokenizer is not None:
        subject = subject.tokenizer
    if profile.allow_folders or not isinstance(subject, Rollouts | TokenizerRef):
        return
    if isinstance(subject, TokenizerRef) and subject.path.startswith(INSTALLED):
        return
    path = Path(subject.path).resolve()
    if not any(path.is_relative_to(folder.resolve()) for folder in folders()):
        raise UserError("Files cannot be named here: open yours on the page instead.")


def check_code(params: BaseModel, profile: Profile) -> None:
    """Refuse a checker that runs a typed program where strangers come, stored or not.

    Every param whose name ends in ``checker`` is looked at: no analysis has to remember it.

    Raises:
        UserError: It is one.
    """
    for name in type(params).model_fields:
        value = getattr(params, name)
        if isinstance(value, BaseModel):
            check_code(value, profile)
        elif name.endswith("checker") and isinstance(value, str):
            check_allowed(value, profile.allow_code)


def check_cost(
    subject: Subject, params: BaseModel, profile: Profile, context: int | None = None
) -> None:
    """Refuse what is too much for this installation.

    Args:
        subject: what is looked at, cut into tokens if it ever is.
        params: validated params.
        profile: the limits.
        context: most tokens the model reads; no text grows beyond it.

    Raises:
        UserError: saying the limit and what to change.
    """
    costs = list(_costs(params))
    new = [(name, count) for kind, name, count in costs if kind == "new tokens"]
    _check_samples([(n, c) for kind, n, c in costs if kind == "samples"], profile.max_samples)
    for kind, name, count in costs:
        most = None if profile.max_samples is None else READS_PER_SAMPLE * profile.max_samples
        if kind == "reads" and most is not None and count > most:
            raise UserError(
                f"A text is read at most {most:,} times for a request here: set {name} to "
                f"{most} or less."
            )
    for name, count in new:
        if profile.max_new_tokens is not None and count > profile.max_new_tokens:
            raise UserError(
                f"At most {profile.max_new_tokens:,} tokens are generated at once here: "
                f"set {name} to {profile.max_new_tokens} or less."
            )
    if isinstance(subject, Group | Rollouts) and profile.max_group is not None:
        size = len(subject.rollouts) if isinstance(subject, Group) else subject.count
        if size > profile.max_group:
            raise UserError(
                f"There are {size:,} rollouts; at most {profile.max_group:,} are taken at once "
                "here: give fewer."
            )
    if profile.max_tokens is not None:
        _check_text(subject, new, profile.max_tokens, context)


def _check_samples(samples: list[tuple[str, float]], most: int | None) -> None:
    if most is None or not samples:
        return
    total = prod(count for _, count in samples)
    if total > most:
        names = " × ".join(name for name, _ in samples)
        asked = "" if total == float("inf") else f", not {total:,.0f}"
        raise UserError(
            f"At most {most:,} samples are drawn for a request here{asked}: "
            f"set {names} to {most} or less."
        )


def _check_text(
    subject: Subject, new: list[tuple[str, float]], most: int, context: int | None
) -> None:
    name, grows = max(new, key=lambda pair: pair[1], default=("", 0.0))
    for trace in _traces(subject):
        size = len(trace)
        if size > most:
            raise UserError(
                f"The text has {size:,} tokens; at most {most:,} are read here: shorten it."
            )
        if min(size + grows, context or size + grows) > most:
            left = f" or set {name} to {most - size}" if size < most else ""
            raise UserError(
                f"The text has {size:,} tokens and {grows:,.0f} more are asked for; at most "
                f"{most:,} together are read here: shorten the text{left}."
            )
    texts: tuple[str, ...] = ()
    if isinstance(subject, Text):
        texts = (subject.prompt, subject.response, *(m.content for m in subject.messages or ()))
    elif isinstance(subject, Corpus):
        texts = subject.documents
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    if size > most * BYTES_PER_TOKEN:
        raise UserError(
            f"The text has {size:,} bytes; at most {most * BYTES_PER_TOKEN:,} are read here: "
            "shorten it."
        )


def _traces(subject: Subject) -> Iterator[Trace]:
    if isinstance(subject, Trace):
        yield subject
    elif isinstance(subject, Group):
        yield from subject.rollouts
    elif isinstance(subject, Rollouts):
        for group in iter_groups(subject):
            yield from group.rollouts


def _costs(params: BaseModel) -> Iterator[tuple[str, str, float]]:
    """(kind, name, how much) of every marked field; None means as much as there is."""
    for name, field in type(params).model_fields.items():
        value = getattr(params, name)
        if isinstance(value, BaseModel):
            yield from _costs(value)
        extra = field.json_schema_extra
        kind = extra.get("cost") if isinstance(extra, Mapping) else None
        if isinstance(kind, str):
            yield kind, name, _amount(value)


def _amount(value: Any) -> float:
    if value is None:
        return float("inf")
    return float(len(value) if isinstance(value, list | tuple | dict) else value)
