"""What would the next RL step do to each token of these answers?"""

from __future__ import annotations

from typing import Any

import streamlit as st

import engine
from engine import Group, Request, Result, UserError
from engine.errors import Cancelled
from engine.render.text import plain
from pages.widgets import places, rewardsource, rewardtabs, rewardviews, state
from pages.widgets.about import about
from pages.widgets.groupview import group_view
from pages.widgets.notice import guarded, hint, problem
from pages.widgets.pills import choose_signal
from pages.widgets.rewardviews import CHANNEL, View
from pages.widgets.strip import bus
from pages.widgets.waiting import waiting

TITLE = "What would the next RL step do to each token?"


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    head = st.container(key="head")
    head.title(TITLE, anchor=False)
    lede = head.empty()
    group = rewardsource.chosen()
    if group is None:
        with lede.container(key="lede"):
            st.text("Bring the rollouts of a training run, or choose a group of answers.")
        return
    model = state.chosen_model()
    results = _results(group, model)
    if not results:
        return
    thr = next((r for r in results if r.analysis == "reward.thr"), None)
    with lede.container(key="lede"):
        st.text(rewardviews.sentence(thr, group))
    view = rewardviews.view_of(group, results)
    if not view.signals:
        hint("Neither the log nor a model says anything about these tokens yet.", key="nothing")
        return
    _linked(view, thr)


def _results(group: Group, model: str) -> list[Result]:
    """Per-token results of the group: hidden rewards if they are there, statistics, the log's."""
    brought = _brought(group)
    if brought is not None:
        return brought
    found = []
    traces = group.rollouts
    if all(trace.has_ids for trace in traces):
        thr = _thr(group, model)
        if thr is not None:
            # Sliders are not part of the first picture.
            chosen = _reweighted(group, model) if state.painted() else []
            found += [thr, *chosen]
        stats = _answer("rewards.statistics", Request("statistics", group, {"model": model}))
        if stats is not None:
            found.append(stats)
    else:
        hint("This log gives no token ids: choose the tokenizer's model to make them.", key="ids")
    if any(trace.signals or trace.trainable is not None for trace in traces):
        logged = _answer("rewards.log", Request("reward.log", group))
        if logged is not None:
            found.append(logged)
    found += [
        result
        for name, params in (state.recall("rewards.more") or {}).items()
        if (result := _answer(f"rewards.{name}", Request(name, group, {"model": model}, params)))
    ]
    return found


def _brought(group: Group) -> list[Result] | None:
    """A result of this group that was computed elsewhere, by a model that is not at hand here."""
    key = state.recall("given")
    if key is None:
        return None
    try:
        result, subject = state.workspace().reopen(key)
    except UserError:  # deleted since
        return None
    shown = isinstance(subject, Group) and subject.digest == group.digest
    table = result.tables.get("tokens")
    if not shown or table is None or "rollout" not in table.column_names:
        return None
    names = [m.get("name") for m in (result.provenance.get("models") or {}).values()]
    here = result.provenance.get("models", {}).get("model", {}).get("fingerprint")
    try:
        if state.workspace().plan_model(state.chosen_model()).fingerprint == here:
            return None
    except UserError:
        pass
    hint(
        f"Computed elsewhere with {', '.join(map(str, names))}, which is not asked here.", key="by"
    )
    return [result]


def _thr(group: Group, model: str) -> Result | None:
    """The hidden rewards, if they are stored or asked for."""
    slot = "rewards.thr"
    params = rewardsource.reward_params(group)
    request = Request("reward.thr", group, {"model": model}, params)
    try:
        found = state.answer(slot, request, start=False)
        if found is None:
            with st.container(key="measure", horizontal=True, vertical_alignment="center"):
                if not st.button("Compute hidden rewards", key="rewards-go", type="primary"):
                    tokens = sum(map(len, group.rollouts))
                    st.text(f"{len(group.rollouts)} answers, {tokens:,} tokens, with {model}.")
                    return None
            state.answer(slot, request)
            st.rerun()
    except UserError as error:
        problem(error, key=slot)
        return None
    except Cancelled as error:
        _again(slot, str(error))
        return None
    if isinstance(found, state.Job):
        waiting(found, key=slot, doing="Computing hidden rewards")
        return None
    return found


def _reweighted(group: Group, model: str) -> list[Result]:
    """The advantages by THR's rule at the chosen p and β, where they are not the usual ones."""
    with st.popover("p and β of the reweighted advantage"):
        p = st.slider(
            "p: explore (−1) to exploit (+1)",
            -1.0,
            1.0,
            0.1,
            0.05,
            key="rewards-p",
            persist_state="session",
        )
        beta = st.slider(
            "β: how much of τ a token must exceed",
            0.0,
            5.0,
            1.0,
            0.1,
            key="rewards-beta",
            persist_state="session",
        )
    if (p, beta) == (0.1, 1.0):
        return []
    params = {**rewardsource.reward_params(group, ask=False), "p": p, "beta": beta}
    request = Request("reward.reweighted", group, {"model": model}, params)
    found = _answer("rewards.reweighted", request)
    return [] if found is None else [found]


def _answer(slot: str, request: Request) -> Result | None:
    try:
        found = state.answer(slot, request)
    except UserError as error:
        problem(error, key=slot)
        return None
    except Cancelled as error:
        _again(slot, str(error))
        return None
    if isinstance(found, state.Job):
        waiting(found, key=slot, doing="Reading the answers")
        return None
    return found


def _again(slot: str, why: str) -> None:
    with st.container(key=f"hint-{slot}", horizontal=True, vertical_alignment="center"):
        st.text(why or "Cancelled.")
        st.button("Start again", key=f"again-{slot}", on_click=state.give_up, args=(slot,))


@st.fragment
@guarded
def _linked(view: View, thr: Result | None) -> None:
    """The answers under each other and the selected token; a click draws only these again."""
    left, right = st.container(key="linked").columns([2.35, 1], gap="medium")
    with left:
        name, order = _controls(view)
        numbers, facts = rewardviews.ordered(view, thr, order)
        data = rewardviews.drawn(view, name, numbers, facts)
        event, drawn = group_view(data, key="rewards-group")
    at = _selected(view, thr, event)
    # What is beside, above and below the first picture does not delay it.
    below = state.painted()
    if drawn and not below:
        state.painted(drawn)
        st.rerun()
    model = state.chosen_model()
    with right, st.container(key="details-box"):
        _details(view, *at)
        if below:
            rewardtabs.effects(view, *at, model)
    if below:
        rewardtabs.below(view, thr, model)
        if thr is not None:
            first = next(iter(view.signals))
            about(engine.analyses()["reward.thr"], view.signals[first], thr)
    bus(CHANNEL, {"rollout": at[0], "position": at[1], "signal": name}, key="rewards-bus")


def _controls(view: View) -> tuple[str, str]:
    name = choose_signal(view.signals, key="rewards-signal", param="value")
    with st.container(key="rewards-row", horizontal=True, vertical_alignment="center"):
        hint(view.signals[name].doc, key="signal")
        order = st.selectbox(
            "Order",
            list(rewardviews.ORDERS),
            key="rewards-order",
            label_visibility="collapsed",
            width=220,
            persist_state="session",
        )
    return name, order


def _selected(view: View, thr: Result | None, event: Any) -> tuple[int, int]:
    """Rollout and position: the last click, else the token with the largest influence."""
    group = view.group
    kept = state.recall("rewards.selected")
    if isinstance(event, dict) and (kept is None or event.get("stamp", 0) > kept[2]):
        rollout, position, stamp = (event.get(n) for n in ("rollout", "position", "stamp"))
        known = type(rollout) is type(position) is int and 0 <= rollout < len(group.rollouts)
        if known and 0 <= position < len(group.rollouts[rollout]):
            kept = (rollout, position, stamp or 0, group.digest)
            state.remember("rewards.selected", kept)
    if kept is not None and kept[3] == group.digest:
        return kept[0], kept[1]
    best = None if thr is None else rewardviews.strongest(thr)
    if best is not None:
        return best["rollout"], best["position"]
    first = group.rollouts[0]
    return 0, min(first.response_start, len(first) - 1)


def _details(view: View, rollout: int, position: int) -> None:
    trace = view.group.rollouts[rollout]
    piece = plain(trace.pieces[position], special=position in trace.special)
    st.subheader(f"Answer {rollout + 1}, position {position:,}", anchor=False)
    with st.container(key="reward-token"):
        st.text(piece)
    with st.container(key="reward-facts"):
        rows = rewardviews.facts_of(view, rollout, position)
        st.text("\n".join(f"{label}   {value}" for label, value, _ in rows))
    with st.container(key="chips-rewards", horizontal=True):
        for place in places.PLACES:
            asks = place.question and place.name != "rewards"
            if asks and st.button(place.question, key=f"rewards-{place.name}"):
                state.remember("group", view.group)
                state.remember("group.index", rollout)
                expected = view.group.expected
                state.open_trace(trace, expected=expected, select=(position, position))
                places.go(place.name)


page()
