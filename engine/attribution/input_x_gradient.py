"""``attribution.input_x_gradient``: each token's embedding along the gradient there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from engine.attribution.gradients import as_it_is, finished, gradients
from engine.attribution.settings import TABLES, AttributionParams
from engine.attribution.work import MODELS, Ints, Work
from engine.context import Context
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from torch import Tensor


@analysis(
    "attribution.input_x_gradient",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=AttributionParams,
    tables=TABLES,
    title="If the target followed its slope, what would each token add?",
    cite=(
        (
            "Shrikumar, Greenside, Shcherbina & Kundaje 2016, Not Just a Black Box, §2 "
            "(gradient times input)"
        ),
    ),
    caveats=(
        (
            "It takes the model for linear all the way from nothing to the text, which it is not: "
            "integrated gradients follows the way."
        ),
    ),
)
def input_x_gradient(ctx: Context) -> Iterator[Progress | Tables]:
    """Inner product of a token's input embedding with the explained value's gradient there.

    Exact for a linear model. Sources of several tokens get the sum.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    tokens = np.zeros((len(work.targets), work.context))
    text = work.parts[0].reader.embedded

    def take(target: int, _: Ints, gradient: Tensor) -> None:
        length = gradient.shape[1]
        products = (gradient[0].double() * text[:length].double()).sum(-1)
        tokens[target, :length] = products.cpu().numpy()

    yield from gradients(work, as_it_is(work), 1, take, "Following gradients back")
    yield finished(work, tokens)
