"""Which token broke the reasoning, and what would have saved it?"""

from __future__ import annotations

from typing import Any

import streamlit as st

import engine
from engine import Request, Result, Trace, UserError
from engine.critical.value import value_request
from engine.errors import Cancelled
from engine.render.details import details
from engine.render.signals import Signal
from engine.render.strip import plain_payload
from engine.render.text import escape_markdown
from pages.widgets import criticalforms, criticaltabs, criticalviews, places, state, subject
from pages.widgets.about import about
from pages.widgets.asking import ask
from pages.widgets.criticalforms import Asked
from pages.widgets.criticalviews import CHANNEL, Drawn
from pages.widgets.notice import guarded, hint, problem
from pages.widgets.pills import choose_signal
from pages.widgets.selection import next_selection
from pages.widgets.strip import bus, token_details, token_strip
from pages.widgets.views import curve
from pages.widgets.waiting import waiting

TITLE = "Which token broke the reasoning?"


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    head = st.container(key="head")
    head.title(TITLE, anchor=False)
    trace = subject.readable("continuing")
    if trace is None:
        return
    lede = head.empty()
    asked = criticalforms.controls(trace)
    stats = _answer("critical.statistics", state.statistics_request(trace, state.chosen_model()))
    if stats is None:
        token_strip(
            plain_payload(trace.pieces, trace.segments, special=trace.special), key="strip-plain"
        )
        return
    measured = _measured(trace, asked)
    scored = _scored(trace, asked)
    with lede.container(key="lede"):
        st.text(criticalviews.sentence(measured, asked.right(trace)))
    others = [r for r in (measured, scored) if r is not None]
    view = criticalviews.drawn(trace, stats, others, _paths(trace, asked))
    _linked(trace, view, stats, measured, scored, asked)


def _answer(slot: str, request: Request) -> Result | None:
    """The result; None while it is computed, or when it cannot be had."""
    return ask(slot, request, "", auto=True, doing=criticalforms.DOING[slot])


def _measured(trace: Trace, asked: Asked) -> Result | None:
    """The value curve, if it is stored or has been asked for."""
    if not asked.answer:
        hint("Give the right answer above: without one nothing can be counted.", key="no-answer")
        return None
    slot = "critical.value"
    request = value_request(trace, state.chosen_model(), asked.answer, **asked.sampling)
    try:
        found = state.answer(slot, request, start=False)
        if found is None:
            if not criticalforms.measure_button(trace, asked):
                return None
            state.answer(slot, request)
            st.rerun()
    except UserError as error:
        problem(error, key=slot)
        return None
    except Cancelled as error:
        with st.container(key=f"hint-{slot}", horizontal=True, vertical_alignment="center"):
            st.text(str(error) or "Cancelled before the first prefix was finished.")
            st.button("Start again", key=f"again-{slot}", on_click=state.give_up, args=(slot,))
        return None
    if isinstance(found, state.Job):
        waiting(found, key=slot, doing="Measuring")
        _so_far(trace, found)
        return None
    if found is not None and found.status == "partial":
        with st.container(key="hint-partial", horizontal=True, vertical_alignment="center"):
            st.text("Cancelled before the end: the curve shows what was measured.")
            st.button("Go on", key="go-on", on_click=state.give_up, args=(slot,))
    return found


def _so_far(trace: Trace, job: state.Job) -> None:
    """The curve while it grows."""

    @st.fragment(run_every=1.0)
    @guarded
    def look() -> None:
        progress = job.handle.progress
        tables = progress.so_far() if progress and progress.so_far else {}
        table = tables.get("tokens")
        if table is not None and "value" in table.column_names:
            curve(criticalviews.partial_curve(trace, table), key="curve-so-far")

    look()


def _scored(trace: Trace, asked: Asked) -> Result | None:
    """The contrastive score by the chosen pair."""
    try:
        request = asked.scores(trace, state.chosen_model())
    except UserError as error:
        hint(str(error), key="pair")
        return None
    return None if request is None else _answer("critical.scores", request)


def _paths(trace: Trace, asked: Asked) -> tuple[Result, int] | None:
    """What the rollouts of the text's group alone say, and the text's number among them."""
    group = state.shown_group(trace)
    if group is None:
        return None
    params = {} if any(r is not None for r in group.rewards) else {"answer": asked.answer}
    if params and not asked.answer:
        return None
    found = _answer("critical.paths", Request("critical.paths", group, None, params))
    number = next(i for i, t in enumerate(group.rollouts) if t.digest == trace.digest)
    return None if found is None else (found, number)


@st.fragment
@guarded
def _linked(
    trace: Trace,
    view: Drawn,
    stats: Result,
    measured: Result | None,
    scored: Result | None,
    asked: Asked,
) -> None:
    """Strip, curve, panel and what-if; a click draws only these again."""
    left, right = st.container(key="linked").columns([2.1, 1], gap="medium")
    with left:
        name = _signal(view)
        event, drawn = token_strip(view.strip, key="critical-strip")
        chosen = {"strip": event}
        data = criticalviews.curve_of(view, trace, name, measured)
        chosen["curve"] = curve(data, key="critical-curve")
    selection = next_selection(
        state.recall("selection"), state.name_of(trace), len(trace), view.start, chosen
    )
    state.remember("selection", selection)
    # What is beside and below the first picture does not delay it.
    below = state.painted(drawn)
    with right, st.container(key="details-box"):
        if below:
            _details(view, stats, measured, selection.span)
        places.questions("critical")
    if below:
        with left:
            criticaltabs.what_if(trace, selection.last, asked)
        criticaltabs.below(trace, view, measured, scored, asked)
        _about(view, measured, scored)
    message: dict[str, Any] = {"signal": name, "prompt": False}
    bus(
        CHANNEL,
        {**message, "marks": criticalviews.marks_of(measured), **selection.message()},
        key="critical-bus",
    )


def _signal(view: Drawn) -> str:
    """Which value colours the strip."""
    name = choose_signal(view.signals, key="critical-signal", param="score")
    hint(view.signals[name].doc, key="signal")
    return name


def _details(view: Drawn, stats: Result, measured: Result | None, span: tuple[int, int]) -> None:
    facts = criticalviews.at_token(measured, span[1]) if span[0] == span[1] else []
    panel = details(
        {**stats.tables, "tokens": view.wide.tokens},
        *span,
        list(view.signals.values()),
        reasons=stats.notes,
        force=False,
    )
    with st.container(key="facts"):
        for fact in facts:
            st.text(fact)
    few = [a for a in panel["alternatives"] if a["rank"] <= criticalforms.FEW or a["said"]]
    token_details({**panel, "alternatives": few}, key="critical-details")


def _about(view: Drawn, measured: Result | None, scored: Result | None) -> None:
    result = measured or scored
    if result is None:
        return
    declared = engine.analyses()[result.analysis]
    name = "fall" if measured is not None else "contrast"
    signal = view.signals.get(name) or Signal(
        name, name, "", escape_markdown(declared.title), "sequential", 0, 1, ()
    )
    about(declared, signal, result)


page()
