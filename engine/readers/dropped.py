"""What a reader hands back, and what it could not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.branching.tree import Tree
from engine.subjects import Group, Text, Trace

Kind = Literal[
    "text", "chat", "openai", "vllm", "trace", "rollouts", "branches", "result", "unknown"
]

READ = "Read it with a model for exact entropy, rank and everything else"
READ_TEXT = "Read it with a model: surprisal, entropy, rank and everything else"
LOG_BOUNDS = "Statistics from the log: surprisal, and bounds on entropy"
LOG_ONLY = "Statistics from the log: surprisal (ask for top_logprobs to get bounds on entropy too)"


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was brought, and what can be done with it.

    Attributes:
        kind: the family of the format.
        title: what was recognised, for a person; no full stop.
        subjects: what can be looked at, in the order of the file.
        texts: per subject the text a model would read instead, prompt included where the log
            has it; None where the log does not hold it. A text is its own.
        groups: rollouts by prompt, of formats that group them.
        tree: a tree of branches; its root is the one subject.
        model: the name of the model as the log claims it, or None.
        expected: the right answer, where the file says it.
        possible: what can be done now, in sentences without a full stop.
        problems: what was left out: (place, sentence without a full stop).
    """

    kind: Kind
    title: str
    subjects: tuple[Text | Trace, ...] = ()
    texts: tuple[Text | None, ...] = ()
    groups: tuple[Group, ...] = ()
    tree: Tree | None = None
    model: str | None = None
    expected: str | None = None
    possible: tuple[str, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()


class Unreadable(Exception):
    """Something at ``place`` cannot be read; the reader above decides whether the rest can."""

    def __init__(self, place: str, sentence: str) -> None:
        super().__init__(f"{place}: {sentence}" if place else sentence)
        self.place = place
        self.sentence = sentence


class Report:
    """Collects what was left out; a hostile file cannot make the list long."""

    MOST = 100
    BEARABLE = 50_000

    def __init__(self) -> None:
        self._kept: list[tuple[str, str]] = []
        self._seen: set[tuple[str, str]] = set()
        self._more = 0

    def skip(self, place: str, sentence: str) -> None:
        """Note one thing that was left out.

        Raises:
            Unreadable: when there are so many that the file is no log.
        """
        if self._more > self.BEARABLE:
            raise Unreadable("", f"more than {self.BEARABLE:,} faults: this is no log")
        if (place, sentence) in self._seen:
            return
        if len(self._kept) >= self.MOST:
            self._more += 1
            return
        self._seen.add((place, sentence))
        self._kept.append((place, sentence))

    def skipped(self, what: Unreadable) -> None:
        """Note what could not be read."""
        self.skip(what.place, what.sentence)

    @property
    def problems(self) -> tuple[tuple[str, str], ...]:
        """All that was left out, with a last line that counts what is not listed."""
        more = [("", f"and {self._more:,} more like these")] if self._more else []
        return (*self._kept, *more)

    def refuse(self, otherwise: str) -> Unreadable:
        """The reason why nothing was left to show: the first problem, or ``otherwise``."""
        return Unreadable(*self._kept[0]) if self._kept else Unreadable("", otherwise)
