"""The pages: one per question, in the order of the sidebar; and how one page leads to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Place:
    """A page.

    Attributes:
        name: its address.
        title: what the sidebar calls it.
        question: what it answers about a selected token; empty when it is not about one.
    """

    name: str
    title: str
    question: str = ""

    @property
    def file(self) -> str:
        """The script, from the project's root."""
        return f"pages/{self.name}.py"


_ALL = (
    Place("start", "Start"),
    Place("tokens", "Tokens", "What did it think?"),
    Place("branches", "Branches", "What if it had not?"),
    Place("summary", "Summary"),
    Place("critical", "Critical tokens", "Did it break it?"),
    Place("rewards", "Rewards", "What would RL do?"),
    Place("attribution", "Attribution", "Why this?"),
    Place("flow", "Flow", "By which way?"),
    Place("tokenizer", "Tokenizer", "How was it cut?"),
    Place("library", "Library"),
)
PLACES = tuple(place for place in _ALL if (ROOT / place.file).is_file())
"""The pages that exist, first the one that opens."""


def pages() -> list[st.Page]:  # type: ignore[valid-type]
    """The pages for ``st.navigation``."""
    return [
        st.Page(place.file, title=place.title, url_path=place.name, default=place is PLACES[0])
        for place in PLACES
    ]


def exists(name: str) -> bool:
    """Whether this version has the page."""
    return any(place.name == name for place in PLACES)


def go(name: str) -> None:
    """Turn to another page; trace and selection go along."""
    place = next(place for place in PLACES if place.name == name)
    st.switch_page(place.file)


def place_of(analysis: str, names: Sequence[str] | None = None) -> str:
    """The page that shows an analysis: the one called like its family, else the tokens."""
    family = analysis.split(".")[0]
    known = [place.name for place in PLACES] if names is None else names
    return next((name for name in known if name in (family, f"{family}s")), "tokens")


def questions(here: str, *, key: str = "questions") -> None:
    """What else can be asked about the selected token: one chip per other page."""
    asked = [place for place in PLACES if place.question and place.name != here]
    if not asked:
        return
    st.subheader("Ask about this token", anchor=False)
    with st.container(key=f"chips-{key}", horizontal=True):
        for place in asked:
            if st.button(place.question, key=f"{key}-{place.name}"):
                go(place.name)
