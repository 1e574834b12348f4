"""How did the model read this text as a whole?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import streamlit as st

import engine
from engine import Group, Request, Result, Trace
from engine.errors import Cancelled
from engine.render.signals import Signal
from engine.render.strip import plain_payload
from engine.schema import Column
from pages.widgets import address, places, state, summaryviews
from pages.widgets.about import about
from pages.widgets.bars import bars
from pages.widgets.downloads import downloads
from pages.widgets.notice import guarded, hint
from pages.widgets.selection import next_selection
from pages.widgets.share import share
from pages.widgets.strip import bus, token_strip
from pages.widgets.summaryviews import CHANNEL, LOG, WAYS
from pages.widgets.views import curve
from pages.widgets.waiting import waiting

PARTS = {"response": "response", "prompt": "prompt", "all": "whole text"}
TABLE = [
    "segment", "perplexity", "bits_per_token", "bits_per_byte", "surprisal", "entropy",
    "first_choice", "forks", "tokens", "bytes",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What the controls say.

    Attributes:
        signal: name of the value, ``log:…`` for one of a log.
        by: how tokens are grouped.
        part: which tokens.
        window: tokens in the rolling mean.
        together: all responses of the group, not only the one shown.
    """

    signal: str
    by: str
    part: str
    window: int
    together: bool


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    head = st.container(key="head")
    head.title(engine.analyses()["summary"].title, anchor=False)
    trace = state.shown_trace()
    if trace is None:
        hint("Nothing to show yet: choose a text at the left.", key="empty")
        return
    first = state.first_request(trace, state.chosen_model())
    stats = _answer("statistics", first, "Reading the text")
    if stats is None:
        bare = plain_payload(trace.pieces, trace.segments, special=trace.special)
        token_strip(bare, key="strip-plain")
        return
    columns = summaryviews.values_at_hand(stats, trace)
    if not columns:
        hint("This log brought no values along: let a model read its text instead.", key="none")
        return
    lede = head.empty()
    group = state.shown_group(trace)
    asked = _controls(trace, columns, group)
    request, whole, grouped = _results(trace, group, first, asked)
    if whole is None:
        return
    with lede.container(key="lede"):
        st.text(summaryviews.sentence(whole))
    left, right = st.columns([1.5, 1], gap="large")
    with left:
        _along(whole, stats, trace, asked, columns)
    with right:
        if grouped is not None:
            column = columns[asked.signal]
            bars(summaryviews.bars_of(grouped, column, asked.signal, asked.by), key="bars")
            hint(summaryviews.basis(grouped), key="basis")
    _below(request, whole, grouped, trace)


def _results(
    trace: Trace, group: Group | None, first: Request, asked: Asked
) -> tuple[Request, Result | None, Result | None]:
    settings = {"window": asked.window}
    if trace.response_start >= len(trace):
        settings["population"] = "all"
    request = Request("summary", trace, first.models, settings)
    whole = _answer("summary", request, "Summing up")
    subject = group if asked.together and group is not None else trace
    own = first.analysis == "statistics" or asked.signal.startswith(LOG)
    signal = asked.signal if own else f"{first.analysis}:{asked.signal}"
    chosen = {"signal": signal, "by": asked.by, "segment": asked.part}
    wanted = Request("grouped", subject, first.models, chosen)
    return request, whole, _answer("grouped", wanted, "Grouping tokens")


def _answer(slot: str, request: Request, doing: str) -> Result | None:
    """The result, or None while it is computed or after it was cancelled."""
    try:
        found = state.answer(slot, request)
    except Cancelled as error:
        with st.container(key=f"hint-{slot}", horizontal=True, vertical_alignment="center"):
            st.text(str(error) or "Cancelled.")
            st.button("Start again", key=f"again-{slot}", on_click=state.give_up, args=(slot,))
        return None
    if isinstance(found, state.Job):
        waiting(found, key=slot, doing=doing)
        return None
    return found


def _controls(trace: Trace, columns: Mapping[str, Column], group: Group | None) -> Asked:
    """One row of choices; they are in the address, so a link opens the same view."""

    def choose(label: str, key: str, names: Mapping[str, str], first: str) -> str:
        address.take(key, names, first, param=key)
        chosen: str = st.selectbox(
            label,
            list(names),
            key=key,
            format_func=names.__getitem__,
            persist_state="session",
            width=170,
        )
        address.put(key, chosen, first, param=key)
        return chosen

    labels = {name: column.label or name for name, column in columns.items()}
    inside = 0 < trace.response_start < len(trace)
    parts = PARTS if inside else {"all": PARTS["all"]}
    with st.container(key="controls-summary", horizontal=True, vertical_alignment="bottom"):
        signal = choose(
            "Value", "signal", labels, next(n for n in ("entropy", *labels) if n in labels)
        )
        by = choose("Grouped by", "by", WAYS, "class")
        part = choose("Tokens of the", "part", parts, next(iter(parts)))
        window = st.number_input(
            "Rolling mean of",
            1,
            4096,
            16,
            key="window",
            width=150,
            bind="query-params",
            persist_state="session",
            help="Tokens: this one and those before it.",
        )
        together = False
        if group is not None:
            label = f"Group all {len(group.rollouts)} responses"
            together = st.toggle(label, key="together", persist_state="session")
    return Asked(signal, by, part, int(window), together)


@st.fragment
@guarded
def _along(
    whole: Result, stats: Result, trace: Trace, asked: Asked, columns: Mapping[str, Column]
) -> None:
    """The value along the text; a click draws only this again."""
    data = summaryviews.curve_of(
        whole, stats, trace, columns, signal=asked.signal, part=asked.part, window=asked.window
    )
    chosen = {"curve": curve(data, key="curve")}
    start = next(iter(summaryviews.strongest(whole)), 0)
    text = state.name_of(trace)
    selection = next_selection(state.recall("selection"), text, len(trace), start, chosen)
    state.remember("selection", selection)
    with st.container(key="selected"):
        st.text(summaryviews.said_of(whole, stats, columns, asked.signal, selection.last))
    places.questions("summary")
    bus(CHANNEL, {"signal": asked.signal, **selection.message()}, key="bus")


def _below(request: Request, whole: Result, grouped: Result | None, trace: Trace) -> None:
    known = engine.analyses()
    parts, levels, groups = st.tabs(["By part", "By quantile", "By group"])
    with parts:
        _table(whole.table("summary").select(TABLE), known["summary"].tables["summary"].columns)
    with levels:
        st.text(
            "Log-probability (nats) at level α of a part's tokens, from the least likely token, "
            "α = 0, to the most likely, α = 1: Chow-Quantile."
        )
        _table(summaryviews.levels(whole), {})
    if grouped is not None:
        with groups:
            shown = grouped.table("groups").drop_columns(["token_bytes"])
            _table(shown, known["grouped"].tables["groups"].columns)
    with st.container(key="actions"):
        share(request, trace)
        downloads(whole, "summary", "Parts", key="summary")
        downloads(whole, "tokens", "Tokens with marks", key="tokens")
        downloads(whole, "quantiles", "Quantiles", key="quantiles")
        if grouped is not None:
            downloads(grouped, "groups", "Groups", key="groups")
    _about(whole)


def _table(table: pa.Table, columns: Mapping[str, Column]) -> None:
    """A small table with labels, units and definitions."""
    config: dict[str, Any] = {}
    for field in table.schema:
        column = columns.get(field.name, Column(field.type, ""))
        label, note = column.label or field.name.replace("_", " "), column.doc or None
        if column.unit == "probability":
            made = st.column_config.NumberColumn(label, help=note, format="percent")
        elif pa.types.is_floating(field.type):
            label += f" ({column.unit})" if column.unit else ""
            made = st.column_config.NumberColumn(label, help=note, format="%.3g")
        else:
            made = st.column_config.Column(label, help=note)
        config[field.name] = made
    st.dataframe(
        table,
        hide_index=True,
        height=min(37 + 28 * table.num_rows, 290),
        row_height=28,
        placeholder="–",
        column_config=config,
    )


def _about(whole: Result) -> None:
    """Definitions, sources and caveats of both analyses."""
    known = engine.analyses()
    one, other = known["summary"], known["grouped"]
    both = replace(one, cite=(*one.cite, *other.cite), caveats=(*one.caveats, *other.caveats))
    doc = one.tables["summary"].columns["perplexity"].doc
    about(both, Signal("perplexity", "perplexity", "", doc, "sequential", 0, 1, ()), whole)


page()
