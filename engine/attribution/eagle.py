"""``attribution.eagle``: which few sources bring the target forth, and what it relied on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.attribution.chance import Chance
from engine.attribution.curves import area
from engine.attribution.greedy import Ask, Bools, Floats, Pace, best_by_size, exact, fast, subsets
from engine.attribution.measures import within
from engine.attribution.segments import texts
from engine.attribution.settings import TABLES, RemovalParams
from engine.attribution.work import MODELS, Work
from engine.context import Context
from engine.errors import UserError
from engine.registry import analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace

SENSITIVE = 0.2
"""By how much p must fall without the context for a target to count as sensitive to it (§4)."""

EXACT = 32
"""Sources up to which ``auto`` searches exactly."""

BRUTE = 8
"""Sources up to which all subsets are looked at beside."""


class EagleParams(RemovalParams):
    """How the order is looked for."""

    search: Literal["auto", "exact", "fast"] = Field(
        "auto",
        title="search",
        description=f"exact looks at about S² texts; auto does up to {EXACT} sources.",
    )
    insight: float = Field(
        1.0, ge=0, le=100, title="insight", description="Weight of what a set brings alone."
    )
    necessity: float = Field(
        1.0, ge=0, le=100, title="necessity", description="Weight of what is missed without it."
    )
    scope: int = Field(10, ge=1, le=1000, title="scope", description="Of fast: candidates a step.")
    renew: int = Field(
        5, ge=1, le=1000, title="renewed", description="Of fast: steps until all are sorted anew."
    )
    pending: int = Field(
        8, ge=1, le=1000, title="pending", description="Of fast: candidates at the other end."
    )


def _chance(doc: str, label: str = "") -> Column:
    return Column(pa.float64(), doc, "probability", label)


_TARGET = {
    "target": Column(pa.string(), "The explained token or span, readable."),
    "target_position": Column(pa.int64(), "Its first position."),
}

ORDER = Table(
    doc="One row per target and step: the sources in the order in which they are put in.",
    columns={
        **_TARGET,
        "step": Column(pa.int64(), "How many sources are in; 0 is the text without any."),
        "source": Column(pa.string(), "The source put in at this step."),
        "source_position": Column(pa.int64(), "Its first position."),
        "share": Column(pa.float64(), "Share of the sources that are in."),
        "insertion": _chance("Chance of the target with only these sources."),
        "deletion": _chance("Chance of the target without these sources."),
        "objective": Column(pa.float64(), "F: insight and necessity of the set."),
    },
)

RELIANCE = Table(
    doc="One row per target: how much of it comes from the context, how much from the model.",
    columns={
        **_TARGET,
        "with_context": _chance("Chance of the target in the text as it is.", "with the text"),
        "prior": _chance("Chance without any source: what the model brings along.", "prior"),
        "from_context": _chance("The difference: what the context adds.", "from the text"),
        "from_prompt": _chance("Of it, from the prompt.", "from the prompt"),
        "from_response": _chance("Of it, from the response so far.", "from the response"),
        "sensitive": Column(pa.bool_(), f"Whether the context adds more than {SENSITIVE}."),
        "influence": Column(
            pa.float64(), "I: area under the insertion curve above its lowest point."
        ),
        "insertion_auc": Column(pa.float64(), "Area under the insertion curve."),
        "deletion_auc": Column(pa.float64(), "Area under the deletion curve."),
    },
)

SUBSETS = Table(
    doc=f"For at most {BRUTE} sources: the greedy sets beside the best ones of their size.",
    columns={
        **_TARGET,
        "size": Column(pa.int64(), "Sources in the set."),
        "greedy": Column(pa.float64(), "F of the greedy set."),
        "best": Column(pa.float64(), "F of the best set of all."),
    },
)


@analysis(
    "attribution.eagle",
    version=1,
    subject=Trace,
    models=MODELS,
    optional_models=("other",),
    params=EagleParams,
    tables={**TABLES, "reliance": RELIANCE, "order": ORDER, "subsets": SUBSETS},
    title="How much of this came from the text, and which few tokens bring it forth?",
    cite=(
        "Chen et al. 2025, Where MLLMs Attend and What They Rely On, arXiv 2509.22496, §3.",
        "Shapley 1953, A value for n-person games: the split between prompt and response.",
    ),
    caveats=(
        "Scores are gains along one greedy order: of two sources that say the same one has it all.",
        "The paper removes image regions; here a text's sources are removed as chosen.",
        "The split into prompt and response is ours: the Shapley value of the two.",
        "With a contrast the chance is of the target against the contrast.",
    ),
)
def eagle(ctx: Context) -> Iterator[Progress | Tables]:
    """Greedy order by insight and necessity, ``F(S) = λ₁ p(y|S) + λ₂ (1 − p(y|V∖S))``.

    A source's score is its gain ``F(S ∪ {source}) − F(S)`` at its place in the order, so that the
    scores of a target sum to ``F(V) − F(∅) = (λ₁ + λ₂)(p(y|V) − p(y|∅))``. ``influence`` is the
    area under the insertion curve minus its lowest value, as the released code has it (the paper
    writes the sum over the steps). Each target has an order of its own; ``together`` gives
    one order for all, by the mean of their chances, as the paper does.
    """
    yield Progress(None, "Reading the text")
    params: EagleParams = ctx.params
    if params.explain in ("entropy", "kl"):
        raise UserError("EAGLE is about the target's probability: use explain=logprob.")
    work = Work(ctx)
    chance = Chance(work)
    orders = yield from _orders(work, chance)
    yield from _finish(ctx, work, chance, orders)


def _search(count: int, params: EagleParams) -> Ask:
    if params.search == "exact" or (params.search == "auto" and count <= EXACT):
        return exact(count)
    return fast(count, Pace(params.scope, params.renew, params.pending))


def _orders(work: Work, chance: Chance) -> Generator[Progress, None, list[list[int]]]:
    """Sources of each target in greedy order; the searches of all targets go in step."""
    found: list[list[int]] = [[] for _ in work.targets]
    own = [np.flatnonzero(row) for row in work.applies]
    active: dict[int, tuple[Ask, Bools]] = {}
    done, rounds = 0, max(max(map(len, own)), 1)  # at most
    for target, sources in enumerate(own):
        search = _search(len(sources), work.params)
        if len(sources):
            active[target] = search, next(search)
    while active:
        asked = [_spread(work, own[t], sets) for t, (_, sets) in active.items()]
        steps = _objective(work, chance, np.concatenate(asked))
        values = yield from within(steps, done / rounds, 1 / rounds)
        done += 1
        at = 0
        for target, (search, sets) in list(active.items()):
            mine = values[at : at + len(sets), target]
            at += len(sets)
            try:
                active[target] = search, search.send(mine)
            except StopIteration as stop:
                found[target] = [int(own[target][i]) for i in stop.value]
                del active[target]
    return found


def _spread(work: Work, own: Any, sets: Bools) -> Bools:
    """Sets of a target's own sources as sets of all sources, the later ones left out."""
    spread = np.zeros((len(sets), len(work.sources)), bool)
    spread[:, own] = sets
    return spread


def _objective(work: Work, chance: Chance, sets: Bools) -> Generator[Progress, None, Floats]:
    """F [N, n] of sets [N, S]."""
    values = yield from chance.kept(np.concatenate([sets, ~sets]), "Trying sets of sources")
    params = work.params
    inside, without = values[: len(sets)], values[len(sets) :]
    objective: Floats = params.insight * inside + params.necessity * (1 - without)
    return objective


def _finish(
    ctx: Context, work: Work, chance: Chance, orders: list[list[int]]
) -> Iterator[Progress | Tables]:
    """Curves along the orders, the reliance, and the comparison with all subsets."""
    scores = np.full(work.applies.shape, np.nan)
    rows: dict[str, list[dict[str, Any]]] = {"order": [], "reliance": [], "subsets": []}
    prompt = np.array([s.end <= work.trace.response_start for s in work.sources])
    for target, order in enumerate(orders):
        at = work.targets[target]
        label = {"target": at.text, "target_position": at.start}
        if not order:
            reason = "nothing that can be taken away comes before it"
            ctx.note("reliance", None, reason, position=at.start)
            continue
        steps = len(order)
        sets = np.zeros((steps + 1, len(work.sources)), bool)
        for step, source in enumerate(order):
            sets[step + 1 :, source] = True
        alone = work.applies[target] & np.stack([prompt, ~prompt])
        asked = np.concatenate([sets, ~sets, alone])
        values = (yield from chance.kept(asked, "Following the order"))[:, target]
        insertion, deletion = values[: steps + 1], values[steps + 1 : 2 * steps + 2]
        gains = work.params.insight * insertion + work.params.necessity * (1 - deletion)
        scores[target, order] = np.diff(gains)
        rows["order"] += _steps(work, label, order, insertion, deletion, gains)
        found = _reliance(insertion, deletion, values[-2], values[-1])
        rows["reliance"].append({**label, **found})
        if steps <= BRUTE:
            best = yield from _best(work, chance, target)
            rows["subsets"] += [
                {**label, "size": size, "greedy": gains[size], "best": best[size]}
                for size in range(steps + 1)
            ]
    _say_what_is_empty(ctx, rows)
    tables = {"order": ORDER, "reliance": RELIANCE, "subsets": SUBSETS}
    made = {
        name: pa.Table.from_pylist([_known(row) for row in rows[name]], schema=table.schema())
        for name, table in tables.items()
    }
    yield work.tables(scores, **made)


def _steps(
    work: Work,
    label: dict[str, Any],
    order: list[int],
    insertion: Floats,
    deletion: Floats,
    gains: Floats,
) -> list[dict[str, Any]]:
    """Rows of ``order``; step 0 puts nothing in."""
    sources = [None, *order]
    names = texts(work.trace, work.sources)
    return [
        {
            **label,
            "step": step,
            "source": None if source is None else names[source],
            "source_position": None if source is None else work.sources[source].start,
            "share": step / len(order),
            "insertion": insertion[step],
            "deletion": deletion[step],
            "objective": gains[step],
        }
        for step, source in enumerate(sources)
    ]


def _known(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what is not a number left empty."""
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}


def _say_what_is_empty(ctx: Context, rows: dict[str, list[dict[str, Any]]]) -> None:
    if not rows["subsets"]:
        ctx.note("subsets", None, f"there are more than {BRUTE} sources: too many to try all sets")
    if any(np.isnan(row["insertion"]) or np.isnan(row["deletion"]) for row in rows["order"]):
        reason = "with everything deleted nothing is left to predict from: choose removal=neutral"
        for table in ("order", "reliance", "attribution"):
            ctx.note(table, None, reason)


def _best(work: Work, chance: Chance, target: int) -> Generator[Progress, None, Floats]:
    """Largest F of each size over all subsets of a target's sources."""
    own = np.flatnonzero(work.applies[target])
    every = subsets(len(own))
    values = yield from _objective(work, chance, _spread(work, own, every))
    return best_by_size(every, values[:, target])


def _reliance(
    insertion: Floats, deletion: Floats, prompt: float, response: float
) -> dict[str, Any]:
    """What of the chance comes from where; ``prompt`` and ``response`` are chances with one only.

    The Shapley value of the two: each one's gain alone and on top of the other, averaged.
    """
    full, prior = float(insertion[-1]), float(insertion[0])
    under = area(insertion)
    return {
        "with_context": full,
        "prior": prior,
        "from_context": full - prior,
        "from_prompt": ((prompt - prior) + (full - response)) / 2,
        "from_response": ((response - prior) + (full - prompt)) / 2,
        "sensitive": None if np.isnan(full - prior) else bool(full - prior > SENSITIVE),
        "influence": under - float(insertion.min()),
        "insertion_auc": under,
        "deletion_auc": area(deletion),
    }
