"""What is explained: target tokens, which of their numbers, and what they are compared with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.attribution.segments import read_spans
from engine.errors import UserError
from engine.subjects import Span, Trace
from engine.tokenization import show

if TYPE_CHECKING:
    from torch import Tensor

    from engine.attribution.settings import AttributionParams, Explain
    from engine.tokenization import Tokenizer

_NAME = re.compile(r"[a-z][a-z0-9_.]*\Z")


@dataclass(frozen=True, slots=True)
class Target:
    """Tokens ``start`` to ``end`` (exclusive), explained as one number."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Branch:
    """One way the text goes on after the context, with the rows that are read.

    Attributes:
        tail: ids after the context that all branches share.
        rows: positions whose predictions count: token *t* is predicted at *t* − 1.
        labels: the id that each row predicts.
        sign: +1 for the target, −1 for what it is compared with.
    """

    tail: tuple[int, ...]
    rows: tuple[int, ...]
    labels: tuple[int, ...]
    sign: int


def target_span(trace: Trace, asked: str) -> Span:
    """The target tokens.

    Raises:
        UserError: there are none, they lie outside the text, or nothing comes before them.
    """
    asked = asked.strip()
    if _NAME.match(asked):
        span = _named(trace, asked)
    else:
        spans = read_spans(asked, len(trace))
        if len(spans) != 1:
            raise UserError("Give one target: a position such as 12, or a span such as 12:15.")
        span = spans[0]
    if span.start == 0:
        raise UserError("Nothing comes before the first token: choose a later target.")
    return span


def _named(trace: Trace, name: str) -> Span:
    cut, end = trace.response_start, len(trace)
    if name == "response":
        if cut >= end:
            raise UserError("The response is empty: let the model write one, or give a position.")
        return Span(start=cut, end=end)
    if name == "auto":
        if "answer" in trace.spans and len(trace.spans["answer"]):
            return trace.spans["answer"]
        if not end:
            raise UserError("The text has no tokens: enter at least two.")
        last = end - 1
        while last > max(cut, 1) and last in set(trace.special):
            last -= 1
        return Span(start=last, end=last + 1)
    if name not in trace.spans or not len(trace.spans[name]):
        known = ", ".join(n for n, s in trace.spans.items() if len(s)) or "none"
        raise UserError(
            f"The text has no {name}: mark one, or give positions such as 12:15. "
            f"Marked are: {known}."
        )
    return trace.spans[name]


def targets_of(trace: Trace, span: Span, *, together: bool) -> list[Target]:
    """The targets of a span, one per token or one in all."""
    cuts = (
        [(span.start, span.end)] if together else [(p, p + 1) for p in range(span.start, span.end)]
    )
    return [Target(a, b, show(b"".join(trace.pieces[a:b]))) for a, b in cuts]


def branches_of(
    trace: Trace, targets: Sequence[Target], contrast: str | None, tokenizer: Tokenizer | None
) -> list[Branch]:
    """How the text goes on: as it does, and as the contrast would have it.

    Without a contrast the context is everything before the last target's last token. With one it
    is what comes before the target, which then is one number.

    Raises:
        UserError: a contrast that says the same, or that has no tokens.
    """
    span = Span(start=targets[0].start, end=targets[-1].end)
    said = trace.ids[span.start : span.end]
    if contrast is None:
        rows = tuple(p - 1 for p in range(span.start, span.end))
        return [Branch((), rows, said, 1)]
    assert tokenizer is not None
    other = tokenizer.encode(contrast, special=False, name="contrast").ids
    if not other:
        raise UserError("The contrast has no tokens: type a word, with its space in front.")
    if other == said:
        raise UserError("The contrast says the same as the target: give another continuation.")
    base = span.start - 1
    found = []
    for ids, sign in ((said, 1), (other, -1)):
        rows = tuple(base + i for i in range(len(ids)))
        found.append(Branch(tuple(ids[:-1]), rows, tuple(ids), sign))
    if len(said) == len(other) == 1:  # both are read off the same row
        return [Branch((), found[0].rows, said, 1), Branch((), found[1].rows, other, -1)]
    return found


def measured(
    logits: Tensor, labels: Tensor, explain: Explain, reference: Tensor | None = None
) -> Tensor:
    """The explained number of each row, differentiable.

    Args:
        logits: [..., n, V] float.
        labels: [n] the ids predicted.
        explain: ``logprob`` log p(y), ``logit`` z(y), ``probability`` p(y), ``entropy`` −Σ p log p,
            ``kl`` Σ p (log p − log q), all in nats.
        reference: [n, V] log q of the other model on the text as it is, for ``kl``.

    Returns:
        [..., n].
    """
    index = labels.expand(logits.shape[:-1])[..., None]
    if explain == "logit":
        return logits.gather(-1, index)[..., 0]
    logprobs = logits.log_softmax(-1)
    if explain in ("logprob", "probability"):
        found = logprobs.gather(-1, index)[..., 0]
        return found if explain == "logprob" else found.exp()
    if explain == "kl":
        assert reference is not None
        return (logprobs.exp() * (logprobs - reference)).sum(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def check_reads(trace: Trace, params: AttributionParams) -> None:
    """Refuse a text that no model can read.

    Raises:
        UserError: the log gave no ids.
    """
    if not trace.has_ids:
        raise UserError(
            "This log gives no token ids, which attribution needs: let a model read the text."
        )
