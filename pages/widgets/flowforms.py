"""What is asked on the Flow page: spans, layers, and how attention becomes a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

import engine
from engine import Request, Trace
from pages.widgets import state
from pages.widgets.paramform import param_form
from pages.widgets.selection import Selection

SPANS = ("question", "answer")
_HERE = (*SPANS, "share", "min_flow", "max_edges")
_KEPT = "flow.span"
SHARE = 0.5
"""Of the flow that the page's backbone carries: half of it can be read at a glance."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How the graph of a text is made.

    Attributes:
        params: settings that differ from their defaults, corrected spans among them.
        share: of the flow, for the slider's start.
    """

    params: Mapping[str, Any]

    @property
    def spans(self) -> dict[str, str]:
        """Corrected spans only."""
        return {n: self.params[n] for n in SPANS if n in self.params}

    @property
    def answer(self) -> dict[str, str]:
        """What analyses of the answer alone need of them."""
        return {n: self.params[n] for n in ("answer", "answer_row") if n in self.params}

    def request(self, trace: Trace, name: str = "backbone", **more: Any) -> Request:
        """The backbone, or another analysis of the same graph."""
        share = {"share": SHARE} if name == "backbone" else {}
        params = {**share, **self.params, **more}
        return Request(f"flow.{name}", trace, {"model": state.chosen_model()}, params)


def controls(trace: Trace) -> Asked:
    """Settings in one quiet row; spans are set from the selection."""
    found: dict[str, Any] = dict(corrected(trace))
    with st.container(key="controls-flow", horizontal=True, vertical_alignment="center"):
        with st.popover("Layers and heads"):
            found |= param_form(
                engine.analyses()["flow.backbone"], key="flow", without=_HERE, columns=2
            )
        for name in SPANS:
            span = span_of(trace, name)
            st.text(f"{name} {span[0]}–{span[1] - 1}" if span else f"{name}: not marked")
        if corrected(trace):
            st.button("As it was", key="flow-reset", type="tertiary", on_click=_reset)
    return Asked(found)


def span_of(trace: Trace, name: str) -> tuple[int, int] | None:
    """Where a span is: as corrected, else as the text's format says."""
    given = corrected(trace).get(name)
    if given is not None:
        start, end = given.split(":")
        return int(start), int(end)
    span = trace.spans.get(name)
    return (span.start, span.end) if span is not None and len(span) else None


def corrected(trace: Trace) -> dict[str, str]:
    """Spans a visitor marked in this text."""
    kept = state.recall(_KEPT)
    return dict(kept[1]) if kept is not None and kept[0] == trace.digest else {}


def mark_buttons(trace: Trace, selection: Selection) -> None:
    """Make the selected tokens the question or the answer."""
    first, last = selection.span
    with st.container(key="flow-marks", horizontal=True):
        for name in SPANS:
            marked = st.button(
                f"This is the {name}",
                key=f"flow-mark-{name}",
                type="tertiary",
                on_click=_mark,
                args=(trace.digest, name, f"{first}:{last + 1}"),
                help="Select several tokens with Shift.",
            )
            if marked:  # the whole page asks anew, not this part alone
                st.rerun()


def _mark(digest: str, name: str, span: str) -> None:
    kept = state.recall(_KEPT)
    before = dict(kept[1]) if kept is not None and kept[0] == digest else {}
    state.remember(_KEPT, (digest, {**before, name: span}))


def _reset() -> None:
    state.remember(_KEPT, None)
