"""Other spellings as training draws them: BPE-dropout and StochasTok."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from engine.tokenizer.spec import Pretoken, TokenizerSpec

Ids = tuple[int, ...]
Parts = tuple[str, ...]

EXACT_BYTES = 8
"""Pre-tokens up to so many bytes have their dropout distribution computed, not drawn."""


class Dropout:
    """BPE-dropout (Provilkov, Emelianenko and Voita 2020, algorithm 1).

    At every step each possible merge is left out with probability p, on its own; of those left the
    one with the best rank is done; when none is left the pre-token is finished.

    Args:
        spec: a BPE tokenizer.
        p: probability of leaving a merge out.
    """

    def __init__(self, spec: TokenizerSpec, p: float) -> None:
        self._spec = spec
        self._p = p
        self._next: dict[Parts, list[Parts]] = {}

    def _merges(self, parts: Parts) -> list[Parts]:
        """What each possible merge makes of the parts, the best rank first."""
        known = self._next.get(parts)
        if known is None:
            rank, inside = self._spec.backend.rank, self._spec.backend.inside
            ranked = sorted(
                (found, at)
                for at in range(len(parts) - 1)
                if (found := rank(parts[at], parts[at + 1])) is not None
            )
            known = [
                (*parts[:at], parts[at] + parts[at + 1].removeprefix(inside), *parts[at + 2 :])
                for _, at in ranked
            ]
            self._next[parts] = known
        return known

    def draw(self, form: str, random: np.random.Generator) -> Ids:
        """Ids of one draw of a pre-token."""
        parts: Parts = tuple(self._spec.backend.parts(form))
        while True:
            merges = self._merges(parts)
            # The first merge that is not left out; past the last one, none is left.
            first = int(random.geometric(1 - self._p)) - 1 if self._p < 1 else len(merges)
            if first >= len(merges):
                return self._ids(parts)
            parts = merges[first]

    def exact(self, form: str) -> dict[Ids, float]:
        """Probability of each outcome of a pre-token: all ways of merging, summed."""
        start: Parts = tuple(self._spec.backend.parts(form))
        reached: dict[Parts, float] = {start: 1.0}
        ends: dict[Ids, float] = {}
        # Merging only makes fewer parts: states are finished from the longest to the shortest.
        for length in range(len(start), 0, -1):
            for parts in [state for state in reached if len(state) == length]:
                mass = reached.pop(parts)
                for after in self._merges(parts):
                    reached[after] = reached.get(after, 0.0) + mass * (1 - self._p)
                    mass *= self._p
                ids = self._ids(parts)
                if mass > 0:
                    ends[ids] = ends.get(ids, 0.0) + mass
        return ends

    def _ids(self, parts: Parts) -> Ids:
        # A character without a token becomes the unknown token; without one it is dropped.
        names, unknown = self._spec.by_raw, self._spec.unknown
        found = (names.get(part, unknown) for part in parts)
        return tuple(i for i in found if i is not None)


class StochasTok:
    """StochasTok (Sims et al. 2025): tokens of the canonical spelling are split in two at random.

    ``⌊proportion · length⌋`` times a position is drawn; if its token is made of two others, one of
    the ways to do so is put in its place. Positions without a way are left as they are.
    """

    def __init__(self, spec: TokenizerSpec, proportion: float) -> None:
        self._spec = spec
        self._proportion = proportion
        self._ways: dict[int, list[tuple[int, int]]] = {}

    @cached_property
    def _by_bytes(self) -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        for i in self._spec.segmenting:
            found.setdefault(self._spec.pieces[i].data, []).append(i)
        return found

    def ways(self, token_id: int) -> list[tuple[int, int]]:
        """All pairs of tokens whose bytes join to this one's."""
        known = self._ways.get(token_id)
        if known is None:
            data = self._spec.pieces[token_id].data
            known = [
                (left, right)
                for cut in range(1, len(data))
                for left in self._by_bytes.get(data[:cut], ())
                for right in self._by_bytes.get(data[cut:], ())
            ]
            self._ways[token_id] = known
        return known

    def draw(self, ids: Sequence[int], random: np.random.Generator) -> Ids:
        """One draw."""
        made = list(ids)
        for _ in range(int(self._proportion * len(ids))):
            at = int(random.integers(len(made)))
            ways = self.ways(made[at])
            if ways:
                made[at : at + 1] = ways[int(random.integers(len(ways)))]
        return tuple(made)


def dropout_draws(
    spec: TokenizerSpec, cuts: Sequence[Pretoken], p: float, count: int, seed: int
) -> tuple[Counter[Ids], dict[Ids, float] | None]:
    """Draws of a whole text, and the exact distribution where its only pre-token is short.

    Pre-tokens are drawn independently; added tokens stay as they are.
    """
    dropout = Dropout(spec, p)
    random = np.random.default_rng([seed, 1])
    found: Counter[Ids] = Counter()
    for _ in range(count):
        ids: list[int] = []
        for cut in cuts:
            ids += (cut.added,) if cut.added is not None else dropout.draw(cut.form, random)
        found[tuple(ids)] += 1
    only = cuts[0] if len(cuts) == 1 and cuts[0].added is None else None
    short = only is not None and len(spec.form_bytes(only.form)) <= EXACT_BYTES
    return found, dropout.exact(only.form) if only is not None and short else None


def stochastok_draws(
    spec: TokenizerSpec, ids: Sequence[int], proportion: float, count: int, seed: int
) -> Counter[Ids]:
    """Draws of a whole text."""
    drawer = StochasTok(spec, proportion)
    random = np.random.default_rng([seed, 2])
    return Counter(drawer.draw(ids, random) for _ in range(count))
