"""Which tokens made the model say this, and which method may be believed here?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

import engine
from engine import Result, Trace
from engine.render.strip import plain_payload
from engine.render.text import escape_markdown, plain
from pages.widgets import (
    attributionforms,
    attributiontabs,
    attributionviews,
    places,
    state,
    subject,
)
from pages.widgets.about import about
from pages.widgets.asking import ask
from pages.widgets.attributionforms import Asked
from pages.widgets.attributionviews import CHANNEL, Matrix
from pages.widgets.notice import guarded, hint
from pages.widgets.pills import choose_signal
from pages.widgets.selection import Selection, next_selection
from pages.widgets.strip import bus, token_strip

STRIP = "attribution-strip"
HEATMAP = "attribution-heatmap"
TITLE = "Which tokens made the model say this?"


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    head = st.container(key="head")
    head.title(TITLE, anchor=False)
    trace = subject.readable("attribution")
    if trace is None:
        return
    asked = attributionforms.controls(trace)
    request = state.statistics_request(trace, state.chosen_model())
    stats = ask("attribution.statistics", request, "", auto=True, doing="Reading the text")
    if stats is None:
        _plain(trace)
        return
    _linked(trace, stats, asked)


def _plain(trace: Trace) -> None:
    plain_strip = plain_payload(trace.pieces, trace.segments, special=trace.special)
    token_strip(plain_strip, key="strip-plain")


@st.fragment
@guarded
def _linked(trace: Trace, stats: Result, asked: Asked) -> None:
    """Strip, strongest sources and tables; a click draws only these again."""
    lede = st.container(key="lede")
    left, right = st.container(key="linked").columns([2.1, 1], gap="medium")
    selection = _selection(trace)
    state.remember("selection", selection)
    with left:
        request = asked.request(trace, selection.span)
        result = ask(
            "attribution.scores", request, "Trace back", doing="Tracing back",
            auto=attributionforms.eager(trace),
        )  # fmt: skip
        found = None if result is None else attributionviews.matrix(result)
        view = attributionviews.shown(stats, trace, found, selection.span, asked.unit)
        name = "surprisal"
        if found is not None:
            name = choose_signal(view.signals, key="attribution-signal", param="colour")
        hint(view.signals[name].doc, key="signal")
        _, drawn = token_strip(view.strip, key=STRIP)
    said = _said(trace, selection)
    with lede:
        st.text(attributionviews.sentence(found, selection.span, said, asked.unit))
    # What is beside and below the first picture does not delay it.
    below = state.painted(drawn)
    with right, st.container(key="details-box"):
        if below:
            _details(trace, found, selection, asked)
        places.questions("attribution")
    if below:
        attributiontabs.below(trace, asked, result, found, selection)
        if result is not None:
            signal = view.signals.get(attributionviews.TOWARDS) or view.signals[name]
            about(engine.analyses()[result.analysis], signal, result)
    marks = _marks(found, selection)
    bus(
        CHANNEL,
        {"signal": name, "prompt": True, "marks": marks, **selection.message()},
        key="attribution-bus",
    )


def _selection(trace: Trace) -> Selection:
    """What is selected; the strip's own word is read before it is drawn, as it colours it."""
    events = {name: _event(name) for name in (STRIP, HEATMAP)}
    start = attributionviews.start_of(trace)
    return next_selection(
        state.recall("selection"), state.name_of(trace), len(trace), start, events
    )


def _event(key: str) -> Any:
    kept = st.session_state.get(key)
    return kept.get("selection") if isinstance(kept, Mapping) else None


def _said(trace: Trace, selection: Selection) -> str:
    first, last = selection.span
    special = set(trace.special)
    text = "".join(plain(trace.pieces[p], special=p in special) for p in range(first, last + 1))
    return attributionviews.quoted(text)


def _marks(found: Matrix | None, selection: Selection) -> list[dict[str, Any]]:
    """The strongest sources are outlined."""
    if found is None:
        return []
    top = attributionviews.strongest(found, *selection.span, count=3)
    return [
        {
            "position": row["position"],
            "kind": "source",
            "text": attributionviews.signed(row["score"]),
        }
        for row in top
        if row["score"] > 0
    ]


def _details(trace: Trace, found: Matrix | None, selection: Selection, asked: Asked) -> None:
    first, last = selection.span
    where = f"position {first:,}" if first == last else f"positions {first:,} to {last:,}"
    # A heading is Markdown, and a token may hold some.
    st.subheader(escape_markdown(f"{_said(trace, selection)}, {where}"), anchor=False)
    if found is None:
        return
    unit = f", {asked.unit}" if asked.unit else ""
    made = attributionviews.strongest(found, first, last)
    if made:
        st.text(f"What made the model say it{unit}")
        attributiontabs.small_table(made, key="made")
    did = attributionviews.reached(found, first, last)
    if did:
        st.text(f"What it made the model say{unit}")
        attributiontabs.small_table(did, key="did")
    if not made and not did:
        st.text("Not among the targets or sources that were scored.")


page()
