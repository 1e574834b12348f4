"""What is spelled: the string, its canonical tokens, what stands before it, and its words."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from engine.context import Context
from engine.errors import UserError
from engine.subjects import Text
from engine.tokenizer.resolve import spec_of
from engine.tokenizer.spec import TokenizerSpec

_WORD = re.compile("\u2581*[^\u2581]+|\u2581+")


@dataclass(frozen=True, slots=True)
class Spelled:
    """A string and its canonical spelling.

    Attributes:
        spec: whose tokens.
        text: what was typed.
        data: the bytes its canonical tokens stand for: those that are spelled.
        ids: the canonical tokens.
        known: False when the vocabulary cannot spell it: ``data`` are the text's own bytes.
        context: ids before it (BOS and the prompt), for a model.
    """

    spec: TokenizerSpec
    text: str
    data: bytes
    ids: tuple[int, ...]
    known: bool
    context: tuple[int, ...]

    @property
    def changed(self) -> bool:
        """Whether the canonical tokens stand for other bytes than the text's."""
        return self.data != self.text.encode()


def spelled(ctx: Context) -> Spelled:
    """The string of a ``Text``: its response, if there is one, with the prompt as context.

    Raises:
        UserError: for chat messages, no text, half characters, or no tokenizer.
    """
    subject = ctx.subject
    assert isinstance(subject, Text)
    if subject.messages is not None:
        raise UserError(f"{ctx.plan.analysis.name} looks at plain text: give it as a prompt.")
    text = subject.response or subject.prompt
    if not text:
        raise UserError("There is no text: type one.")
    spec = spec_of(ctx)
    before = spec.around[0]
    if subject.response and subject.prompt:
        before += spec.encode(subject.prompt, "parse").ids
    made = spell(spec, text)
    return Spelled(made.spec, made.text, made.data, made.ids, made.known, before)


def spell(spec: TokenizerSpec, text: str) -> Spelled:
    """A string and its canonical spelling, special tokens in it read as text.

    Raises:
        UserError: for half characters or too long a text.
    """
    ids = spec.encode(text).ids
    known = spec.unknown not in ids
    data = spec.decode_bytes(ids) if known else text.encode()
    return Spelled(spec, text, data, ids, known, ())


@dataclass(frozen=True, slots=True)
class Word:
    """A pre-token that occurs in a text.

    Attributes:
        data: its bytes.
        ids: its canonical tokens.
        count: how often it occurs.
        known: whether the vocabulary can spell it.
    """

    data: bytes
    ids: tuple[int, ...]
    count: int
    known: bool


def words(spec: TokenizerSpec, text: str) -> list[Word]:
    """The different pre-tokens of a text, in order of their first occurrence.

    Where a tokenizer does not cut before the model (SentencePiece), words start at a space.
    """
    found: Counter[str] = Counter()
    for cut in spec.pretokens(text):
        if cut.added is None:
            found.update(_WORD.findall(cut.form) if "\u2581" in cut.form else [cut.form])
    made: list[Word] = []
    for form, count in found.items():
        ids = spec.form_ids(form)
        known = spec.unknown not in ids
        made.append(Word(spec.form_bytes(form), ids, count, known))
    return made
