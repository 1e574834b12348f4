"""Probabilities of spellings under a model: of given ones, and of the string over all of them."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.errors import UserError
from engine.schema import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from engine.loaded import LoadedModel

Z95 = 1.959963984540054
"""Quantile of the normal distribution for a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a string's probability its canonical spelling holds.

    Attributes:
        method: ``exact`` (all spellings) or ``sampled``.
        logprob: of the string, log Σ over its spellings of p(spelling), nats.
        canonical: of the canonical spelling, nats.
        low, high: 95 % interval of the share; both the share itself when exact.
        samples: spellings that were drawn, or that there are.
        effective: effective number of samples, (Σw)² / Σw².
    """

    method: str
    logprob: float
    canonical: float
    low: float
    high: float
    samples: int
    effective: float

    @property
    def share(self) -> float:
        """p(canonical) / p(string); an estimate may exceed 1 before it is bounded."""
        return min(1.0, math.exp(self.canonical - self.logprob))


def logprobs(
    model: LoadedModel, context: Sequence[int], rows: Sequence[Sequence[int]], what: str
) -> Generator[Progress, None, list[list[float]]]:
    """Log-probability (nats) of each token of each row after ``context``, in the rows' order.

    The context is read once; rows are read side by side, shortest first.

    Raises:
        UserError: when context and row together are too long for the model.
    """
    import torch

    from engine.sampling.decoding import Prefilled

    ids = model.check(context)
    longest = max((len(row) for row in rows), default=0)
    check_fits(model, len(ids) + longest)
    real = model.real_vocab
    found: list[list[float]] = [[] for _ in rows]
    order = sorted((i for i in range(len(rows)) if rows[i]), key=lambda i: len(rows[i]))
    if not order:
        return found
    prefilled = Prefilled(model, ids)
    size = prefilled.fitting_rows(longest)
    for start in range(0, len(order), size):
        yield Progress(start / len(order), what)
        batch = order[start : start + size]
        limit = max(len(rows[i]) for i in batch)
        state = prefilled.rows(len(batch), limit)
        for step in range(limit):
            tokens = [rows[i][min(step, len(rows[i]) - 1)] for i in batch]
            if max(tokens) >= real:
                raise UserError(
                    f"Token id {max(tokens)} is not in the vocabulary of {model.name}: choose "
                    "the model this tokenizer belongs to."
                )
            logs = torch.log_softmax(state.logits.double(), -1)
            picked = logs.gather(1, torch.tensor(tokens, device=logs.device)[:, None])[:, 0]
            for i, value in zip(batch, picked.tolist(), strict=True):
                if step < len(rows[i]):
                    found[i].append(value)
            if step + 1 < limit:
                state.step(tokens)
    return found


def check_fits(model: LoadedModel, tokens: int) -> None:
    """Refuse more tokens than the model reads.

    Raises:
        UserError: saying how many it reads.
    """
    if model.context is not None and tokens > model.context:
        raise UserError(
            f"Context and spelling have {tokens:,} tokens; {model.name} reads at most "
            f"{model.context:,}: shorten the text."
        )


def exact_share(canonical: float, spellings: Sequence[float]) -> Share:
    """The share from the log-probabilities of all spellings, the canonical one among them."""
    total = float(np.logaddexp.reduce(np.array(spellings)))
    share = math.exp(canonical - total)
    return Share("exact", total, canonical, share, share, len(spellings), float(len(spellings)))


@dataclass(frozen=True, slots=True)
class Sample:
    """One spelling drawn by importance.

    Attributes:
        ids: the spelling.
        logprob: its log-probability, nats.
        weight: log of p(spelling) / q(spelling), the masses q was normalised by multiplied.
    """

    ids: tuple[int, ...]
    logprob: float
    weight: float


def sampled_share(
    canonical: tuple[int, ...], read: Mapping[tuple[int, ...], float], samples: Sequence[Sample]
) -> Share:
    """The share from importance samples (methods §7.2), in two halves (ours).

    The spellings that were read and those of the first half are summed exactly; the second half
    estimates what is left, ``p(rest) = E_q[w · (not yet summed)]``, which is unbiased whatever the
    first half found. The interval is normal, at least as wide as no hit in so many draws of the
    largest weight allows, and never below what was seen.

    Args:
        canonical: the canonical spelling.
        read: log-probability of spellings that were chosen to be read, the canonical one too.
        samples: at least two.
    """
    half = len(samples) // 2
    own = read[canonical]
    summed = {**{s.ids: s.logprob for s in samples[:half]}, **read}
    rest = samples[half:]
    n = len(rest)
    first = float(np.logaddexp.reduce(list(summed.values())))
    # Everything relative to what is summed, so that long strings do not underflow.
    weights = np.exp(np.array([s.weight for s in rest]) - first)
    left = weights * [s.ids not in summed for s in rest]
    mean = float(left.mean())
    spread = float(left.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    seen = {s.ids: s.logprob for s in rest if s.ids not in summed}
    least = sum(math.exp(logprob - first) for logprob in seen.values())
    most = max(mean + Z95 * spread, (1 - 0.025 ** (1 / n)) * float(weights.max()), least)
    lowest, highest = 1 + max(least, mean - Z95 * spread), 1 + most
    total = 1 + max(mean, least)
    share = math.exp(own - first)
    return Share(
        "sampled",
        first + math.log(total),
        own,
        share / highest,
        share / lowest,
        len(samples),
        float(weights.sum() ** 2 / (weights**2).sum()),
    )


@dataclass(frozen=True, slots=True)
class Lattice:
    """Tokens that may stand at each byte of a string, on a way to its end.

    Attributes:
        size: bytes of the string.
        ends: for each byte the places behind the tokens that start there.
        ids: those tokens.
    """

    size: int
    ends: tuple[npt.NDArray[np.int64], ...]
    ids: tuple[npt.NDArray[np.int64], ...]


def importance_samples(
    model: LoadedModel, context: Sequence[int], lattice: Lattice, count: int, seed: int
) -> Generator[Progress, None, list[Sample]]:
    """Draw spellings by the model, kept on the string: q ∝ p over the tokens that fit.

    ``E_q[w] = p(string)``, w the product of the masses q was normalised by.

    Raises:
        UserError: when context and string may be too long for the model.
    """
    from engine.sampling.decoding import Prefilled

    ids = model.check(context)
    check_fits(model, len(ids) + lattice.size)
    prefilled = Prefilled(model, ids)
    size = prefilled.fitting_rows(lattice.size)
    random = np.random.default_rng(seed)
    samples: list[Sample] = []
    for start in range(0, count, size):
        rows = min(size, count - start)
        sampler = _Sampler(lattice, rows)
        state = prefilled.rows(rows, lattice.size)
        while True:
            yield Progress(
                (start + sampler.done * rows) / count, f"Sample {start + rows:,} of {count:,}"
            )
            tokens = sampler.step(state.logits, random)
            if tokens is None:
                break
            state.step(tokens)
        samples += sampler.samples()
    return samples


class _Sampler:
    """Rows that walk through a lattice side by side."""

    def __init__(self, lattice: Lattice, rows: int) -> None:
        self._lattice = lattice
        self._places = np.zeros(rows, np.int64)
        self._paths: list[list[int]] = [[] for _ in range(rows)]
        self._logs = np.zeros(rows)
        self._weights = np.zeros(rows)

    @property
    def done(self) -> float:
        """Share of the bytes that all rows have passed."""
        return float(self._places.min()) / max(1, self._lattice.size)

    def step(self, logits: Tensor, random: Any) -> list[int] | None:
        """Choose a token for each row; None when every row is at the end."""
        import torch

        alive = np.flatnonzero(self._places < self._lattice.size)
        if not len(alive):
            return None
        logs = torch.log_softmax(logits.double(), -1).cpu().numpy()
        tokens = [0] * len(self._places)
        draws = random.random(len(self._places))
        for place in np.unique(self._places[alive]):
            rows = alive[self._places[alive] == place]
            ids, ends = self._lattice.ids[place], self._lattice.ends[place]
            own = logs[np.ix_(rows, ids)]
            mass = np.logaddexp.reduce(own, axis=1)
            sums = np.exp(own - mass[:, None]).cumsum(1)
            chosen = (sums < draws[rows][:, None] * sums[:, -1:]).sum(1)
            for row, pick in zip(rows.tolist(), chosen.tolist(), strict=True):
                tokens[row] = int(ids[pick])
                self._paths[row].append(tokens[row])
            self._weights[rows] += mass
            self._logs[rows] += own[np.arange(len(rows)), chosen]
            self._places[rows] = ends[chosen]
        return None if (self._places == self._lattice.size).all() else tokens

    def samples(self) -> list[Sample]:
        """What the rows have drawn, in their order."""
        columns = (map(tuple, self._paths), self._logs.tolist(), self._weights.tolist())
        return [Sample(*row) for row in zip(*columns, strict=True)]
