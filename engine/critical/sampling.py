"""How continuations are drawn and judged: params shared by the analyses that sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from engine.limits.caps import DRAWS, NEW_TOKENS
from engine.registry import Params

if TYPE_CHECKING:
    from engine.sampling.generation import Sampler


class SamplingParams(Params):
    """Sampler, number of samples, and what is right."""

    answer: str | None = Field(
        None,
        title="Right answer",
        description="What a right continuation answers.",
        coerce_numbers_to_str=True,
    )
    checker: str = Field("answer", title="Checker", description="How an answer is judged.")
    n: int = Field(
        64,
        ge=1,
        le=4096,
        title="Samples",
        description="How many continuations of each prefix.",
        json_schema_extra=DRAWS,
    )
    temperature: float = Field(
        1.0, ge=0, le=100, title="Temperature", description="0 takes the most probable token."
    )
    top_k: int | None = Field(None, ge=1, title="Top-k")
    top_p: float | None = Field(None, gt=0, le=1, title="Top-p")
    min_p: float | None = Field(None, ge=0, le=1, title="Min-p")
    max_new_tokens: int = Field(
        256,
        ge=1,
        le=32_768,
        title="At most tokens",
        description="Longest continuation; one cut off there counts as wrong.",
        json_schema_extra=NEW_TOKENS,
    )
    seed: int = Field(0, ge=0, lt=2**63, title="Seed")

    @property
    def sampler(self) -> Sampler:
        """The sampler these settings describe."""
        from engine.sampling.generation import Sampler

        return Sampler(**self.model_dump(include=set(Sampler.model_fields)))
