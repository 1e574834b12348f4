"""By which way did the information travel from the question to the answer?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

import engine
from engine import Request, Result, Trace, UserError
from engine.render.strip import plain_payload
from pages.widgets import flowforms, flowtabs, flowviews, places, state, subject
from pages.widgets.about import about
from pages.widgets.asking import ask
from pages.widgets.flowforms import Asked
from pages.widgets.flowgraph import flowgraph
from pages.widgets.flowviews import CHANNEL, Drawn
from pages.widgets.notice import guarded, hint
from pages.widgets.pills import choose_signal
from pages.widgets.selection import Selection, next_selection
from pages.widgets.strip import bus, token_strip

TITLE = "By which way did the information travel?"
STRIP = "flow-strip"
GRAPH = "flow-graph"
BESIDE = ("flow.rollout", "flow.rhythm", "flow.lens")
"""Analyses whose per-token values are offered as colours once they are stored."""


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    head = st.container(key="head")
    head.title(TITLE, anchor=False)
    trace = subject.readable("this")
    if trace is None:
        return
    asked = flowforms.controls(trace)
    request = asked.request(trace)
    backbone = ask("flow.backbone", request, "", auto=True, doing="Following the attention")
    if backbone is None:
        _unmarked(trace)
        return
    _linked(trace, backbone, asked)


@st.fragment
@guarded
def _unmarked(trace: Trace) -> None:
    """The text alone: a visitor can mark question and answer in it."""
    selection = _selection(trace, 0)
    if selection.stamp:  # the page's own choice waits for the flow
        state.remember("selection", selection)
    plain = plain_payload(
        trace.pieces, trace.segments, special=trace.special, text=state.name_of(trace)
    )
    token_strip(plain, key=STRIP)
    flowforms.mark_buttons(trace, selection)


def _beside(trace: Trace, asked: Asked) -> list[Result]:
    """Per-token values of the same text that are stored already."""
    found = []
    for name in BESIDE:
        params = asked.answer if name == "flow.rollout" else {}
        request = Request(name, trace, {"model": state.chosen_model()}, params)
        try:
            result = state.workspace().lookup(request)
        except UserError:
            continue
        if result is not None:
            found.append(result)
    return found


@st.fragment
@guarded
def _linked(trace: Trace, backbone: Result, asked: Asked) -> None:
    """Graph, strip and what was selected; a click draws only these again."""
    lede = st.container(key="lede")
    with lede:
        st.text(flowviews.sentence(backbone))
    view = flowviews.drawn(trace, backbone, _beside(trace, asked))
    selection = _selection(trace, view.start)
    state.remember("selection", selection)
    left, right = st.container(key="linked").columns([2.35, 1], gap="medium")
    with left:
        graph = flowviews.graph(view.key, backbone, trace)
        _, edge = flowgraph(graph, key=GRAPH)
        name = _signal(view)
        _, drawn = token_strip(view.strip, key=STRIP)
        flowforms.mark_buttons(trace, selection)
    # What is beside and below the first picture does not delay it.
    below = state.painted(drawn)
    with right, st.container(key="details-box"):
        if below:
            flowtabs.details(trace, backbone, selection.last, asked, edge)
        places.questions("flow")
    if below:
        flowtabs.below(trace, backbone, view, asked, selection.last)
        about(engine.analyses()["flow.backbone"], view.signals[name], backbone)
    bus(CHANNEL, {"signal": name, "prompt": True, **selection.message()}, key="flow-bus")


def _signal(view: Drawn) -> str:
    name = choose_signal(view.signals, key="flow-signal", param="colour")
    hint(view.signals[name].doc, key="signal")
    return name


def _selection(trace: Trace, start: int) -> Selection:
    """What is selected; the views' own words are read before they are drawn."""
    return next_selection(
        state.recall("selection"),
        state.name_of(trace),
        len(trace),
        start,
        {name: _event(name) for name in (STRIP, GRAPH)},
    )


def _event(key: str) -> Any:
    kept = st.session_state.get(key)
    return kept.get("selection") if isinstance(kept, Mapping) else None


page()
