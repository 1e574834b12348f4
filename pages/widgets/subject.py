"""Choosing what to look at: model and text in the sidebar, the form for one's own text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import streamlit as st

import engine
from engine import Trace, UserError, available_models
from engine.catalogue import ModelInfo
from engine.render.text import number, one_line
from pages.widgets import state
from pages.widgets.notice import hint, problem
from pages.widgets.state import OWN

T = TypeVar("T", int, float)
_BUTTONS = 12
EXAMPLE = "Question: Maya earns 7 dollars per hour and works 8 hours. How much does she earn?\n"


def sidebar() -> None:
    """Model and text; both stay when the page changes."""
    if "model" not in st.session_state:
        _fit_model()
    with st.sidebar:
        with st.container(key="side-model", gap=None):
            _model()
        with st.container(key="side-text", gap=None):
            _text()


def _model() -> None:
    workspace = state.workspace()
    infos = _available()
    free = workspace.profile.allow_folders or workspace.profile.allow_hub
    st.selectbox(
        "Model",
        list(infos),
        key="model",
        accept_new_options=free,
        persist_state="session",
        placeholder="folder or hub id" if free else "choose a model",
    )
    info = infos.get(st.session_state.get("model") or "")
    if info is not None:
        size = [_parameters(info.parameters)] if info.parameters else []
        st.text("\n".join([*size, *filter(None, [info.description])]))
    elif free and not st.session_state.get("model"):
        st.text("Type a folder or a Hugging Face id.")


def _text() -> None:
    items = {item.name: item for item in engine.gallery()}
    names = [*items, OWN]
    st.selectbox(
        "Text",
        names,
        key="text",
        format_func=lambda name: items[name].title if name in items else "Your own text",
        persist_state="session",
        on_change=_fit_model,
    )
    item = items.get(st.session_state.get("text", ""))
    if item is not None:
        st.text(item.description)
    else:
        trace: Trace | None = state.recall("trace")
        brought = trace.title if trace is not None else None
        st.text(one_line(brought, 80) if brought else "Typed, generated or brought along.")


def _fit_model() -> None:
    """Choose the model an example was made with: its results are stored."""
    item = state.shown_example() or next(iter(engine.gallery()), None)
    if item is not None and item.model in _available():
        st.session_state["model"] = item.model


def _available() -> dict[str, ModelInfo]:
    found = available_models(state.workspace().profile)
    return {info.name: info for info in found if info.available}


def use_own_text() -> None:
    """Open the form, starting from the prompt that is shown."""
    trace = state.shown_trace()
    if trace is not None:
        state.remember("trace", trace)
    st.session_state["text"] = OWN


def own_text_form() -> None:
    """Prompt and response; Generate lets the model answer, Read takes the text as it is."""
    trace = state.recall("trace")
    st.session_state.setdefault("prompt", trace.prompt_text if trace else EXAMPLE)
    with st.container(key="own-text"):
        left, right = st.columns(2)
        left.text_area("Prompt", key="prompt", height=110, persist_state="session")
        right.text_area(
            "Response",
            key="response",
            height=110,
            persist_state="session",
            placeholder="Paste a response here, or leave this empty and press Generate.",
        )
        with st.container(horizontal=True, vertical_alignment="bottom", key="own-controls"):
            samples = _number("Responses", "n", 1, 256, 4)
            temperature = _number("Temperature", "temperature", 0.0, 5.0, 1.0, step=0.1)
            seed = _number("Seed", "seed", 0, None, 0)
            longest = _number("Tokens at most", "longest", 1, 4096, 256)
            if st.button("Generate", type="primary", key="generate"):
                params = {
                    "n": samples,
                    "temperature": temperature,
                    "seed": seed,
                    "max_new_tokens": longest,
                }
                _attempt(lambda: state.ask_for_answers(st.session_state["prompt"], params))
            if st.button("Read this text", key="read"):
                _attempt(
                    lambda: state.show_text(
                        st.session_state["prompt"], st.session_state["response"]
                    )
                )
        error = state.recall("input.error")
        if error:
            problem(error, key="input")


def _number(label: str, key: str, low: T, high: T | None, start: T, step: T | None = None) -> T:
    return st.number_input(
        label, low, high, start, step, key=key, width=132, persist_state="session"
    )


def _attempt(action: Callable[[], None]) -> None:
    state.remember("input.error", None)
    try:
        action()
    except UserError as error:
        state.remember("input.error", str(error))


def answers() -> None:
    """The answers the model gave, one line each; a click shows one in the strip."""
    group, table = state.recall("group"), state.recall("group.table")
    if group is None or table is None:
        return
    rows = table.select(["index", "text", "tokens", "logprob", "finish"]).to_pylist()
    shown = state.recall("group.index", 0)
    partial = ", cancelled before the rest" if state.recall("group.partial") else ""
    with st.container(key="answers"):
        noun = "response" if len(rows) == 1 else "responses"
        st.subheader(f"{len(rows)} {noun}{partial}", anchor=False)
        st.dataframe(
            {
                "response": [one_line(r["text"]) for r in rows],
                "tokens": [r["tokens"] for r in rows],
                "end": ["ended" if r["finish"] == "stop" else "cut off" for r in rows],
                "log-probability, nats": [r["logprob"] for r in rows],
            },
            key="answer-table",
            hide_index=True,
            height=min(35 + 28 * len(rows), 290),
            row_height=28,
            column_config={
                "response": st.column_config.Column(width=620),
                "tokens": st.column_config.NumberColumn(width=70),
                "end": st.column_config.Column(width=80),
                "log-probability, nats": st.column_config.NumberColumn(width=150, format="%.3g"),
            },
        )
        _which_answer(len(rows), shown)


def _which_answer(count: int, shown: int) -> None:
    def show() -> None:
        state.show_rollout(int(st.session_state["answer"]) - 1)

    st.session_state["answer"] = shown + 1
    if count <= _BUTTONS:
        st.segmented_control(
            "Show response", range(1, count + 1), key="answer", required=True, on_change=show
        )
    else:
        st.number_input("Show response", 1, count, key="answer", width=140, on_change=show)


def _parameters(count: int) -> str:
    for size, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{number(count / size, digits=2)} {name} parameters"
    return f"{count} parameters"


def readable(needed_for: str) -> Trace | None:
    """The shown text if a model can read it; else None, and what to do is said.

    Args:
        needed_for: what its ids are needed for.
    """
    trace = state.shown_trace()
    if trace is None:
        hint("Nothing to look at yet: choose a text at the left.", key="empty")
        return None
    if not trace.has_ids:
        hint(
            f"This log gives no token ids, which {needed_for} needs: let a model read the text.",
            key="empty",
        )
        return None
    return trace
