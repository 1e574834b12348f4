"""``critical.paths``: the value of every prefix from the rollouts of a group alone, no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from engine.checkers import expected_of, judge
from engine.context import Context
from engine.critical.curve import clopper_pearson
from engine.errors import UserError
from engine.records import iter_groups
from engine.registry import Params, analysis
from engine.schema import PER_TOKEN, Column, Progress, Table, Tables
from engine.subjects import Group, Rollouts, Trace

Counts = npt.NDArray[np.int64]


class PathsParams(Params):
    """Settings of ``critical.paths``."""

    threshold: float = Field(
        0.5, title="Right from", description="A reward of at least this counts as right."
    )
    answer: str | None = Field(
        None,
        title="Right answer",
        description="For groups without rewards; left out, what the group itself expects.",
        coerce_numbers_to_str=True,
    )
    checker: str = Field("answer", title="Checker", description="How an answer is judged.")


def _chance(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "probability", label)


_VALUES = {
    "paths": Column(pa.int64(), "Rollouts of the group that begin like this one.", "", "rollouts"),
    "correct": Column(pa.int64(), "How many of them are right.", "", "right"),
    "value": _chance("share of right rollouts", "Right ones among them."),
    "low": _chance("at least", "Lower end of the exact 95 % interval of the value."),
    "high": _chance("at most", "Upper end of the exact 95 % interval of the value."),
    "fall": _chance("fall", "Value of the prefix without this token, minus this value."),
}

TOKENS = Table(
    doc="One row for each token of each rollout; a value is about the prefix that ends with it.",
    columns={
        "group": Column(pa.string(), "Name of the prompt; empty where it has none."),
        "rollout": Column(pa.int64(), "Number of the rollout, over all groups, from 0."),
        **PER_TOKEN,
        **_VALUES,
    },
)


@analysis(
    "critical.paths",
    version=1,
    subject=(Group, Rollouts),
    models=(),
    params=PathsParams,
    tables={"tokens": TOKENS},
    title="Where did the rollouts part into right and wrong?",
    cite=(
        "Lee et al. (2025), Token-Supervised Value Models, arXiv 2407.12863: right paths of all.",
        "Clopper and Pearson (1934), The use of confidence or fiducial limits.",
    ),
    caveats=(
        "A row is about the prefix that ends with its token, not about the prediction of it.",
        "Where one rollout alone goes on, the value is only whether that one was right.",
        "Prefixes are the same when all their tokens are, not when they mean the same.",
        "Each interval is for one prefix, not for all of them at once.",
    ),
)
def paths(ctx: Context) -> Iterator[Progress | Tables]:
    """Right rollouts through a prefix, divided by all rollouts through it.

    Row *t* is about the prefix that ends with token *t*; the row of the prompt's last token holds
    the group's accuracy. No model is asked: rollouts that begin with the same tokens share a
    prefix, and from it on their rewards decide. A reward of at least ``threshold`` is right. A
    group without rewards is judged by the checker; a response that gives no answer is wrong.
    Rollouts without a reward, in a group that has rewards, are left out. The value of a prefix is
    the mean of the values one token later, weighted by the rollouts that go on there (one that
    ends counts by itself).
    """
    subject = ctx.subject
    groups = iter_groups(subject) if isinstance(subject, Rollouts) else iter((subject,))
    total = subject.count if isinstance(subject, Rollouts) else len(subject.rollouts)
    parts: list[pa.Table] = []
    done = 0
    for group in groups:
        parts += _group(ctx, group, done)
        done += len(group.rollouts)
        yield Progress(done / max(total, 1), f"Rollout {done:,} of {total:,}")
    ctx.note("tokens", "value", "inside the prompt nothing is compared; its last token has a value")
    ctx.note("tokens", "fall", "the value of the prompt's last token has none before it")
    yield Tables(tokens=pa.concat_tables(parts) if parts else TOKENS.schema().empty_table())


def _group(ctx: Context, group: Group, first: int) -> list[pa.Table]:
    """The rows of a group's rollouts, whose numbers begin with ``first``."""
    right = _verdicts(ctx, group, first)
    known = [index for index, verdict in enumerate(right) if verdict is not None]
    traces = [group.rollouts[index] for index in known]
    if not all(trace.has_ids for trace in traces):
        ctx.note("tokens", "paths", "the log gives no ids: tokens are compared by their bytes")
    if len({tuple(_names(t)[: t.response_start]) for t in traces}) > 1:
        ctx.note("tokens", "value", "the rollouts of a group do not all have the same prompt")
    passed = Trie.of([_names(trace) for trace in traces], [bool(right[index]) for index in known])
    tables = []
    for at, (index, trace) in enumerate(zip(known, traces, strict=True)):
        columns = _columns(trace, passed.along(at), passed.root)
        table = _with_common(ctx, trace, columns)
        n = table.num_rows
        table = table.add_column(0, "rollout", pa.array([first + index] * n, pa.int64()))
        tables.append(table.add_column(0, "group", pa.array([group.prompt_id] * n, pa.string())))
    return tables


def _verdicts(ctx: Context, group: Group, first: int) -> list[bool | None]:
    """Whether each rollout is right; None where nobody says so."""
    params: PathsParams = ctx.params
    if any(reward is not None for reward in group.rewards):
        for index, reward in enumerate(group.rewards):
            if reward is None:
                reason = "left out: it has no reward"
                ctx.note("tokens", None, reason, rollout=first + index)
        return [None if r is None else r >= params.threshold for r in group.rewards]
    expected = expected_of(params.checker, params.answer, group.expected)
    if not expected:
        raise UserError(
            "These rollouts have no rewards: give the right answer as answer, for example "
            "answer=42, so that they can be judged."
        )
    judged = judge(params.checker, expected)
    verdicts = [judged(trace) for trace in group.rollouts]
    for index, verdict in enumerate(verdicts):
        if verdict is None:
            reason = "it gives no answer, which counts as wrong"
            ctx.note("tokens", "correct", reason, rollout=first + index)
    return [verdict is True for verdict in verdicts]


def _names(trace: Trace) -> list[int | bytes]:
    """What tells the tokens apart: their ids, or their bytes where a log gives no id."""
    return [i if i >= 0 else piece for i, piece in zip(trace.ids, trace.pieces, strict=True)]


@dataclass(frozen=True)
class Trie:
    """Sequences by their common beginnings.

    Attributes:
        nodes: of each sequence the node after each of its tokens, node 0 being the empty one.
        paths: sequences through each node.
        correct: right ones among them.
    """

    nodes: Sequence[Counts]
    paths: Counts
    correct: Counts

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int | bytes]], right: Sequence[bool]) -> Trie:
        """The trie of some sequences, each right or not."""
        children: dict[tuple[int, int | bytes], int] = {}
        nodes = []
        for sequence in sequences:
            node = 0
            along = np.empty(len(sequence), np.int64)
            for at, token in enumerate(sequence):
                node = children.setdefault((node, token), len(children) + 1)
                along[at] = node
            nodes.append(along)
        paths = np.zeros(len(children) + 1, np.int64)
        correct = np.zeros_like(paths)
        paths[0], correct[0] = len(right), sum(right)
        for along, verdict in zip(nodes, right, strict=True):
            # A sequence meets no node twice.
            paths[along] += 1
            correct[along] += verdict
        return cls(nodes, paths, correct)

    @property
    def root(self) -> float:
        """Share of right sequences."""
        return float(self.correct[0] / self.paths[0]) if self.paths[0] else float("nan")

    def along(self, number: int) -> tuple[Counts, Counts]:
        """Sequences through each prefix of sequence ``number``, and the right ones among them."""
        nodes = self.nodes[number]
        return self.paths[nodes], self.correct[nodes]


def _columns(trace: Trace, passed: tuple[Counts, Counts], root: float) -> dict[str, pa.Array]:
    """The values of one rollout; null inside the prompt."""
    through, right = passed
    value = right / through
    low, high = clopper_pearson(right, through)
    before = np.concatenate([[root], value[:-1]])
    position = np.arange(len(trace))
    inside = position < trace.response_start - 1
    # The prompt's last token has a value; its own fall is not the response's.
    without = position < trace.response_start
    found = {"paths": through, "correct": right, "value": value, "low": low, "high": high}
    columns = {name: pa.array(values, mask=inside) for name, values in found.items()}
    columns["fall"] = pa.array(before - value, mask=without)
    return columns


def _with_common(ctx: Context, trace: Trace, columns: Mapping[str, Any]) -> pa.Table:
    """The common columns of any trace's tokens and these."""
    one = copy(ctx)
    one.subject = trace
    return one.per_token(columns)
