"""``attribution.integrated_gradients``: gradients along the way from nothing to the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.attribution.gradients import Goal, by_target, finished, gradients, values
from engine.attribution.paths import PathParams, quadrature, standing_in, straight
from engine.attribution.settings import TABLES
from engine.attribution.work import MODELS, Floats, Ints, Reading, Work
from engine.context import Context
from engine.registry import analysis
from engine.schema import Progress, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from torch import Tensor


@analysis(
    "attribution.integrated_gradients",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=PathParams,
    tables=TABLES,
    title="What does each token add on the way from nothing to this text?",
    cite=("Sundararajan, Taly & Yan 2017, Axiomatic Attribution for Deep Networks, §3, eq. 1",),
    caveats=(
        (
            "The scores add up to the value minus the value at the path's beginning; the residual "
            "column says how closely."
        ),
        "No text lies between: the model is asked about embeddings that it never saw in training.",
        "Another beginning is another question and gives other scores.",
        (
            "A model that is sure changes abruptly on the way, one with RMSNorm close to a zero "
            "embedding too: where the residual is not small against value minus baseline, do not "
            "believe the scores; take more steps or another beginning."
        ),
    ),
)
def integrated_gradients(ctx: Context) -> Iterator[Progress | Tables]:
    """Σ over dimensions of (x − x₀) · ∫₀¹ ∂F/∂x (x₀ + a(x − x₀)) da, for each token.

    With ``contrast`` F is the difference of the two, which makes it contrastive. Special tokens,
    what own spans leave out and the continuations stay as they are along the path, so the
    integral, the baseline and completeness are about the other tokens.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    tokens = yield from along_the_path(work, ctx.params, by_target(work))
    baseline = yield from at_the_beginning(work, ctx.params)
    yield finished(work, tokens, baseline)


def along_the_path(work: Work, params: PathParams, goals: Sequence[Goal]) -> Reading:
    """Integrated gradients of each goal, [goals, C]."""
    import torch

    start = standing_in(work, params.baseline, params.baseline_token, "baseline_token")
    points, weights = quadrature(params.quadrature, params.steps)
    with torch.no_grad(), torch.inference_mode(False):
        way = straight(work, start, np.array([1.0, 0.0]))
        ends = way(torch.arange(2, device=start.device), work.context).double()
        difference = ends[0] - ends[1]
    weight = torch.as_tensor(weights, device=start.device)
    tokens = np.zeros((len(goals), work.context))

    def take(goal: int, which: Ints, gradient: Tensor) -> None:
        length = gradient.shape[1]
        mean = torch.einsum("bld,b->ld", gradient.double(), weight[which])
        tokens[goal, :length] += (mean * difference[:length]).sum(-1).cpu().numpy()

    make = straight(work, start, points)
    yield from gradients(work, make, len(points), take, "Walking from nothing to the text", goals)
    return tokens


def at_the_beginning(work: Work, params: PathParams) -> Reading:
    """Explained numbers where the path begins, [n]."""
    start = standing_in(work, params.baseline, params.baseline_token, "baseline_token")
    found: Floats = yield from values(
        work, straight(work, start, np.zeros(1)), 1, "Reading the beginning"
    )
    return found[0]
