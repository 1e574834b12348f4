"""A tree of branches that comes back from a file."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from engine import Trace, UserError
from engine.branching.branches import Tree, add, judged
from pages.widgets import branch_state as grown
from pages.widgets import state
from pages.widgets.branch_state import Key, View


def bring(tree: Tree, named: str | None, models: Sequence[str]) -> Key:
    """Take in a tree from a file; what was grown here from the same text stays in it.

    Args:
        tree: as it was read.
        named: the model it was grown with, as the file claims; a claim chooses among ``models``
            and never brings in another.
        models: that may go on from it, the preferred first.

    Raises:
        UserError: when none of the models has its tokens.
    """
    ordered = sorted(models, key=lambda name: name != named)
    model = next((name for name in ordered if _fits(tree.root, name)), None)
    if model is None:
        raise UserError(
            "No model at hand has the tokens of this tree: choose the model it was grown with at "
            "the left, then open it again."
        )
    key = (state.name_of(tree.root), model)
    held: Tree | None = state.recall("branches.trees", {}).get(key)
    if held is not None:
        for branch in held.branches:
            tree = add(tree, branch)
        tree = judged(tree, tree.expected or held.expected)
    grown.keep(key, tree)
    grown.look(key, View())
    st.session_state.pop(grown.expected_field(key), None)
    state.remember("branches.remark", _otherwise_grown(tree, model))
    return key


def _fits(trace: Trace, model: str) -> bool:
    try:
        return state.workspace().plan_model(model).tokenizer.digest == trace.tokenizer
    except UserError:  # gone, or not allowed
        return False


def _otherwise_grown(tree: Tree, model: str) -> str | None:
    """A remark where other weights grew the tree than those that would go on from it."""
    here = state.workspace().plan_model(model).fingerprint
    grown = {branch.sampling.fingerprint for branch in tree.branches} - {None, here}
    if not grown:
        return None
    return (
        "Other weights than those of the chosen model drew some of these branches: what you add "
        "is drawn by the chosen one."
    )
