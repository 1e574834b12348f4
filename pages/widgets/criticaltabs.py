"""What stands beside and below the picture of the Critical page: what if, tables, comparison."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

import engine
from engine import Request, Result, Trace, UserError
from engine.critical.value import value_request
from engine.errors import Cancelled
from engine.gallery import wrong_rollouts
from engine.render.text import escape_markdown
from pages.widgets import criticalviews, state
from pages.widgets.criticalforms import DOING, Asked
from pages.widgets.criticalviews import Drawn
from pages.widgets.downloads import downloads, table_view
from pages.widgets.notice import hint, problem
from pages.widgets.share import share
from pages.widgets.waiting import waiting

TABLE = [
    "position", "token", "fall", "fall_low", "fall_high", "value", "samples", "correct",
    "contrast", "log_contrast", "log_ratio", "surprisal", "entropy", "second", "reward", "weight",
]  # fmt: skip


TABS = ("All numbers", "By sentence", "Do the scores find it?")


def what_if(trace: Trace, position: int, asked: Asked) -> None:
    """The token's alternatives, each put in its place and continued."""
    if not trace.response_start <= position < len(trace) or not asked.answer:
        return
    said = escape_markdown(criticalviews.word(engine.tokenization.show(trace.pieces[position])))
    st.subheader("What else might have saved it", anchor=False)
    typed = st.text_input(
        "Try this too",
        key="critical-typed",
        width=240,
        placeholder="as it is, with its space in front",
        persist_state="session",
    )
    params = {"position": position, **asked.drawing, **({"text": typed} if typed else {})}
    request = Request("critical.whatif", trace, {"model": state.chosen_model()}, params)
    slot = "critical.whatif"
    try:
        found = state.answer(slot, request, start=False)
        if found is None:
            if not st.button(f"Try others in place of “{said}”", key="critical-try"):
                return
            found = state.answer(slot, request)
    except (UserError, Cancelled) as error:
        problem(str(error) or "Cancelled.", key=slot)
        return
    if isinstance(found, state.Job):
        waiting(found, key=slot, doing=DOING[slot])
        return
    if found is None:
        return
    st.text(criticalviews.conditions(found, engine.tokenization.show(trace.pieces[position])))
    rows = criticalviews.tried_rows(found)
    st.dataframe(
        rows,
        hide_index=True,
        row_height=28,
        height=37 + 28 * rows.num_rows,
        column_config={
            "token": st.column_config.Column("in its place", width=110),
            "p": st.column_config.NumberColumn("p", format="%.2g", help="What the model gave it."),
            "right": st.column_config.Column("right", width=80),
            "chance": st.column_config.NumberColumn("chance", format="%.2f"),
            "interval": st.column_config.Column("95 %", width=80),
        },
    )
    downloads(found, "alternatives", "What if", key="whatif")
    if found.table("pairs").num_rows:
        downloads(found, "pairs", "Preference pairs", key="pairs")


def below(
    trace: Trace, view: Drawn, measured: Result | None, scored: Result | None, asked: Asked
) -> None:
    """Tables, the comparison of scores, and what can be taken home."""
    # Only the open one is drawn: the first picture does not wait for the others.
    numbers, sentences, compared = st.tabs(TABS, key="critical-tabs", on_change="rerun")
    if numbers.open:
        with numbers:
            table_view(
                view.wide.tokens.slice(trace.response_start),
                view.columns,
                TABLE,
                tokens=view.names[trace.response_start :],
            )
    if sentences.open:
        with sentences:
            if measured is None:
                hint("Measure first: then each sentence has its own fall.", key="sentences")
            else:
                _plain_table(measured, "sentences")
    if compared.open:
        with compared:
            _compared(trace, measured, asked)
    with st.container(key="actions"):
        request = value_request(trace, state.chosen_model(), asked.answer, **asked.sampling)
        if measured is not None:
            share(request, trace)
            downloads(measured, "tokens", "Values", key="values")
            downloads(measured, "sentences", "Sentences", key="sentences")
        if scored is not None:
            downloads(scored, "tokens", "Scores", key="scores")


def _compared(trace: Trace, measured: Result | None, asked: Asked) -> None:
    """Where each cheap score would have looked, here and over the gallery's wrong answers."""
    model = state.chosen_model()
    if measured is not None and asked.right(trace) is False:
        _here(trace, asked, model)
    stored = _gallery(model)
    if stored is None:
        hint(f"For {model} no comparison over many wrong answers is stored.", key="agreement")
        return
    rows = stored.table("scores")
    traces = max(rows["traces"].to_pylist(), default=0)
    st.text(
        f"Over {traces:,} wrong answers of {model}, taken as they came, in which the chance of a "
        "right answer falls by more than 0.25 at some token: how often the token with the largest "
        "fall has the top score, or one of the top three."
    )
    _scores_table(rows)
    downloads(stored, "scores", "Comparison", key="agreement")
    downloads(stored, "traces", "By answer", key="agreement-traces")


def _here(trace: Trace, asked: Asked, model: str) -> None:
    params = asked.drawing
    request = Request("critical.agreement", trace, {"model": model}, params)
    slot = "critical.agreement"
    try:
        found = state.answer(slot, request, start=False)
        if found is None:
            if not st.button("Where would the scores have looked here?", key="critical-compare"):
                return
            found = state.answer(slot, request)
    except (UserError, Cancelled) as error:
        problem(str(error) or "Cancelled.", key=slot)
        return
    if isinstance(found, state.Job):
        waiting(found, key=slot, doing=DOING[slot])
        return
    if found is None:
        return
    ranks = found.table("traces").to_pylist()
    if not ranks:
        reasons = [n["reason"] for n in found.notes.to_pylist() if n["table"] == "scores"]
        hint(". ".join(reasons) + ".", key="agreement-here")
        return
    said = "; ".join(f"{row['score']} {row['rank']}" for row in ranks)
    st.text(
        f"Here, rank of “{criticalviews.word(ranks[0]['token'])}” among {ranks[0]['tokens']:,} "
        f"tokens by each score: {said}."
    )


def _gallery(model: str) -> Result | None:
    subject = wrong_rollouts(model)
    if subject is None:
        return None
    try:
        return state.workspace().lookup(Request("critical.agreement", subject, {"model": model}))
    except UserError:
        return None


def _scores_table(rows: pa.Table) -> None:
    shown = []
    for row in rows.to_pylist():
        shown.append(
            {
                "score": row["score"],
                "answers": row["traces"],
                "first": row["first"],
                "first, 95 %": _ends(row, "first"),
                "among three": row["first_three"],
                "three, 95 %": _ends(row, "first_three"),
                "ROC area": row["auc"],
                "area, 95 %": _ends(row, "auc"),
            }
        )
    table = pa.Table.from_pylist(shown)
    config: dict[str, Any] = {
        name: st.column_config.NumberColumn(name, format="%.2f")
        for name in ("first", "among three", "ROC area")
    }
    st.dataframe(
        table,
        hide_index=True,
        row_height=28,
        height=37 + 28 * table.num_rows,
        placeholder="–",
        column_config=config,
    )
    if rows.num_rows:
        row = rows.to_pylist()[0]
        st.text(
            f"By chance {row['by_chance_first']:.2f} would be first and "
            f"{row['by_chance_three']:.2f} among three."
        )


def _ends(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "–" if low is None else f"{low:.2f}–{high:.2f}"


def _plain_table(result: Result, name: str) -> None:
    columns = engine.analyses()[result.analysis].tables[name].columns
    table = result.table(name)
    config: dict[str, Any] = {}
    for column, declared in columns.items():
        label = declared.label or column.replace("_", " ")
        if pa.types.is_floating(declared.type):
            made: Any = st.column_config.NumberColumn(label, help=declared.doc, format="%.2f")
        else:
            made = st.column_config.Column(label, help=declared.doc)
        config[column] = made
    st.dataframe(
        table,
        hide_index=True,
        row_height=28,
        height=min(37 + 28 * table.num_rows, 290),
        placeholder="–",
        column_config=config,
    )
