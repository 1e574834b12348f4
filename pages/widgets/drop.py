"""One place for whatever a visitor brings: it says what it is and what can be done with it."""

from __future__ import annotations

from hashlib import sha256

import streamlit as st

import engine
from engine import Trace, UserError
from engine.branching.tree import Tree
from engine.readers import Dropped, recognise
from engine.render.text import number
from engine.shelves.library import Library
from pages.widgets import branch_import, places, state
from pages.widgets.notice import problem

_SHOWN_PROBLEMS = 5


def drop_zone(*, key: str = "drop") -> None:
    """Take a file, or text pasted into the box beside it."""
    st.subheader("Bring your own", anchor=False)
    left, right = st.columns(2)
    file = left.file_uploader(
        "A text, a chat, a log with log-probabilities, a trace, branches or a result file",
        key=f"{key}-file",
        max_upload_size=max(1, _limit() >> 20),
    )
    pasted = right.text_area(
        "… or paste it here",
        key=f"{key}-text",
        height=94,
        placeholder="Plain text, chat JSON, or an OpenAI or vLLM response with logprobs",
    )
    if file is not None:
        _offer(file.name, file.getvalue(), key)
    elif pasted:
        # Half a surrogate pair is no text: the reader says so in its own words.
        _offer("pasted text", pasted.encode("utf-8", "surrogatepass"), key)


def _limit() -> int:
    return int(getattr(state.workspace().profile, "max_upload_bytes", 25 << 20))


def _recognised(name: str, data: bytes, limit: int) -> Dropped:
    """What was brought; a large log takes seconds, so the last one is kept."""
    digest = sha256(data).hexdigest()
    kept: tuple[str, Dropped] | None = state.recall("dropped")
    if kept is None or kept[0] != digest:
        kept = (digest, recognise(name, data, limit=limit))
        state.remember("dropped", kept)
    return kept[1]


def _offer(name: str, data: bytes, key: str) -> None:
    try:
        found = _recognised(name, data, _limit())
    except UserError as error:
        problem(error, key=f"{key}-read")
        return
    with st.container(key=f"{key}-found"):
        st.text(f"{found.title}.")
        st.text("\n".join(f"·  {line}" for line in found.possible))
        if found.problems:
            lines = [f"{place}: {reason}" for place, reason in found.problems[:_SHOWN_PROBLEMS]]
            rest = len(found.problems) - len(lines)
            lines += [f"and {rest} more"] if rest else []
            st.text("Left out:\n" + "\n".join(lines))
        try:
            if found.kind == "result":
                _import(name, data, key)
            elif found.subjects:
                _open(found, key)
        except UserError as error:
            problem(error, key=f"{key}-open")


def _open(found: Dropped, key: str) -> None:
    index = 0
    if len(found.subjects) > 1:
        count = len(found.subjects)
        index = int(st.number_input(f"Which of {count:,}", 1, count, key=f"{key}-which")) - 1
    subject, text = found.subjects[index], found.texts[index]
    with st.container(horizontal=True, key=f"{key}-actions"):
        traced = isinstance(subject, Trace)
        if found.tree is not None and st.button(
            "Open its branches", key=f"{key}-branches", type="primary"
        ):
            _open_branches(found.tree, found.model)
        if isinstance(subject, Trace):
            size = f"{number(len(subject))} tokens"
            first = "primary" if found.tree is None else "secondary"
            if st.button(f"Look at its {size}", key=f"{key}-look", type=first):
                state.open_trace(subject, expected=found.expected)
                places.go("tokens")
        kind = "secondary" if traced else "primary"
        if text is not None and st.button(
            "Read it with the chosen model", key=f"{key}-encode", type=kind
        ):
            trace = engine.encode(text, state.chosen_model(), state.workspace())
            state.open_trace(trace, expected=found.expected)
            places.go("tokens")


def _open_branches(tree: Tree, named: str | None) -> None:
    models = [m.name for m in engine.available_models(state.workspace().profile) if m.available]
    _, model = branch_import.bring(tree, named, [state.chosen_model(), *models])
    state.open_trace(tree.root, model=model, expected=tree.expected)
    places.go("branches")


def _import(name: str, data: bytes, key: str) -> None:
    if st.button("Open it", key=f"{key}-import", type="primary"):
        report = Library(state.workspace(), state.own_keys()).bring(name, data)
        if not report.keys:
            raise UserError(" ".join(report.refused))
        state.own(report.keys)
        result = state.open_result(report.keys[0])
        places.go(places.place_of(result.analysis))
