"""Two answers side by side, the second said again token by token."""

from __future__ import annotations

import streamlit as st

from engine import Trace
from engine.render.strip import asset
from engine.render.text import markup

_STREAM = st.components.v2.component(
    "tokenscope.stream",
    html='<div class="ts-stream"></div>',
    css=asset("stream.css"),
    js=asset("stream.js"),
)


def stream(
    original: Trace,
    branch: Trace,
    *,
    change: int,
    titles: tuple[str, str],
    verdicts: tuple[str, str],
    key: str,
) -> bool:
    """Draw both responses; the branch appears from ``change`` on as a model would say it.

    Returns:
        Whether it has been said to its end.
    """
    sides = [
        {
            "title": title,
            "pieces": _pieces(trace),
            "answer": _answer(trace),
            "change": change - trace.response_start,
            "from": change - trace.response_start,
            "verdict": verdict,
            "right": streams,
            "streams": streams,
        }
        for trace, title, verdict, streams in (
            (original, titles[0], verdicts[0], False),
            (branch, titles[1], verdicts[1], True),
        )
    ]
    signature = f"{original.digest[:16]}-{branch.digest[:16]}"
    state = _STREAM(
        key=key, data={"signature": signature, "sides": sides}, on_finished_change=_nothing
    )
    return bool(state.get("finished") == signature)


def _pieces(trace: Trace) -> list[str]:
    special = set(trace.special)
    return [
        markup(piece, special=at in special)
        for at, piece in enumerate(trace.pieces)
        if at >= trace.response_start
    ]


def _answer(trace: Trace) -> tuple[int, int]:
    span = trace.spans.get("answer")
    start = trace.response_start
    return (0, 0) if span is None else (span.start - start, span.end - start)


def _nothing() -> None:
    """A state value needs a callback to be sent at all."""
