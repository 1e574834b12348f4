"""Spellings and ids on the Tokenizer page: in how many ways, and which was taken."""

from __future__ import annotations

from typing import Any

import streamlit as st

from engine import Request, Text
from engine.render.text import beginning, plain
from pages.widgets import state, tokenizerlattice
from pages.widgets.asking import ask
from pages.widgets.downloads import downloads
from pages.widgets.notice import hint, problem
from pages.widgets.tokenizerforms import Asked
from pages.widgets.tokenizertables import readable, show


def spellings(asked: Asked) -> None:
    given = st.text_input(
        "A string of the text, or any other",
        value=beginning(asked.text, tokenizerlattice.MOST_BYTES),
        key="tokenizer-string",
        persist_state="session",
        max_chars=2000,
    )
    if not given:
        return
    one = Asked(given, asked.ref, asked.model)
    found = ask(
        "tokenizer.spellings", one.request("spellings", model=asked.own_model),
        "Count its spellings", doing="Counting",
    )  # fmt: skip
    if found is None:
        return
    row = found.table("spellings").to_pylist()[0]
    number = row["spellings"]
    number = f"{int(number):,}" if number and len(number) < 16 else f"2^{row['log2_spellings']:.1f}"
    st.text(
        f"{number} token sequences spell it, {row['bits_per_byte']:.2f} bits a byte; the tokenizer "
        f"takes {row['canonical_length']:,} tokens, the shortest has {row['shortest_length']:,}."
    )
    tokenizerlattice.draw(found.table("lattice"))
    left, right = st.columns(2, gap="medium")
    with left:
        st.text("The best ones")
        show(found, "spellings", "best", readable(found.table("best")))
    with right:
        share = found.table("share").to_pylist()
        if share and share[0]["canonical_share"] is not None:
            got = share[0]
            st.text(
                f"Of the probability the model gives to the string, {got['canonical_share']:.1%} "
                f"is on the tokenizer's own spelling ({got['low']:.1%}–{got['high']:.1%})."
            )
        st.text("Drawn at random")
        draws = found.table("draws").slice(0, 12)
        show(found, "spellings", "draws", readable(draws))
    downloads(found, "best", "Spellings", key="spellings")
    _phantoms(asked)
    downloads(found, "draws", "Draws", key="draws")


def _phantoms(asked: Asked) -> None:
    """Where the model might write the same word in other tokens."""
    if not asked.own_model:
        return
    request = Request("tokenizer.phantom", Text(prompt=asked.text), {"model": asked.model})
    found = ask(
        "tokenizer.phantom", request, "Where might the model respell the text?", doing="Reading"
    )
    if found is not None:
        table = found.table("words").sort_by([("risk", "descending")]).slice(0, 12)
        show(found, "phantom", "words", readable(table))
        downloads(found, "words", "Words", key="phantom")


def ids(asked: Asked) -> None:
    st.text(
        "Are these the ids the tokenizer itself would give, and where not, what differs? Leave the "
        "first field empty for the ids of the text chosen at the left."
    )
    left, right = st.columns(2, gap="medium")
    with left:
        given = _id_field("Ids, separated by commas or spaces", "tokenizer-ids")
    with right:
        other = _id_field("Compared with these instead (a phantom edit?)", "tokenizer-ids-other")
    if given is None or other is None:
        return
    params: dict[str, Any] = {"other": other} if other else {}
    trace = state.shown_trace()
    if given:
        request = asked.request("ids", ids=given, **params)
    elif trace is not None and trace.has_ids and asked.own_model:
        request = Request("tokenizer.ids", trace, {"model": asked.model}, params)
    else:
        hint("Paste ids of a log or of an engine.", key="ids")
        return
    found = ask("tokenizer.ids", request, "Look at them", auto=bool(given), doing="Reading the ids")
    if found is None:
        return
    (row,) = found.table("summary").to_pylist()
    same = "They are the same." if other else "They are canonical."
    st.text(
        same
        if row["canonical"]
        else f"{row['regions']:,} stretches differ in how the same text is cut, "
        f"{row['replaced'] or 0:,} in the text itself; {row['given_tokens']:,} ids are given, "
        f"against {row['canonical_tokens']:,}."
    )
    if found.table("regions").num_rows:
        show(found, "ids", "regions", readable(found.table("regions")))
    downloads(found, "regions", "Regions", key="regions")


def _id_field(label: str, key: str) -> tuple[int, ...] | None:
    """Ids that were typed; None when something typed is none, which is then said."""
    given = st.text_area(
        label, key=key, height=80, persist_state="session", placeholder="12, 345, 67"
    )
    words = given.replace(",", " ").split()
    wrong = next((w for w in words if not (w.isascii() and w.isdecimal() and len(w) < 10)), None)
    if wrong is not None:
        problem(f"{plain(wrong[:20])} is no id: give whole numbers such as 12, 345.", key=key)
        return None
    return tuple(map(int, words))
