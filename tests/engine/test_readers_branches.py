"""Trees of branches among the files one may bring."""

from __future__ import annotations

import json
from typing import Any

import pytest

import engine
from engine.branching.branches import ORIGIN, Tree, add, branch_of_trace, judged
from engine.branching.branchfile import dumps
from engine.errors import UserError
from engine.readers import recognise


@pytest.fixture(scope="module")
def tree() -> Tree:
    """The start story with the branch that mends it."""
    item = next(item for item in engine.gallery() if item.name == "start")
    assert item.branch is not None
    bare = judged(Tree(root=item.trace), item.expected)
    return add(bare, branch_of_trace(bare, item.branch))


def test_a_tree_is_recognised_by_its_content_and_comes_back_whole(tree: Tree) -> None:
    found = recognise("notes.txt", dumps(tree))
    assert found.kind == "branches"
    assert found.tree == tree
    assert found.subjects == (tree.root,)
    assert found.expected == tree.expected
    size = len(tree.root)
    assert found.title == (
        f"TokenScope branches, 1 fork with 1 continuation of a text of {size} tokens"
    )
    # Spread over lines it is the same tree.
    assert recognise("x", json.dumps(json.loads(dumps(tree)), indent=1).encode()).tree == tree


def test_right_and_wrong_are_judged_anew(tree: Tree) -> None:
    assert tree.verdict is False
    assert tree.branches[0].verdicts == (True,)
    record = json.loads(dumps(tree))
    record["verdict"] = True
    record["branches"][0]["verdicts"] = [False]
    assert recognise("x", json.dumps(record).encode()).tree == tree


def spoiled(tree: Tree, change: Any) -> bytes:
    record = json.loads(dumps(tree))
    change(record)
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.update(schema="tokenscope.branches/2"), "tokenscope.branches/1"),
        (lambda r: r["branches"][0].update(position=10**6), "does not hold together"),
        (lambda r: r["branches"][0].update(parent={"branch": "0" * 12}), "does not hold together"),
        (lambda r: r.update(root={}), "does not hold together"),
        (lambda r: r["root"]["ids"].__setitem__(0, 2**40), "larger than any vocabulary|hold"),
    ],
)
def test_what_does_not_hold_together_gets_one_sentence(
    tree: Tree, change: Any, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as error:
        recognise("tree.json", spoiled(tree, change))
    assert str(error.value).startswith("tree.json")
    assert "\n" not in str(error.value)


def test_a_truncated_tree_and_two_in_a_file_are_refused(tree: Tree) -> None:
    with pytest.raises(UserError):
        recognise("tree.json", dumps(tree)[:-30])
    with pytest.raises(UserError, match="one at a time"):
        recognise("tree.json", dumps(tree) + b"\n" + dumps(tree))


def test_the_root_alone_is_a_tree_too(tree: Tree) -> None:
    found = recognise("x", dumps(Tree(root=tree.root)))
    assert found.tree is not None
    assert found.tree.branches == ()
    assert found.tree.verdict is None
    assert ORIGIN.branch == "root"
