"""What stands beside and below the answers on the Rewards page."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

import engine
from engine import Request, Result
from pages.widgets import state
from pages.widgets.asking import ask
from pages.widgets.downloads import downloads
from pages.widgets.notice import hint
from pages.widgets.paramform import param_form
from pages.widgets.rewardpictures import heatmap, scatter
from pages.widgets.rewardviews import View, strongest

MORE = {
    "reward.forking": "forking tokens (80/20)",
    "reward.delta": "DelTA",
    "reward.d3s": "D³S",
    "reward.stapo": "STAPO",
    "reward.spine": "SPINE",
    "reward.hapo": "HAPO",
    "reward.ucas": "UCAS",
    "reward.twgrpo": "TW-GRPO",
}
_OWN = ("answer", "checker", "success_threshold", "std", "epsilon", "average", "group")


def effects(view: View, rollout: int, position: int, model: str) -> None:
    """Which right answers the selected token raises or lowers."""
    trace = view.group.rollouts[rollout]
    if position < trace.response_start or not trace.has_ids:
        return
    if trace.trainable is not None and not trace.trainable[position]:
        return
    st.subheader("Which answers does it move?", anchor=False)
    params = {"rollout": rollout, "position": position}
    request = Request("reward.effects", view.group, {"model": model}, params)
    found = ask("rewards.effects", request, "Take its effect apart")
    if found is None:
        return
    rows = [
        {
            "answer": row["response"] + 1,
            "": "right" if row["correct"] else "wrong",
            "effect": row["effect"],
            "change": row["log_prob_change"],
        }
        for row in found.table("pairs").to_pylist()
    ]
    st.dataframe(
        pa.Table.from_pylist(rows),
        hide_index=True,
        row_height=26,
        height=min(36 + 26 * len(rows), 300),
        column_config={
            "effect": st.column_config.NumberColumn(
                "effect", format="%.3g", help="Signed by the token's own reward, per token."
            ),
            "change": st.column_config.NumberColumn(
                "Δ log p", format="%.3g", help="When the token becomes more probable, per step."
            ),
        },
    )
    downloads(found, "pairs", "Effects", key="effects")


def below(view: View, thr: Result | None, model: str) -> None:
    """Tables, checks, and what can be taken home."""
    models = {"model": model}
    drawings = {
        "Answers": lambda: _answers(thr),
        "Real step": lambda: _step(view, thr, models),
        "My rule": lambda: _rule(view, model),
        "Do signals agree?": lambda: _agreement(view, models),
        "More signals": _more,
        "Weights": lambda: _weights(view, models),
        "Drift": lambda: _drift(view, models),
    }
    # Only the open one is drawn: the first picture does not wait for the others.
    tabs = st.tabs(list(drawings), key="reward-tabs", on_change="rerun")
    for tab, draw in zip(tabs, drawings.values(), strict=True):
        if tab.open:
            with tab:
                draw()
    with st.container(key="actions"):
        if thr is not None:
            downloads(thr, "tokens", "Hidden rewards", key="thr")


def _answers(thr: Result | None) -> None:
    if thr is None:
        hint("Compute the hidden rewards first.", key="answers")
        return
    _table(thr, "rollouts")
    _table(thr, "groups")
    downloads(thr, "rollouts", "Answers", key="rollouts")


def _step(view: View, thr: Result | None, models: dict[str, str]) -> None:
    """A real step on a copy, against what was predicted."""
    st.text(
        "One plain gradient step on a copy of the weights, which is thrown away: did every answer "
        "move as predicted?"
    )
    with st.container(key="step-row", horizontal=True, vertical_alignment="bottom"):
        what = st.selectbox(
            "Weights that move",
            ["all", "lm_head"],
            key="step-what",
            format_func={"all": "all", "lm_head": "output matrix"}.__getitem__,
            width=170,
        )
        lr = st.number_input(
            "Learning rate", 1e-6, 1.0, 1e-3, key="step-lr", format="%.1e", width=150
        )
        alone = st.toggle("without the selected token's term", key="step-without")
    params: dict[str, Any] = {"what": what, "lr": float(lr)}
    if alone:
        at = state.recall("rewards.selected")
        best = None if thr is None else strongest(thr)
        if at is not None and at[3] == view.group.digest:
            params["without"] = (at[0], at[1])
        elif best is not None:
            params["without"] = (best["rollout"], best["position"])
    request = Request("reward.step", view.group, models, params)
    found = ask("rewards.step", request, "Make the step")
    if found is None:
        return
    left, right = st.columns([1.2, 1], gap="large")
    with left:
        _table(found, "agreement")
        _table(found, "step")
    with right:
        scatter(found)
    downloads(found, "tokens", "Step, by token", key="step-tokens")
    downloads(found, "responses", "Step, by answer", key="step-responses")


def _rule(view: View, model: str) -> None:
    """What clipping and masking rules would drop, with live thresholds."""
    has_log = any({"trainer_logprob", "inference_logprob"} & set(t.signals) for t in
                  view.group.rollouts)  # fmt: skip
    declared = engine.analyses()["reward.rules"]
    st.text(
        "Tokens that a trainer would clip or mask because two policies disagree about them."
        if has_log
        else "The log has no two sets of log-probabilities: name the policy that drew the answers."
    )
    old = ""
    if not has_log:
        old = st.text_input(
            "Policy that drew them", key="rules-old", placeholder="demo-positive, folder, hub id"
        )
        if not old:
            return
    params = param_form(declared, key="rules", without=(*_OWN, "source"))
    models = None if has_log else {"model": model, "old": old}
    request = Request("reward.rules", view.group, models, params)
    found = ask("rewards.rules", request, "Apply the rules", auto=has_log)
    if found is None:
        return
    _table(found, "drops")
    downloads(found, "tokens", "Rules, by token", key="rules")


def _agreement(view: View, models: dict[str, str]) -> None:
    """Rank correlation and overlap of all signals."""
    request = Request("reward.agreement", view.group, models)
    found = ask("rewards.agreement", request, "Compare all signals")
    if found is None:
        return
    rows = found.table("matrix").to_pylist()
    names = list(dict.fromkeys(r["signal"] for r in rows))
    left, right = st.columns(2, gap="large")
    for place, column, title, signed in (
        (left, "spearman", "Rank correlation", True),
        (right, "overlap", "Overlap of the top 20 %", False),
    ):
        cells = {(r["signal"], r["other"]): r[column] for r in rows}
        with place:
            st.caption(title)
            heatmap(names, cells, signed, key=f"matrix-{column}")
    counts = {r["tokens"] for r in found.table("signals").to_pylist()}
    st.text(f"Over at most {max(counts, default=0):,} response tokens; empty where undefined.")
    downloads(found, "matrix", "Matrix", key="matrix")


def _more() -> None:
    """Signals that are added to the answers above."""
    known = engine.analyses()
    chosen = st.selectbox(
        "Add a signal", list(MORE), format_func=MORE.__getitem__, key="more-which", width=260
    )
    declared = known[chosen]
    st.text(declared.title)
    params = param_form(declared, key=f"more-{chosen}", without=_OWN)
    added: dict[str, Any] = state.recall("rewards.more") or {}
    with st.container(key="more-row", horizontal=True):
        if st.button("Show it above", key="more-add"):
            state.give_up(f"rewards.{chosen}")
            state.remember("rewards.more", {**added, chosen: params})
            st.rerun()
        if added and st.button("Take all away", key="more-clear"):
            state.remember("rewards.more", None)
            st.rerun()
    if added:
        st.text("Shown: " + ", ".join(MORE[name] for name in added))
    hint(" ".join(declared.caveats), key="more-caveats")


def _weights(view: View, models: dict[str, str]) -> None:
    """Per-token weights to train with."""
    st.text(
        "One number for each token, to multiply its term of the loss with. The Parquet file "
        "carries the recipe; docs/examples/weighted_loss.py loads it into a loss."
    )
    declared = engine.analyses()["reward.weights"]
    params = param_form(declared, key="weights", without=_OWN)
    request = Request("reward.weights", view.group, models, params)
    found = ask("rewards.weights", request, "Make the weights")
    if found is None:
        return
    _table(found, "summary")
    downloads(found, "weights", "Weights", key="weights")


def _drift(view: View, models: dict[str, str]) -> None:
    """Do logged ids survive a round trip through text?"""
    request = Request("reward.drift", view.group, models)
    found = ask("rewards.drift", request, "Check the round trip")
    if found is None:
        return
    counts = found.table("counts").to_pylist()
    changed = sum(r["changed_tokens"] or 0 for r in counts)
    tokens = sum(r["tokens"] or 0 for r in counts)
    regions = found.table("regions").num_rows
    st.text(
        f"{changed:,} of {tokens:,} tokens in {regions:,} places would be cut otherwise when the "
        "text is encoded again."
    )
    if regions:
        _table(found, "regions")
    downloads(found, "regions", "Places", key="drift")


# -- small pieces --------------------------------------------------------------------------------


def _table(result: Result, name: str) -> None:
    """A small table with labels, units and definitions."""
    table = result.table(name)
    columns = engine.analyses()[result.analysis].tables[name].columns
    empty = [n for n in table.column_names if table[n].null_count == table.num_rows]
    table = table.drop_columns(empty if len(empty) < table.num_columns else [])
    config: dict[str, Any] = {}
    for field in table.schema:
        column = columns.get(field.name)
        label = (column.label if column else "") or field.name.replace("_", " ")
        if column is not None and column.unit and column.unit != "probability":
            label += f" ({column.unit})"
        note = column.doc if column else None
        if pa.types.is_floating(field.type):
            config[field.name] = st.column_config.NumberColumn(label, help=note, format="%.3g")
        else:
            config[field.name] = st.column_config.Column(label, help=note)
    st.dataframe(
        table,
        hide_index=True,
        row_height=28,
        height=min(37 + 28 * max(table.num_rows, 1), 330),
        placeholder="–",
        column_config=config,
    )
