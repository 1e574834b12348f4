"""The tree of branches on the page: walking it, putting two traces side by side, taking it away."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
import streamlit as st

from engine import Result, Trace
from engine.branching.align import Row, align
from engine.branching.branches import ORIGIN, Place, Tree, branch_at, places, trace_at
from engine.branching.branchfile import dumps, group_of
from engine.records import rollout_records
from engine.render.branching import aligned_data, alignment_summary, place_name, tree_data
from engine.render.text import escape_markdown
from pages.widgets import branch_state as grown
from pages.widgets import places as rooms
from pages.widgets import state
from pages.widgets.branch_state import Key, View
from pages.widgets.branch_tree import aligned, tree_view
from pages.widgets.notice import hint
from pages.widgets.share import share


def tree_section(key: Key) -> None:
    """What was forced where, how it ended, and a way from one to the other."""
    tree, view = grown.tree_of(key), grown.view_of(key)
    st.subheader("Branches", anchor=False)
    if not tree.branches:
        hint("None yet: choose a token above and press Continue.", key="branches")
        return
    other = grown.beside(tree, view)
    tree_view(
        tree_data(tree, view.shown, other), key="branch-tree", on_place=partial(grown.step, key)
    )
    _walk(key)
    if other is not None:
        _compare(key, other)


def _walk(key: Key) -> None:
    tree, view = grown.tree_of(key), grown.view_of(key)
    if view.shown == ORIGIN:
        return
    branch = branch_at(tree, view.shown.branch)
    with st.container(key="downloads-branch-walk", horizontal=True, vertical_alignment="center"):
        st.button(
            "Back to what it grew from",
            key="branch-parent",
            type="tertiary",
            on_click=grown.look,
            args=(key, View(branch.parent)),
        )
        if st.button("Open this answer on the other pages", key="branch-open", type="tertiary"):
            shown, last = trace_at(tree, view.shown), state.recall("selection")
            here = last is not None and last.signature == state.name_of(shown)
            select = last.span if here else None
            state.open_trace(shown, model=key[1], expected=tree.expected, select=select)
            rooms.go("tokens")
        st.button(
            "Remove this branch",
            key="branch-remove",
            type="tertiary",
            on_click=grown.cut,
            args=(key, branch.id),
        )


@st.cache_resource(max_entries=64, show_spinner=False)
def _aligned(one: str, other: str, _a: Trace, _b: Trace) -> tuple[Row, ...]:
    return align(_a, _b)


def _compare(key: Key, other: Place) -> None:
    """The shown trace beside another of the tree."""
    tree, view = grown.tree_of(key), grown.view_of(key)
    st.subheader("Side by side", anchor=False)
    # The original stands above, and what grew from another below it.
    order = [other, view.shown] if _before(key, other, view.shown) else [view.shown, other]
    with st.container(key="branch-compare", horizontal=True, vertical_alignment="bottom"):
        options = [p for p in places(tree) if p != view.shown]
        st.session_state["branch-beside"] = other
        st.selectbox(
            f"{escape_markdown(place_name(tree, view.shown))}, beside",
            options,
            key="branch-beside",
            format_func=partial(place_name, tree),
            width=420,
            on_change=lambda: grown.look(key, View(view.shown, st.session_state["branch-beside"])),
        )
        whole = st.toggle("Show all that is the same", key="branch-whole", persist_state="session")
    a, b = (trace_at(tree, place) for place in order)
    rows = _aligned(a.digest, b.digest, a, b)
    st.text(alignment_summary(rows).capitalize() + ".")
    titles = (place_name(tree, order[0]), place_name(tree, order[1]))
    aligned(aligned_data(a, b, rows, titles=titles, whole=whole), key="branch-aligned")


def _before(key: Key, one: Place, other: Place) -> bool:
    order = places(grown.tree_of(key))
    return order.index(one) < order.index(other)


def download_section(key: Key, shown: Trace, result: Result | None) -> None:
    tree, view = grown.tree_of(key), grown.view_of(key)
    with st.container(key="actions"):
        if view.shown == ORIGIN and result is not None:
            share(state.statistics_request(shown, key[1]), shown, key="branch-share")
        if tree.branches:
            with st.container(key="downloads-branches", horizontal=True):
                st.text("Branches")
                _download(
                    "All as one tree (JSON)", f"branches-{key[0][:8]}.json", partial(dumps, tree)
                )
                if view.shown != ORIGIN:
                    _download(
                        "These continuations as rollouts (JSONL)",
                        f"branch-{view.shown.branch}.jsonl",
                        partial(_rollouts, tree, view.shown.branch),
                    )


def _download(label: str, file: str, make: Any) -> None:
    st.download_button(
        label, make, file_name=file, mime="application/json", on_click="ignore", type="tertiary"
    )


def _rollouts(tree: Tree, branch: str) -> bytes:
    # Run when the link is pressed, in a thread that knows no visitor.
    group = group_of(tree, branch)
    return b"".join(
        orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in rollout_records(group)
    )
