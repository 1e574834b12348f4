"""A tree of branches as a file, and a branch as a group of rollouts."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import ValidationError

from engine.branching.branches import Tree, branch_at
from engine.errors import UserError
from engine.subjects import Group

SCHEMA = "tokenscope.branches/1"
MAX_BYTES = 64 * 1024 * 1024
"""Larger files are refused."""


def group_of(tree: Tree, branch_id: str) -> Group:
    """A branch as a group of rollouts, reward 1 for right and 0 for wrong answers."""
    branch = branch_at(tree, branch_id)
    rewards = tuple(None if v is None else float(v) for v in branch.verdicts)
    return Group(
        rollouts=branch.traces,
        rewards=rewards,
        prompt_id=branch.id,
        expected=tree.expected,
        title=tree.root.title,
    )


def dumps(tree: Tree) -> bytes:
    """The tree as JSON (``tokenscope.branches/1``)."""
    return orjson.dumps({"schema": SCHEMA, **tree.model_dump(mode="json", exclude_defaults=True)})


def loads(data: bytes) -> Tree:
    """A tree from JSON.

    Raises:
        UserError: when it is none.
    """
    if len(data) > MAX_BYTES:
        raise UserError(f"The file has {len(data):,} bytes; a tree of branches is smaller.")
    try:
        record = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise UserError("The file is not valid JSON: choose a tree of branches.") from None
    return read_tree(record)


def read_tree(record: Any) -> Tree:
    """A tree from the JSON value of its file.

    Raises:
        UserError: when it is none.
    """
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise UserError(f"The file is no tree of branches ({SCHEMA}): choose another.")
    try:
        return Tree.model_validate({k: v for k, v in record.items() if k != "schema"})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"The tree of branches does not hold together ({reason}).") from None
