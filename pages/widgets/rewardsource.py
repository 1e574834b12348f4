"""Where the Rewards page gets a group of answers from: an example, one's own, or a training log."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import streamlit as st

import engine
from engine import Group, UserError
from engine.render.text import number, one_line
from engine.rollouts import RolloutLog, across_steps, by_step, interesting, prompts
from engine.tokenization import Tokenizer
from pages.widgets import state
from pages.widgets.notice import hint, problem
from pages.widgets.selection import chosen_row

SOURCES = {"here": "answers at hand", "log": "a training log"}
SORTS = {
    "variance": "mixed rewards first",
    "best": "best first",
    "worst": "worst first",
    "length_reward": "length tied to reward",
    "mismatch_kl": "largest mismatch",
    "entropy": "highest entropy",
}
_CURVES = {
    "reward_mean": "mean reward",
    "tokens_mean": "response tokens",
    "entropy": "entropy, nats",
    "mismatch_kl": "mismatch KL, nats",
    "mixed": "share of mixed groups",
}
_MOST = 200
UPLOADS = 32
"""Uploaded logs that are kept."""


def chosen() -> Group | None:
    """The group the page looks at; None while there is none."""
    with st.container(key="rewards-source", horizontal=True, vertical_alignment="center"):
        source = st.segmented_control(
            "Answers from",
            list(SOURCES),
            default="here",
            required=True,
            key="rewards-from",
            format_func=SOURCES.__getitem__,
            label_visibility="collapsed",
            persist_state="session",
        )
    if source == "log":
        return _from_log()
    return _at_hand()


def _at_hand() -> Group | None:
    """The answers the shown text belongs to, else an example's."""
    brought = state.recall("group")
    own = st.session_state.get("text") == state.OWN and state.recall("given") is not None
    if own and isinstance(brought, Group):
        # Its tokens may be of a model that is not here: nothing is cut anew.
        return brought
    trace = state.shown_trace()
    group = None if trace is None else state.shown_group(trace)
    if group is not None:
        return group
    model = state.chosen_model()
    items = [item for item in engine.gallery() if item.group is not None]
    item = next((i for i in items if i.model == model), items[0] if items else None)
    if item is None or item.group is None:
        return None
    digest = state.workspace().plan_model(model).tokenizer.digest
    if item.group.rollouts[0].tokenizer != digest:
        hint(f"The examples are answers of {item.model}: choose it at the left.", key="other")
        return None
    hint(f"The chosen text has no other answers beside it; shown: {item.title}.", key="shown")
    return item.group


def reward_params(group: Group, *, ask: bool = True) -> dict[str, Any]:
    """What rewards are read from, where a person has to say it.

    Args:
        group: whose.
        ask: draw the field; False reads what it holds.
    """
    if any(reward is not None for reward in group.rewards):
        return {}
    key = f"rewards-answer-{group.digest[:12]}"
    if not ask:
        answer = st.session_state.get(key)
    else:
        answer = st.text_input(
            "Right answer",
            group.expected or "",
            key=key,
            width=140,
            help="No rewards came along: answers are judged by it.",
        )
    return {"answer": answer} if answer else {}


# -- a training log ------------------------------------------------------------------------------


@st.cache_resource(max_entries=4, show_spinner="Reading the log")
def _opened(path: str, home: str) -> RolloutLog:
    return RolloutLog.open(path, home=home)


def _from_log() -> Group | None:
    path = _path()
    if not path:
        hint(
            "verl dumps, TRL completions, prime-rl token exports, RLLoggingBoard, OpenAI or vLLM "
            "responses, TokenScope rollouts: a file or a folder, recognised by what is in it.",
            key="log",
        )
        return None
    try:
        log = _opened(path, str(state.workspace().home))
    except UserError as error:
        problem(error, key="log")
        return None
    _said(log)
    group, step = _prompt(log)
    if group is None:
        return None
    try:
        tokenizer = Tokenizer.load(
            state.workspace().plan_model(state.chosen_model()).located.tokenizer_path
        )
        return log.group(group, step, tokenizer)
    except UserError as error:
        problem(error, key="log-group")
        return None


def _path() -> str | None:
    """A path on this machine, or what was uploaded; strangers may only upload."""
    local = state.workspace().profile.name == "local"
    typed: str | None = None
    left, right = st.columns(2)
    if local:
        typed = left.text_input(
            "File or folder on this machine",
            key="rewards-path",
            placeholder="/path/to/rollouts",
            persist_state="session",
        )
    file = right.file_uploader("or a file", key="rewards-file")
    if file is not None:
        return _kept(file.name, file.getvalue())
    return str(Path(typed).expanduser()) if typed else None


def _kept(name: str, data: bytes) -> str:
    """An uploaded log in the store's home: it is read by place, not held in memory."""
    from hashlib import sha256

    folder = state.workspace().home / "uploads" / sha256(data).hexdigest()[:24]
    suffix = "".join(c for c in Path(name).suffix.lower() if c.isalnum() or c == ".") or ".jsonl"
    target = folder / f"log{suffix}"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        # Strangers bring many: the oldest ones make room.
        kept = sorted(folder.parent.iterdir(), key=lambda f: f.stat().st_mtime, reverse=True)
        for old in kept[UPLOADS:]:
            shutil.rmtree(old, ignore_errors=True)
    return str(target)


def _said(log: RolloutLog) -> None:
    """What was recognised, what is missing, what could not be read."""
    with st.container(key="log-said", horizontal=True, vertical_alignment="center"):
        kinds = ", ".join(log.formats) or "nothing yet"
        st.text(f"{log.path.name}: {log.count:,} rollouts ({kinds}).")
        if st.button("Look for new ones", key="log-refresh", type="tertiary"):
            added = log.refresh()
            st.toast(f"{added:,} rollouts were added." if added else "Nothing was added.")
    for number_, line in enumerate(log.missing):
        hint(line, key=f"missing-{number_}")
    if log.bad_count:
        with st.expander(f"{log.bad_count:,} lines could not be read"):
            st.text(
                "\n".join(
                    f"{one_line(bad.file, 60)}, line {bad.line:,}: {bad.reason}" for bad in log.bad
                )
            )


def _prompt(log: RolloutLog) -> tuple[str | None, int | None]:
    """The prompt to look at, chosen in the table of the interesting ones."""
    found = prompts(log.index)
    overview, listed = st.tabs(["Prompts", "Over the steps"], key="log-tabs")
    with listed:
        _steps(by_step(log.index))
    with overview:
        by = st.selectbox(
            "Order",
            list(SORTS),
            format_func=SORTS.__getitem__,
            key="rewards-sort",
            width=240,
            label_visibility="collapsed",
        )
        rows = interesting(found, by, _MOST)
        if not rows.num_rows:
            hint("Nothing in this log has that number: choose another order.", key="sort")
            rows = found.slice(0, _MOST)
        shown = rows.select(
            ["step", "group", "rollouts", "reward_mean", "variance", "right", "tokens_mean",
             "length_reward", "mismatch_kl", "entropy"]
        )  # fmt: skip
        st.dataframe(
            shown.drop_columns([n for n in shown.column_names if _empty(shown[n])]),
            key="rewards-prompts",
            on_select="rerun",
            selection_mode="single-row",
            hide_index=True,
            row_height=28,
            height=min(37 + 28 * shown.num_rows, 230),
            placeholder="–",
            column_config={
                n: st.column_config.NumberColumn(n.replace("_", " "), format="%.3g")
                for n in shown.column_names
                if pa.types.is_floating(shown.schema.field(n).type)
            },
        )
        row = chosen_row(st.session_state.get("rewards-prompts")) or 0
        if row >= rows.num_rows:
            row = 0
        one = rows.slice(row, 1).to_pylist()[0]
    if len(set(found["step"].to_pylist())) > 1:
        same = across_steps(log.index, one["group"])
        if same.num_rows > 1:
            told = ", ".join(
                f"{r['step']}: {number(r['reward_mean'])}" for r in same.to_pylist()[:12]
            )
            hint(f"This prompt over the steps, mean reward: {told}.", key="across")
    return one["group"], one["step"]


def _empty(column: pa.ChunkedArray) -> bool:
    return bool(column.null_count == len(column))


def _steps(table: pa.Table) -> None:
    """Signals over the steps of the run, those that the log has."""
    known = {n: label for n, label in _CURVES.items() if not _empty(table[n])}
    if table.num_rows < 2 or not known:
        hint("A curve needs at least two steps.", key="steps")
    else:
        places = st.columns(len(known))
        for place, (name, label) in zip(places, known.items(), strict=True):
            with place:
                st.caption(label)
                st.line_chart(
                    table.select(["step", name]).to_pandas(),
                    x="step",
                    y=name,
                    height=140,
                    x_label="step",
                    y_label="",
                )
    st.dataframe(table, hide_index=True, row_height=28, height=180, placeholder="–")
