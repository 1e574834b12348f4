"""An automaton over characters that says whether some bytes can lie inside one match.

States are those of Thompson's construction (1968); characters that no class of the patterns tells
apart are one symbol (an *atom*), so that a walk over a token is a few look-ups. Sets of states are
kept as the bits of a whole number, and steps are remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.tokenizer.atoms import atoms_of, belonging, closures, representatives
from engine.tokenizer.codepoints import Members
from engine.tokenizer.patterntree import Either, Loose, Node, One, Repeat, Seq, UnreadableError
from engine.tokenizer.utf8bytes import Split, heads, split, tails

MOST_STATES = 4096


@dataclass(frozen=True, slots=True)
class Walk:
    """What became of a token's bytes.

    Attributes:
        states: where the walk may have ended; 0 when it broke off.
        stopped: number of whole characters that could be read, when it broke off.
    """

    states: int
    stopped: int | None = None

    def __bool__(self) -> bool:
        return bool(self.states)


@dataclass
class _Builder:
    """States while they are made: steps without and with a character."""

    sets: list[Members] = field(default_factory=list)
    free: list[list[int]] = field(default_factory=list)
    steps: list[list[tuple[int, int]]] = field(default_factory=list)

    def state(self) -> int:
        if len(self.free) >= MOST_STATES:
            raise UnreadableError(f"more than {MOST_STATES:,} states")
        self.free.append([])
        self.steps.append([])
        return len(self.free) - 1

    def number(self, members: Members) -> int:
        for number, known in enumerate(self.sets):
            if known is members or np.array_equal(known, members):
                return number
        self.sets.append(members)
        return len(self.sets) - 1

    def add(self, node: Node, start: int) -> int:
        """Put a node behind a state; its last state."""
        if isinstance(node, One):
            end = self.state()
            self.steps[start].append((self.number(node.members), end))
            return end
        if isinstance(node, Seq):
            for part in node.parts:
                start = self.add(part, start)
            return start
        if isinstance(node, Either):
            end = self.state()
            for part in node.parts:
                first = self.state()
                self.free[start].append(first)
                self.free[self.add(part, first)].append(end)
            return end
        if isinstance(node, Loose):
            return self.add(node.part, start)
        return self._repeat(node, start)

    def _repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.least):
            start = self.add(node.part, start)
        if node.most is None:
            first = self.state()
            self.free[start].append(first)
            last = self.add(node.part, first)
            self.free[last].append(first)
            end = self.state()
            self.free[first].append(end)
            return end
        end = self.state()
        for _ in range(node.most - node.least):
            self.free[start].append(end)
            start = self.add(node.part, start)
        self.free[start].append(end)
        return end


class Automaton:
    """Accepts at least what a pattern matches; see ``patterns`` for where it accepts more."""

    def __init__(self, node: Node) -> None:
        """Build it.

        Raises:
            UnreadableError: when it would have too many states.
        """
        builder = _Builder()
        start = builder.state()
        self._accept = builder.add(node, start)
        self._atoms, belongs = atoms_of(builder.sets)
        self.representatives = representatives(self._atoms, len(belongs))
        closed = closures(builder.free)
        self._by_state = [
            [(atoms, closed[end]) for number, end in steps if (atoms := belonging(belongs, number))]
            for steps in builder.steps
        ]
        self._start = closed[start]
        self._useful = self._trim()
        self._known: dict[tuple[int, int], int] = {}
        self._parts: dict[tuple[bytes, Callable[[bytes], Sequence[slice]]], list[int]] = {}

    # -- walks -------------------------------------------------------------------------------

    def inside(self, data: bytes) -> Walk:
        """Walk over bytes from anywhere inside a match; it breaks off if they fit in none."""
        return self._walk(self._useful, data)

    def follows(self, data: bytes) -> Walk:
        """The same for bytes before which another character stands in the same match."""
        after = 0
        for atom in range(len(self.representatives)):
            after |= self._step(self._useful, atom)
        walk = self._walk(after, data) if after else Walk(0, 0)
        return walk if walk else Walk(0, (walk.stopped or 0) + 1)

    def accepts(self, text: str) -> bool:
        """Whether the whole text may be one match."""
        walk = self._walk(self._start & self._useful, text.encode())
        return bool(walk.states >> self._accept & 1)

    def _walk(self, states: int, data: bytes) -> Walk:
        parts = split(data)
        if parts is None:
            return Walk(0, 0)
        for number, atoms in enumerate(self._symbols(parts)):
            after = 0
            for atom in atoms:
                after |= self._step(states, atom)
            if not after:
                return Walk(0, number)
            states = after
        return Walk(states)

    def _symbols(self, parts: Split) -> Iterator[Sequence[int]]:
        if parts.tail:
            alone = not parts.text and not parts.head
            # Alone they may also lie inside a character: then any of several bytes will do.
            yield self._some(b"" if alone else parts.tail, tails)
        for character in parts.text:
            yield (int(self._atoms[ord(character)]),)
        if parts.head:
            yield self._some(parts.head, heads)

    def _some(self, part: bytes, places: Callable[[bytes], Sequence[slice]]) -> list[int]:
        """Symbols of the characters that have these bytes at an end; without any, of all."""
        known = self._parts.get((part, places))
        if known is None:
            seen = np.zeros(len(self.representatives), dtype=bool)
            for place in places(part) if part else (slice(0x80, 0x110000),):
                seen[self._atoms[place]] = True
            known = self._parts[part, places] = np.flatnonzero(seen).tolist()
        return known

    def atom(self, character: str) -> int:
        """Which symbol a character is."""
        return int(self._atoms[ord(character)])

    def _step(self, states: int, atom: int) -> int:
        known = self._known.get((states, atom))
        if known is None:
            known, left = 0, states
            while left:
                low = left & -left
                left ^= low
                for atoms, closed in self._by_state[low.bit_length() - 1]:
                    if atom in atoms:
                        known |= closed
            known &= self._useful
            self._known[states, atom] = known
        return known

    # -- ways in and out -----------------------------------------------------------------------

    def ways_in(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Shortest atoms that lead from the start to each set of states, with that set."""
        seen = {self._start & self._useful}
        rows: list[tuple[tuple[int, ...], int]] = [((), self._start & self._useful)]
        at = 0
        while at < len(rows):
            path, states = rows[at]
            at += 1
            yield path, states
            if len(rows) > 200:
                continue
            for atom in range(len(self.representatives)):
                after = self._step(states, atom)
                if after and after not in seen:
                    seen.add(after)
                    rows.append(((*path, atom), after))

    def ways_out(self, states: int, longest: int = 3, most: int = 60) -> list[tuple[int, ...]]:
        """Short ways of atoms from some states to the end of a match."""
        found: list[tuple[int, ...]] = []
        rows: list[tuple[tuple[int, ...], int]] = [((), states)]
        for path, here in rows:
            if here >> self._accept & 1:
                found.append(path)
            if len(found) >= most or len(rows) > 2000:
                break
            if len(path) < longest:
                for atom in range(len(self.representatives)):
                    after = self._step(here, atom)
                    if after:
                        rows.append(((*path, atom), after))
        return found

    def after(self, states: int, data: bytes) -> Walk:
        """Walk on over bytes from some states."""
        return self._walk(states, data)

    def _trim(self) -> int:
        """States on some way from the start to the end."""
        forward, grown = self._start, True
        while grown:
            more = forward
            for state, steps in enumerate(self._by_state):
                if forward >> state & 1:
                    for _, closed in steps:
                        more |= closed
            grown, forward = more != forward, more
        backward, grown = 1 << self._accept, True
        # A state that reaches the end without a character has it in its closure, and so is
        # found among the ends of steps; only such sets of states occur in walks.
        while grown:
            more = backward
            for state, steps in enumerate(self._by_state):
                if any(closed & backward for _, closed in steps):
                    more |= 1 << state
            grown, backward = more != backward, more
        return forward & backward
