"""What has been computed?"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import streamlit as st

import engine
from engine import FORMATS, UserError
from engine.render.text import one_line
from engine.shelves.library import RESULT_FILES, Export, Library, Listing, Row
from pages.widgets import importbox, places, sqlbox, state
from pages.widgets.importbox import count
from pages.widgets.notice import guarded, hint, problem

ORDERS = {"last_used": "Used last", "created": "Computed last", "bytes": "Largest"}
KINDS = {RESULT_FILES: "Result files, to import elsewhere"} | {
    fmt: f"Tables as {fmt.upper() if fmt in ('csv', 'json', 'jsonl', 'xlsx') else fmt.capitalize()}"
    for fmt in FORMATS
}
MAX_ROWS = 500
EVERY = "Every analysis"
TITLE = "What has been computed?"


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    library = Library(state.workspace(), state.own_keys())
    head = st.container(key="head")
    head.title(TITLE, anchor=False)
    with head, st.container(key="lede"):
        st.text(_lede(library))
    listing = _controls(library)
    chosen = _table(listing)
    _said()
    _actions(library, chosen)
    if listing.unfiltered and all(row.origin == "example" for row in listing.rows):
        hint(
            "Nothing of your own in this list yet: what you compute on the other pages is kept "
            "and found here again. The examples came with TokenScope.",
            key="library-empty",
        )
    if library.shared:
        return
    importbox.box(library)
    sqlbox.box(library)


def _lede(library: Library) -> str:
    if library.shared:
        return (
            "The examples, and what you asked for in this visit. Open one to look at it again; "
            "export what you want to keep."
        )
    used, limit = library.size()
    return (
        "Every result is kept under what it was computed from, so nothing is computed twice. "
        f"The store takes {_size(used)} of {_size(limit)}; beyond that, what was used longest ago "
        "makes room, and what is pinned stays."
    )


def _controls(library: Library) -> Listing:
    with st.container(key="library-controls", horizontal=True, vertical_alignment="bottom"):
        order = st.selectbox(
            "Order",
            list(ORDERS),
            key="library-order",
            format_func=ORDERS.__getitem__,
            persist_state="session",
            width=170,
        )
        contents = library.contents(order)
        kinds = [EVERY, *contents.analyses()]
        if st.session_state.get("library-analysis") not in kinds:
            st.session_state.pop("library-analysis", None)
        analysis = st.selectbox(
            "Analysis", kinds, key="library-analysis", persist_state="session", width=220
        )
        search = st.text_input(
            "Search",
            key="library-search",
            placeholder="part of a title",
            persist_state="session",
            width=280,
        )
    only = None if analysis == EVERY else analysis
    return contents.rows(analysis=only, search=search or "", limit=MAX_ROWS)


def _table(listing: Listing) -> list[Row]:
    """The list; returns what is marked in it."""
    rows = listing.rows
    if not rows:
        hint("No result fits: choose another analysis, or clear the search.", key="library-none")
        return []
    # A key of its own for each list: marks are row numbers, and must not slip to other results.
    name = sha256("".join(row.key for row in rows).encode()).hexdigest()[:16]
    event: Any = st.dataframe(
        _columns(rows),
        key=f"library-table-{name}",
        on_select="rerun",
        selection_mode="multi-row",
        hide_index=True,
        height=min(36 + 28 * len(rows), 400),
        row_height=28,
        placeholder="–",
        column_config={
            "title": st.column_config.TextColumn("Title", width=280),
            "analysis": st.column_config.TextColumn("Analysis", width=95),
            "model": st.column_config.TextColumn("Model", width=120),
            "tokens": st.column_config.NumberColumn("Tokens", width=60),
            "created": st.column_config.DatetimeColumn(
                "Computed", format="YYYY-MM-DD HH:mm", timezone=st.context.timezone, width=125
            ),
            "bytes": st.column_config.NumberColumn("Size", format="bytes", width=72),
            "origin": st.column_config.TextColumn("From", width=78),
            "state": st.column_config.TextColumn("State", width=62),
        },
    )
    if listing.total > len(rows):
        hint(
            f"The first {len(rows):,} of {listing.total:,} are listed: search to find the others.",
            key="library-more",
        )
    marked = event.selection.rows if event is not None else []
    return [rows[n] for n in marked if 0 <= n < len(rows)]


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {
        "title": [one_line(row.title, 120) for row in rows],
        "analysis": [one_line(row.analysis, 60) for row in rows],
        "model": [one_line(row.model, 80) if row.model else None for row in rows],
        "tokens": [row.tokens for row in rows],
        "created": [row.created for row in rows],
        "bytes": [row.bytes for row in rows],
        "origin": [row.origin for row in rows],
        "state": [_state(row) for row in rows],
    }


def _state(row: Row) -> str:
    words = [row.status] if row.status != "complete" else []
    words += ["pinned"] if row.pinned else []
    words += ["cannot be shown"] if row.problem else []
    return ", ".join(words)


def _said() -> None:
    """What came of the last action, until the next click."""
    for name, tell in (("said", hint), ("error", problem)):
        text = state.recall(f"library.{name}")
        if text:
            tell(text, key=f"library-{name}")
            state.remember(f"library.{name}", None)


def _tell(said: str | None = None, error: str | None = None) -> None:
    """Say what came of an action; boxes that were open for it close."""
    state.remember("library.round", state.recall("library.round", 0) + 1)
    state.remember("library.report", None)
    state.remember("library.said", said)
    state.remember("library.error", error)


def _actions(library: Library, chosen: list[Row]) -> None:
    own = [row for row in chosen if row.origin != "example"]
    one = chosen[0] if len(chosen) == 1 else None
    locked = library.shared or not own or len(own) < len(chosen)
    with st.container(key="library-actions", horizontal=True, vertical_alignment="center"):
        if st.button("Open", key="library-open", type="primary", disabled=one is None) and one:
            _open(one)
        if not library.shared:
            _rename(library, one if not locked else None)
            pinned = bool(own) and all(row.pinned for row in own)
            if st.button("Unpin" if pinned else "Pin", key="library-pin", disabled=locked):
                _pin(library, own, not pinned)
            _delete(library, [] if locked else own)
        _export(library, chosen)
        if not chosen:
            with st.container(key="hint-library-choose"):
                st.text(
                    "Mark results at the left of the table, or with Shift+Space; End and Tab then "
                    "lead on to the buttons."
                )
        elif locked and not library.shared:
            with st.container(key="hint-library-examples"):
                st.text("Examples can be opened and exported; they stay as they are.")
    if one is not None and one.problem:
        hint(one.problem, key="library-problem")


def _open(row: Row) -> None:
    """Show what a result looked at, on the page of its analysis."""
    _tell()
    item = next((i for i in engine.gallery() if i.trace.digest == row.subject), None)
    try:
        if item is not None and row.origin == "example":
            state.open_example(item.name)
        else:
            state.open_result(row.key)
    except UserError as error:
        _tell(error=str(error))
        st.rerun()
    places.go(places.place_of(row.analysis))


def _rename(library: Library, row: Row | None) -> None:
    with st.popover("Rename", key=_fresh("library-rename"), disabled=row is None):
        if row is None:
            return
        with st.form(f"library-title-{row.key}", border=False):
            title = st.text_input(
                "Title",
                row.title,
                max_chars=200,
                key=f"library-new-title-{row.key}",
                help="Empty gives back the original title.",
            )
            if st.form_submit_button("Save", key="library-rename-save"):
                _done(lambda: library.rename(row.key, title), "Renamed.")


def _pin(library: Library, rows: list[Row], pinned: bool) -> None:
    word = "Pinned: kept when the store is full." if pinned else "No longer pinned."
    _done(lambda: library.pin([row.key for row in rows], pinned), word)


def _delete(library: Library, rows: list[Row]) -> None:
    with st.popover("Delete", key=_fresh("library-delete"), disabled=not rows):
        if not rows:
            return
        what = count(len(rows))
        st.text(f"{what} will be gone for good. Computing them again takes the time it took.")
        if st.button(f"Delete {what}", key="library-delete-sure", type="primary"):
            _done(lambda: library.delete([row.key for row in rows]), f"{what} deleted.")


def _fresh(key: str) -> str:
    """A box's name until the next action: under a new name it is closed."""
    return f"{key}-{state.recall('library.round', 0)}"


def _done(action: Any, said: str) -> None:
    try:
        action()
    except UserError as error:
        _tell(error=str(error))
    else:
        _tell(said)
    st.rerun()


def _export(library: Library, rows: list[Row]) -> None:
    keys = [row.key for row in rows]
    with st.popover("Export", key="library-export", disabled=not rows):
        if not rows:
            return
        fmt = st.selectbox(
            "Export as", list(KINDS), key="library-format", format_func=KINDS.__getitem__
        )
        if st.button("Make the file", key="library-make"):
            state.remember("library.export", None)
            try:
                with st.spinner("Writing"):
                    state.remember("library.export", (keys, fmt, library.export(keys, fmt)))
            except UserError as error:
                problem(error, key="library-export")
        made: tuple[list[str], str, Export] | None = state.recall("library.export")
        if made is not None and made[:2] == (keys, fmt):
            file = made[2]
            st.download_button(
                f"Download ({_size(file.size)})",
                file.read,
                file_name=file.name,
                mime="application/zip",
                key="library-download",
                on_click="ignore",
            )


def _size(count: int) -> str:
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if count >= size:
            value = count / size
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{count} bytes"


page()
