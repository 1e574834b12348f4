"""Tables of ``flow.lens``."""

from __future__ import annotations

import pyarrow as pa

from engine.schema import Column, Table


def _nats(label: str, doc: str) -> Column:
    return Column(pa.float32(), doc, "nats", label)


LAYERS = Table(
    doc="One row per layer and token: what that layer already says about this token.",
    columns={
        "layer": Column(pa.int64(), "0 is before the first layer, L after the last.", "", "layer"),
        "position": Column(pa.int64(), "The token predicted; its prediction stands before it."),
        "entropy": _nats("entropy", "How undecided this layer is."),
        "kl": _nats("KL", "Divergence of this layer from the last: KL(last layer, this layer)."),
        "rank_final": Column(
            pa.int64(), "Rank here of the token that the last layer says.", "", "rank of final"
        ),
        "rank_actual": Column(
            pa.int64(), "Rank here of the token that really follows.", "", "rank of actual"
        ),
        "logprob": _nats("log-probability", "Log-probability here of the token that follows."),
        "top_id": Column(pa.int64(), "Id that this layer says."),
        "top": Column(pa.string(), "Its text; bytes that are no UTF-8 as \\xNN.", "", "says"),
        "top_logprob": _nats("log-probability of it", "Log-probability here of what it says."),
    },
)

TOKENS = Table(
    per_token=True,
    doc="One row per token; a value describes the prediction of that token.",
    columns={
        "exit_depth": Column(
            pa.int64(), "First layer that already says what the last one says.", "layers", "exit"
        ),
        "settled_depth": Column(
            pa.int64(), "First layer from which on that stays so.", "layers", "settled"
        ),
        "found_depth": Column(
            pa.int64(), "First layer that says the token that really follows.", "layers", "found"
        ),
        "final_id": Column(pa.int64(), "Id that the last layer says."),
        "final": Column(pa.string(), "Its text; bytes that are no UTF-8 as \\xNN.", "", "says"),
    },
)

ALTERNATIVES = Table(
    doc="The most probable ids of each listed layer, best first; only with top_k above 1.",
    columns={
        "layer": Column(pa.int64(), "0 is before the first layer, L after the last."),
        "position": Column(pa.int64(), "The token predicted."),
        "alternative_rank": Column(pa.int64(), "1 for the most probable."),
        "alternative_id": Column(pa.int64(), "Id in the model's vocabulary."),
        "alternative": Column(pa.string(), "Its text; bytes that are no UTF-8 as \\xNN."),
        "logprob": _nats("log-probability", "Log-probability this layer gives to it."),
    },
)
