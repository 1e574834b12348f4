"""What the Rewards page draws of a group: all its per-token values as one table, and its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

import engine
from engine import Group, Result
from engine.render.group import RolloutRow, group_data
from engine.render.signals import Signal, signals_of
from engine.render.text import number, plain
from engine.schema import PER_TOKEN, Column

CHANNEL = "rewards"
REWEIGHTED = "reward.reweighted"
"""Its columns take the place of those that the hidden rewards came with."""
FIRST = (
    "thr", "influence", "nthr", "advantage", "reweighted_advantage", "thr_advantage",
    "nthr_advantage", "surprisal", "entropy",
)  # fmt: skip
_KEYS = ("rollout", "group")
_QUIET = {"rank", "probability", "margin", "varentropy", "max_prob", "sum_p2", "self_certainty"}


@dataclass(frozen=True, slots=True)
class View:
    """A group with everything that is known of its tokens.

    Attributes:
        key: names the results it is made of.
        group: the rollouts.
        tokens: one row per token of every rollout.
        columns: what its columns mean.
        signals: what can be shown, best first.
        cuts: where each rollout's rows begin, and the end.
    """

    key: str
    group: Group
    tokens: pa.Table
    columns: Mapping[str, Column]
    signals: Mapping[str, Signal]
    cuts: tuple[int, ...]

    def row(self, rollout: int, position: int) -> dict[str, Any]:
        """Everything about one token."""
        rows = self.tokens.slice(self.cuts[rollout] + position, 1).to_pylist()
        return dict(rows[0])


def view_of(group: Group, results: Sequence[Result]) -> View:
    """One table of the per-token results of a group; the first one's columns win.

    Args:
        group: the rollouts.
        results: each with a table ``tokens`` that has a row for every token of every rollout.
    """
    key = "|".join([group.digest[:24], *(f"{r.key}{r.status}" for r in results)])
    return _view(key, group, list(results))


@st.cache_resource(max_entries=8, show_spinner=False)
def _view(key: str, _group: Group, _results: list[Result]) -> View:
    wide: pa.Table | None = None
    columns: dict[str, Column] = {}
    for result in _results:
        table = result.tables.get("tokens")
        if table is None:
            continue
        declared = engine.analyses()[result.analysis].tables["tokens"].columns
        if wide is None:
            wide = table
            columns |= {n: declared[n] for n in table.column_names if n in declared}
            continue
        if table.num_rows != wide.num_rows or not table["rollout"].equals(wide["rollout"]):
            continue
        for name in table.column_names:
            if name in PER_TOKEN or name in _KEYS or name not in declared:
                continue
            if result.analysis == REWEIGHTED and name in wide.column_names:
                at = wide.column_names.index(name)
                wide = wide.set_column(at, name, table[name])
                continue
            own = name if name not in wide.column_names else f"{_stem(result)}_{name}"
            if own in wide.column_names or not _numeric(table[name].type):
                continue
            wide = wide.append_column(own, table[name])
            columns[own] = declared[name]
    assert wide is not None
    lengths = [len(trace) for trace in _group.rollouts]
    cuts = [0]
    for length in lengths:
        cuts.append(cuts[-1] + length)
    known = {s.name: s for s in signals_of(_with_values(wide), columns) if s.name not in _QUIET}
    order = [*(n for n in FIRST if n in known), *(n for n in known if n not in FIRST)]
    signals = {name: known[name] for name in order}
    return View(key, _group, wide, columns, signals, tuple(cuts))


def _stem(result: Result) -> str:
    return result.analysis.rpartition(".")[2]


def _numeric(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind))


def _with_values(table: pa.Table) -> pa.Table:
    empty = [n for n in table.column_names if table[n].null_count == table.num_rows]
    return table.drop_columns([n for n in empty if n not in PER_TOKEN])


def drawn(
    view: View, name: str, order: Sequence[int], facts: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """The rollouts under each other, coloured by one value.

    Args:
        view: of the group.
        name: of the signal.
        order: numbers of the rollouts as they are drawn.
        facts: per rollout a row of ``reward.thr``'s table ``rollouts``; may be empty.
    """
    rows = tuple(
        (n, tuple(sorted((k, v) for k, v in facts.get(n, {}).items() if k in _FACTS)))
        for n in order
    )
    return _data(f"{view.key}|{name}", rows, view, name)


_FACTS = ("reward", "correct", "advantage", "tokens", "thr_sum", "influence_sum")


@st.cache_resource(max_entries=24, show_spinner=False)
def _data(
    key: str, rows: tuple[tuple[int, tuple[tuple[str, Any], ...]], ...], _view: View, _name: str
) -> dict[str, Any]:
    made = [_row(_view, _name, number, dict(facts)) for number, facts in rows]
    return group_data(
        made,
        _view.signals[_name],
        text=_view.group.digest[:24],
        channel=CHANNEL,
        prompt=_view.group.rollouts[0].prompt_text,
    )


def _row(view: View, name: str, rollout: int, facts: Mapping[str, Any]) -> RolloutRow:
    trace = view.group.rollouts[rollout]
    start = trace.response_start if trace.response_start < len(trace) else 0
    values = view.tokens[name].slice(view.cuts[rollout] + start, len(trace) - start)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    special = set(trace.special)
    shaded = None
    if trace.trainable is not None:
        shaded = [not t for t in trace.trainable[start:]]
    reward = facts.get("reward", view.group.rewards[rollout])
    more = []
    if facts.get("tokens") is not None and shaded is not None:
        more.append(("trained tokens", number(facts["tokens"])))
    if facts.get("influence_sum") is not None:
        more.append(("Σ influence", number(facts["influence_sum"])))
    return RolloutRow(
        number=rollout,
        label=f"Answer {rollout + 1}",
        right=facts.get("correct"),
        reward=reward,
        advantage=facts.get("advantage"),
        facts=tuple(more),
        pieces=trace.pieces[start:],
        special=[p in special for p in range(start, len(trace))],
        start=start,
        values=values.to_pylist(),
        shaded=shaded,
    )


ORDERS = {
    "as drawn": None,
    "highest advantage first": ("advantage", False),
    "lowest advantage first": ("advantage", True),
    "longest first": ("tokens", False),
    "shortest first": ("tokens", True),
}


def ordered(view: View, rollouts: Result | None, by: str) -> tuple[list[int], dict[int, Any]]:
    """The rollouts in the order asked for, and what is known of each."""
    numbers = list(range(len(view.group.rollouts)))
    if rollouts is None:
        return numbers, {}
    facts = {row["rollout"]: row for row in rollouts.table("rollouts").to_pylist()}
    chosen = ORDERS[by]
    if chosen is not None:
        name, up = chosen

        def place(n: int) -> tuple[bool, float]:
            value = facts.get(n, {}).get(name)
            return (value is None, (value or 0.0) if up else -(value or 0.0))

        numbers.sort(key=place)
    return numbers, facts


def sentence(thr: Result | None, group: Group) -> str:
    """The page's finding in one or two sentences."""
    if thr is None:
        return (
            f"{len(group.rollouts)} answers to one prompt. Compute the hidden rewards to see what "
            "a step of GRPO would do with each of their tokens."
        )
    (row,) = thr.table("groups").to_pylist()
    if row["reason"]:
        return f"Nothing sets these answers apart: {row['reason']}."
    said = (
        f"{row['correct']} of {row['rewarded']} answers are right. A tenth of the "
        f"{row['tokens']:,} trained tokens holds {100 * (row['top_tenth'] or 0):.0f} % of all |THR|"
    )
    if row["tau"] <= 0:
        said += f" (τ = {number(row['tau'])} is not above 0: by the rule every token is dominant)"
    best = strongest(thr)
    if best is None:
        return f"{said}."
    token = plain(best["token_bytes"], special=bool(best["special"]))
    way = "raises" if best["influence"] > 0 else "lowers"
    return (
        f"{said}. The largest influence has “{token}” in answer {best['rollout'] + 1}: its term "
        f"{way} the right answers."
    )


def strongest(thr: Result) -> dict[str, Any] | None:
    """The token with the largest influence of either sign; of equal ones the first."""
    tokens = thr.table("tokens")
    if tokens["influence"].null_count == tokens.num_rows:
        return None
    size = pc.abs(tokens["influence"])
    at = pc.index(size, pc.max(size)).as_py()
    return dict(tokens.slice(at, 1).to_pylist()[0])


def facts_of(view: View, rollout: int, position: int) -> list[tuple[str, str, str]]:
    """Label, value and meaning of everything known about a token."""
    row = view.row(rollout, position)
    found = []
    for name, signal in view.signals.items():
        value = row.get(name)
        shown = ("yes" if value else "no") if isinstance(value, bool) else number(value)
        unit = f" {signal.unit}" if signal.unit and value is not None else ""
        found.append((signal.title, f"{shown}{unit}", signal.doc))
    return found
