"""The prompt of ``tokenizer.next_byte``: which tokens are text, and which stand before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from engine.context import Context
from engine.errors import UserError
from engine.tokenizer.outcomes import Outcomes, Row, outcomes_of, rows_of
from engine.tokenizer.resolve import spec_of
from engine.tokenizer.tails import Tail


@dataclass
class Prompt:
    """The prompt's tokens: those before the text, and the text's own."""

    ctx: Context

    def __post_init__(self) -> None:
        trace, params = self.ctx.subject, self.ctx.params
        count = params.at or trace.response_start or len(trace)
        if count > len(trace):
            raise UserError(
                f"The trace has {len(trace):,} tokens: set at to at most that many, not {count:,}."
            )
        self.spec = spec_of(self.ctx)
        if self.spec.lossy:
            raise UserError(
                f"{self.spec.name} puts spaces between tokens that are in none of them, so it has "
                "no next byte: choose a model whose tokens are pieces of the text."
            )
        self.model = self.ctx.models["model"]
        real = min(self.model.real_vocab, self.model.vocab_size)
        self.ids: Tail = tuple(trace.ids[:count])
        self.spec.check_ids(self.ids)
        self.outcomes: Outcomes = outcomes_of(self.spec, real, self.model.eos_ids)
        zero = set(self.outcomes.zero.tolist())
        self.start = max((n + 1 for n, i in enumerate(self.ids) if i in zero), default=0)
        self.run: Tail = self.ids[self.start :]
        self.locked = 0
        if self.start == 0:
            self.locked = 1
            self.ctx.note(
                "summary",
                "logprob",
                "Nothing stands before the text, and no model predicts a first token: it is taken "
                "as given.",
            )
        if not len(self.outcomes.ends):
            self.ctx.note("bytes", "byte", "The model names no token that ends a text.")

    @cached_property
    def own(self) -> Row:
        """The prediction after the prompt's own tokens."""
        return rows_of(self.ctx.logits(len(self.ids) - 1, len(self.ids)))[0]

    @property
    def base(self) -> Tail:
        """Tokens that no cover changes."""
        return self.ids[: self.start + self.locked]

    @property
    def free(self) -> bytes:
        """The text's bytes that covers may cut anew."""
        return self.data(self.run[self.locked :])

    def data(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.spec.pieces[i].data for i in ids)

    def logprob(self, count: int) -> float:
        """Log-probability of the text's tokens among the first ``count``, given those before."""
        import torch

        first = len(self.base)
        if count <= first:
            return 0.0
        target = torch.tensor(self.ids[first:count], device=self.model.device)
        stats = self.ctx.token_stats(first - 1, count - 1, target)
        return float(stats.logprob.double().sum())
