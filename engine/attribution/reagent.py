"""``attribution.reagent``: which tokens must stay for the model to go on saying this."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from engine.attribution.replacing import Replacer, Sampler
from engine.attribution.sampled import lively, staged, uniforms
from engine.attribution.settings import TABLES, AttributionParams
from engine.attribution.work import MODELS, Bools, Floats, Ints, Part, Work
from engine.context import Context
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

if TYPE_CHECKING:
    from torch import Tensor

MOST = 1 - 1e-6
"""Largest change of a probability: beyond it the log-odds are infinite."""

PROBES = Table(
    doc="One row per target and probe: how it ended.",
    columns={
        "target_position": Column(pa.int64(), "First position of the target."),
        "probe": Column(pa.int64(), "Number of the probe."),
        "steps": Column(pa.int64(), "Random replacements it has seen."),
        "stopped": Column(pa.bool_(), "Whether its top sources sufficed in the end."),
    },
)


class ReagentParams(AttributionParams):
    """How the probes go."""

    explain: Literal["probability"] = Field(
        "probability",
        title="what to explain",
        description="ReAGent is defined for probabilities.",
    )
    sampler: Sampler = Field(
        "class",
        title="replaced by",
        description=(
            "class: a random id of the same token class; uniform: any; model: what the model "
            "itself would say there."
        ),
    )
    rate: float = Field(
        0.3, gt=0, lt=1, title="share replaced", description="Chance that a source is replaced."
    )
    keep: int = Field(
        3, ge=1, le=10_000, title="kept", description="Top sources that must suffice at the end."
    )
    top_k: int = Field(
        3,
        ge=1,
        le=10_000,
        title="top k",
        description="They suffice when the target is among the k most probable ids.",
    )
    probes: int = Field(
        8, ge=1, le=256, title="probes", description="Independent runs, whose scores are averaged."
    )
    max_steps: int = Field(
        200,
        ge=1,
        le=10_000,
        title="steps at most",
        description="Of a probe (ours; the authors' code goes to 3,000).",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, title="seed", description="Of all random draws.")

    @model_validator(mode="after")
    def _fits(self) -> ReagentParams:
        if self.contrast is not None:
            raise ValueError("ReAGent explains a probability, not a difference: leave it out")
        if (self.spans is None) != (self.granularity != "spans"):
            raise ValueError("spans and granularity=spans belong together: give both or neither")
        return self


@analysis(
    "attribution.reagent",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=ReagentParams,
    tables={**TABLES, "probes": PROBES},
    title="Which few tokens must stay for the model to say this?",
    cite=(
        "Zhao & Shan 2024, ReAGent: Feature Attribution for Generative Models, arXiv 2402.00794",
    ),
    caveats=(
        "Shares that add up to 1: where no source matters, some still have more than others.",
        "It ends as soon as the top sources suffice: the order of the others is mostly chance.",
        "Token classes stand in for the paper's part-of-speech tags, which need a tagger.",
    ),
)
def reagent(ctx: Context) -> Iterator[Progress | Tables]:
    """ReAGent: sources whose random replacement lowers the target's probability gain importance.

    Each probe starts from random importances. A step replaces every source with chance ``rate`` and
    measures the fall Δ of the probability: replaced sources gain the log-odds of (1 + Δ)/2, the
    others lose them. A probe stops when, with all but its top ``keep`` sources replaced, the target
    is among the ``top_k`` most probable ids. Scores: softmax of the importances over the sources
    before the target, mean over the probes that stopped.

    All probes and targets share their forwards; each pair of them stops on its own. Where none
    stops within ``max_steps`` the mean is over all of them and a note says so (the released code
    divides by zero). A target of several tokens counts by its mean probability. Replacements are
    drawn without a tagger or a second model; a replacement is never the token itself.
    """
    yield Progress(None, "Reading the text")
    run = Probing(Work(ctx), ctx.params)
    yield from lively(run.steps())
    run.note()
    yield run.tables()


class Probing:
    """All probes of all targets.

    Attributes:
        logits: [B, n, S] importances; ``stopped`` [B, n]; ``taken`` [B, n] steps.
    """

    def __init__(self, work: Work, params: ReagentParams) -> None:
        self.work, self.params = work, params
        self.replacer = Replacer(work, params.sampler)
        shape = (params.probes, len(work.targets), len(work.sources))
        self.logits = np.stack(
            [
                self._draws("start", i, shape[1] * shape[2]).reshape(shape[1:])
                for i in range(shape[0])
            ]
        )
        self.stopped = np.zeros(shape[:2], bool)
        self.taken = np.zeros(shape[:2], np.int64)
        self.tokens = np.array([t.end - t.start for t in work.targets])

    def steps(self) -> Generator[Progress, None, None]:
        """Go on until every probe of every target has stopped."""
        ranked = self._ranked_base()
        active = ~self.stopped & self.work.applies.any(1)
        for step in range(self.params.max_steps):
            if not active.any():
                return
            yield from self._replace(step, active)
            yield from self._check(step, active, ranked)
            active &= ~self.stopped
            what = f"Step {step + 1:,}: {int(active.sum()):,} probes go on"
            yield Progress((step + 1) / self.params.max_steps, what, so_far=self.tables)

    def _replace(self, step: int, active: Bools) -> Generator[Progress, None, None]:
        """Replace sources at random and move the importances of what is still running."""
        which = np.flatnonzero(active.any(1))
        numbers = [self._index(step, b) for b in which.tolist()]
        draws = [self._draws("mask", number, len(self.work.sources)) for number in numbers]
        gone = np.stack(draws) < self.params.rate
        reading = self.work.replaced(self._ids(gone, "replace", numbers), "Replacing at random")
        values = yield from staged(reading, step / self.params.max_steps, 0)
        change = np.clip((self.work.base - values) / self.tokens, -MOST, MOST)
        odds = np.log1p(change) - np.log1p(-change)
        moved = np.where(gone[:, None, :], odds[:, :, None], -odds[:, :, None])
        going = active[which]
        self.logits[which] += np.where(going[:, :, None], moved, 0.0)
        self.taken[which] += going

    def _check(
        self, step: int, active: Bools, ranked: Sequence[Tensor]
    ) -> Generator[Progress, None, None]:
        """Stop those whose top sources alone leave the target among the most probable ids."""
        probes, targets = np.nonzero(active)
        gone = np.ones((len(probes), len(self.work.sources)), bool)
        for row, (b, i) in enumerate(zip(probes, targets, strict=True)):
            score = np.where(self.work.applies[i], self.logits[b, i], -np.inf)
            gone[row, np.argsort(-score, kind="stable")[: self.params.keep]] = False
        numbers = [
            self._index(step, b) * len(self.tokens) + i
            for b, i in zip(probes.tolist(), targets.tolist(), strict=True)
        ]
        ids = self._ids(gone, "check", numbers)
        reading = self.work.replaced(
            ids, "Keeping only the top sources", measure=self._among, base=ranked
        )
        hits = yield from staged(reading, step / self.params.max_steps, 0)
        enough = hits[np.arange(len(probes)), targets] == self.tokens[targets]
        self.stopped[probes[enough], targets[enough]] = True

    def _among(self, logits: Tensor, part: Part, which: Tensor) -> Tensor:
        """1 for rows whose id is among the ``top_k`` most probable ones, [b, m]."""
        labels = part.said[0][0][which.to(logits.device)]
        own = logits.gather(-1, labels.expand(logits.shape[:-1])[..., None])
        return ((logits > own).sum(-1) < self.params.top_k).double()

    def _ranked_base(self) -> list[Tensor]:
        import torch

        found = []
        with torch.no_grad(), torch.inference_mode(False):
            for part in self.work.parts:
                logits = part.reader.logits(part.reader.embedded[None], part.rows)
                found.append(self._among(logits, part, torch.arange(len(part.rows)))[0].cpu())
        return found

    def _ids(self, gone: Bools, purpose: str, numbers: Sequence[int]) -> Ints:
        """The context [N, C] with those sources replaced."""
        kept = self.work.token_mask(~gone)
        draws = np.stack([self._draws(purpose, n, self.work.context) for n in numbers])
        return np.where(kept, self.replacer.own, self.replacer.ids(draws))

    def _draws(self, purpose: str, index: int, count: int) -> Floats:
        return uniforms(self.params.seed, f"reagent {purpose}", index, count)

    def _index(self, step: int, probe: int) -> int:
        # Room for more probes: their number changes nothing of the first ones.
        return step * 256 + probe

    def scores(self) -> Floats:
        """Shares [n, S], NaN for sources that are none of the target's."""
        logits = np.where(self.work.applies, self.logits, -np.inf)
        top = np.where(self.work.applies.any(1), logits.max(-1), 0.0)[..., None]
        shares = np.exp(logits - top)
        shares /= np.maximum(shares.sum(-1, keepdims=True), 1e-300)
        counted = np.where(self.stopped.any(0), self.stopped, True)
        mean = (shares * counted[..., None]).sum(0) / counted.sum(0)[:, None]
        return np.where(self.work.applies, mean, np.nan)

    def note(self) -> None:
        """Say for which targets no probe stopped."""
        for i, target in enumerate(self.work.targets):
            if self.work.applies[i].any() and not self.stopped[:, i].any():
                self.work.ctx.note(
                    "attribution",
                    "score",
                    f"No probe stopped within {self.params.max_steps:,} steps: the scores are the "
                    "mean over all of them. A larger keep or top_k lets them stop.",
                    position=target.start,
                )

    def tables(self) -> Tables:
        """The result, or what is known of it."""
        probes = {
            "target_position": [t.start for t in self.work.targets for _ in self.taken],
            "probe": list(range(len(self.taken))) * len(self.work.targets),
            "steps": self.taken.T.ravel(),
            "stopped": self.stopped.T.ravel(),
        }
        return self.work.tables(self.scores(), probes=pa.table(probes))
