"""What did the model think of every token?"""

from __future__ import annotations

from typing import Any

import streamlit as st

import engine
from engine import Request, Result, Trace, UserError
from engine.errors import Cancelled
from engine.render.details import details
from engine.render.signals import Signal
from engine.render.strip import plain_payload
from pages.widgets import address, places, state, subject
from pages.widgets.about import about
from pages.widgets.downloads import downloads, table_view
from pages.widgets.notice import guarded, hint, problem
from pages.widgets.selection import Selection, choose, next_selection
from pages.widgets.share import share
from pages.widgets.strip import bus, token_details, token_strip
from pages.widgets.tokenviews import CHANNEL, Shown, shown
from pages.widgets.views import curve, follow, scatter
from pages.widgets.waiting import waiting

TABLE = [
    "position", "token", "token_id", "segment", "role", "surprisal", "logprob", "entropy",
    "varentropy", "rank", "margin", "max_prob", "sum_p2", "self_certainty", "ties",
]  # fmt: skip


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    head = st.container(key="head")
    title = head.empty()
    title.title(engine.analyses()["statistics"].title, anchor=False)
    own = st.session_state.get("text") == state.OWN
    if own:
        subject.own_text_form()
        _answers()
    trace = state.shown_trace()
    if trace is None:
        hint("Nothing to show yet: press Generate, or Read this text.", key="empty")
        return
    request = state.first_request(trace, state.chosen_model())
    title.title(engine.analyses()[request.analysis].title, anchor=False)
    result = _result(request, trace)
    if result is not None:
        _view(request, shown(result, trace), head, own)


def _answers() -> None:
    """Progress of generating, or the list of what was generated."""
    try:
        job = state.waiting_answers()
    except UserError as error:
        problem(error, key="generate")
    except Cancelled as error:
        hint(str(error) or "Cancelled before the first response was finished.", key="generate")
    else:
        if job is not None:
            waiting(job, key="generate", doing="Generating")
        else:
            subject.answers()


def _result(request: Request, trace: Trace) -> Result | None:
    try:
        found = state.answer("statistics", request)
    except UserError as error:
        problem(error, key="statistics")
        _plain(trace)
        return None
    except Cancelled as error:
        with st.container(key="hint-statistics", horizontal=True, vertical_alignment="center"):
            st.text(str(error) or "Cancelled.")
            st.button("Start again", on_click=state.give_up, args=("statistics",))
        return None
    if isinstance(found, state.Job):
        waiting(found, key="statistics", doing="Reading the text")
        _plain(trace)
        return None
    return found


def _plain(trace: Trace) -> None:
    """The text alone, while its numbers are computed or where there are none."""
    plain = plain_payload(trace.pieces, trace.segments, special=trace.special)
    token_strip(plain, key="strip-plain")


def _view(request: Request, view: Shown, head: Any, own: bool) -> None:
    trace, signals = view.trace, view.signals
    lede = head.empty()
    with st.container(key="controls", horizontal=True, vertical_alignment="center"):
        first = "surprisal" if "surprisal" in signals else next(iter(signals))
        titles = {name: signal.title for name, signal in signals.items()}
        address.take("statistic", titles, first, param="signal", old="statistic")
        name = st.pills(
            "Statistic",
            list(signals),
            key="statistic",
            required=True,
            format_func=titles.__getitem__,
            label_visibility="collapsed",
            persist_state="session",
            wrap=True,
        )
        address.put("statistic", name or first, first, param="signal", old="statistic")
        prompt_too = trace.response_start >= len(trace)
        if 0 < trace.response_start < len(trace):
            prompt_too = st.toggle("Colour the prompt", key="prompt-too", persist_state="session")
        if not own:
            st.button(
                "Try your own text", key="own", type="tertiary", on_click=subject.use_own_text
            )
    signal = signals.get(name or "") or next(iter(signals.values()))
    with lede.container(key="lede"):
        st.text(_definition(signal))
    _linked(request, view, signal, prompt_too)


def _definition(signal: Signal) -> str:
    title = signal.title[:1].upper() + signal.title[1:]
    doc = signal.doc[:1].lower() + signal.doc[1:]
    return f"{title}, {doc} Click a token to see what else the model might have said."


@st.fragment
@guarded
def _linked(request: Request, view: Shown, signal: Signal, prompt_too: bool) -> None:
    """All views of the text; a choice in one draws only these again."""
    left, right = st.container(key="linked").columns([2.35, 1], gap="medium")
    with left:
        chosen = {}
        chosen["strip"], drawn = token_strip(view.parts.strip, key="strip")
        for n, remark in enumerate(_remarks(view.result, view.trace)):
            hint(remark, key=f"remark-{n}")
        with st.container(key="pictures"):
            chosen["curve"] = curve(view.curve(signal.name), key="curve")
            # What is below the first picture does not delay it.
            below = state.painted(drawn)
            crowd = view.scatter() if below else None
            if crowd is not None:
                chosen["scatter"] = scatter(crowd, key="scatter")
        selection = next_selection(
            state.recall("selection"), view.text, len(view.trace), view.parts.start, chosen
        )
        state.remember("selection", selection)
        if below:
            _below(request, view, signal, selection)
    with right, st.container(key="details-box"):
        _details(view, selection)
    bus(CHANNEL, {"signal": signal.name, "prompt": prompt_too, **selection.message()}, key="bus")


def _details(view: Shown, selection: Selection) -> None:
    branches = any(place.name == "branches" for place in places.PLACES)
    panel = details(
        view.tables,
        *selection.span,
        list(view.signals.values()),
        reasons=view.result.notes,
        force=branches and view.trace.has_ids,
    )
    wish = token_details(panel, key="details")
    if wish is not None and branches and 0 < wish[0] < len(view.trace):
        state.request_branch(*wish)
        places.go("branches")
    places.questions("tokens")


def _remarks(result: Result, trace: Trace) -> list[str]:
    """What a reader of this very text must know."""
    remarks = []
    if trace.joint_encoding is False:
        remarks.append("Encoded together, prompt and response would be cut into other tokens.")
    if not trace.exact:
        remarks.append("The tokenizer changes this text: its tokens do not spell it exactly.")
    if result.status == "partial":
        why = [n["reason"] for n in result.notes.to_pylist() if n["table"] is n["column"] is None]
        remarks.append(why[0] if why else "Cancelled before the end: the rest has no values.")
    if result.not_stored:
        remarks.append(result.not_stored)
    return remarks


def _below(request: Request, view: Shown, signal: Signal, selection: Selection) -> None:
    def pick(row: int) -> None:
        before = state.recall("selection")
        picked = choose(before, view.text, len(view.trace), row, source="table")
        state.remember("selection", picked)

    first, last = selection.span
    shown_columns = [*TABLE, *(n for n in view.signals if n not in TABLE)]
    st.subheader("All numbers", anchor=False)
    table_view(
        view.parts.wide.tokens,
        view.columns,
        shown_columns,
        tokens=view.parts.names,
        key="table",
        selected=first if first == last else None,
        on_row=pick,
    )
    follow(CHANNEL, view.text, "table", key="follow")
    with st.container(key="actions"):
        share(request, view.trace)
        downloads(view.result, "tokens", "Tokens", key="tokens")
        if "alternatives" in view.result.tables:
            downloads(view.result, "alternatives", "Top alternatives", key="alternatives")
    about(engine.analyses()[view.result.analysis], signal, view.result)


page()
