"""From text, chat messages or ids to a ``Trace``.

Prompt and response are encoded separately and concatenated, the prompt with the tokenizer's
special tokens, the response without (DESIGN, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.errors import UserError
from engine.spans import find_spans
from engine.subjects import IdsOrigin, Parent, Role, Sampling, Text, Trace, Turn, simple_turns
from engine.tokenization import Tokenizer, utf8


class Reader(Protocol):
    """Who is to read the tokens: a model's name and context."""

    @property
    def name(self) -> str: ...

    @property
    def context(self) -> int | None: ...


_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}


def encode_text(text: Text, tokenizer: Tokenizer, *, reader: Reader | None = None) -> Trace:
    """Turn a ``Text`` into a ``Trace``.

    Args:
        text: what to cut.
        tokenizer: how.
        reader: who is to read it; texts that cannot fit are then refused without being cut.

    Raises:
        UserError: for empty text, lone surrogates, texts too long, or a template's refusal.
    """
    if reader is not None and reader.context is not None:
        size = len(text.prompt) + len(text.response)
        size += sum(len(message.content) for message in text.messages or ())
        # A token holds at most max_piece bytes, so at most as many characters.
        if size > reader.context * tokenizer.max_piece:
            raise UserError(
                f"The text has {size:,} characters; {reader.name} reads at most "
                f"{reader.context:,} tokens, which cannot hold it: shorten it."
            )
    if text.messages is not None:
        return _encode_chat(text, tokenizer)
    if not text.prompt and not text.response:
        raise UserError("There is no text: type a prompt, or paste a response.")
    prompt = tokenizer.encode(text.prompt, special=True, name="prompt")
    response = tokenizer.encode(text.response, special=False, name="response")
    start = len(prompt.ids)
    ids = prompt.ids + response.ids
    joint = tokenizer.encode(text.prompt + text.response, special=True).ids
    trace = Trace(
        ids=ids,
        pieces=prompt.pieces + response.pieces,
        tokenizer=tokenizer.digest,
        ids_origin="encoded",
        response_start=start,
        turns=simple_turns(len(ids), start),
        special=tokenizer.special_positions(ids),
        added=prompt.added,
        exact=prompt.exact and response.exact,
        joint_encoding=joint == ids,
        title=text.title,
    )
    return with_spans(trace)


def trace_from_ids(
    ids: Sequence[int],
    tokenizer: Tokenizer,
    *,
    response_start: int,
    ids_origin: IdsOrigin = "logged",
    sampling: Sampling | None = None,
    parent: Parent | None = None,
    prompt: Trace | None = None,
    title: str | None = None,
) -> Trace:
    """A ``Trace`` of given ids; with ``prompt``, its turns and added tokens are taken over.

    Raises:
        UserError: for ids the tokenizer does not have, or none at all.
    """
    if not ids:
        raise UserError("There are no token ids: give at least one.")
    everything = tuple(int(i) for i in ids)
    pieces = tokenizer.pieces(everything)
    added: tuple[int, ...] = ()
    turns = simple_turns(len(everything), response_start)
    if prompt is not None and everything[: len(prompt)] == prompt.ids:
        pieces = prompt.pieces + pieces[len(prompt) :]
        added = prompt.added
        tail = Turn(role="assistant", start=len(prompt), end=len(everything))
        turns = prompt.turns + ((tail,) if len(tail) else ())
    elif everything and tokenizer.is_special(everything[0]):
        added = (0,)
    trace = Trace(
        ids=everything,
        pieces=pieces,
        tokenizer=tokenizer.digest,
        ids_origin=ids_origin,
        response_start=response_start,
        turns=turns,
        special=tokenizer.special_positions(everything),
        added=added,
        sampling=sampling,
        parent=parent,
        title=title,
    )
    return with_spans(trace)


def with_spans(trace: Trace) -> Trace:
    """The trace with the spans its format shows; spans given before win."""
    return trace.evolve(spans={**find_spans(trace), **trace.spans})


def _encode_chat(text: Text, tokenizer: Tokenizer) -> Trace:
    messages = [m.model_dump() for m in text.messages or ()]
    if not messages:
        raise UserError("The chat has no messages: add at least one.")
    for message in messages:
        utf8(message["content"], name=f"{message['role']} message")
        if message["role"] not in _ROLES:
            raise UserError(
                f"A message has the role {message['role']!r}; use one of {', '.join(_ROLES)}."
            )
    answered = messages[-1]["role"] in ("assistant", "model")
    asked = messages[:-1] if answered else messages
    prompt_text = tokenizer.render_chat(asked, ask=True)
    whole = tokenizer.render_chat(messages, ask=False) if answered else prompt_text
    if whole.startswith(prompt_text):
        response_text = whole[len(prompt_text) :]
    else:  # the template rewrites history: take the answer's own words
        response_text = messages[-1]["content"]
    # The template writes the special tokens itself.
    prompt = tokenizer.encode(prompt_text, special=False, name="chat")
    response = tokenizer.encode(response_text, special=False, name="answer")
    ids = prompt.ids + response.ids
    start = len(prompt.ids)
    joint = tokenizer.encode(prompt_text + response_text, special=False).ids
    trace = Trace(
        ids=ids,
        pieces=prompt.pieces + response.pieces,
        tokenizer=tokenizer.digest,
        ids_origin="encoded",
        response_start=start,
        turns=simple_turns(len(ids), start),
        special=tokenizer.special_positions(ids),
        exact=prompt.exact and response.exact,
        joint_encoding=joint == ids,
        title=text.title,
    )
    turns = _turns(trace, asked, tokenizer, prompt_text)
    return with_spans(trace.evolve(turns=turns))


def _turns(
    trace: Trace, asked: Sequence[dict[str, str]], tokenizer: Tokenizer, prompt: str
) -> tuple[Turn, ...]:
    """Roles of the prompt's tokens: each message up to where the next one's rendering begins."""
    ends: list[int] = []  # byte in the prompt where message k ends
    at = 0
    for count, message in enumerate(asked, start=1):
        content = message["content"].strip()
        try:
            before = tokenizer.render_chat(asked[:count], ask=False)
        except UserError:
            before = ""  # templates may refuse half a conversation
        if before and prompt.startswith(before):
            at = max(at, len(before))
        else:
            found = prompt.find(content, at)
            at = found + len(content) if found >= 0 else at
        ends.append(len(prompt[:at].encode("utf-8")))
    turns: list[Turn] = []
    start = 0
    for message, end in zip(asked, ends, strict=True):
        stop = sum(1 for a, b in trace.offsets[: trace.response_start] if b <= end and a < end)
        stop = max(start, stop)
        if stop > start:
            turns.append(Turn(role=_ROLES[message["role"]], start=start, end=stop))
        start = stop
    # What follows the last message (the assistant's opening) belongs to the template.
    if start < trace.response_start:
        turns.append(Turn(role="assistant", start=start, end=trace.response_start))
    if trace.response_start < len(trace):
        turns.append(Turn(role="assistant", start=trace.response_start, end=len(trace)))
    return tuple(turns)
