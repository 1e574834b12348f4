"""Plain text and Markdown: what no other reader knows.

The whole text becomes the response of an empty prompt: it is the text itself one wants to see
read, and values of a prompt would be shown dimmed. No line divides prompt from response, since
any such line may be part of the text; prompt and response can be brought as
``{"prompt": "…", "response": "…"}``.
"""

from __future__ import annotations

from engine.readers.dropped import READ_TEXT, Dropped, Unreadable
from engine.readers.logtrace import make_text
from engine.readers.source import Source
from engine.readers.values import quote
from engine.subjects import Text
from engine.tokenization import MAX_TEXT_BYTES

_KNOWN = (
    "a chat (messages), a response of OpenAI's API or vLLM (choices or output), "
    "or a TokenScope file (schema)"
)


def sniff(source: Source) -> bool:
    """Any text at all."""
    return bool(source.text)


def read(source: Source) -> Dropped:
    """The text as one subject.

    Raises:
        Unreadable: when it is longer than a tokenizer will be asked to cut, or an error message.
    """
    size = len(source.text.encode("utf-8"))
    if size > MAX_TEXT_BYTES:
        raise Unreadable(
            "", f"the text has {size:,} bytes; at most {MAX_TEXT_BYTES:,} are read: shorten it"
        )
    text = make_text("", response=source.text, title=source.name)
    if source.records:
        return _unknown(source, text)
    lines = source.text.count("\n") + (not source.text.endswith("\n"))
    count = len(source.text)
    return Dropped(
        kind="text",
        title=f"Plain text, {count:,} character{_s(count)} in {lines:,} line{_s(lines)}",
        subjects=(text,),
        texts=(text,),
        possible=(READ_TEXT,),
        problems=source.report.problems,
    )


def _unknown(source: Source, text: Text) -> Dropped:
    record = source.records[0]
    value = record.value
    if isinstance(value, dict):
        error = value if value.get("object") == "error" else value.get("error")
        said = error.get("message") if isinstance(error, dict) else error
        if isinstance(said, str) and len(value) <= 6:
            raise Unreadable(record.place, f"the server answered with an error: {quote(said, 120)}")
        names = ", ".join(quote(name, 24) for name in list(value)[:6])
        found = f"an object with {names}" if names else "an empty object"
    else:
        found = f"a list of {len(value):,}"
    return Dropped(
        kind="unknown",
        title="JSON that is none of the formats known here",
        subjects=(text,),
        texts=(text,),
        possible=("Read the file as plain text with a model",),
        problems=(
            (record.place, f"{found}; expected {_KNOWN}"),
            *source.report.problems,
        ),
    )


def _s(count: int) -> str:
    return "" if count == 1 else "s"
