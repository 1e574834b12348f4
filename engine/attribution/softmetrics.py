"""Soft-NS and Soft-NC: scores as probabilities that an element of an embedding stays.

Zhao and Aletras 2023, Incorporating Attribution Importance for Improving Faithfulness Metrics,
ACL 2023, §4; used by Zhao and Shan 2024, ReAGent, arXiv 2402.00794, §5. Nothing here depends on how
sources are removed elsewhere: an element that does not stay is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from engine.attribution.work import Floats, Ints, Part, Reading, Work

Scale = Literal["max", "minmax", "raw"]


def stay(scores: Floats, scale: Scale) -> Floats:
    """Probabilities of staying, a in [0, 1]: scores clipped at 0, then scaled.

    Args:
        scores: [..., S]; missing ones (NaN) count as 0.
        scale: divided by their ``max``, from the smallest to the largest (``minmax``), or as they
            are (``raw``, clipped at 1).
    """
    found = np.nan_to_num(scores).clip(0)
    low: Any = found.min(-1, keepdims=True) if scale == "minmax" else 0.0
    high: Any = found.max(-1, keepdims=True) if scale != "raw" else 1.0
    width = np.where(high > low, high - low, 1.0)
    scaled: Floats = ((found - low) / width).clip(0, 1)
    return scaled


def soft_ns(distance: Floats, empty: Floats) -> Floats:
    """Normalised soft sufficiency, max(0, S − S₀) / (1 − S₀); NaN where S₀ is 1.

    Args:
        distance: between the predictions with all and with the important elements; S is one
            minus it.
        empty: the distance with all elements zero; S₀ is one minus it.
    """
    return _over(np.maximum(0.0, empty - distance), empty)


def soft_nc(distance: Floats, empty: Floats) -> Floats:
    """Normalised soft comprehensiveness, D / (1 − S₀); NaN where S₀ is 1.

    Args:
        distance: between the predictions with all and without the important elements.
        empty: as :func:`soft_ns`.
    """
    return _over(distance, empty)


def _over(value: Floats, empty: Floats) -> Floats:
    value, empty = np.broadcast_arrays(value, empty)
    found: Floats = np.divide(value, empty, out=np.full(value.shape, np.nan), where=empty > 0)
    return found


def hellinger(p: Tensor, q: Tensor, *, compat: bool = False) -> Tensor:
    """Hellinger distance of two rows of probabilities, 0 to 1: ‖√p − √q‖₂ / √2.

    ``compat``: Σ (√p − √q)² / √2, 0 to √2, as the code released with ReAGent computes it.
    """
    square = (p.sqrt() - q.sqrt()).square().sum(-1)
    return square / 2**0.5 if compat else (square / 2).sqrt()


class Masks:
    """Seeded uniform numbers of each draw, [C, D]; the same for all methods (common numbers)."""

    def __init__(self, tokens: int, width: int, seed: int) -> None:
        self.shape = (tokens, width)
        self.seed = seed
        self._kept: dict[int, npt.NDArray[np.float32]] = {}

    def __getitem__(self, draw: int | np.integer[Any]) -> npt.NDArray[np.float32]:
        number = int(draw)
        if number not in self._kept:
            self._kept.clear()
            rng = np.random.Generator(np.random.Philox(key=[self.seed, number]))
            self._kept[number] = rng.random(self.shape, dtype=np.float32)
        return self._kept[number]


class Soft:
    """Distances between the predictions of a text and of softly masked versions of it.

    Args:
        work: targets, sources and reader.
        seed: of the masks.
        compat: see :func:`hellinger`.
    """

    def __init__(self, work: Work, seed: int, *, compat: bool = False) -> None:
        import torch

        self.work, self.compat = work, compat
        width = work.parts[0].reader.embedded.shape[-1]
        self.masks = Masks(work.context, width, seed)
        # Distances are means over the tokens of a target, over both texts where there is a
        # contrast.
        owners = np.concatenate([part.owner for part in work.parts])
        self._rows = np.bincount(owners, minlength=len(work.targets))
        self._own: dict[int, Tensor] = {}
        with torch.no_grad(), torch.inference_mode(False):
            for part in work.parts:
                logits = part.reader.logits(part.reader.embedded[None], part.rows)
                self._own[id(part)] = logits[0].softmax(-1)

    def distances(self, stays: Floats, draws: Ints) -> Reading:
        """Distances [N, n] of N versions.

        Args:
            stays: [N, S] how probably the elements of each source stay.
            draws: [N] the number of the mask that each version is seen through.
        """
        import torch

        order = np.argsort(draws, kind="stable")  # so that a batch needs few masks at a time
        stays, draws = stays[order], draws[order]
        starts = np.array([source.start for source in self.work.sources])
        changed = stays < 1
        first = np.where(changed.any(1), starts[changed.argmax(1)], self.work.context)
        found = np.empty((len(stays), len(self.work.targets)))
        found[order] = yield from self.work.embedded(
            self._make(stays, draws),
            first,
            "Masking softly",
            measure=self._measure,
            base=[torch.zeros(len(p.rows), dtype=torch.float64) for p in self.work.parts],
        )
        return found

    def _make(self, stays: Floats, draws: Ints) -> Callable[[Part, Tensor, int], Tensor]:
        """Embeddings of versions: those of the text, each element kept by chance."""
        import torch

        # One more column for the tokens that always stay.
        padded = np.concatenate([stays, np.ones((len(stays), 1))], 1).astype(np.float32)
        column = np.full(self.work.context, stays.shape[1])
        for number, source in enumerate(self.work.sources):
            column[source.start : source.end] = number

        def make(part: Part, which: Tensor, first: int) -> Tensor:
            base = part.reader.embedded[first:]
            numbers = which.cpu().numpy()
            made = base.expand(len(numbers), -1, -1).clone()
            inside = slice(0, max(0, self.work.context - first))
            for draw in np.unique(draws[numbers]):
                rows = np.flatnonzero(draws[numbers] == draw)
                stay = padded[numbers[rows]][:, column[first:], None]
                uniform, stay = (
                    torch.as_tensor(a, device=base.device) for a in (self.masks[draw][first:], stay)
                )
                made[rows, inside] = torch.where(uniform < stay, base[inside], 0)
            return made

        return make

    def _measure(self, logits: Tensor, part: Part, which: Tensor) -> Tensor:
        import torch

        which = which.to(logits.device)
        own = self._own[id(part)][which]
        rows = torch.as_tensor(self._rows[part.owner], device=logits.device)[which]
        return hellinger(own, logits.softmax(-1), compat=self.compat) / rows
