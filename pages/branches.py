"""What if it had said something else?"""

from __future__ import annotations

from typing import Any

import streamlit as st

import engine
from engine import Request, Result, Trace, UserError
from engine.branching.branches import ORIGIN, branch_at, places, trace_at
from engine.errors import Cancelled
from engine.render.branching import alternatives, choices_data, place_name
from engine.render.strip import most_striking, payload, plain_payload
from engine.render.text import escape_markdown, one_line, plain
from pages.widgets import branch_state as grown
from pages.widgets import places as rooms
from pages.widgets import state
from pages.widgets.about import kernel_line
from pages.widgets.branch_state import Key, View
from pages.widgets.branch_tree import choices
from pages.widgets.branch_views import download_section, tree_section
from pages.widgets.downloads import downloads
from pages.widgets.notice import guarded, hint, problem
from pages.widgets.selection import choose, next_selection
from pages.widgets.strip import bus, token_strip
from pages.widgets.waiting import waiting

CHANNEL = "branches"
TITLE = "What if it had said something else?"
LEDE = (
    "Click a token, choose what to say instead and let the model go on from there: "
    "does its answer change?"
)


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    head = st.container(key="head")
    head.title(TITLE, anchor=False)
    with head.container(key="lede"):
        st.text(LEDE)
    trace = state.shown_trace()
    if trace is None:
        hint("Nothing to branch from yet: choose a text at the left.", key="empty")
        return
    if not trace.has_ids:
        hint(
            "This log gives no token ids, which a branch needs: let a model read the text instead.",
            key="empty",
        )
        return
    model = state.chosen_model()
    key = grown.open_tree(trace, model)
    settings = _controls(key)
    # Always there: a fragment is known by its place on the page.
    with st.container(key="branch-running"):
        busy = _pending()
    _requested(key, trace)
    shown = trace_at(grown.tree_of(key), grown.view_of(key).shown)
    result = _result(shown, model)
    if result is not None:
        _linked(key, result, settings, busy)
    tree_section(key)
    download_section(key, shown, result)
    _about()


# -- above the picture ------------------------------------------------------------------------


def _controls(key: Key) -> dict[str, Any]:
    """How the model is to go on, and what answer is right."""

    def number(label: str, name: str, low: Any, high: Any, start: Any, **more: Any) -> Any:
        return st.number_input(
            label,
            low,
            high,
            start,
            key=f"branch-{name}",
            width=96,
            persist_state="session",
            **more,
        )

    field = grown.expected_field(key)
    with st.container(key="branch-controls", horizontal=True, vertical_alignment="bottom"):
        settings = {
            "n": number("Continuations", "n", 1, 256, 4),
            "temperature": number("Temperature", "temperature", 0.0, 5.0, 1.0, step=0.1),
            "top_k": number("Top-k", "top-k", 1, None, None, placeholder="off"),
            "top_p": number("Top-p", "top-p", 0.01, 1.0, None, step=0.05, placeholder="off"),
            "min_p": number("Min-p", "min-p", 0.0, 1.0, None, step=0.01, placeholder="off"),
            "max_new_tokens": number("Tokens at most", "longest", 1, 4096, 128),
            "seed": number("Seed", "seed", 0, None, 0),
        }
        st.session_state.setdefault(field, grown.tree_of(key).expected or "")
        expected = st.text_input(
            "Right answer", key=field, width=118, placeholder="not checked", persist_state="session"
        )
    if (expected.strip() or None) != grown.tree_of(key).expected:
        grown.judge(key, expected)
    return settings


def _pending() -> bool:
    """Progress of what is being drawn; True while it goes on."""
    try:
        job = grown.pending()
    except Cancelled as error:
        hint(str(error) or "Cancelled before the first continuation was finished.", key="branch")
        return False
    except UserError as error:
        problem(error, key="branch")
        return False
    if job is not None:
        waiting(job, key="branch", doing="Going on")
    elif state.recall("branches.remark"):
        hint(state.recall("branches.remark"), key="branch")
    return job is not None


def _requested(key: Key, trace: Trace) -> None:
    """Take up what another page asked to be changed here."""
    wish = state.recall("branch.request")
    if wish is None:
        return
    state.remember("branch.request", None)
    position, token = wish
    name = state.name_of(trace)
    here = choose(state.recall("selection"), name, len(trace), position, source="request")
    state.remember("selection", here)
    place = next(p for p in places(grown.tree_of(key)) if trace_at(grown.tree_of(key), p) == trace)
    grown.look(key, View(place))
    if token is not None:
        stamp = (state.recall("branches.choice") or {}).get("stamp", 0) + 1
        wished = {"text": name, "position": position, "id": token, "stamp": stamp}
        state.remember("branches.choice", wished)


def _result(shown: Trace, model: str) -> Result | None:
    try:
        found = state.answer("branches.statistics", state.statistics_request(shown, model))
    except Cancelled as error:
        with st.container(key="hint-branch", horizontal=True, vertical_alignment="center"):
            st.text(str(error) or "Cancelled.")
            st.button("Start again", on_click=state.give_up, args=("branches.statistics",))
        return None
    if isinstance(found, state.Job):
        waiting(found, key="branch-statistics", doing="Reading the text")
        token_strip(
            plain_payload(shown.pieces, shown.segments, special=shown.special),
            key="branch-strip-plain",
        )
        return None
    return found


# -- the picture ------------------------------------------------------------------------------


@st.cache_resource(max_entries=32, show_spinner=False)
def _payload(name: str, forks: tuple[int, ...], _result: Result) -> dict[str, Any]:
    """Built once per trace; ``name`` and ``forks`` name it."""
    columns = engine.analyses()["statistics"].tables["tokens"].columns
    marks = [{"position": p, "kind": "fork", "text": "forked here"} for p in forks]
    tables = dict(_result.tables)
    return payload(tables, channel=CHANNEL, columns=columns, text=name, marks=marks)


@st.fragment
@guarded
def _linked(key: Key, result: Result, settings: dict[str, Any], busy: bool) -> None:
    """Strip and choices; a click draws only these again."""
    tree, view = grown.tree_of(key), grown.view_of(key)
    trace = trace_at(tree, view.shown)
    name = state.name_of(trace)
    forks = sorted({b.position for b in tree.branches if b.parent == view.shown})
    start = most_striking(result.tables["tokens"])
    if view.shown != ORIGIN:
        branch = branch_at(tree, view.shown.branch)
        forks.append(branch.position)
        start = branch.position
    elif forks:
        start = forks[0]
    left, right = st.columns([2.1, 1], gap="medium")
    with left:
        if view.shown != ORIGIN:
            st.text(f"Shown: {place_name(tree, view.shown)}")
        marked = tuple(sorted(p for p in set(forks) if p < len(trace)))
        event, _ = token_strip(_payload(name, marked, result), key="branch-strip")
    selection = next_selection(
        state.recall("selection"), name, len(trace), min(start, len(trace) - 1), {"strip": event}
    )
    state.remember("selection", selection)
    with right, st.container(key="details-box"):
        kept = _kept(trace, key[1], selection.last, settings)
        _choose(key, result, selection.last, kept, settings, busy)
    if kept is not None:
        with left:
            downloads(kept, "kept", "What the sampler keeps", key="kept")
    message = {"signal": "surprisal", "prompt": trace.response_start >= len(trace)}
    bus(CHANNEL, {**message, **selection.message()}, key="branch-bus")


def _kept(trace: Trace, model: str, position: int, settings: dict[str, Any]) -> Result | None:
    """What the sampler keeps of the alternatives; None where it keeps all as they are."""
    sampler = {k: settings[k] for k in ("temperature", "top_k", "top_p", "min_p")}
    if position == 0 or sampler == {**dict.fromkeys(sampler), "temperature": 1.0}:
        return None
    request = Request("sampler.kept", trace, model, {"position": position, **sampler})
    try:
        found = state.answer("branches.kept", request)
    except Cancelled:
        return None
    if isinstance(found, state.Job):
        waiting(found, key="branch-kept", doing="Asking what the sampler keeps")
        return None
    return found


def _choose(
    key: Key,
    result: Result,
    position: int,
    kept: Result | None,
    settings: dict[str, Any],
    busy: bool,
) -> None:
    """The alternatives, a field for anything else, and the button."""
    trace = trace_at(grown.tree_of(key), grown.view_of(key).shown)
    name = state.name_of(trace)
    rows = alternatives(result.tables, position)
    before = grown.next_choice(state.recall("branches.choice"), name, position, rows, None)
    data = choices_data(
        result.tables,
        position,
        text=name,
        chosen=before["id"],
        kept=None if kept is None else kept.tables,
    )
    event = choices(data, key="branch-choices")
    choice = grown.next_choice(state.recall("branches.choice"), name, position, rows, event)
    state.remember("branches.choice", choice)
    typed = st.text_input(
        "or type it",
        key="branch-typed",
        placeholder="as it is, with its space in front",
        persist_state="session",
    )
    forced: int | str = typed or ("" if choice["id"] == grown.NOTHING else choice["id"])
    if typed:
        said = f"“{one_line(typed, 20)}”"
    else:
        bytes_of = {row["id"]: row["bytes"] for row in rows}
        said = f"“{plain(bytes_of[forced], special=True)}”" if forced != "" else ""
    label = f"Continue with {said}" if said else "Draw again from here"
    if st.button(escape_markdown(label), key="branch-continue", type="primary", disabled=busy):
        try:
            grown.ask(key, position, forced, settings)
        except UserError as error:
            problem(error, key="branch-ask")
        else:
            st.rerun()
    if grown.view_of(key).shown == ORIGIN:
        rooms.questions("branches")


def _about() -> None:
    box = st.expander("About branches", key="branch-about", on_change="rerun")
    if not box.open:
        return
    declared = engine.analyses()["sampler.kept"]
    with box:
        st.markdown(
            "A branch keeps every token before the one you change, puts the forced tokens in its "
            "place and draws continuations from the same model. Draw *i* of a branch is the same "
            "whenever it is asked for: asking for more adds, and nothing is drawn twice."
        )
        st.markdown(
            "**log p** is the log-probability the model itself gave to the forced tokens (nats, "
            "temperature 1): what was forced against its will has a very negative one. "
            "**Right** compares the last answer a text gives with the right answer, numbers as "
            "numbers; an answer that is not found is never counted as wrong."
        )
        st.markdown(
            "**p after** is what the sampler draws by. "
            + " ".join(map(escape_markdown, declared.caveats))
        )
        sources = "".join(f"\n- {escape_markdown(source)}" for source in declared.cite)
        st.markdown("**Sources**" + sources)
        st.markdown(f"**How it was computed.** {kernel_line()}")


page()
