"""``reward.spine``: forks of each response, the entropy band around them, the majority's reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from engine.answers import answer_text, same_answer
from engine.context import Context
from engine.registry import Params, analysis
from engine.reward.population import (
    Bools,
    Floats,
    batches,
    population_row,
    population_table,
    rollout_row,
    survey,
    tokens_of,
)
from engine.reward.populationtables import POPULATION, ROLLOUT, tokens_schema
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Rollouts
from engine.texts.textstats import top_share


class SpineParams(Params):
    """Settings of ``reward.spine``."""

    share: float = Field(
        0.2, gt=0, le=1, title="Forks", description="Share of each response that is a fork."
    )
    low: float = Field(
        0.1, ge=0, le=1, title="Band from", description="Quantile of the forks' entropy."
    )
    high: float = Field(
        0.5, ge=0, le=1, title="Band to", description="Quantile of the forks' entropy."
    )

    @model_validator(mode="after")
    def _ordered(self) -> SpineParams:
        if self.high < self.low:
            raise ValueError("the band must not end below its start: set high at least to low")
        return self


def _nats(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "nats", label)


TOKENS = tokens_schema(
    "One row per token; a value describes the prediction of that token.",
    {
        "entropy": _nats("entropy", "Before the token."),
        "fork": Column(pa.bool_(), "Whether it is one of its response's forks.", "", "fork"),
        "too_low": _nats("below the band", "Forks only: how far the entropy is below the band."),
        "too_high": _nats("above the band", "Forks only: how far it is above."),
    },
)

ROLLOUTS = Table(
    doc="One row per rollout.",
    columns={
        **{name: column for name, column in ROLLOUT.items() if name != "advantage"},
        "answer": Column(pa.string(), "What the response answers.", "", "answer"),
        "majority": Column(pa.string(), "The answer most rollouts of the prompt give."),
        "votes": Column(pa.int64(), "Rollouts that give it.", "", "votes"),
        "majority_reward": Column(pa.float64(), "1 where the answers agree.", "", "SPINE reward"),
    },
)


def fork_marks(entropy: Floats, share: float) -> Bools:
    """The ⌈share · n⌉ tokens of the highest entropy of one response [n], n ≥ 1, no NaN."""
    return top_share(entropy, share)[0]


def band_losses(entropy: Floats, low: float, high: float) -> tuple[Floats, Floats]:
    """Hinges max(0, low − H) and max(0, H − high): both 0 inside the band."""
    return np.maximum(0, low - entropy), np.maximum(0, entropy - high)


def majority_of(answers: Sequence[str | None]) -> tuple[str | None, int]:
    """The answer given most often, numbers compared as numbers, and its votes.

    None where nobody answers, or two answers share the most votes.
    """
    kinds: list[str] = []
    votes: list[int] = []
    for answer in answers:
        if answer is None:
            continue
        place = next((i for i, kind in enumerate(kinds) if same_answer(answer, kind)), None)
        if place is None:
            kinds.append(answer)
            votes.append(1)
        else:
            votes[place] += 1
    most = max(votes, default=0)
    if not most or votes.count(most) > 1:
        return None, most
    return kinds[votes.index(most)], most


@analysis(
    "reward.spine",
    version=1,
    subject=(Group, Rollouts),
    optional_models=("model",),
    params=SpineParams,
    tables={"tokens": TOKENS, "rollouts": ROLLOUTS, "population": POPULATION},
    title="Which forks are too sure or too unsure?",
    cite=("SPINE (2025), arXiv 2511.17938: forks, entropy band and majority reward.",),
    caveats=(
        "The paper trains without right answers: its reward is agreement with the majority.",
        "The band's quantiles are of all forks handed in; the paper's groups have 8 rollouts.",
        "Two answers with the same number of votes leave the group without a majority.",
    ),
)
def spine(ctx: Context) -> Iterator[Progress | Tables]:
    """Per response the 20 % of highest entropy, and how far each is outside the band [q10, q50]."""
    seen = yield from survey(ctx, ("entropy",), table=None)
    params: SpineParams = ctx.params
    marks: dict[int, Floats] = {}
    for one in seen:
        places = np.flatnonzero(one.trained & ~np.isnan(one.values["entropy"]))
        whole = np.full(len(one.trained), np.nan)
        if places.size:
            whole[places] = fork_marks(one.values["entropy"][places], params.share)
        else:
            ctx.note("tokens", "fork", "no response token has an entropy", rollout=one.rollout)
        marks[one.rollout] = whole
    forks = np.concatenate([o.values["entropy"][marks[o.rollout] == 1] for o in seen])
    low, high = (float(q) for q in np.quantile(forks, (params.low, params.high)))
    band = {"tokens": int(forks.size), "missing": 0}
    yield Tables(
        tokens=tokens_of(
            ctx,
            seen,
            TOKENS,
            lambda one, trace: _columns(one.values["entropy"], marks[one.rollout], low, high),
        ),
        rollouts=pa.Table.from_pylist(_rollouts(ctx, seen), schema=ROLLOUTS.schema()),
        population=population_table(
            [
                {**population_row(seen, "entropy", "entropy of forks", level, value), **band}
                for level, value in ((params.low, low), (params.high, high))
            ]
        ),
    )


def _columns(entropy: Floats, marks: Floats, low: float, high: float) -> dict[str, Floats]:
    below, above = band_losses(np.where(marks == 1, entropy, np.nan), low, high)
    return {"entropy": entropy, "fork": marks, "too_low": below, "too_high": above}


def _rollouts(ctx: Context, seen: Sequence[Any]) -> list[dict[str, Any]]:
    rows = []
    for batch in batches(ctx):
        answers = [answer_text(trace) for trace in batch.group.rollouts]
        majority, votes = majority_of(answers)
        for index, answer in enumerate(answers):
            row = rollout_row(seen[batch.first + index])
            row.pop("advantage")
            reward = None
            if majority is None:
                why = "no answer of this prompt has the most votes"
                ctx.note("rollouts", "majority_reward", why, rollout=row["rollout"])
            else:
                reward = float(answer is not None and same_answer(answer, majority))
            rows.append(
                {
                    **row,
                    "answer": answer,
                    "majority": majority,
                    "votes": votes,
                    "majority_reward": reward,
                }
            )
    return rows
