"""The Tokenizer page on many texts: use of each id, what new tokens would save, other languages."""

from __future__ import annotations

import streamlit as st

import engine
from engine import Request, UserError
from engine.readers.corpus import read_corpus
from engine.subjects import Corpus, TokenizerRef
from pages.widgets.asking import ask
from pages.widgets.downloads import downloads
from pages.widgets.notice import problem
from pages.widgets.tables import plain_table
from pages.widgets.tokenizerforms import Asked, tokenizer_of


def corpus(asked: Asked) -> None:
    """A file of texts, and parallel sentences."""
    whose = asked.ref or tokenizer_of(asked.model)
    left, right = st.columns(2, gap="medium")
    with left:
        st.text("Texts of mine: a document in each line, or JSONL with “text”")
        given = st.file_uploader("Texts", key="tokenizer-corpus", label_visibility="collapsed")
    with right:
        added = st.text_input(
            "What would these tokens save? (separated by commas)",
            key="tokenizer-add",
            persist_state="session",
        )
    if given is not None:
        try:
            texts = read_corpus(given.getvalue(), given.name)
        except UserError as error:
            problem(error, key="corpus")
        else:
            wanted = tuple(part for part in added.split(",") if part)
            params = {"tokenizer": whose, **({"add": wanted} if wanted else {})}
            request = Request("tokenizer.corpus", texts, None, params)
            found = ask("tokenizer.corpus", request, "Count", auto=True, doing="Counting")
            if found is not None:
                declared = engine.analyses()["tokenizer.corpus"].tables
                for name in ("summary", "added", "findings"):
                    if found.table(name).num_rows:
                        plain_table(found.table(name), declared[name].columns)
                for name in ("usage", "words", "findings"):
                    downloads(found, name, name.capitalize(), key=f"corpus-{name}")
            if asked.others:
                _compared(texts, whose, asked)
    _premium(asked)


def _compared(texts: Corpus, whose: TokenizerRef, asked: Asked) -> None:
    """Words on which the tokenizers differ, by what that costs in these texts."""
    params = {"tokenizer": whose, "others": asked.others}
    request = Request("tokenizer.compare", texts, None, params)
    found = ask("tokenizer.compare.corpus", request, "Compare", auto=True, doing="Comparing")
    if found is not None:
        declared = engine.analyses()["tokenizer.compare"].tables
        st.text("Words on which the tokenizers differ, the largest impact on these texts first")
        plain_table(found.table("impact"), declared["impact"].columns)
        downloads(found, "impact", "Impact", key="impact")


def _premium(asked: Asked) -> None:
    st.text("The same sentences in two languages, one in each line: which pays more tokens?")
    left, right = st.columns(2, gap="medium")
    sides = []
    for place, name, label in ((left, "a", "First language"), (right, "b", "Second language")):
        with place:
            text = st.text_area(
                label, key=f"tokenizer-language-{name}", height=90, persist_state="session"
            )
            sides.append([line for line in text.splitlines() if line.strip()])
    if not all(sides):
        return
    if len(sides[0]) != len(sides[1]):
        problem(
            f"There are {len(sides[0])} and {len(sides[1])} lines: give the same sentences, one "
            "in each line.",
            key="premium",
        )
        return
    whose = asked.ref or tokenizer_of(asked.model)
    params = {"tokenizer": whose, "languages": ("first", "second")}
    subject = Corpus(documents=(*sides[0], *sides[1]))
    request = Request("tokenizer.premium", subject, None, params)
    found = ask("tokenizer.premium", request, "Compare", auto=True, doing="Comparing")
    if found is not None:
        declared = engine.analyses()["tokenizer.premium"].tables
        plain_table(found.table("premium"), declared["premium"].columns)
        downloads(found, "premium", "Premium", key="premium")
