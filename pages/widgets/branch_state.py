"""What a visitor grew: trees of branches, the place that is looked at, the branch being drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine import Request, Result, Trace, UserError
from engine.branching.branches import (
    ORIGIN,
    Branch,
    Place,
    Tree,
    add,
    branch_of,
    branch_of_trace,
    children,
    continuation,
    forced_logprob,
    judged,
    places,
    remove,
    trace_at,
)
from engine.errors import Cancelled
from engine.plan import make_plan
from pages.widgets import state

SLOT = "branches.continue"
READ = "branches.logprob"
MOST_TREES = 12
NOTHING = -1
"""The choice to force nothing."""

Key = tuple[str, str]
"""A tree by the name of its root and the model."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A continuation that was asked for."""

    key: Key
    parent: Place
    position: int
    request: Request


@dataclass(frozen=True, slots=True)
class View:
    """What of a tree is looked at.

    Attributes:
        shown: the trace in the strip.
        beside: the one it is compared with; None for the page's own choice.
    """

    shown: Place = ORIGIN
    beside: Place | None = None


def open_tree(trace: Trace, model: str) -> Key:
    """The tree a trace belongs to, planted when there is none; shows the trace on arrival."""
    trees: dict[Key, Tree] = state.recall("branches.trees", {})
    arrived = (trace.digest, model)
    new = state.recall("branches.arrived") != arrived
    state.remember("branches.arrived", arrived)
    own = (state.name_of(trace), model)
    # A tree of its own before one in which it is a branch.
    for key, tree in sorted(trees.items(), key=lambda kept: kept[0] != own):
        if key[1] != model:
            continue
        place = next((p for p in places(tree) if trace_at(tree, p).digest == trace.digest), None)
        if place is not None:
            if new:
                look(key, View(place))
            return key
    keep(own, _planted(trace, model))
    return own


def _planted(trace: Trace, model: str) -> Tree:
    """A tree of one trace, or with the branch that its example brings along."""
    tree = judged(Tree(root=trace), state.expected_answer())
    item = state.shown_example()
    stored = getattr(item, "branch", None)
    if stored is None or stored.parent is None or stored.parent.digest != trace.digest:
        return tree
    read = state.workspace().lookup(state.statistics_request(trace, model))
    return add(tree, branch_of_trace(tree, stored, None if read is None else read.tables))


def tree_of(key: Key) -> Tree:
    """A visitor's tree.

    Raises:
        UserError: when it was put away for newer ones.
    """
    tree: Tree | None = state.recall("branches.trees", {}).get(key)
    if tree is None:
        raise UserError("These branches were put away for newer ones: open their text again.")
    return tree


def keep(key: Key, tree: Tree) -> None:
    """Remember a tree; of too many the one untouched for longest goes."""
    trees = {k: t for k, t in state.recall("branches.trees", {}).items() if k != key}
    trees[key] = tree
    state.remember("branches.trees", dict(list(trees.items())[-MOST_TREES:]))


def view_of(key: Key) -> View:
    """What of a tree is looked at; places that are gone fall back to the root."""
    view: View = state.recall("branches.views", {}).get(key, View())
    known = set(places(tree_of(key)))
    if view.shown not in known:
        view = View()
    if view.beside not in known or view.beside == view.shown:
        view = View(view.shown)
    return view


def look(key: Key, view: View) -> None:
    """Look at something else from the next run on."""
    state.remember("branches.views", {**state.recall("branches.views", {}), key: view})


def beside(tree: Tree, view: View) -> Place | None:
    """What the shown trace is compared with: the chosen one, its parent, or the first branch."""
    if view.beside is not None:
        return view.beside
    if view.shown == ORIGIN:
        grown = children(tree, ORIGIN)
        return Place(branch=grown[0].id, sample=grown[0].samples[0]) if grown else None
    return next(b.parent for b in tree.branches if b.id == view.shown.branch)


def step(key: Key, event: Any) -> None:
    """Follow a click in the tree; events come from the browser and may be malformed."""
    if not isinstance(event, Mapping):
        return
    branch, sample = event.get("branch"), event.get("sample")
    if not isinstance(branch, str) or type(sample) is not int or sample < 0:
        return
    place, view = Place(branch=branch, sample=sample), view_of(key)
    if place not in places(tree_of(key)):
        return
    look(key, View(view.shown, place) if event.get("beside") else View(place))


def cut(key: Key, branch: str) -> None:
    """Remove a branch and show what it grew from."""
    tree = tree_of(key)
    parent = next((b.parent for b in tree.branches if b.id == branch), ORIGIN)
    keep(key, remove(tree, branch))
    look(key, View(parent))


def expected_field(key: Key) -> str:
    """Name of the field that holds a tree's right answer."""
    return f"branch-expected-{key[0]}-{key[1]}"


def judge(key: Key, expected: str) -> None:
    """Check all answers against another right answer."""
    keep(key, judged(tree_of(key), expected))


def next_choice(
    previous: Mapping[str, Any] | None,
    text: str,
    position: int,
    rows: Collection[Mapping[str, Any]],
    event: Any,
) -> dict[str, Any]:
    """What is to be forced: the newest choice for this token, else the best alternative.

    Args:
        previous: the choice so far: ``text``, ``position``, ``id``, ``stamp``.
        text: name of the trace.
        position: the selected token.
        rows: the alternatives (``id``, ``said``).
        event: last report of the component; old or malformed ones are ignored.
    """
    known = {row["id"] for row in rows} | {NOTHING}
    best = next((row["id"] for row in rows if not row["said"]), NOTHING)
    found = {"text": text, "position": position, "id": best, "stamp": 0}
    for choice in (previous, event):
        if not isinstance(choice, Mapping):
            continue
        if (choice.get("text"), choice.get("position")) != (text, position):
            continue
        token, stamp = choice.get("id"), choice.get("stamp")
        if type(token) is int is type(stamp) and token in known and stamp >= found["stamp"]:
            found = {**found, "id": token, "stamp": stamp}
    return found


def ask(key: Key, position: int, forced: int | str, params: Mapping[str, Any]) -> None:
    """Start a branch of the trace that is shown; ``pending`` tells how it goes.

    Raises:
        UserError: when it cannot be forked there, or a setting is out of range.
    """
    parent = view_of(key).shown
    trace = trace_at(tree_of(key), parent)
    request = continuation(trace, position, forced, key[1], state.workspace(), **params)
    make_plan(request, state.workspace())
    _forget()
    state.remember("branches.remark", None)
    state.remember("branches.asked", Asked(key, parent, position, request))


def pending() -> state.Job | None:
    """The continuation still running; a finished one becomes part of its tree.

    Raises:
        UserError: when going on was not possible.
        Cancelled: when it was cancelled before the first continuation was finished.
    """
    asked: Asked | None = state.recall("branches.asked")
    if asked is None:
        return None
    try:
        found = state.answer(SLOT, asked.request)
        if not isinstance(found, Result):
            return found
        read = state.answer(READ, state.statistics_request(asked.request.subject, asked.key[1]))
        if not isinstance(read, Result):
            return read
        _grow(asked, found, read)
    except (UserError, Cancelled):
        _forget()
        raise
    _forget()
    return None


def _grow(asked: Asked, found: Result, read: Result) -> None:
    tree = tree_of(asked.key)
    forced = asked.request.subject.ids[asked.position :]
    logprob = forced_logprob(read.tables, asked.position, forced)
    branch = branch_of(tree, asked.parent, asked.position, found, logprob=logprob)
    keep(asked.key, add(tree, branch))
    look(asked.key, View(_first(branch)))
    remark = found.not_stored
    if found.status == "partial":
        n, wanted = len(branch.traces), asked.request.params["n"]
        remark = f"Cancelled: {n} of {wanted} continuations were finished and are kept."
    state.remember("branches.remark", remark)


def _first(branch: Branch) -> Place:
    return Place(branch=branch.id, sample=branch.samples[0])


def _forget() -> None:
    state.give_up(SLOT)
    state.give_up(READ)
    state.remember("branches.asked", None)
