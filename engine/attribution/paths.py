"""Where paths of embeddings begin, and the points at which an integral along them is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from engine.attribution.gradients import Make, moving
from engine.attribution.settings import AttributionParams
from engine.attribution.work import Floats, Work
from engine.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Baseline = Literal["zero", "mean", "token"]
Quadrature = Literal["gauss_legendre", "trapezoid", "middle"]


class BaselineParams(AttributionParams):
    """Also: the embedding that a path begins at.

    The mean is our default. From zero, models with RMSNorm, which does not see an input's length,
    hardly change until close to zero, where no rule of few points follows them.
    """

    baseline: Baseline = Field(
        "mean",
        title="path begins at",
        description="The mean of all token embeddings, a zero embedding, or a token's.",
    )
    baseline_token: str | None = Field(
        None,
        max_length=200,
        title="beginning token",
        description="With token: one token, as it is written.",
    )

    @model_validator(mode="after")
    def _begins(self) -> BaselineParams:
        if (self.baseline == "token") != (self.baseline_token is not None):
            raise ValueError("baseline_token and baseline=token belong together: give both or none")
        return self


class PathParams(BaselineParams):
    """Also: how the integral along the path is taken."""

    steps: int = Field(
        32, ge=2, le=4096, title="steps", description="Points on the path, each with its gradient."
    )
    quadrature: Quadrature = Field(
        "gauss_legendre", title="rule", description="How the points are placed and weighed."
    )


def quadrature(rule: Quadrature, steps: int) -> tuple[Floats, Floats]:
    """Points in [0, 1] and their weights, which sum to 1.

    ``middle`` is the Riemann sum at the middles of equal intervals. (Captum 0.9's trapezoid gives
    weights that sum to 1 − 1/steps; these do not.)
    """
    if rule == "gauss_legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return (points + 1) / 2, weights / 2
    if rule == "trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps), weights
    return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)


def standing_in(work: Work, kind: Baseline, token: str | None, name: str) -> Tensor:
    """The embedding [D] that stands for nothing.

    Args:
        work: what is explained.
        kind: which.
        token: with ``token``: one token, as it is written.
        name: of the param that gave it, for the error.

    Raises:
        UserError: the text is not a single token.
    """
    import torch

    reader = work.parts[0].reader
    with torch.no_grad(), torch.inference_mode(False):
        if kind == "mean":
            return reader.mean_embedding()
        if kind == "zero":
            return torch.zeros_like(reader.embedded[0])
        ids = work.ctx.tokenizer.encode(token or "", special=False, name=name).ids
        if len(ids) != 1:
            raise UserError(f"{name} has {len(ids)} tokens: give one that is a single token.")
        return reader.embed(torch.tensor(ids[0], device=work.model.device))


def straight(work: Work, start: Tensor, points: Floats) -> Make:
    """Versions on the straight line from ``start`` [D] to the text; fixed tokens stay."""
    import torch

    text = work.parts[0].reader.embedded
    at = torch.as_tensor(points, device=text.device, dtype=text.dtype)
    free = moving(work, work.context)

    def make(which: Tensor, length: int) -> Tensor:
        here = text[:length]
        line = start + at[which, None, None] * (here - start)
        return torch.where(free[:length], line, here)

    return make
