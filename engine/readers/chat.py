"""Chats: ``{"messages": [{"role": …, "content": …}]}``, a bare list of messages, one message a
line, ShareGPT's ``conversations``; and a plain prompt with its response. One object, or one a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.readers.dropped import READ_TEXT, Dropped, Report, Unreadable
from engine.readers.logtrace import make_text
from engine.readers.source import Record, Source
from engine.readers.values import as_list, as_object, as_text, kind_of, label, quote
from engine.subjects import Message, Text

ROLES = ("system", "developer", "user", "human", "assistant", "model", "tool", "function")
"""Who may speak; the encoder knows the same."""

_SHAREGPT = {"gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
_ANSWERS = ("response", "completion")


def sniff(source: Source) -> bool:
    """Whether a record is a chat, or a prompt with its response."""
    records = source.records
    return any(_is_chat(r.value) or _is_pair(r.value) for r in records) or _is_message(records)


def read(source: Source) -> Dropped:
    """All chats and pairs.

    Raises:
        Unreadable: when none of them can be read.
    """
    report = source.report
    texts: list[Text] = []
    model: str | None = None
    chats = 0
    records = source.records
    if _is_message(records):
        records = (Record("", [record.value for record in records]),)
    for record in records:
        value, place = record.value, record.place
        try:
            if _is_chat(value):
                texts.append(make_text(place, messages=messages_of(_list_of(value), place, report)))
                chats += 1
            elif _is_pair(value):
                texts.append(_pair(value, place))
            else:
                report.skip(place, "no chat: left out")
                continue
        except Unreadable as error:
            report.skipped(error)
            continue
        if isinstance(value, dict):
            model = model or label(value.get("model"))
    if not texts:
        raise report.refuse("the chat has no messages")
    return Dropped(
        kind="chat" if chats else "text",
        title=_title(texts, chats),
        subjects=tuple(texts),
        texts=tuple(texts),
        model=model,
        possible=(READ_TEXT,),
        problems=report.problems,
    )


def messages_of(value: Any, place: str, report: Report) -> tuple[Message, ...]:
    """Messages as a chat template gets them; pictures and tool calls are noted and left out.

    Raises:
        Unreadable: for no messages, unknown roles, or content that is neither text nor parts.
    """
    found = []
    for n, item in enumerate(as_list(value, _in(place, "messages"))):
        here = _in(place, f"messages[{n}]")
        message = as_object(item, here)
        role = message.get("role", message.get("from"))
        if isinstance(role, str):
            role = _SHAREGPT.get(role, role)
        if not isinstance(role, str) or role not in ROLES:
            raise Unreadable(
                f"{here}.role", f"the role is {quote(role)}; use one of {', '.join(ROLES)}"
            )
        content = message.get("content", message.get("value"))
        found.append(Message(role=role, content=content_of(content, f"{here}.content", report)))
        if message.get("tool_calls"):
            report.skip(f"{here}.tool_calls", "tool calls are left out")
    if not found:
        raise Unreadable(place, "the chat has no messages")
    return tuple(found)


def content_of(value: Any, place: str, report: Report) -> str:
    """The text of a message: a string, or the text parts of a list.

    Raises:
        Unreadable: for anything else.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return as_text(value, place)
    if not isinstance(value, list):
        raise Unreadable(place, f"text or a list of parts is expected, not {kind_of(value)}")
    parts = []
    for n, part in enumerate(value):
        here = f"{place}[{n}]"
        if isinstance(part, str):
            parts.append(as_text(part, here))
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            parts.append(as_text(part["text"], f"{here}.text"))
        else:
            kind = part.get("type") if isinstance(part, dict) else kind_of(part)
            report.skip(here, f"a part of type {quote(kind)} is left out: only text is read")
    return "".join(parts)


def _list_of(value: Any) -> Any:
    if isinstance(value, dict):
        return value.get("messages", value.get("conversations"))
    return value


def _is_chat(value: Any) -> bool:
    if isinstance(value, dict):
        found = value.get("messages", value.get("conversations"))
        return isinstance(found, list) and "choices" not in value
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and ("role" in value[0] or "from" in value[0])
    )


def _is_message(records: Sequence[Record]) -> bool:
    """Whether every line is a message of one chat."""
    return bool(records) and all(
        isinstance(r.value, dict) and "role" in r.value and "content" in r.value for r in records
    )


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("prompt"), str)
        and any(isinstance(value.get(name), str) for name in _ANSWERS)
    )


def _pair(value: dict[str, Any], place: str) -> Text:
    response = next(value[name] for name in _ANSWERS if isinstance(value.get(name), str))
    prompt = as_text(value["prompt"], _in(place, "prompt"))
    if not prompt and not response:
        raise Unreadable(place, "prompt and response are empty")
    return make_text(place, prompt=prompt, response=as_text(response, _in(place, "response")))


def _in(place: str, path: str) -> str:
    return f"{place}, {path}" if place else path


def _title(texts: list[Text], chats: int) -> str:
    if not chats:
        return f"{len(texts):,} prompts with responses" if len(texts) > 1 else "Prompt and response"
    if len(texts) > 1:
        return f"{len(texts):,} chats"
    count = len(texts[0].messages or ())
    return f"Chat, {count:,} message{'s' if count != 1 else ''}"
