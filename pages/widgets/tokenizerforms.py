"""What the Tokenizer page looks at: which tokenizer, which text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

import engine
from engine import Request, Text, Trace, UserError
from engine.subjects import TokenizerRef
from engine.tokenizer import installed, reference, uploads
from pages.widgets import state
from pages.widgets.notice import problem

LONGEST = 20_000
"""Characters of the text that the page takes."""

OWN_FILE = "a file of mine"


@dataclass(frozen=True, slots=True)
class Asked:
    """A tokenizer and a text.

    Attributes:
        text: what is cut.
        ref: the tokenizer; None for the chosen model's.
        model: the chosen model.
        others: tokenizers to compare with.
    """

    text: str
    ref: TokenizerRef | None
    model: str
    others: tuple[TokenizerRef, ...] = ()

    @property
    def subject(self) -> Text:
        """The text with its tokenizer."""
        return Text(prompt=self.text, tokenizer=self.ref)

    @property
    def own_model(self) -> bool:
        """Whether the tokenizer is the model's, so that the model can be asked too."""
        return self.ref is None

    def request(self, name: str, *, model: bool = False, **params: Any) -> Request:
        """An analysis of the text.

        Args:
            name: without the family.
            model: whether the model itself takes part, where the tokenizer is its own.
            **params: settings.
        """
        named = self.model if self.own_model else None
        if self.own_model and not model:
            # The model names the tokenizer only.
            ref = tokenizer_of(self.model)
            return Request(f"tokenizer.{name}", Text(prompt=self.text, tokenizer=ref), None, params)
        return Request(f"tokenizer.{name}", self.subject, named, params)

    def vocabulary(self, name: str = "vocabulary", **params: Any) -> Request:
        """An analysis of the tokenizer alone."""
        ref = self.ref or tokenizer_of(self.model)
        return Request(f"tokenizer.{name}", ref, None, params)


def tokenizer_of(model: str) -> TokenizerRef:
    """The tokenizer of a model, by its file."""
    located = state.workspace().plan_model(model)
    return TokenizerRef(
        path=str(located.located.tokenizer_path), tokenizer=located.tokenizer.digest, title=model
    )


def controls(trace: Trace | None) -> Asked | None:
    """The text and the tokenizers; None while there is nothing to look at."""
    model = state.chosen_model()
    names = {"": f"that of {model}"} | {
        f"installed:{found.name}": f"{found.name} ({found.package})" for found in installed()
    }
    names["file"] = OWN_FILE
    with st.container(key="controls-tokenizer", horizontal=True, vertical_alignment="bottom"):
        ref = _choice("Tokenizer", names, "tokenizer-which")
        others = {
            f"model:{m.name}": m.name
            for m in engine.available_models(state.workspace().profile)
            if m.available
        }
        others |= {k: v for k, v in names.items() if k and k != "file"}
        others.pop(ref or f"model:{model}", None)
        beside = st.multiselect(
            "Beside it",
            list(others),
            key="tokenizer-others",
            format_func=lambda name: others.get(name, name),
            max_selections=3,
            placeholder="up to three others",
            width=320,
            persist_state="session",
        )
    given = "" if trace is None else trace.spelled.decode("utf-8", "replace")[:LONGEST]
    if st.session_state.get("tokenizer-seen") != given:
        st.session_state["tokenizer-seen"] = given
        st.session_state["tokenizer-text"] = given
    text = st.text_area(
        "Text",
        key="tokenizer-text",
        height=96,
        max_chars=LONGEST,
        label_visibility="collapsed",
        placeholder="Type or paste a text.",
        persist_state="session",
    )
    mine = None
    try:
        if ref == "file":
            mine = _dropped()
            if mine is None:
                return None
        found = [_ref(name) for name in beside]
        return Asked(text, mine or _ref(ref), model, tuple(f for f in found if f is not None))
    except UserError as error:
        problem(error, key="tokenizer")
        return None


def _choice(label: str, names: dict[str, str], key: str) -> str:
    chosen = st.selectbox(
        label,
        list(names),
        key=key,
        format_func=lambda name: names.get(name, name),
        width=240,
        persist_state="session",
    )
    return chosen or ""


def _dropped() -> TokenizerRef | None:
    """The tokenizer of a file that the visitor dropped; None before."""
    given = st.file_uploader(
        "A tokenizer.json, a SentencePiece .model, a tiktoken or Tekken file",
        key="tokenizer-file",
    )
    if given is None:
        return None
    return uploads.keep(given.getvalue(), given.name, state.workspace().home)


def _ref(name: str) -> TokenizerRef | None:
    if not name:
        return None
    if name.startswith("model:"):
        return tokenizer_of(name.removeprefix("model:"))
    return reference(name)
