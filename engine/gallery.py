"""The gallery: traces and groups shipped with the source whose results are stored beside them.

``demo/gallery/items.jsonl`` has one JSON object a line, in the order they are shown:

- ``name``, ``title``, ``description``, ``model``, ``expected`` (null when nothing can be right);
- ``kind``: ``trace`` with its ``trace``, or ``group`` with its ``group`` (both as in trace and
  rollouts files) and ``shown``, the number of the rollout that stands for it;
- ``culprit``: for wrong stories the fields of ``Culprit``, with ``tried`` as a list of objects;
- ``branch``: a trace, for a culprit that has a better alternative.

``demo/gallery/wrong-MODEL.jsonl`` holds wrong answers of a model as they came, none chosen
(``wrong_rollouts``).

``demo/gallery/results`` is a layer of the store. It holds ``statistics`` with default params of
every item's trace, group and branch, what ``engine.critical.value.value_request(item.trace,
item.model, item.expected)`` asks for and ``critical.contrast``, of every item with a culprit and
some right ones; of every item with a culprit also ``critical.fitted``, ``critical.whatif`` at the
culprit and ``critical.agreement``; ``critical.agreement`` over the wrong answers; of every group
``reward.thr``, ``reward.step``, ``reward.agreement`` and ``reward.effects`` of its strongest token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import orjson

from engine.records import open_rollouts
from engine.subjects import Group, Rollouts, Trace
from engine.workspace import GALLERY


@dataclass(frozen=True, slots=True)
class Tried:
    """Another token put in the culprit's place, and what came of it.

    Attributes:
        token_id: its id.
        token: its text; bytes that are no UTF-8 as ``\\xNN``.
        probability: what the model gave it there.
        samples: continuations drawn after it.
        correct: how many were right; ``value`` is their share.
        low, high: exact 95 % interval of the value.
    """

    token_id: int
    token: str
    probability: float
    samples: int
    correct: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Culprit:
    """The token at which the chance of a right answer fell most, and what would have been better.

    Attributes:
        position: where it stands in the trace.
        token: its text.
        before, after: chance of a right answer without it and with it; intervals are in the
            table ``summary`` of the stored ``critical.value``.
        alternative_id, alternative: of the model's most probable other tokens, the one whose
            continuations are right most often; None when none ever is.
        why: one sentence with the evidence.
        tried: all that were tried, most probable first.
    """

    position: int
    token: str
    before: float
    after: float
    alternative_id: int | None
    alternative: str | None
    why: str
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried | None:
        """The evidence for the alternative."""
        return next((t for t in self.tried if t.token_id == self.alternative_id), None)


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """One example.

    Attributes:
        name: stable short name; the first item is ``start``.
        title: what a person reads in the list.
        description: one sentence on what to look at.
        model: the bundled model it was made with.
        trace: the tokens; of a group, one of its wrong rollouts.
        expected: the right answer, when there is one.
        kind: ``trace``, or ``group`` for several rollouts of one prompt.
        group: the rollouts with their rewards, 1 or 0 by the default checker.
        culprit: of a wrong story, the token that broke it.
        branch: of a wrong story, what the model says with the culprit's alternative instead: its
            ``parent`` names trace and position, ``sampling.index`` the sample (the first right
            one of those counted in ``culprit.best``).
    """

    name: str
    title: str
    description: str
    model: str
    trace: Trace
    expected: str | None = None
    kind: Literal["trace", "group"] = "trace"
    group: Group | None = None
    culprit: Culprit | None = None
    branch: Trace | None = None

    @property
    def right(self) -> bool | None:
        """Whether the trace gives the expected answer; None when nothing is expected."""
        from engine.answers import check

        return None if self.expected is None else check(self.trace, self.expected) is True


@lru_cache(maxsize=1)
def gallery() -> tuple[GalleryItem, ...]:
    """All gallery items, in the order they are shown; empty when none are shipped."""
    file = GALLERY / "items.jsonl"
    if not file.is_file():
        return ()
    return tuple(_item(orjson.loads(line)) for line in file.read_bytes().splitlines())


@lru_cache(maxsize=8)
def wrong_rollouts(model: str) -> Rollouts | None:
    """Wrong answers of a bundled model, taken as they came; None for another model."""
    return _rollouts("wrong", model)


@lru_cache(maxsize=8)
def cause_rollouts(model: str) -> Rollouts | None:
    """Right answers of a bundled model with the true causes of every result marked as spans."""
    return _rollouts("causes", model)


def _rollouts(name: str, model: str) -> Rollouts | None:
    if not model.replace("-", "").isalnum():
        return None
    file = GALLERY / f"{name}-{model}.jsonl"
    return open_rollouts(file) if file.is_file() else None


def _item(record: dict[str, Any]) -> GalleryItem:
    shown = record.pop("shown", 0)
    if record.get("group") is not None:
        record["group"] = Group.model_validate(record["group"])
        record["trace"] = record["group"].rollouts[shown]
    else:
        record["trace"] = Trace.model_validate(record["trace"])
    if record.get("culprit") is not None:
        tried = tuple(Tried(**each) for each in record["culprit"]["tried"])
        record["culprit"] = Culprit(**{**record["culprit"], "tried": tried})
    if record.get("branch") is not None:
        record["branch"] = Trace.model_validate(record["branch"])
    return GalleryItem(**record)
