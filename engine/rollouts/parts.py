"""Prompt and response of a logged rollout as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import UserError
from engine.rollouts.logged import Ints, LoggedRollout, Said
from engine.tokenization import Tokenizer
from engine.trace import Role

RE_ENCODED = (
    "the log holds text only: its ids were made with {name} and may differ from those that were "
    "trained on"
)


@dataclass(frozen=True, slots=True)
class Part:
    """Prompt or response as tokens.

    Attributes:
        ids: −1 where they are unknown.
        pieces: bytes of each token.
        logged: the ids are the log's own.
        aligned: the log's per-token values belong to these tokens.
        special, added: positions of special tokens, and of those the tokenizer put there.
        exact: the pieces join to the text.
        roles: who speaks, where the log says it.
        remarks: what a person must know.
    """

    ids: tuple[int, ...] = ()
    pieces: tuple[bytes, ...] = ()
    logged: bool = True
    aligned: bool = True
    special: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    exact: bool = True
    roles: tuple[Role, ...] | None = None
    remarks: tuple[str, ...] = ()


def prompt_part(rollout: LoggedRollout, tokenizer: Tokenizer | None) -> Part:
    """The prompt.

    Raises:
        UserError: when it is only text and there is no tokenizer.
    """
    if rollout.prompt_ids is not None:
        return _given(rollout.prompt_ids, tokenizer, prompt=True)
    if rollout.prompt is None and not rollout.messages:
        return Part(remarks=("the log does not hold the prompt",))
    if tokenizer is None:
        if rollout.tokens is None and rollout.response_ids is None:
            raise UserError(_ask(rollout))
        return Part(remarks=("the prompt is text: name a tokenizer to see it with the response",))
    remark = RE_ENCODED.format(name=tokenizer.name)
    if rollout.messages:
        return _said(rollout.messages, tokenizer, remark, ask=True)
    text = rollout.prompt or ""
    first = tokenizer.encode(text, special=False, name="prompt").special[:1]
    # A prompt that was decoded with its special tokens must not get them a second time.
    made = tokenizer.encode(text, special=first != (0,), name="prompt")
    return Part(
        made.ids, made.pieces, False, True, made.special, made.added, made.exact, None, (remark,)
    )


def response_part(rollout: LoggedRollout, tokenizer: Tokenizer | None) -> Part:
    """The response.

    Raises:
        UserError: when it is only text and there is no tokenizer.
    """
    if rollout.response_ids is not None:
        return _given(rollout.response_ids, tokenizer)
    if rollout.tokens is not None:
        return _strings(rollout, rollout.tokens, tokenizer)
    if tokenizer is None:
        raise UserError(_ask(rollout))
    remark = RE_ENCODED.format(name=tokenizer.name)
    if rollout.said is not None:
        return _said(rollout.said, tokenizer, remark, ask=False)
    made = tokenizer.encode(rollout.response or "", special=False, name="response")
    return Part(made.ids, made.pieces, False, False, made.special, (), made.exact, None, (remark,))


def _ask(rollout: LoggedRollout) -> str:
    return (
        f"{rollout.place}: the log holds text without token ids: name the tokenizer of the model "
        "that wrote it."
    )


def _given(ids: Ints, tokenizer: Tokenizer | None, *, prompt: bool = False) -> Part:
    known = tuple(int(i) for i in ids)
    if tokenizer is None:
        pieces = tuple(f"[{i}]".encode() for i in known)
        remark = ("the log holds ids without text: name the tokenizer to read them",)
        return Part(known, pieces, exact=not known, remarks=remark if known else ())
    # The first token of a prompt is the tokenizer's own where it puts one before every text.
    opening = tokenizer.encode("", special=True).ids[:1] if prompt else ()
    added = (0,) if opening and known[:1] == opening else ()
    special = tokenizer.special_positions(known)
    return Part(known, tokenizer.pieces(known), special=special, added=added)


def _strings(rollout: LoggedRollout, tokens: Sequence[str], tokenizer: Tokenizer | None) -> Part:
    """Tokens that the log writes as strings: of the vocabulary, or already decoded."""
    spelled = tuple(token.encode("utf-8", "replace") for token in tokens)
    exact = "\ufffd" not in "".join(tokens)
    if tokenizer is None:
        return Part((-1,) * len(tokens), spelled, exact=exact)
    found = [tokenizer.id_of(token) for token in tokens]
    ids = tuple(i for i in found if i is not None)
    if len(ids) == len(tokens):
        return Part(ids, tokenizer.pieces(ids), special=tokenizer.special_positions(ids))
    remark = RE_ENCODED.format(name=tokenizer.name)
    made = tokenizer.encode(rollout.response or "".join(tokens), special=False, name="response")
    aligned = made.pieces == spelled
    return Part(
        made.ids, made.pieces, False, aligned, made.special, (), made.exact, None, (remark,)
    )


def _said(turns: Sequence[Said], tokenizer: Tokenizer, remark: str, *, ask: bool) -> Part:
    """Chat messages, each encoded apart, so that every token has the role of its speaker."""
    remarks = [remark]
    words = _rendered(turns, tokenizer, ask=ask) if ask else None
    if words is None:
        words = [(turn.role, turn.text) for turn in turns]
        if ask:
            remarks.append("the tokenizer has no chat template: the messages stand one a line")
            words = [(role, f"{text}\n") for role, text in words]
    part = Part(logged=False, aligned=False, roles=(), remarks=tuple(remarks))
    for number, (role, text) in enumerate(words):
        begins = ask and number == 0 and tokenizer.chat_template is None
        made = tokenizer.encode(text, special=begins, name=f"{role} message")
        start = len(part.ids)
        part = Part(
            part.ids + made.ids,
            part.pieces + made.pieces,
            False,
            # Values of the log belong to the response's own tokens; the prompt has none of them.
            ask,
            part.special + tuple(start + p for p in made.special),
            part.added + tuple(start + p for p in made.added),
            part.exact and made.exact,
            (part.roles or ()) + (role,) * len(made.ids),
            part.remarks,
        )
    return part


def _rendered(
    turns: Sequence[Said], tokenizer: Tokenizer, *, ask: bool
) -> list[tuple[Role, str]] | None:
    """What the chat template makes of each message; None without one, or when it refuses."""
    if tokenizer.chat_template is None:
        return None
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    try:
        texts = [
            tokenizer.render_chat(messages[: n + 1], ask=ask and n + 1 == len(turns))
            for n in range(len(turns))
        ]
    except UserError:
        return None
    result: list[tuple[Role, str]] = []
    before = ""
    for turn, text in zip(turns, texts, strict=True):
        if not text.startswith(before):
            return None
        result.append((turn.role, text[len(before) :]))
        before = text
    return result
