"""``attribution.saliency``: how much the target reacts to small changes of a token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from engine.attribution.gradients import as_it_is, finished, gradients
from engine.attribution.settings import TABLES, AttributionParams
from engine.attribution.work import MODELS, Ints, Work
from engine.context import Context
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from torch import Tensor


class SaliencyParams(AttributionParams):
    """Also: how a token's gradient becomes one number."""

    norm: Literal["l2", "l1"] = Field(
        "l2",
        title="norm",
        description="l2: root of the sum of squares; l1: sum of absolute values.",
    )


@analysis(
    "attribution.saliency",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=SaliencyParams,
    tables=TABLES,
    title="How much does the target react to small changes of a token?",
    cite=(
        (
            "Simonyan, Vedaldi & Zisserman 2014, Deep Inside Convolutional Networks, §3 "
            "(the maximum over channels; a norm over embedding dimensions as in Inseq)"
        ),
    ),
    caveats=(
        "It has no sign, and says how sensitive the target is, not how much a token added to it.",
        "Where a model is sure, gradients vanish and little remains to rank.",
    ),
)
def saliency(ctx: Context) -> Iterator[Progress | Tables]:
    """Norm of the gradient of the explained value with respect to a token's input embedding.

    Sources of several tokens get the sum of their norms. One forward pass for up to sixteen
    targets, one backward pass for each.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    order = 2 if ctx.params.norm == "l2" else 1
    tokens = np.zeros((len(work.targets), work.context))

    def take(target: int, _: Ints, gradient: Tensor) -> None:
        norms = gradient[0].double().norm(order, dim=-1)
        tokens[target, : len(norms)] = norms.cpu().numpy()

    yield from gradients(work, as_it_is(work), 1, take, "Following gradients back")
    yield finished(work, tokens)
