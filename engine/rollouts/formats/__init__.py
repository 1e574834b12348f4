"""The formats of rollout logs, one small module each, recognised by what their records hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from engine.rollouts.formats import own, prime_rl, responses, rlloggingboard, trl, verl
from engine.rollouts.logged import LoggedRollout, Place

__all__ = ["FORMATS", "Format", "format_of", "named"]


class Format(Protocol):
    """A module that reads one format.

    Attributes:
        NAME: short name, stored in the index.
        TITLE: what it is, for a person.
        COLUMNS: what it may hold that people miss when it is not there: name to what it gives.
    """

    NAME: str
    TITLE: str
    COLUMNS: Mapping[str, str]

    def sniff(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of this format."""
        ...

    def read(self, record: Mapping[str, Any], place: Place) -> tuple[LoggedRollout, ...]:
        """The rollouts of a record; raises ``Unreadable``."""
        ...


FORMATS: tuple[Format, ...] = (own, prime_rl, rlloggingboard, responses, verl, trl)
"""All formats, the most explicit first."""


def format_of(records: Iterable[Mapping[str, Any]]) -> Format | None:
    """The format most of the records are of; None when no format knows any of them."""
    votes: dict[str, int] = {}
    for record in records:
        known = next((each for each in FORMATS if each.sniff(record)), None)
        if known is not None:
            votes[known.NAME] = votes.get(known.NAME, 0) + 1
    return named(max(votes, key=lambda name: votes[name])) if votes else None


def named(name: str) -> Format:
    """The format called ``name``."""
    return next(each for each in FORMATS if name == each.NAME)
