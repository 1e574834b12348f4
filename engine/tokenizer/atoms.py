"""Characters that no set of a pattern tells apart, taken as one symbol (an *atom*)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.tokenizer.codepoints import Members


def belonging(belongs: Sequence[frozenset[int]], number: int) -> frozenset[int]:
    """Atoms that are part of a set."""
    return frozenset(atom for atom, sets in enumerate(belongs) if number in sets)


def atoms_of(sets: Sequence[Members]) -> tuple[npt.NDArray[np.int32], list[frozenset[int]]]:
    """For each code point its atom, and for each atom the sets it is part of."""
    codes = np.zeros(0x110000, dtype=np.int64)
    for number, members in enumerate(sets):
        codes = codes * 2 + members
        # Never more atoms than code points: renumbering keeps the codes small.
        if number % 40 == 39 or number == len(sets) - 1:
            codes = _renumbered(codes)
    count = int(codes.max()) + 1
    atoms = codes.astype(np.int32)
    # The surrogates are no characters; which atom they have does not matter.
    first = np.zeros(count, dtype=np.int64)
    places = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x110000)])
    first[codes[places[::-1]]] = places[::-1]
    return atoms, [
        frozenset(n for n, members in enumerate(sets) if members[place]) for place in first
    ]


def _renumbered(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same partition with numbers from 0 on; neighbours are mostly alike."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1])
    numbers = np.unique(codes[starts], return_inverse=True)[1].reshape(-1)
    return np.repeat(numbers, np.diff(np.append(starts, len(codes))))


def representatives(atoms: npt.NDArray[np.int32], count: int) -> list[str]:
    """A few characters of each atom, readable ones first."""
    order = np.concatenate(
        [
            np.arange(0x21, 0x7F),
            np.arange(0x21),
            np.arange(0xA1, 0xD800),
            np.arange(0xE000, 0x110000),
            np.arange(0x7F, 0xA1),
        ]
    )
    own = atoms[order]
    return ["".join(map(chr, order[np.flatnonzero(own == a)[:4]])) for a in range(count)]


def closures(free: Sequence[Sequence[int]]) -> list[int]:
    """For each state the states reached without a character, itself included, as bits."""
    found: list[int] = []
    for state in range(len(free)):
        seen, rows = {state}, [state]
        while rows:
            for after in free[rows.pop()]:
                if after not in seen:
                    seen.add(after)
                    rows.append(after)
        found.append(sum(1 << s for s in seen))
    return found
