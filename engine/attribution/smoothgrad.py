"""``attribution.smoothgrad``: gradients averaged over texts whose embeddings are a little noisy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from engine.attribution.gradients import Make, finished, gradients, moving
from engine.attribution.noise import generator
from engine.attribution.settings import TABLES, AttributionParams
from engine.attribution.work import MODELS, Ints, Work
from engine.context import Context
from engine.limits.caps import DRAWS
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from torch import Tensor


class SmoothGradParams(AttributionParams):
    """Also: the noise, and what is averaged."""

    samples: int = Field(
        50,
        ge=1,
        le=4096,
        title="noisy texts",
        description="How many are averaged; the paper sees little change after 50.",
        json_schema_extra=DRAWS,
    )
    noise: float = Field(
        0.15,
        gt=0,
        le=10,
        title="noise",
        description=(
            "Its standard deviation as a share of the largest minus the smallest number in the "
            "text's embeddings; the paper advises 0.1 to 0.2."
        ),
    )
    quantity: Literal["norm", "input_x_gradient"] = Field(
        "norm",
        title="what is averaged",
        description=(
            "norm: the size of a token's gradient, without sign; input_x_gradient: its inner "
            "product with the token's own embedding."
        ),
    )
    seed: int = Field(0, ge=0, lt=2**63, title="seed")


@analysis(
    "attribution.smoothgrad",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=SmoothGradParams,
    tables=TABLES,
    title="How much does the target react to a token, averaged over noisy versions of the text?",
    cite=("Smilkov, Thorat, Kim, Viégas & Wattenberg 2017, SmoothGrad, §3 and §4",),
    caveats=(
        (
            "Noise of this size around an embedding is no token any more: the model is asked about "
            "inputs that it never saw."
        ),
        (
            "With norm the scores have no sign. The paper averages signed gradients of pixels and "
            "takes absolute values for drawing; here, as in Captum, sizes are averaged."
        ),
    ),
)
def smoothgrad(ctx: Context) -> Iterator[Progress | Tables]:
    """Mean over noisy texts of a token's gradient: its Euclidean norm, or along the embedding.

    Noise is Gaussian and independent in every dimension, sample *i* always the same for a seed.
    Special tokens and what own spans leave out get none.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    params: SmoothGradParams = ctx.params
    tokens = np.zeros((len(work.targets), work.context))
    text = work.parts[0].reader.embedded[: work.context]

    def take(target: int, _: Ints, gradient: Tensor) -> None:
        length = gradient.shape[1]
        wide = gradient.double()
        if params.quantity == "norm":
            sums = wide.norm(dim=-1).sum(0)
        else:
            sums = (wide.sum(0) * text[:length].double()).sum(-1)
        tokens[target, :length] += sums.cpu().numpy() / params.samples

    make = noisy(work, params.noise, params.seed)
    yield from gradients(work, make, params.samples, take, "Averaging over noisy texts")
    yield finished(work, tokens)


def noisy(work: Work, share: float, seed: int) -> Make:
    """Versions of the text with Gaussian noise on the tokens that may move."""
    import torch

    text = work.parts[0].reader.embedded[: work.context]
    size = share * float(text.max() - text.min())
    free = moving(work, work.context)

    def make(which: Tensor, length: int) -> Tensor:
        drawn = np.stack(
            [
                generator(seed, "noise", int(i)).standard_normal((work.context, text.shape[1]))
                for i in which.tolist()
            ]
        )[:, :length]
        noise = torch.as_tensor(size * drawn, device=text.device, dtype=text.dtype)
        return text[:length] + noise * free[:length]

    return make
