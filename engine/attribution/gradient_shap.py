"""``attribution.gradient_shap``: gradients at random points between random texts and this one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.attribution.gradients import Make, finished, gradients, moving, values
from engine.attribution.noise import generator
from engine.attribution.segments import texts
from engine.attribution.settings import TABLES, AttributionParams
from engine.attribution.work import MODELS, Floats, Ints, Work
from engine.context import Context
from engine.limits.caps import DRAWS
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from torch import Tensor

Background = Literal["vocabulary", "text", "zero", "mean"]


class GradientShapParams(AttributionParams):
    """Also: what the paths begin at, and how many points are drawn."""

    samples: int = Field(
        64,
        ge=2,
        le=4096,
        title="points",
        description="Each on a path of its own; the standard error falls with their root.",
        json_schema_extra=DRAWS,
    )
    background: Background = Field(
        "vocabulary",
        title="paths begin at",
        description=(
            "vocabulary: a random token in each place; text: this text's own tokens in random "
            "order; zero or mean: always the same embedding."
        ),
    )
    noise: float = Field(
        0.0,
        ge=0,
        le=10,
        title="noise",
        description="Standard deviation of noise on the text's embeddings, as a share of their "
        "range; none by default, as in Captum.",
    )
    seed: int = Field(0, ge=0, lt=2**63, title="seed")


SPREAD = Table(
    doc="One row per score: how far it may be off by the draw.",
    columns={
        "target_position": Column(pa.int64(), "First position of the target."),
        "source": Column(pa.string(), "The source, readable."),
        "source_position": Column(pa.int64(), "Its first position."),
        "standard_error": Column(pa.float64(), "Standard error of the score."),
    },
)


@analysis(
    "attribution.gradient_shap",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=GradientShapParams,
    tables={**TABLES, "spread": SPREAD},
    title="What does each token add on the way from random texts to this one?",
    cite=(
        (
            "Erion, Janizek, Sturmfels, Lundberg & Lee 2021, Improving performance of deep "
            "learning models with axiomatic attribution priors and expected gradients, eq. 2"
        ),
        "Lundberg & Lee 2017, A Unified Approach to Interpreting Model Predictions (SHAP values)",
        "Captum 0.9, GradientShap (noise on the input)",
    ),
    caveats=(
        "Scores are means over random points: the table spread gives their standard errors.",
        (
            "They add up to the value minus its mean over the beginnings only on average: the "
            "residual column shows what the draw left."
        ),
        "What the paths begin at is our choice: no source gives a background for text.",
    ),
)
def gradient_shap(ctx: Context) -> Iterator[Progress | Tables]:
    """Mean of (x − x₀) · ∂F/∂x at x₀ + a(x − x₀), with a random x₀ and a uniform a for each point.

    x is the text's embeddings, with noise if asked for. Draw *i* is always the same for a seed.
    Special tokens and what own spans leave out do not move.
    """
    yield Progress(None, "Reading the text")
    work = Work(ctx)
    params: GradientShapParams = ctx.params
    # Per draw, so that a source's tokens are added up before the spread is taken.
    drawn = np.zeros((params.samples, len(work.targets), len(work.sources)))
    draws = Draws(work, params)

    def take(target: int, which: Ints, gradient: Tensor) -> None:
        length = gradient.shape[1]
        begin, end = draws.ends(which, length)
        products = ((end - begin).double() * gradient.double()).sum(-1).cpu().numpy()
        tokens = np.zeros((len(which), work.context))
        tokens[:, :length] = products
        drawn[which, target] = work.per_source(tokens)

    points = draws.points()
    yield from gradients(work, points, params.samples, take, "Looking at random points")
    begins = yield from values(work, draws.begins(), params.samples, "Reading the beginnings")
    tokens = np.zeros((len(work.targets), work.context))
    tokens[:, [s.start for s in work.sources]] = drawn.mean(0)  # a source's sum, on its first
    error = drawn.std(0, ddof=1) / params.samples**0.5
    yield finished(work, tokens, begins.mean(0), spread=_spread(work, error))


class Draws:
    """Random paths: where draw *i* begins and ends, and where on it the point lies."""

    def __init__(self, work: Work, params: GradientShapParams) -> None:
        import torch

        self._work, self._params = work, params
        self._reader = work.parts[0].reader
        self._text = self._reader.embedded[: work.context]
        self._free = moving(work, work.context)
        self._range = float(self._text.max() - self._text.min())
        self._last: tuple[list[int], Tensor, Tensor] | None = None
        with torch.no_grad(), torch.inference_mode(False):
            still = {"zero": torch.zeros_like, "mean": lambda _: self._reader.mean_embedding()}
            make = still.get(params.background)
            self._always = None if make is None else make(self._text).expand_as(self._text)

    def ends(self, which: Ints, length: int) -> tuple[Tensor, Tensor]:
        """Beginning and end of the paths of some draws, [b, length, D] each."""
        numbers = which.tolist()
        if self._last is None or self._last[0] != numbers:  # every target asks for the same ones
            self._last = (numbers, *self._ends(numbers))
        return self._last[1][:, :length], self._last[2][:, :length]

    def _ends(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        import torch

        with torch.no_grad(), torch.inference_mode(False):
            begin = torch.stack([self._begin(i) for i in numbers])
            end = self._text.expand_as(begin)
            if self._params.noise:
                noise = np.stack([self._normal(i) for i in numbers])
                size = self._params.noise * self._range
                end = end + torch.as_tensor(size * noise, device=end.device, dtype=end.dtype)
            begin = torch.where(self._free, begin, self._text)
            return begin, torch.where(self._free, end, self._text)

    def points(self) -> Make:
        """The points themselves."""
        import torch

        shares = [
            generator(self._params.seed, "point", i).random() for i in range(self._params.samples)
        ]
        at = torch.as_tensor(np.array(shares), device=self._text.device, dtype=self._text.dtype)

        def make(which: Tensor, length: int) -> Tensor:
            begin, end = self.ends(which.cpu().numpy(), length)
            return begin + at[which, None, None] * (end - begin)

        return make

    def begins(self) -> Make:
        """The beginnings."""
        return lambda which, length: self.ends(which.cpu().numpy(), length)[0]

    def _begin(self, number: int) -> Tensor:
        import torch

        if self._always is not None:
            return self._always
        random = generator(self._params.seed, "background", number)
        if self._params.background == "text":
            own = self._free[:, 0].nonzero()[:, 0].cpu().numpy()
            found = self._text.clone()
            found[own] = self._text[random.permutation(own)]
            return found
        ids = random.integers(0, self._work.model.real_vocab, self._work.context)
        return self._reader.embed(torch.as_tensor(ids, device=self._text.device))

    def _normal(self, number: int) -> Floats:
        random = generator(self._params.seed, "noise", number)
        return random.standard_normal(tuple(self._text.shape))


def _spread(work: Work, error: Floats) -> pa.Table:
    rows, columns = np.nonzero(work.applies)
    names = texts(work.trace, work.sources)
    found = error[rows, columns]
    return pa.table(
        {
            "target_position": [work.targets[i].start for i in rows],
            "source": [names[j] for j in columns],
            "source_position": [work.sources[j].start for j in columns],
            "standard_error": pa.array(found, pa.float64(), mask=~np.isfinite(found)),
        }
    )
