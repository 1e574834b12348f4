"""``statistics.logged``: what a log says of every token, without a model.

A log holds the log-probability of the token and of the k likeliest ones. Of the rest only its mass
is known and that none of it is likelier than the last one listed: enough for bounds on the entropy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.statistics import ALTERNATIVES
from engine.subjects import Candidate, Trace
from engine.texts.truncated import EXCESS, GONE, SAME, Known, entropy_bounds
from engine.tokenization import show


class LoggedParams(Params):
    """Settings of ``statistics.logged``."""

    vocabulary: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        title="Tokens in the vocabulary",
        description="Needed for the upper bound on the entropy; empty when unknown.",
    )


def _nats(label: str, doc: str) -> Column:
    return Column(pa.float32(), doc, "nats", label)


TOKENS = Table(
    per_token=True,
    doc="One row per token; a value describes the prediction of that token.",
    columns={
        "logprob": _nats("log-probability", "Log-probability the log gives to this token."),
        "surprisal": _nats("surprisal", "−log p: how unexpected the token was."),
        "rank": Column(
            pa.int64(), "1 + number of strictly likelier tokens; empty where not sure.", "", "rank"
        ),
        "max_prob": Column(
            pa.float32(),
            "Probability of the most probable token.",
            "probability",
            "top probability",
        ),
        "margin": _nats("margin", "log p of the most probable token minus that of the second."),
        "entropy_low": _nats("entropy, at least", "No distribution with these numbers has less."),
        "entropy_high": _nats("entropy, at most", "No distribution with these numbers has more."),
        "kept_mass": Column(
            pa.float32(), "Probability of all tokens the log lists.", "probability", "listed mass"
        ),
    },
)


@analysis(
    "statistics.logged",
    version=1,
    subject=Trace,
    params=LoggedParams,
    models=(),
    tables={"tokens": TOKENS, "alternatives": ALTERNATIVES},
    title="What does the log say of every token?",
    cite=(
        "Shannon (1948), A Mathematical Theory of Communication: entropy and surprisal.",
        "Marshall, Olkin and Arnold (2011), Inequalities, chapter 3: entropy is Schur-concave.",
    ),
    caveats=(
        "Some servers report numbers after temperature, top-k or top-p; a log does not tell.",
        "Bounds are exact for the numbers as written; the log's own rounding comes on top.",
        "An upper bound needs the size of the vocabulary.",
    ),
)
def logged(ctx: Context) -> Iterator[Progress | Tables]:
    """Log-probability, rank and bounds on the entropy from the log alone.

    The listed tokens have probabilities p₁ ≥ … ≥ p_k, the rest together has mass r = 1 − Σp, and
    each of the rest at most c = p_k. Lower bound: the rest packed into as few tokens as possible,
    ⌊r/c⌋ of them at c and one with what remains. Upper bound: the rest even over the other V − k
    tokens of the vocabulary. The token itself counts as listed, wherever it ranks.
    """
    trace: Trace = ctx.subject
    own = _logprobs(trace)
    listed = trace.candidates or ((),) * len(trace)
    if all(v is None for v in own) and not any(listed):
        raise UserError(
            "This trace carries no log-probabilities: read it with a model, or ask the server for "
            "logprobs."
        )
    most = max((len(c) for c in listed), default=0)
    if ctx.params.vocabulary is not None and ctx.params.vocabulary < most:
        raise UserError(
            f"A vocabulary of {ctx.params.vocabulary:,} cannot hold the {most:,} tokens the log "
            "lists: give the model's own size."
        )
    if ctx.params.vocabulary is None:
        ctx.note("tokens", "entropy_high", "the upper bound needs the size of the vocabulary")
    ranks = trace.signals.get("rank", (None,) * len(trace))
    columns: dict[str, list[float | int | None]] = {name: [] for name in TOKENS.columns}
    for position in range(len(trace)):
        row = _row(ctx, trace, position, own[position], listed[position], ranks[position])
        for name, values in columns.items():
            values.append(row.get(name))
    arrays = {n: pa.array(v, TOKENS.columns[n].type) for n, v in columns.items()}
    yield Tables(tokens=ctx.per_token(arrays), alternatives=_alternatives(listed))


def _row(
    ctx: Context,
    trace: Trace,
    position: int,
    own: float | None,
    listed: Sequence[Candidate],
    rank: float | None,
) -> dict[str, float | int | None]:
    def note(column: str | None, reason: str) -> None:
        ctx.note("tokens", column, reason, position=position)

    if own is None and not listed:
        note(None, "the log gives nothing for this token")
        return {}
    row: dict[str, float | int | None] = {"logprob": own}
    if own is None:
        note("logprob", "the log gives no log-probability for this token")
    else:
        row["surprisal"] = -own
    known = Known.of(trace.ids[position], trace.pieces[position], own, listed)
    if known.total > 1 + EXCESS:
        note(None, f"the listed probabilities sum to {known.total:.4g}: no distribution")
        return row
    row["kept_mass"] = min(known.total, 1.0)
    row["rank"] = known.rank
    if known.rank is None and rank is not None and 1 <= rank < 2**53:
        row["rank"] = int(rank)
    if row["rank"] is None:
        note("rank", f"the log only shows that it is at least {known.least_rank:,}")
    row["max_prob"], row["margin"] = known.first, known.margin
    if row["max_prob"] is None:
        note("max_prob", "a token that is not listed may be more probable")
    if row["margin"] is None:
        note("margin", "the second most probable token is not listed for certain")
    low, high = entropy_bounds(known.probabilities, known.cap, ctx.params.vocabulary)
    row["entropy_low"], row["entropy_high"] = low, high
    if high is None and ctx.params.vocabulary is not None:
        note("entropy_high", f"{ctx.params.vocabulary:,} tokens cannot hold the remaining mass")
    return row


def _logprobs(trace: Trace) -> list[float | None]:
    """Of each token: the log's signal, or what the sampler of this program has kept.

    Raises:
        UserError: for numbers that are no log-probabilities.
    """
    given = trace.signals.get("logprob")
    if given is None and trace.sampling is not None and trace.sampling.logprobs is not None:
        drawn = trace.sampling.logprobs
        if len(drawn) == len(trace) - trace.response_start:
            given = (*(None,) * trace.response_start, *drawn)
    values = list(given or (None,) * len(trace))
    for position, value in enumerate(values):
        if value is None or value <= 0.0:
            continue
        if value > SAME:
            raise UserError(
                f"Token {position} has the log-probability {value:.6g}, which is above 0: bring "
                "log-probabilities, not probabilities or logits."
            )
        values[position] = 0.0  # rounding
    return [None if v is not None and v <= GONE else v for v in values]


def _alternatives(listed: Sequence[Sequence[Candidate]]) -> pa.Table:
    rows = [
        (position, rank, candidate)
        for position, candidates in enumerate(listed)
        for rank, candidate in enumerate(sorted(candidates, key=lambda c: -c.logprob), 1)
    ]
    return pa.table(
        {
            "position": [position for position, _, _ in rows],
            "alternative_rank": [rank for _, rank, _ in rows],
            "alternative_id": [c.id for _, _, c in rows],
            "alternative": [show(c.piece) for _, _, c in rows],
            "alternative_bytes": [c.piece for _, _, c in rows],
            "logprob": [c.logprob for _, _, c in rows],
        },
        schema=ALTERNATIVES.schema(),
    )
