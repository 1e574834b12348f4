"""What an analysis looks at: texts, traces, groups, rollouts, tokenizers, corpora.

Every subject is frozen, carries a ``schema_version`` and has a ``digest``: two subjects with one
digest give the same numbers. Importing this module needs neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from engine.trace import (
    Base,
    Candidate,
    Frozen,
    IdsOrigin,
    Parent,
    Role,
    Sampling,
    Segment,
    Span,
    Trace,
    Turn,
    simple_turns,
)

__all__ = [
    "INSTALLED",
    "Base",
    "Candidate",
    "Corpus",
    "Frozen",
    "Group",
    "IdsOrigin",
    "Message",
    "Parent",
    "Role",
    "Rollouts",
    "Sampling",
    "Segment",
    "Span",
    "Subject",
    "Text",
    "TokenizerRef",
    "Trace",
    "Turn",
    "simple_turns",
]


class Message(Frozen):
    """One chat message as the template gets it."""

    role: str
    content: str


INSTALLED = "installed:"
"""Prefix of the path of a tokenizer that an installed package brings along."""


class TokenizerRef(Base):
    """A tokenizer by where it is and what it is.

    Attributes:
        path: folder, file or ``installed:NAME``; not part of the identity.
        tokenizer: digest of its content.
    """

    kind: Literal["tokenizer"] = "tokenizer"
    path: str
    tokenizer: str
    title: str | None = None

    def _identity(self) -> Any:
        return self.tokenizer


class Text(Base):
    """Text not yet cut into tokens; a model's tokenizer turns it into a ``Trace``.

    Either ``prompt`` (and ``response``) or ``messages`` for the model's chat template.
    ``tokenizer`` is for analyses that look at the text itself: whose cuts are meant.
    """

    kind: Literal["text"] = "text"
    prompt: str = ""
    response: str = ""
    messages: tuple[Message, ...] | None = None
    tokenizer: TokenizerRef | None = None
    title: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Text:
        if self.messages is not None and (self.prompt or self.response):
            raise ValueError("give prompt and response, or messages, not both")
        return self

    def _identity(self) -> Any:
        # A lone surrogate has no JSON; it must still be nameable in an error message.
        fields = self.model_dump(mode="python", exclude={"title", "tokenizer"})
        # Texts of old keep their digest; where a tokenizer's file lies does not matter.
        if self.tokenizer is not None:
            fields["tokenizer"] = self.tokenizer.tokenizer
        return _escape(fields)


class Group(Base):
    """Rollouts of one prompt with their rewards (None where nobody judged).

    Attributes:
        rollouts: at least one trace.
        rewards: one per rollout.
        prompt_id: the log's name for the prompt.
        expected: the right answer as text, when known.
    """

    kind: Literal["group"] = "group"
    rollouts: tuple[Trace, ...] = Field(min_length=1)
    rewards: tuple[float | None, ...] = ()
    prompt_id: str | None = None
    expected: str | None = None
    title: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_rewards(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("rewards"):
            return {**data, "rewards": (None,) * len(data.get("rollouts", ()))}
        return data

    @model_validator(mode="after")
    def _one_reward_each(self) -> Group:
        if len(self.rewards) != len(self.rollouts):
            raise ValueError(f"{len(self.rollouts)} rollouts but {len(self.rewards)} rewards")
        return self

    def _identity(self) -> Any:
        return [
            [t.digest for t in self.rollouts],
            list(self.rewards),
            self.prompt_id,
            self.expected,
        ]


class Rollouts(Base):
    """Groups kept in a file and streamed; the population of every quantile or z-score.

    Attributes:
        path: the JSONL file; not part of the identity.
        content: SHA-256 of the file's bytes.
        count: rollouts in it.
    """

    kind: Literal["rollouts"] = "rollouts"
    path: str
    content: str
    count: int = Field(ge=0)
    title: str | None = None

    def _identity(self) -> Any:
        return self.content


class Corpus(Base):
    """Documents for statistics over many texts.

    Attributes:
        documents: the texts.
    """

    kind: Literal["corpus"] = "corpus"
    documents: tuple[str, ...] = Field(min_length=1)
    title: str | None = None

    def _identity(self) -> Any:
        return _escape({"documents": self.documents})


Subject = Text | Trace | Group | Rollouts | TokenizerRef | Corpus


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, Mapping):
        return {k: _escape(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_escape(v) for v in value]
    return value
