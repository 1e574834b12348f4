"""Gradients of explained numbers with respect to input embeddings, for many versions of one text.

Targets that stand close together share a forward pass, which ends where the last of them is
predicted; each has a backward pass of its own. Versions change the context only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.attribution.work import Floats, Ints, Part, Reading, Work
from engine.schema import Progress, Tables

if TYPE_CHECKING:
    from torch import Tensor

MOST_GOALS = 16
"""Numbers that share a forward pass; those that are predicted earlier read too much by it."""

Make = Callable[["Tensor", int], "Tensor"]
"""Numbers of versions [b] and a length: their embeddings of the first tokens, [b, length, D]."""

Take = Callable[[int, Ints, "Tensor"], None]
"""Gets the number of a goal, versions [b] and its gradient there, [b, length, D]."""


@dataclass(frozen=True)
class Goal:
    """One number that is differentiated: a sum over rows of the parts.

    Attributes:
        parts: as ``Work.parts``, perhaps with fewer labels.
        rows: [k] those of each part's rows that are added up.
    """

    parts: tuple[Part, ...]
    rows: tuple[Ints, ...]


def by_target(work: Work) -> list[Goal]:
    """The explained number of each target."""
    parts = tuple(work.parts)
    return [
        Goal(parts, tuple(np.flatnonzero(p.owner == i) for p in parts))
        for i in range(len(work.targets))
    ]


def by_sign(work: Work) -> list[Goal]:
    """The two sides of a contrast: of the target, and of what it is compared with (negated)."""
    found = []
    for sign in (1, -1):
        said = [[s for s in p.said if s[1] == sign] for p in work.parts]
        parts = tuple(dataclasses.replace(p, said=s) for p, s in zip(work.parts, said, strict=True))
        rows = tuple(np.arange(len(p.rows) if p.said else 0) for p in parts)
        found.append(Goal(parts, rows))
    return found


def as_it_is(work: Work) -> Make:
    """The text itself, unchanged."""
    embedded = work.parts[0].reader.embedded
    return lambda which, length: embedded[:length].expand(len(which), -1, -1)


def gradients(
    work: Work,
    make: Make,
    count: int,
    take: Take,
    what: str,
    goals: Sequence[Goal] | None = None,
) -> Generator[Progress, None, None]:
    """Hand the gradient of every goal at every version to ``take``.

    A gradient is in the model's number type; add up in float64. Tokens behind a goal's rows have
    gradient 0, tokens behind ``length`` are left out. Nothing of a graph lives at a yield.

    Args:
        work: what is explained.
        make: embeddings of versions of the context, the first ``length`` tokens of it.
        count: how many versions there are.
        take: what becomes of a gradient.
        what: said while it runs.
        goals: numbers to differentiate; None is the explained number of each target.
    """
    goals = by_target(work) if goals is None else goals
    done, everything = 0, len(goals) * count
    for chunk in _chunks(goals):
        size = _batch_size(work, [goals[i] for i in chunk])
        for at in range(0, count, size):
            which = np.arange(at, min(at + size, count))
            totals: dict[int, Tensor] = {}
            for number in range(len(work.parts)):
                for goal, gradient in _read(work, number, goals, chunk, make, which):
                    totals[goal] = totals[goal] + gradient if goal in totals else gradient
            for goal, total in totals.items():
                take(goal, which, total)
            totals.clear()
            done += len(which) * len(chunk)
            yield Progress(done / everything, f"{what}: {done:,} of {everything:,} gradients")


def values(work: Work, make: Make, count: int, what: str) -> Reading:
    """Explained numbers of the versions themselves, [count, n], as :func:`gradients` has them."""
    import torch

    def whole(part: Part, which: Tensor, first: int) -> Tensor:
        tail = part.reader.embedded[work.context :].expand(len(which), -1, -1)
        return torch.cat([make(which, work.context), tail], 1)[:, first:]

    firsts = np.full(count, min(s.start for s in work.sources))
    return (yield from work.embedded(whole, firsts, what))


def moving(work: Work, length: int) -> Tensor:
    """Which of the first tokens may change, [length, 1]: those of sources."""
    import torch

    mask = torch.zeros(max(length, work.context), 1, dtype=torch.bool, device=work.model.device)
    for source in work.sources:
        mask[source.start : source.end] = True
    return mask[:length]


def finished(
    work: Work, tokens: Floats, baseline: Floats | None = None, **more: pa.Table
) -> Tables:
    """The result of token scores [n, C]; sources of several tokens get their sum."""
    scores = work.per_source(tokens)
    if not np.isfinite(scores[work.applies]).all():
        work.ctx.note(
            "attribution",
            "score",
            f"The gradient is no finite number in {str(work.model.dtype).removeprefix('torch.')}: "
            "load the model in float32.",
        )
    return work.tables(scores, baseline, **more)


def _chunks(goals: Sequence[Goal]) -> Iterator[list[int]]:
    """Numbers of goals read together, in the order in which they are predicted."""
    order = sorted(range(len(goals)), key=lambda i: _last(goals[i]))
    for at in range(0, len(order), MOST_GOALS):
        yield order[at : at + MOST_GOALS]


def _last(goal: Goal) -> int:
    """The last position that a goal reads."""
    return max(int(p.rows[r].max()) for p, r in zip(goal.parts, goal.rows, strict=True) if len(r))


def _batch_size(work: Work, goals: Sequence[Goal]) -> int:
    sizes = []
    for number, part in enumerate(work.parts):
        rows = np.unique(np.concatenate([g.rows[number] for g in goals]))
        if len(rows):
            length = int(part.rows[rows].max()) + 1
            sizes.append(part.reader.batch_size(length, len(rows), gradient=True))
    return min(sizes)


def _read(
    work: Work, number: int, goals: Sequence[Goal], chunk: list[int], make: Make, which: Ints
) -> list[tuple[int, Tensor]]:
    """Gradients [b, length, D] of the goals of a chunk in one part, by their numbers."""
    import torch

    reader = work.parts[number].reader
    here = [i for i in chunk if len(goals[i].rows[number])]
    if not here:
        return []
    rows = np.unique(np.concatenate([goals[i].rows[number] for i in here]))
    places = work.parts[number].rows[rows]
    length = int(places.max()) + 1
    index = torch.as_tensor(which, device=work.model.device)
    with torch.inference_mode(False), torch.no_grad():
        start = make(index, min(length, work.context)).detach().clone()
    with torch.inference_mode(False), torch.enable_grad():
        start.requires_grad_()
        tail = reader.embedded[work.context : length].expand(len(which), -1, -1)
        logits = reader.logits(torch.cat([start, tail], 1), places)
        sums = []
        for i in here:
            own = torch.as_tensor(goals[i].rows[number])
            columns = torch.as_tensor(np.searchsorted(rows, own.numpy()), device=logits.device)
            sums.append(work.measure(logits[:, columns], goals[i].parts[number], own).sum())
        found = []
        for place, i in enumerate(here):
            again = place + 1 < len(here)
            (gradient,) = torch.autograd.grad(sums[place], start, retain_graph=again)
            found.append((i, gradient))
            reader.backwards += len(which)
    return found
