"""What follows for a whole distribution when only its likeliest tokens are known.

The listed tokens have p₁ ≥ … ≥ p_k, the rest together has the mass r = 1 − Σp, and none of the rest
more than c = p_k. Entropy is Schur-concave (Marshall, Olkin and Arnold 2011, chapter 3), so it is
least when the rest is packed into as few tokens as possible and greatest when it is even.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.subjects import Candidate

EXCESS = 1e-2
"""Listed probabilities may sum to this much more than 1 by rounding; beyond, they are not one
distribution."""

SLACK = 1e-5
"""What rounding may hide of the remaining mass when a rank, maximum or margin is called exact."""

SAME = 1e-3
"""Two log-probabilities of one token, as chosen and as listed, agree so far."""

GONE = -9998.0
"""At or below: the engine's way to write "less likely than all I list"."""

TINY = -700.0
"""Below, a probability is no longer a normal double and adds nothing to sums."""


def entropy_bounds(
    known: Sequence[float], cap: float, vocabulary: int | None
) -> tuple[float, float | None]:
    """Tight bounds on the entropy of a distribution of which a part is known.

    Args:
        known: probabilities that are known; a sum above 1 is taken for rounding.
        cap: the most that any other token can have.
        vocabulary: tokens in all; None when unknown.

    Returns:
        Nats: the least entropy of any such distribution (over as many tokens as it takes), and the
        greatest over ``vocabulary`` tokens; the latter is None when that is unknown or too small.
    """
    total = math.fsum(known)
    scale = max(total, 1.0)
    base = math.fsum(_h(p / scale) for p in known)
    rest = max(0.0, 1.0 - total)
    if rest == 0.0:
        return base, base
    others = None if vocabulary is None else vocabulary - len(known)
    if others == 0 and rest <= SLACK:  # rounding's share, which no token can take
        return base, base
    cap = min(cap, rest)
    last = math.fmod(rest, cap)
    low = base - (rest - last) * math.log(cap) + _h(last)
    if others is None or others < 0 or rest > cap * others * (1 + SLACK) + SLACK:
        return low, None
    return low, max(low, base + rest * math.log(others / rest))


def _h(p: float) -> float:
    return -p * math.log(p) if p > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one prediction.

    Attributes:
        own: log-probability of the token itself, listed or not.
        listed: log-probabilities of the likeliest tokens, best first, the token itself included
            where it is among them.
        among: whether it is.
    """

    own: float | None
    listed: tuple[float, ...]
    among: bool

    @classmethod
    def of(
        cls, token_id: int, piece: bytes, own: float | None, listed: Sequence[Candidate]
    ) -> Known:
        """From the token and its alternatives, in any order."""
        at: int | None = None
        for n, candidate in enumerate(listed):
            if _is(candidate, token_id, piece, own):
                near = at is None or _distance(candidate, own) < _distance(listed[at], own)
                at = n if near else at
        found = own if at is None else listed[at].logprob
        ranked = sorted((c.logprob for c in listed), reverse=True)
        return cls(found, tuple(ranked), at is not None)

    @property
    def logprobs(self) -> list[float]:
        """All that is known, best first, without what counts as nothing."""
        also = [] if self.among or self.own is None else [self.own]
        return sorted((v for v in (*self.listed, *also) if v > TINY), reverse=True)

    @property
    def probabilities(self) -> list[float]:
        """The same as probabilities."""
        return [math.exp(v) for v in self.logprobs]

    @property
    def total(self) -> float:
        """Their sum."""
        return math.fsum(self.probabilities)

    @property
    def cap(self) -> float:
        """The most that a token outside the list can have."""
        return math.exp(self._last)

    @property
    def _last(self) -> float:
        seen = [v for v in self.listed if v > TINY]
        return seen[-1] if seen else 0.0

    @property
    def _reach(self) -> float:
        """Log of the most that a token outside can have, also by the mass that remains."""
        rest = math.log(max(0.0, 1.0 - self.total) + SLACK)
        return min(rest, self._last)

    @property
    def least_rank(self) -> int:
        """1 + known tokens that are strictly likelier; without its own number, all listed."""
        if self.own is None:
            return 1 + len(self.listed)
        return 1 + sum(v > self.own for v in self.listed)

    @property
    def rank(self) -> int | None:
        """The rank, when no token outside the list can be likelier."""
        if self.own is None or self.own <= GONE:
            return None
        return self.least_rank if self.among or self.own >= self._reach else None

    @property
    def first(self) -> float | None:
        """The greatest probability, when it is sure to be known."""
        known = self.logprobs
        return min(1.0, math.exp(known[0])) if known and known[0] >= self._reach else None

    @property
    def margin(self) -> float | None:
        """Log of the greatest minus that of the second, when both are sure to be known."""
        known = self.logprobs
        return known[0] - known[1] if len(known) > 1 and known[1] >= self._reach else None


def _is(candidate: Candidate, token_id: int, piece: bytes, own: float | None) -> bool:
    if candidate.id is not None and token_id >= 0:
        return candidate.id == token_id
    return candidate.piece == piece and _distance(candidate, own) <= SAME


def _distance(candidate: Candidate, own: float | None) -> float:
    return 0.0 if own is None else abs(candidate.logprob - own)
