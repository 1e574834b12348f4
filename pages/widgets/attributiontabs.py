"""What stands below the picture of the Attribution page: heatmap, methods, verdict, causes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

import engine
from engine import Request, Result, Trace, UserError
from engine.gallery import cause_rollouts
from pages.widgets import attributionforms, attributionpictures, attributionviews, state
from pages.widgets.asking import ask
from pages.widgets.attributionforms import Asked
from pages.widgets.attributionviews import Matrix
from pages.widgets.downloads import downloads
from pages.widgets.notice import hint
from pages.widgets.selection import Selection
from pages.widgets.share import share
from pages.widgets.tables import plain_table

TABS = {
    "matrix": "Targets × sources",
    "methods": "All methods",
    "verdict": "Which method may I believe here?",
    "causes": "Do they find the true causes?",
    "reliance": "Context or habit?",
    "steer": "Steer it",
    "trim": "Worth training on?",
}
WORDS = {
    "soft_ns": "Soft-NS",
    "soft_nc": "Soft-NC",
    "insertion": "insertion",
    "deletion": "deletion",
    "sufficiency": "sufficiency",
    "comprehensiveness": "comprehensiveness",
}


def small_table(rows: list[dict[str, Any]], *, key: str) -> None:
    """Tokens and their scores, strongest first."""
    st.dataframe(
        pa.Table.from_pylist(rows),
        key=f"attribution-{key}",
        hide_index=True,
        row_height=28,
        height=37 + 28 * len(rows),
        column_config={
            "position": st.column_config.NumberColumn("at", width=60),
            "token": st.column_config.Column("token", width=120),
            "score": st.column_config.NumberColumn("adds", format="%+.3g", width=80),
        },
        column_order=("token", "position", "score"),
    )


def below(
    trace: Trace, asked: Asked, result: Result | None, found: Matrix | None, selection: Selection
) -> None:
    """Tables, the verdict, and what can be taken home."""
    # Only the open one is drawn: the first picture does not wait for the others.
    tabs = st.tabs(list(TABS.values()), key="attribution-tabs", on_change="rerun")
    drawn = dict(zip(TABS, tabs, strict=True))
    makers = {
        "matrix": lambda: _matrix(trace, found, asked),
        "methods": lambda: _methods(trace, asked, selection),
        "verdict": lambda: _verdict(trace, asked, selection),
        "causes": _causes,
        "reliance": lambda: _reliance(trace, asked, selection),
        "steer": lambda: _steer(trace, asked, selection),
        "trim": lambda: _trim(trace),
    }
    for name, tab in drawn.items():
        if tab.open:
            with tab:
                makers[name]()
    if result is not None:
        with st.container(key="actions"):
            share(asked.request(trace, selection.span), trace)
            downloads(result, "attribution", "Scores", key="scores")
            downloads(result, "targets", "Targets", key="targets")


def _matrix(trace: Trace, found: Matrix | None, asked: Asked) -> None:
    if found is None:
        hint("The scores are not there yet.", key="matrix")
        return
    attributionpictures.matrix(trace, found, asked.unit, key="attribution-heatmap")
    st.text(
        "Rows are explained tokens, columns the tokens before them. A click on a cell selects its "
        "source, on a row's name its target."
    )


def _one(trace: Trace, asked: Asked, selection: Selection) -> str:
    """The target that comparisons of methods are about: the selection, else the answer."""
    first, last = selection.span
    if first >= max(1, trace.response_start) or "answer" not in trace.spans:
        return f"{max(first, 1)}:{max(last, first, 1) + 1}"
    return "answer"


def _methods(trace: Trace, asked: Asked, selection: Selection) -> None:
    """The same target by every method, one row each, each in its own scale."""
    target = _one(trace, asked, selection)
    shared = {k: v for k, v in asked.shared.items() if k != "contrast"}
    rows: list[tuple[str, Matrix]] = []
    missing = []
    for name in attributionforms.methods():
        params = {**shared, "targets": target, "together": True}
        request = Request(f"attribution.{name}", trace, {"model": state.chosen_model()}, params)
        try:
            stored = state.workspace().lookup(request)
        except UserError:
            continue
        if stored is None:
            missing.append((name, request))
        else:
            rows.append((name, attributionviews.matrix(stored)))
    if rows:
        attributionpictures.methods(trace, rows, key="attribution-methods")
        st.text(
            "Each row in its own scale: the strongest source of a method has its full colour. "
            "Shown are the tokens that some method ranks among its first eight."
        )
    if missing:
        names = ", ".join(name.replace("_", " ") for name, _ in missing)
        st.text(f"Not computed for this token yet: {names}.")
        _compute_next(missing)


def _compute_next(missing: list[tuple[str, Request]]) -> None:
    """One method after the other, so that each is seen as soon as it is there."""
    if not state.recall("attribution.all") and not st.button(
        "Compare all methods", key="attribution-all"
    ):
        return
    state.remember("attribution.all", True)
    tried = state.recall("attribution.tried") or set()
    for name, request in missing:
        mark = (name, str(sorted(request.params.items())))
        if mark in tried:
            continue
        found = ask(
            "attribution.method", request, "", auto=True, doing=name.replace("_", " ").capitalize()
        )
        if found is None and state.recall("job.attribution.method") is None:
            state.remember("attribution.tried", {*tried, mark})  # refused: its reason was said
            continue
        if found is not None:
            state.give_up("attribution.method")
            st.rerun()
        return
    state.remember("attribution.all", None)


def _verdict(trace: Trace, asked: Asked, selection: Selection) -> None:
    target = _one(trace, asked, selection)
    request = Request(
        "attribution.faithfulness",
        trace,
        {"model": state.chosen_model()},
        {"targets": target, "together": True},
    )
    st.text(
        "Take away what a method calls important, or keep only that: does the prediction follow? "
        "Each figure is the difference to the same scores shuffled; 0 is no better than chance."
    )
    found = ask("attribution.verdict", request, "Test the methods on this text", doing="Testing")
    if found is None:
        return
    for row in found.table("verdict").slice(0, 3).to_pylist():
        st.text(f"{row['rank']}. {row['method'].replace('_', ' ')}: {row['why']}")
    attributionpictures.verdict_table(found, WORDS)
    attributionpictures.curves(found)
    with st.expander("How far do the methods agree?"):
        attributionpictures.agreement(found)
    downloads(found, "faithfulness", "Verdict", key="faithfulness")
    downloads(found, "agreement", "Agreement", key="agreement")


def _causes() -> None:
    """Precision against the generator's own causes, over the gallery's right answers."""
    model = state.chosen_model()
    subject = cause_rollouts(model)
    stored = None
    if subject is not None:
        try:
            stored = state.workspace().lookup(
                Request("attribution.precision", subject, {"model": model})
            )
        except UserError:
            stored = None
    if stored is None:
        hint(
            f"Only for the bundled model are true causes known; for {model} none are stored.",
            key="causes",
        )
        return
    table = stored.table("precision")
    st.text(
        "The stories' generator knows which tokens each result depends on. How many of a "
        "method's top k sources are among the k true ones, over right answers taken as they came:"
    )
    plain_table(table, engine.analyses()["attribution.precision"].tables["precision"].columns)
    downloads(stored, "precision", "Precision", key="precision")
    downloads(stored, "cases", "Cases", key="cases")


def _reliance(trace: Trace, asked: Asked, selection: Selection) -> None:
    request = Request(
        "attribution.eagle",
        trace,
        {"model": state.chosen_model()},
        {"targets": "answer" if "answer" in trace.spans else "auto", "granularity": "word"},
    )
    st.text(
        "How much of each token of the answer came from the text before it, and how much the "
        "model would have said anyway."
    )
    found = ask("attribution.eagle", request, "Measure reliance", doing="Measuring reliance")
    if found is None:
        return
    plain_table(
        found.table("reliance"), engine.analyses()["attribution.eagle"].tables["reliance"].columns
    )
    downloads(found, "reliance", "Reliance", key="reliance")


def _steer(trace: Trace, asked: Asked, selection: Selection) -> None:
    """GrAInS: a vector from the tokens that matter, applied while generating."""
    if not asked.contrast:
        hint(
            "Type above what the model should say rather than this: both sides are needed.",
            key="steer",
        )
        return
    request = Request(
        "attribution.steering",
        trace,
        {"model": state.chosen_model()},
        {"targets": asked.targets(trace, selection.span), "contrast": asked.contrast},
    )
    found = ask("attribution.steering", request, "Steer the model", doing="Steering")
    if found is None:
        return
    plain_table(
        found.table("continuations"),
        engine.analyses()["attribution.steering"].tables["continuations"].columns,
    )
    downloads(found, "continuations", "Continuations", key="steering")


def _trim(trace: Trace) -> None:
    """TRIM: how like target samples each token is, by its last hidden state."""
    st.text(
        "TRIM scores tokens for choosing training data: how like the same tokens of target samples "
        "they are, weighed by attention. The paper's exact forms are not public: these are ours."
    )
    group = state.shown_group(trace)
    subject = trace if group is None else group
    request = Request("attribution.trim", subject, {"model": state.chosen_model()})
    found = ask("attribution.trim", request, "Score the tokens", doing="Scoring")
    if found is None:
        return
    declared = engine.analyses()["attribution.trim"].tables
    plain_table(found.table("samples"), declared["samples"].columns)
    table = found.table("tokens")
    hidden = [n for n in ("token_bytes", "start_byte", "end_byte", "ids_origin", "role") if n in
              table.column_names]  # fmt: skip
    plain_table(table.drop_columns(hidden).slice(0, 1000), declared["tokens"].columns)
    downloads(found, "tokens", "Tokens", key="trim")


def known(table: pa.Table, column: str) -> bool:
    """Whether a column holds a value anywhere."""
    return column in table.column_names and bool(pc.any(pc.is_valid(table[column])).as_py())
