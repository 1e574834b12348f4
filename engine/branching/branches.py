"""What if it had said something else: a trace forked at a token, continued, kept in a tree.

::

    tree = Tree(root=trace, expected="8")
    request = continuation(trace, 97, " 8", "demo", workspace, n=4)
    result, = run(request, workspace=workspace)
    tree = add(tree, branch_of(tree, ORIGIN, 97, result))

A branch is one fork (what was forced where) with all its continuations. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from engine.branching.align import common_prefix
from engine.branching.forking import continuation, forced_logprob, fork
from engine.branching.tree import (
    ORIGIN,
    ROOT,
    Branch,
    Place,
    Tree,
    add,
    branch_at,
    children,
    path,
    places,
    remove,
    trace_at,
    verdict_at,
    walk,
)
from engine.encode import with_spans
from engine.errors import UserError
from engine.generate import group_from_samples
from engine.result import Result
from engine.trace import Parent, Sampling, Trace

__all__ = [
    "ORIGIN",
    "ROOT",
    "Branch",
    "Place",
    "Tree",
    "add",
    "branch_at",
    "branch_of",
    "branch_of_trace",
    "children",
    "continuation",
    "forced_logprob",
    "fork",
    "judged",
    "path",
    "places",
    "remove",
    "trace_at",
    "verdict_at",
    "walk",
]


def branch_of(
    tree: Tree, parent: Place, position: int, result: Result, *, logprob: float | None = None
) -> Branch:
    """The branch that a finished ``continuation`` is, its answers checked.

    Args:
        tree: where it belongs.
        parent: the trace that was forked.
        position: where.
        result: of the continuation.
        logprob: of the forced tokens (``forced_logprob``).

    Raises:
        UserError: when nothing was drawn.
    """
    forked = Trace.model_validate_json(result.table("prompt")["trace"][0].as_py())
    if not result.table("samples").num_rows:
        raise UserError("Nothing was drawn before it was cancelled: press Continue again.")
    source = trace_at(tree, parent)
    drawn = group_from_samples(result).rollouts
    traces = tuple(_with_parent(trace, source, position) for trace in drawn)
    sampling = traces[0].sampling
    assert sampling is not None
    branch = Branch(
        parent=parent,
        position=position,
        forced=forked.ids[position:],
        logprob=logprob,
        sampling=sampling,
        traces=traces,
    )
    return _judged(branch, tree.expected)


def branch_of_trace(
    tree: Tree, trace: Trace, tables: Mapping[str, pa.Table] | None = None
) -> Branch:
    """The branch that a stored trace with a ``parent`` is: its first other token was forced.

    Args:
        tree: whose root it branched from.
        trace: the branch.
        tables: ``statistics`` of the root, for the log-probability.

    Raises:
        UserError: when the trace did not branch from the tree's root.
    """
    parent = trace.parent
    if parent is None or parent.digest != tree.root.digest or parent.position >= len(trace):
        raise UserError("This trace did not branch from the one that is shown.")
    position = parent.position
    forced = trace.ids[position : position + 1]
    branch = Branch(
        position=position,
        forced=forced,
        logprob=None if tables is None else forced_logprob(tables, position, forced),
        sampling=trace.sampling or Sampling(),
        traces=(trace,),
    )
    return _judged(branch, tree.expected)


def _with_parent(trace: Trace, source: Trace, position: int) -> Trace:
    """Remember where the two differ, and the spans somebody gave to the common beginning."""
    differ = common_prefix(trace.ids, source.ids)
    spans = {name: span for name, span in source.spans.items() if span.end <= position}
    parent = Parent(digest=source.digest, position=differ)
    return with_spans(trace.evolve(parent=parent, spans=spans))


def judged(tree: Tree, expected: str | None) -> Tree:
    """The tree with every answer checked against another right answer (None: not checked)."""
    wanted = expected.strip() if expected else None
    return tree.evolve(
        expected=wanted or None,
        verdict=_verdict(tree.root, wanted),
        branches=tuple(_judged(branch, wanted) for branch in tree.branches),
    )


def _judged(branch: Branch, expected: str | None) -> Branch:
    return branch.evolve(verdicts=tuple(_verdict(trace, expected) for trace in branch.traces))


def _verdict(trace: Trace, expected: str | None) -> bool | None:
    if not expected:
        return None
    from engine.answers import check

    return check(trace, expected)
