"""All token sequences that cover some bytes, walked byte by byte, and what they say comes next.

A cover of a text is a token sequence whose bytes begin with the text and whose bytes without the
last token do not contain all of it. P(text) is the sum over its covers (Phan et al. 2024,
proposition 1), and so is the distribution of the byte after it. Token healing and alignment walk
over the same covers, but renormalise at every token.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.schema import Progress
from engine.tokenizer.outcomes import END, Outcomes, Reals, Row
from engine.tokenizer.tails import Tail, Tails

MOST_LISTED = 200


@dataclass(frozen=True, slots=True)
class Cover:
    """One cover.

    Attributes:
        ids: its tokens after the beginning.
        weight: its log-probability after the beginning, nats.
        leftover: bytes its last token has beyond the text.
    """

    ids: Tail
    weight: float
    leftover: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """The next byte after a text, and how it was found.

    Attributes:
        masses: probability of each outcome; sums to 1.
        logprob: of the text after the beginning, nats: the sum over all covers that count.
        base: how many tokens the beginning has.
        covers: the most probable ones, best first.
        count: how many there are.
        pruned: most probability that may be missing, as a share of all that is possible.
        unchecked: share of the probability that lies on covers taken for canonical unseen.
        excluded: share of the looked-at probability that covers left out had held.
    """

    masses: Reals
    logprob: float
    base: int
    covers: tuple[Cover, ...]
    count: int
    pruned: float = 0.0
    unchecked: float = 0.0
    excluded: float = 0.0


@dataclass(frozen=True, slots=True)
class Rules:
    """Which covers are walked, and how they are weighed.

    Attributes:
        keep: most sequences kept at each byte; None for all.
        local: probabilities are renormalised over the allowed tokens at every step.
        inner: tokens may end inside the text; else the first one has to reach its end.
    """

    keep: int | None = None
    local: bool = False
    inner: bool = True


@dataclass
class _Walk:
    outcomes: Outcomes
    text: bytes
    rules: Rules
    nodes: dict[int, list[tuple[float, Tail]]] = field(default_factory=lambda: defaultdict(list))
    covers: list[tuple[float, Tail, bytes]] = field(default_factory=list)
    count: int = 0
    pruned: float = -math.inf

    def __post_init__(self) -> None:
        self.logs: Reals = np.full(self.outcomes.size, -np.inf)

    def take(self, place: int) -> list[tuple[float, Tail]]:
        """The sequences kept at a byte; the rest counts as pruned."""
        here = self.nodes.pop(place, [])
        if self.rules.keep is not None and len(here) > self.rules.keep:
            here.sort(key=lambda node: (-node[0], node[1]))
            dropped = [weight for weight, _ in here[self.rules.keep :]]
            self.pruned = float(np.logaddexp.reduce([self.pruned, *dropped]))
            here = here[: self.rules.keep]
        return here

    def visit(self, place: int, weight: float, tail: Tail, row: Row) -> None:
        """Count what crosses the end, and go on to the tokens that end before it."""
        if place == len(self.text):
            with np.errstate(divide="ignore"):
                self.logs = np.logaddexp(self.logs, weight + np.log(self.outcomes.whole(row)))
            self._list(weight, tail, b"")
            return
        rest = self.text[place:]
        span = self.outcomes.longer(rest)
        logs = self.outcomes.logs(row, span).astype(np.float64)
        allowed = self.outcomes.matches(self.text, place)
        if not self.rules.inner:
            allowed = [pair for pair in allowed if pair[0] == len(self.text)]
        inside = row.logs(np.array([i for _, i in allowed], np.int64))
        scale = weight
        if self.rules.local:
            scale -= float(np.logaddexp.reduce(np.concatenate([logs, inside, [-np.inf]])))
        if not math.isfinite(scale):
            return
        masses = self.outcomes.byte_masses(np.exp(logs), span, len(rest))
        with np.errstate(divide="ignore"):
            self.logs[:END] = np.logaddexp(self.logs[:END], scale + np.log(masses))
        for (end, i), log in zip(allowed, inside.tolist(), strict=True):
            self.nodes[end].append((scale + log, (*tail, i)))
        self._list_crossing(scale + logs, span, tail, len(rest))

    def _list_crossing(self, weights: Reals, span: tuple[int, int], tail: Tail, skip: int) -> None:
        self.count += int(np.isfinite(weights).sum())
        least = self.covers[0][0] if len(self.covers) >= MOST_LISTED else -math.inf
        for at in np.flatnonzero(weights > least).tolist():
            token = int(self.outcomes.order[span[0] + at])
            leftover = self.outcomes.spec.pieces[token].data[skip:]
            self._list(float(weights[at]), (*tail, token), leftover, counted=True)

    def _list(self, weight: float, tail: Tail, leftover: bytes, *, counted: bool = False) -> None:
        self.count += not counted
        push = heapq.heappush if len(self.covers) < MOST_LISTED else heapq.heappushpop
        push(self.covers, (weight, tail, leftover))


def walk(
    tails: Tails, outcomes: Outcomes, text: bytes, rules: Rules, what: str
) -> Generator[Progress, None, Found]:
    """Walk over the covers of ``text`` after the beginning of ``tails``.

    Sequences that end at the same byte are read together, so the beam prunes like among like. The
    probability of a pruned sequence bounds what all its covers could have added.
    """
    made = _Walk(outcomes, text, rules)
    made.nodes[0].append((0.0, ()))
    for place in range(len(text) + 1):
        nodes = made.take(place)
        if nodes:
            yield Progress(place / (len(text) + 1), what)
            for batch in tails.read([tail for _, tail in nodes]):
                for at, _, row in batch:
                    made.visit(place, *nodes[at], row)
                yield Progress(place / (len(text) + 1), what)
    return finish(made.logs, len(tails.base), made.covers, made.count, made.pruned)


def finish(
    logs: Reals,
    base: int,
    covers: Sequence[tuple[float, Tail, bytes]],
    count: int,
    pruned: float,
) -> Found:
    """Normalise the outcomes' log-masses."""
    total = float(np.logaddexp.reduce(logs))
    masses = np.exp(logs - total)
    listed = sorted(covers, key=lambda cover: (-cover[0], cover[1]))
    return Found(
        masses / masses.sum(),
        total,
        base,
        tuple(Cover(ids, weight, leftover) for weight, ids, leftover in listed),
        count,
        pruned=1 / (1 + math.exp(min(700.0, total - pruned))) if math.isfinite(pruned) else 0.0,
    )
