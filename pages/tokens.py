"""What did the model think of every token?"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

import engine
from engine import Result, Trace, UserError
from engine.errors import Cancelled
from engine.render.details import details
from engine.render.signals import Signal
from engine.render.strip import most_striking, names, payload, plain_payload
from engine.schema import PER_TOKEN
from pages.widgets import state, subject
from pages.widgets.about import about
from pages.widgets.downloads import downloads, table_view
from pages.widgets.notice import guarded, hint, problem
from pages.widgets.selection import next_selection
from pages.widgets.strip import bus, token_details, token_strip
from pages.widgets.waiting import waiting

CHANNEL = "tokens"
TABLE = [
    "position", "token", "token_id", "segment", "role", "surprisal", "logprob", "entropy",
    "varentropy", "rank", "margin", "max_prob", "sum_p2", "self_certainty", "ties",
]  # fmt: skip


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    declared = engine.analyses()["statistics"]
    head = st.container(key="head")
    head.title(declared.title, anchor=False)
    own = st.session_state.get("text") == state.OWN
    if own:
        subject.own_text_form()
        _answers()
    trace = state.shown_trace()
    if trace is None:
        hint("Nothing to show yet: press Generate, or Read this text.", key="empty")
        return
    result = _result(trace)
    if result is None:
        return
    _view(result, trace, head, own)


def _answers() -> None:
    """Progress of generating, or the list of what was generated."""
    try:
        job = state.waiting_answers()
    except UserError as error:
        problem(error, key="generate")
    except Cancelled:
        hint("Cancelled before the first response was finished.", key="generate")
    else:
        if job is not None:
            waiting(job, key="generate", doing="Generating")
        else:
            subject.answers()


def _result(trace: Trace) -> Result | None:
    model = state.chosen_model()
    try:
        found = state.answer("statistics", state.statistics_request(trace, model))
    except Cancelled:
        with st.container(key="hint-statistics", horizontal=True, vertical_alignment="center"):
            st.text("Cancelled.")
            st.button("Start again", on_click=state.give_up, args=("statistics",))
        return None
    if isinstance(found, state.Job):
        waiting(found, key="statistics", doing="Reading the text")
        plain = plain_payload(trace.pieces, trace.segments, special=trace.special)
        token_strip(plain, key="strip-plain")
        return None
    return found


@st.cache_resource(max_entries=16, show_spinner=False)
def _payload(key: str, _tables: dict[str, pa.Table]) -> dict[str, Any]:
    """Built once per result, shared and never changed; ``key`` names it."""
    columns = engine.analyses()["statistics"].tables["tokens"].columns
    return payload(_tables, channel=CHANNEL, columns=columns)


@st.cache_resource(max_entries=16, show_spinner=False)
def _names(key: str, _tables: dict[str, pa.Table]) -> list[str]:
    return names(_tables)


def _view(result: Result, trace: Trace, head: Any, own: bool) -> None:
    data = _payload(f"{result.key}/{result.status}", dict(result.tables))
    signals = [Signal(**s) for s in data["signals"]]
    by_name = {s.name: s for s in signals}
    lede = head.empty()
    with st.container(key="controls", horizontal=True, vertical_alignment="center"):
        name = st.pills(
            "Statistic",
            list(by_name),
            key="statistic",
            default="surprisal",
            required=True,
            format_func=lambda n: by_name[n].title,
            label_visibility="collapsed",
            bind="query-params",
            persist_state="session",
            wrap=True,
        )
        prompt_too = trace.response_start >= len(trace)
        if 0 < trace.response_start < len(trace):
            prompt_too = st.toggle("Colour the prompt", key="prompt-too", persist_state="session")
        if not own:
            st.button(
                "Try your own text", key="own", type="tertiary", on_click=subject.use_own_text
            )
    signal = by_name.get(name or "", signals[0])
    with lede.container(key="lede"):
        st.text(_definition(signal))
    _linked(result, trace, data, signal, prompt_too)


def _definition(signal: Signal) -> str:
    title = signal.title[:1].upper() + signal.title[1:]
    doc = signal.doc[:1].lower() + signal.doc[1:]
    return f"{title}, {doc} Click a token to see what else the model might have said."


@st.fragment
@guarded
def _linked(
    result: Result, trace: Trace, data: dict[str, Any], signal: Signal, prompt_too: bool
) -> None:
    """Strip and details; a click draws only these again."""
    left, right = st.columns([2.35, 1], gap="medium")
    with left:
        event, drawn = token_strip(data, key="strip")
        for n, remark in enumerate(_remarks(result, trace)):
            hint(remark, key=f"remark-{n}")
        # The table's code is heavy: the first picture does not wait for it.
        if drawn or state.recall("drawn"):
            state.remember("drawn", True)
            _below(result, trace, signal)
    selection = next_selection(
        state.recall("selection"),
        data["signature"],
        len(trace),
        most_striking(result.tables["tokens"]),
        {"strip": event},
    )
    state.remember("selection", selection)
    shown = details(
        result.tables,
        selection.first,
        selection.last,
        [Signal(**s) for s in data["signals"]],
        reasons=result.notes,
    )
    with right, st.container(key="details-box"):
        token_details(shown, key="details")
    message = {"signal": signal.name, "prompt": prompt_too, **selection.message()}
    bus(CHANNEL, message, key="bus")


def _remarks(result: Result, trace: Trace) -> list[str]:
    """What a reader of this very text must know."""
    remarks = []
    if trace.joint_encoding is False:
        remarks.append("Encoded together, prompt and response would be cut into other tokens.")
    if not trace.exact:
        remarks.append("The tokenizer changes this text: its tokens do not spell it exactly.")
    if result.status == "partial":
        remarks.append("Cancelled before the end: the rest has no values.")
    if result.not_stored:
        remarks.append(result.not_stored)
    return remarks


def _below(result: Result, trace: Trace, signal: Signal) -> None:
    declared = engine.analyses()["statistics"]
    tables = declared.tables
    st.subheader("All numbers", anchor=False)
    table_view(
        result.table("tokens"),
        {**PER_TOKEN, **tables["tokens"].columns},
        TABLE,
        tokens=_names(f"{result.key}/{result.status}", dict(result.tables)),
    )
    with st.container(key="actions"):
        downloads(result, "tokens", "Tokens", key="tokens")
        downloads(result, "alternatives", "Top 20 alternatives", key="alternatives")
    about(declared, signal, result)


page()
