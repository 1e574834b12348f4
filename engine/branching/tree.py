"""The tree of branches: shapes, and pure functions to grow it and to walk it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from engine import keys
from engine.errors import UserError
from engine.trace import Frozen, Sampling, Trace

ROOT = "root"


class Place(Frozen):
    """One trace of a tree.

    Attributes:
        branch: the branch's id, ``root`` for the trace everything started from.
        sample: number of the draw within the branch (``Sampling.index``).
    """

    branch: str = ROOT
    sample: int = Field(default=0, ge=0)


ORIGIN = Place()
"""The trace everything started from."""


class Branch(Frozen):
    """One fork with its continuations.

    Attributes:
        id: 12 hex characters named by what was asked: asking again, for more or longer ones, adds
            to the same branch.
        parent: the trace it was forked from.
        position: where the forced tokens stand.
        forced: their ids; empty when the model was only asked to draw again from there.
        logprob: of the forced tokens together under the parent's model (temperature 1), nats;
            None when it is not known or nothing was forced.
        sampling: how the continuations were drawn.
        traces: whole traces, prefix included, by number of the draw.
        verdicts: whether each one's answer is right; None where nobody could say.
    """

    id: str = ""
    parent: Place = ORIGIN
    position: int = Field(ge=0)
    forced: tuple[int, ...] = ()
    logprob: float | None = Field(default=None, le=0)
    sampling: Sampling
    traces: tuple[Trace, ...] = Field(min_length=1)
    verdicts: tuple[bool | None, ...] = ()

    @field_validator("sampling")
    @classmethod
    def _settings_only(cls, sampling: Sampling) -> Sampling:
        return sampling.evolve(index=0, finish=None, logprobs=None)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("verdicts"):
            return {**data, "verdicts": (None,) * len(data.get("traces", ()))}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Branch:
        if not self.id:
            object.__setattr__(self, "id", self._name())
        if self.id != self._name():
            raise ValueError("a branch's id does not belong to what was forced")
        if len(self.verdicts) != len(self.traces):
            raise ValueError(f"{len(self.traces)} continuations but {len(self.verdicts)} verdicts")
        if list(self.samples) != sorted(set(self.samples)):
            raise ValueError("continuations stand in the order of their draws, each once")
        end = self.position + len(self.forced)
        if any(t.ids[self.position : end] != self.forced for t in self.traces):
            raise ValueError("a continuation does not contain the forced tokens")
        return self

    def _name(self) -> str:
        place = self.parent.model_dump(mode="json")
        drawn = self.sampling.model_dump(
            mode="json", exclude={"index", "finish", "logprobs", "max_new_tokens"}
        )
        return keys.digest([place, self.position, list(self.forced), drawn])[:12]

    @property
    def samples(self) -> tuple[int, ...]:
        """Numbers of the draws."""
        return tuple(t.sampling.index if t.sampling else 0 for t in self.traces)

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """Bytes of the forced tokens."""
        return self.traces[0].pieces[self.position : self.position + len(self.forced)]

    @property
    def right(self) -> int:
        """Continuations with the right answer."""
        return sum(verdict is True for verdict in self.verdicts)

    @property
    def checked(self) -> int:
        """Continuations whose answer could be checked."""
        return sum(verdict is not None for verdict in self.verdicts)

    def at(self, sample: int) -> Trace:
        """The continuation with this number.

        Raises:
            UserError: when it was not drawn.
        """
        if sample not in self.samples:
            raise UserError(f"Branch {self.id} has no continuation {sample}: choose another.")
        return self.traces[self.samples.index(sample)]


class Tree(Frozen):
    """A trace and everything it was made to say instead.

    Attributes:
        root: where it all started.
        expected: the right answer, None when there is none to check against.
        verdict: whether the root's own answer is right.
        branches: parents before their children.
    """

    root: Trace
    expected: str | None = None
    verdict: bool | None = None
    branches: tuple[Branch, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Tree:
        known = {ORIGIN: self.root}
        for branch in self.branches:
            parent = known.get(branch.parent)
            if parent is None or branch.position > len(parent):
                raise ValueError(f"branch {branch.id} grows from nowhere")
            prefix = parent.ids[: branch.position]
            for sample, trace in zip(branch.samples, branch.traces, strict=True):
                if trace.ids[: branch.position] != prefix:
                    raise ValueError(f"branch {branch.id} does not go on from its parent")
                place = Place(branch=branch.id, sample=sample)
                if place in known:
                    raise ValueError(f"branch {branch.id} stands in the tree twice")
                known[place] = trace
        return self


def add(tree: Tree, branch: Branch) -> Tree:
    """The tree with a branch more; one that is there already gets the draws it lacks.

    A draw that goes on where the held one was cut off takes its place.

    Raises:
        UserError: when its parent is not in the tree.
    """
    try:
        held = next((b for b in tree.branches if b.id == branch.id), None)
        if held is None:
            return tree.evolve(branches=(*tree.branches, branch))
        both = dict(zip(held.samples, zip(held.traces, held.verdicts, strict=True), strict=True))
        for sample, trace, verdict in zip(
            branch.samples, branch.traces, branch.verdicts, strict=True
        ):
            kept = both.get(sample)
            if kept is None or trace.ids[: len(kept[0])] == kept[0].ids:
                both[sample] = trace, verdict
        ordered = [both[sample] for sample in sorted(both)]
        joined = held.evolve(
            traces=tuple(trace for trace, _ in ordered),
            verdicts=tuple(verdict for _, verdict in ordered),
            logprob=branch.logprob if held.logprob is None else held.logprob,
            sampling=max(held.sampling, branch.sampling, key=lambda s: s.max_new_tokens),
        )
        return tree.evolve(branches=tuple(joined if b.id == held.id else b for b in tree.branches))
    except ValidationError:
        raise UserError(
            "The trace this branch grew from is not in the tree: fork it again."
        ) from None


def remove(tree: Tree, branch_id: str) -> Tree:
    """The tree without a branch and everything that grew from it."""
    gone = {branch_id}
    for branch in tree.branches:  # parents come first
        if branch.parent.branch in gone:
            gone.add(branch.id)
    return tree.evolve(branches=tuple(b for b in tree.branches if b.id not in gone))


def children(tree: Tree, place: Place) -> tuple[Branch, ...]:
    """The branches that grow from one trace, by position, then in the order they were made."""
    grown = (b for b in tree.branches if b.parent == place)
    return tuple(sorted(grown, key=lambda b: b.position))


def walk(tree: Tree) -> Iterator[tuple[int, Branch]]:
    """Every branch with its depth (1 below the root), each parent before its children."""

    def below(place: Place, depth: int) -> Iterator[tuple[int, Branch]]:
        for branch in children(tree, place):
            yield depth, branch
            for sample in branch.samples:
                yield from below(Place(branch=branch.id, sample=sample), depth + 1)

    return below(ORIGIN, 1)


def places(tree: Tree) -> tuple[Place, ...]:
    """Every trace of the tree, in the order of ``walk``."""
    found = (Place(branch=b.id, sample=s) for _, b in walk(tree) for s in b.samples)
    return (ORIGIN, *found)


def path(tree: Tree, place: Place) -> tuple[Branch, ...]:
    """The branches that lead from the root to a trace; empty for the root itself."""
    found: list[Branch] = []
    while place.branch != ROOT:
        branch = branch_at(tree, place.branch)
        found.append(branch)
        place = branch.parent
    return tuple(reversed(found))


def trace_at(tree: Tree, place: Place) -> Trace:
    """One trace of the tree.

    Raises:
        UserError: when it is not there.
    """
    if place.branch == ROOT:
        return tree.root
    return branch_at(tree, place.branch).at(place.sample)


def verdict_at(tree: Tree, place: Place) -> bool | None:
    """Whether a trace's answer is right; None when nobody could say."""
    if place.branch == ROOT:
        return tree.verdict
    branch = branch_at(tree, place.branch)
    return dict(zip(branch.samples, branch.verdicts, strict=True)).get(place.sample)


def branch_at(tree: Tree, branch_id: str) -> Branch:
    """A branch by its id.

    Raises:
        UserError: when it is not there.
    """
    for branch in tree.branches:
        if branch.id == branch_id:
            return branch
    raise UserError(f"There is no branch {branch_id} in this tree: choose another.")
