"""The chance of a target on changed texts: a number between 0 and 1 that curves can be drawn of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.attribution.targets import measured

if TYPE_CHECKING:
    from torch import Tensor

    from engine.attribution.work import Bools, Floats, Part, Reading, Work


class Chance:
    """Values of changed texts on one scale, whatever is explained.

    ``probability``: p(target), the mean over its tokens. ``preference``, where there is a
    contrast: p(target) / (p(target) + p(contrast)), the whole continuations against each other.
    ``value``, for entropy and kl: the explained number itself.

    Args:
        work: the targets and their text.

    Attributes:
        kind: which of the three.
        base: [n] values on the text as it is.
    """

    def __init__(self, work: Work) -> None:
        import torch

        self.work = work
        if work.params.explain in ("entropy", "kl"):
            self.kind = "value"
        else:
            self.kind = "probability" if work.params.contrast is None else "preference"
        # Only texts without a contrast have a probability, and they have one part.
        owner = work.parts[0].owner
        self._tokens = np.bincount(owner, minlength=len(work.targets))[owner]
        self._base: list[Tensor] = []
        if self.kind == "value":
            self._base = [part.base for part in work.parts]
        else:
            with torch.no_grad(), torch.inference_mode(False):
                for part in work.parts:
                    logits = part.reader.logits(part.reader.embedded[None], part.rows)
                    every = torch.arange(len(part.rows))
                    self._base.append(self._measure(logits, part, every)[0].double().cpu())
        total = np.zeros(len(work.targets))
        for part, base in zip(work.parts, self._base, strict=True):
            np.add.at(total, part.owner, base.numpy())
        self.base = self._scaled(total)

    def kept(self, keep: Bools, what: str = "Reading changed texts") -> Reading:
        """Values [N, n] of N versions, in each of which only the sources [N, S] are kept.

        Equal versions are read once.
        """
        unique, inverse = np.unique(keep, axis=0, return_inverse=True)
        measure = None if self.kind == "value" else self._measure
        found = yield from self.work.kept(unique, what, measure=measure, base=self._base)
        return self._scaled(found)[inverse.reshape(-1)]

    def _measure(self, logits: Tensor, part: Part, which: Tensor) -> Tensor:
        import torch

        which = which.to(logits.device)
        if self.kind == "probability":
            labels = part.said[0][0][which]
            tokens = torch.as_tensor(self._tokens, device=logits.device)[which]
            return measured(logits, labels, "probability") / tokens
        rows = [sign * measured(logits, labels[which], "logprob") for labels, sign in part.said]
        return torch.stack(rows).sum(0)

    def _scaled(self, values: Floats) -> Floats:
        """Differences of log-probabilities as shares of two; the others as they are."""
        if self.kind != "preference":
            return values
        from scipy.special import expit

        scaled: Floats = expit(values)
        return scaled
