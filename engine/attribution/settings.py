"""Settings and tables that all attribution methods share."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
from pydantic import Field, model_validator

from engine.attribution.segments import Granularity
from engine.registry import Params
from engine.schema import Column, Table

Explain = Literal["logprob", "logit", "probability", "entropy", "kl"]
Removal = Literal["neutral", "zero", "replace", "delete"]


class AttributionParams(Params):
    """What is explained, and what one source is."""

    targets: str = Field(
        "auto",
        max_length=400,
        title="target tokens",
        description=(
            "answer, response, a position (12) or a span (12:15); auto is the answer, without one "
            "the response's last token."
        ),
    )
    explain: Explain = Field(
        "logprob",
        title="what to explain",
        description="Which number of the target is traced back; kl is to the other model.",
    )
    contrast: str | None = Field(
        None,
        max_length=2000,
        title="rather than",
        description=(
            "Explain why the target and not this: a token or a continuation, as it is written, "
            "with its space in front."
        ),
    )
    together: bool = Field(
        False,
        title="as one",
        description="Explain the sum over the target tokens instead of each of them.",
    )
    granularity: Granularity = Field(
        "token", title="sources", description="What is scored as one source."
    )
    spans: str | None = Field(
        None,
        max_length=4000,
        title="own spans",
        description="With sources = spans: token positions, for example 3:7,9:12.",
    )
    special: bool = Field(
        False,
        title="special tokens too",
        description="Score special tokens as sources; otherwise they always stay.",
    )
    memory: int = Field(
        512,
        ge=16,
        le=65_536,
        title="memory",
        description="Megabytes that one batch may take; smaller batches, the same numbers.",
    )

    @model_validator(mode="after")
    def _fits(self) -> AttributionParams:
        if self.contrast == "":
            raise ValueError("contrast is empty: give a token or a continuation, or leave it out")
        if self.contrast is not None and self.explain not in ("logprob", "logit"):
            raise ValueError(f"explain={self.explain} has no contrast: use explain=logprob")
        if (self.spans is None) != (self.granularity != "spans"):
            raise ValueError("spans and granularity=spans belong together: give both or neither")
        return self


class RemovalParams(AttributionParams):
    """Also: what stands in the place of what is taken away."""

    removal: Removal = Field(
        "neutral",
        title="taken away by",
        description=(
            "neutral: the mean of all token embeddings; zero: a zero embedding; replace: a token "
            "of your choice; delete: the text without it."
        ),
    )
    replacement: str | None = Field(
        None,
        max_length=200,
        title="replaced by",
        description="With replace: one token, as it is written.",
    )

    @model_validator(mode="after")
    def _chosen(self) -> RemovalParams:
        if (self.removal == "replace") != (self.replacement is not None):
            raise ValueError(
                "replacement and removal=replace belong together: give both or neither"
            )
        return self


ATTRIBUTION = Table(
    doc="One row per target and source before it.",
    columns={
        "target": Column(pa.string(), "The explained token or span, readable."),
        "target_position": Column(pa.int64(), "Its first position."),
        "target_end": Column(pa.int64(), "Position after its last token."),
        "source": Column(pa.string(), "The source, readable."),
        "source_position": Column(pa.int64(), "Its first position."),
        "source_end": Column(pa.int64(), "Position after its last token."),
        "score": Column(
            pa.float64(),
            "What the source adds to the explained value, by this method.",
            "",
            "score",
        ),
    },
)

TARGETS = Table(
    doc="One row per target: what was explained, and whether the scores account for it.",
    columns={
        "target": Column(pa.string(), "The explained token or span, readable."),
        "target_position": Column(pa.int64(), "Its first position."),
        "target_end": Column(pa.int64(), "Position after its last token."),
        "explained": Column(pa.string(), "Which value: logprob, logit, probability, entropy, kl."),
        "contrast": Column(pa.string(), "What it is explained against, if anything."),
        "value": Column(pa.float64(), "The value on the text as it is."),
        "baseline": Column(
            pa.float64(), "The value with all sources taken away, as the method does."
        ),
        "total": Column(pa.float64(), "Sum of the scores of its sources."),
        "residual": Column(
            pa.float64(),
            "value − baseline − total: 0 where the scores account for everything.",
        ),
    },
)

COST = Table(
    doc="One row: what the computation took.",
    columns={
        "forwards": Column(pa.int64(), "Sequences read forwards."),
        "backwards": Column(pa.int64(), "Sequences read backwards."),
        "tokens": Column(pa.int64(), "Tokens read forwards, those shared by a prefix once."),
    },
)

TABLES = {"attribution": ATTRIBUTION, "targets": TARGETS, "cost": COST}
