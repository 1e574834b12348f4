"""A tree of branches as the Branches page writes it: ``tokenscope.branches/1``."""

from __future__ import annotations

from engine.branching.branches import Tree, judged
from engine.branching.branchfile import SCHEMA, read_tree
from engine.errors import UserError
from engine.readers.dropped import READ, Dropped, Unreadable
from engine.readers.logtrace import checked, text_of
from engine.readers.source import Source
from engine.readers.values import MAX_ID, is_unicode
from engine.subjects import Trace


def sniff(source: Source) -> bool:
    """Whether a record names the schema of a tree, of this version or another."""
    family = SCHEMA.partition("/")[0] + "/"
    return any(str(value.get("schema")).startswith(family) for _, value in source.objects)


def read(source: Source) -> Dropped:
    """The tree, every answer in it checked anew.

    Raises:
        Unreadable: when it is of another version, does not hold together, or is not alone.
    """
    if len(source.records) != 1:
        raise Unreadable("", "a tree of branches stands alone in its file: bring one at a time")
    record = source.records[0]
    try:
        tree = read_tree(record.value)
    except UserError as error:
        sentence = str(error).rstrip(".")
        raise Unreadable(record.place, sentence[:1].lower() + sentence[1:]) from None
    for trace in (tree.root, *(t for branch in tree.branches for t in branch.traces)):
        _check(trace, record.place)
    # What a file says of right and wrong is not believed.
    tree = judged(tree, tree.expected)
    names = {branch.sampling.model for branch in tree.branches if branch.sampling.model}
    return Dropped(
        kind="branches",
        title=_title(tree),
        subjects=(tree.root,),
        texts=(text_of(tree.root),),
        tree=tree,
        model=names.pop() if len(names) == 1 else None,
        expected=tree.expected,
        possible=(
            "Walk the branches, compare them, and let the model go on from any of them",
            READ,
        ),
        problems=source.report.problems,
    )


def _check(trace: Trace, place: str) -> None:
    if not len(trace):
        raise Unreadable(place, "a trace of the tree has no tokens")
    if max(trace.ids) > MAX_ID:
        raise Unreadable(place, "a token id is larger than any vocabulary")
    if not all(is_unicode(name) for name in (*trace.signals, *trace.spans)):
        raise Unreadable(place, "a name holds half of a character")
    checked(trace, place)


def _title(tree: Tree) -> str:
    forks, grown = len(tree.branches), sum(len(branch.traces) for branch in tree.branches)
    return (
        f"TokenScope branches, {forks:,} fork{'' if forks == 1 else 's'} with "
        f"{grown:,} continuation{'' if grown == 1 else 's'} of a text of {len(tree.root):,} tokens"
    )
