"""What stands beside and below the text of the Tokenizer page."""

from __future__ import annotations

import pyarrow as pa
import streamlit as st

from engine import Request, Result, Text
from engine.render.strip import plain_payload
from engine.render.text import plain
from pages.widgets import tokenizercorpus, tokenizermodel, tokenizerspellings, tokenizerviews
from pages.widgets.asking import ask
from pages.widgets.downloads import downloads
from pages.widgets.strip import token_strip
from pages.widgets.tokenizerforms import Asked
from pages.widgets.tokenizertables import joined, show
from pages.widgets.tokenizerviews import View

TABS = {
    "spellings": "Spellings",
    "ids": "Ids",
    "vocabulary": "Vocabulary",
    "next": "Next byte",
    "probe": "Probe",
    "corpus": "My corpus",
    "numbers": "All numbers",
}
FINDINGS = 10
"""Findings shown before the rest is folded away."""

STEPS = 14
"""Merges shown of a long word."""


def details(cut: Result, view: View, position: int) -> None:
    """The selected token: bytes, id, and why it was cut here."""
    (row,) = cut.table("tokens").slice(position, 1).to_pylist()
    st.subheader(f"Position {position:,}, id {row['token_id']:,}", anchor=False)
    with st.container(key="reward-token"):
        st.text(plain(row["token_bytes"], special=row["kind"] == "special"))
    with st.container(key="facts"):
        st.text(
            f"bytes   {row['token_bytes'].hex(' ')}\n"
            f"in the text   {row['start_byte']}–{row['end_byte']}\nkind   {row['kind']}"
        )
    rule, lines = tokenizerviews.steps(cut, position)
    st.text("Why was it cut here")
    if rule:
        st.code(rule, language=None, wrap_lines=True)
    if lines:
        shown = (
            lines if len(lines) <= 14 else [*lines[:6], f"… {len(lines) - 12} more …", *lines[-6:]]
        )
        st.code("\n".join(shown), language=None, wrap_lines=True)


def findings(cut: Result) -> None:
    """What was found, the worst first."""
    rows = sorted(
        cut.table("findings").to_pylist(),
        key=lambda r: (tokenizerviews.WORSE.index(r["severity"]), r["start_byte"] or 0),
    )
    if not rows:
        return
    st.subheader("Findings", anchor=False)
    listed = [
        {
            "": row["severity"],
            "finding": row["finding"].replace("_", " "),
            "evidence": row["evidence"],
            "at byte": row["start_byte"],
            "before": joined(row["before"]),
            "after": joined(row["after"]),
        }
        for row in rows
    ]
    st.dataframe(
        pa.Table.from_pylist(listed),
        hide_index=True,
        row_height=28,
        height=37 + 28 * min(len(listed), FINDINGS),
        placeholder="–",
        # All of them beside the details on a laptop's screen.
        column_config={
            name: st.column_config.Column(width=width)
            for name, width in zip(listed[0], (56, 100, 272, 62, 72, 72), strict=True)
        },
    )


def compared(asked: Asked) -> Result | None:
    """Where the other tokenizers cut otherwise."""
    if not asked.others:
        return None
    subject = asked.request("text").subject
    request = Request("tokenizer.compare", subject, None, {"others": asked.others})
    return ask("tokenizer.compare", request, "Compare", auto=True, doing="Comparing")


def beside(asked: Asked, found: Result) -> None:
    """The same text in the others' tokens, and every stretch on which they differ."""
    for number, ref in enumerate(asked.others):
        request = Request("tokenizer.text", Text(prompt=asked.text, tokenizer=ref))
        other = ask(f"tokenizer.text.{number}", request, "Cut", auto=True)
        if other is not None:
            st.text(ref.title or ref.path.rpartition("/")[2])
            tokens = other.table("tokens")
            pieces = tokens["token_bytes"].to_pylist()
            token_strip(
                plain_payload(pieces, ["text"] * len(pieces)), key=f"tokenizer-beside-{number}"
            )
    show(found, "compare", "summary", found.table("summary").drop_columns(["digest"]))
    spans = found.table("spans")
    st.text(f"They cut {spans.num_rows:,} stretches differently" + (":" if spans.num_rows else "."))
    if spans.num_rows:
        rows = [
            {
                "tokenizer": row["tokenizer"],
                "at byte": row["start_byte"],
                "this one": joined(row["first"]),
                "the other": joined(row["other"]),
            }
            for row in spans.to_pylist()
        ]
        st.dataframe(
            pa.Table.from_pylist(rows),
            hide_index=True,
            row_height=28,
            height=37 + 28 * min(len(rows), 8),
        )
    downloads(found, "spans", "Differences", key="compare")


def below(asked: Asked, cut: Result) -> None:
    """Spellings, ids, vocabulary, next byte and probe; only the open one is drawn."""
    tabs = st.tabs(list(TABS.values()), key="tokenizer-tabs", on_change="rerun")
    drawn = dict(zip(TABS, tabs, strict=True))
    makers = {
        "spellings": lambda: tokenizerspellings.spellings(asked),
        "ids": lambda: tokenizerspellings.ids(asked),
        "vocabulary": lambda: tokenizermodel.vocabulary(asked),
        "next": lambda: tokenizermodel.next_byte(asked),
        "probe": lambda: tokenizermodel.probe(asked),
        "corpus": lambda: tokenizercorpus.corpus(asked),
        "numbers": lambda: _numbers(cut),
    }
    for name, tab in drawn.items():
        if tab.open:
            with tab:
                makers[name]()


def _numbers(cut: Result) -> None:
    for table, label in (("tokens", "Tokens"), ("words", "Words"), ("letters", "Letters")):
        rows = cut.table(table)
        if rows.num_rows:
            st.text(label)
            shown = rows.drop_columns(["token_bytes"]) if table == "tokens" else rows
            show(cut, "text", table, shown.slice(0, 2000))
    for table in ("findings", "tokens", "cuts", "letters", "words"):
        downloads(cut, table, table.capitalize(), key=f"cut-{table}")
