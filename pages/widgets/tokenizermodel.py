"""Vocabulary, next byte and probe on the Tokenizer page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from engine import Request, Result, Text
from engine.tokenizer.loader import files_digest
from pages.widgets import state, tokenizerbytes
from pages.widgets.asking import ask
from pages.widgets.downloads import downloads
from pages.widgets.notice import hint
from pages.widgets.tables import plain_table
from pages.widgets.tokenizerforms import Asked, tokenizer_of
from pages.widgets.tokenizertables import columns, readable, show

BUNDLED = ("demo", "demo-multidigit")
"""Two models that differ in how numbers are cut."""


def vocabulary(asked: Asked) -> None:
    st.text("Which tokens can ever occur? Each answer has its proof; nothing is guessed.")
    found = ask(
        "tokenizer.vocabulary", asked.vocabulary(), "Audit the vocabulary", doing="Auditing"
    )
    if found is None:
        return
    show(found, "vocabulary", "summary")
    ids = found.table("ids")
    odd = ids.filter(
        pc.or_(pc.not_equal(ids["reachable"], "yes"), pc.not_equal(ids["utf8"], "whole"))
    )
    st.text(f"{odd.num_rows:,} ids that cannot occur, stay open, or hold parts of characters:")
    plain_table(odd.drop_columns(["token_bytes"]).slice(0, 500), columns("vocabulary", "ids"))
    if found.table("bigrams").num_rows:
        st.text("Pairs that share a character and belong to different scripts:")
        show(found, "vocabulary", "bigrams")
    downloads(found, "ids", "All ids", key="ids")
    spoken = ask(
        "tokenizer.languages", asked.vocabulary("languages"), "Whose letters are they?",
        doing="Comparing letters",
    )  # fmt: skip
    if spoken is not None:
        st.text("Tokens by the alphabets that hold their letters; shared ones count as 1/n")
        show(spoken, "languages", "languages", spoken.table("languages").slice(0, 40))
        downloads(spoken, "languages", "Languages", key="languages")
    if asked.own_model:
        _of_model(asked)


def _of_model(asked: Asked) -> None:
    """What needs the model or its folder: loader mismatch, ids that were never trained."""
    ref = tokenizer_of(asked.model)
    beside = {"files": files_digest(Path(ref.path).parent)}
    found = ask(
        "tokenizer.loader", Request("tokenizer.loader", ref, None, beside),
        "Does transformers load this very tokenizer?", doing="Loading it both ways",
    )  # fmt: skip
    if found is not None:
        (row,) = found.table("summary").to_pylist()
        st.text(
            f"transformers {row['transformers']} makes a {row['loaded_class']} of it: "
            f"{row['differences']:,} settings differ, {row['different_probes']:,} of "
            f"{row['probes']:,} texts give other ids."
        )
        if found.table("differences").num_rows:
            show(found, "loader", "differences")
    request = Request("tokenizer.undertrained", ref, {"model": asked.model})
    found = ask(
        "tokenizer.undertrained", request, "Look for ids that were never trained", doing="Looking"
    )
    if found is not None:
        show(found, "undertrained", "candidates", readable(found.table("candidates")))
        downloads(found, "tokens", "Embeddings", key="undertrained")


def next_byte(asked: Asked) -> None:
    if not asked.own_model:
        hint("Choose the model's own tokenizer above: the model is asked here.", key="next")
        return
    st.text(
        "What the model says next, byte by byte, when the prompt's last tokens are not taken as "
        "they happen to be cut. Try a prompt that ends in a space or inside a word."
    )
    prompt = st.text_area(
        "Prompt",
        value=asked.text[:200],
        key="tokenizer-prompt",
        height=80,
        max_chars=4000,
        persist_state="session",
    )
    if not prompt:
        return
    request = Request("tokenizer.next_byte", Text(prompt=prompt), {"model": asked.model})
    found = ask("tokenizer.next_byte", request, "What comes next?", doing="Asking the model")
    if found is None:
        return
    (row,) = found.table("summary").to_pylist()
    st.text(
        f"The boundary misplaces {row['total_variation']:.1%} of the probability; after token "
        f"healing {_percent(row['healing_variation'])}, after token alignment "
        f"{_percent(row['alignment_variation'])}."
    )
    tokenizerbytes.draw(found)
    table = found.table("bytes").sort_by([("probability", "descending")]).slice(0, 12)
    show(found, "next_byte", "bytes", table)
    st.text("The ways to cut the prompt's end that count")
    show(found, "next_byte", "covers", readable(found.table("covers")))
    downloads(found, "bytes", "Next byte", key="next")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def probe(asked: Asked) -> None:
    """Tasks about letters and digits; of the bundled models the other one stands beside."""
    st.text(
        "Small tasks about letters and digits: does the model see what is inside its tokens? The "
        "two bundled models learned the same stories, one with a token for each digit."
    )
    found = ask("tokenizer.probe", _probing(asked.model), "Run the tasks", doing="Asking the model")
    if found is None:
        return
    other = dict([BUNDLED, BUNDLED[::-1]]).get(asked.model)
    beside = None if other is None else state.workspace().lookup(_probing(other))
    results = {asked.model: found} | ({str(other): beside} if beside is not None else {})
    _accuracies(results)
    with st.expander("By length of the tokens and by how the word is cut"):
        for name, result in results.items():
            st.text(name)
            show(result, "probe", "tasks")
    downloads(found, "tasks", "Tasks", key="probe")
    downloads(found, "cases", "Cases", key="probe-cases")


def _accuracies(results: dict[str, Result]) -> None:
    """One row for each task, and for each number of digits; one column for each model."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name, result in results.items():
        for row in result.table("tasks").to_pylist():
            if row["by"] not in ("all", "digits"):
                continue
            group = "all" if row["by"] == "all" else f"{row['group']} digits"
            line = rows.setdefault((row["task"], group), {"task": row["task"], "of": group})
            line["questions"], line["chance"] = row["n"], row["chance"]
            line[name] = row["accuracy"]
            line[f"{name}, 95 %"] = f"{row['low']:.2f}–{row['high']:.2f}"
    order = ["task", "of", "questions", *(n for m in results for n in (m, f"{m}, 95 %")), "chance"]
    table = pa.Table.from_pylist([{n: row.get(n) for n in order} for row in rows.values()])
    plain_table(table, {})


def _probing(model: str) -> Request:
    return Request("tokenizer.probe", Text(prompt=""), {"model": model})
