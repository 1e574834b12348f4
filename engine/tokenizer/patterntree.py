"""The tree of a regular expression, as automata are made of it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.tokenizer.codepoints import Members


class UnreadableError(ValueError):
    """A construct that the automaton cannot stand for; the text says which."""


@dataclass(frozen=True, slots=True, eq=False)
class One:
    """One character of a set."""

    members: Members


@dataclass(frozen=True, slots=True)
class Seq:
    """One after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of several."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """From ``least`` to ``most`` times, None for any number."""

    part: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Loose:
    """Something that is read as more than it matches: what looks around, or holds on."""

    part: Node


Node = One | Seq | Either | Repeat | Loose
EMPTY = Seq(())
