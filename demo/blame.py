"""Which token broke a wrong story, and what the model says with a better one in its place."""

from __future__ import annotations

from math import exp

from engine import Request, Trace, group_from_samples, run
from engine.answers import check
from engine.critical.curve import clopper_pearson
from engine.critical.value import value_request
from engine.gallery import Culprit, Tried
from engine.subjects import Parent, Span, Turn
from engine.tokenization import show
from engine.workspace import Workspace

CANDIDATES = 3
"""How many of the model's most probable other tokens are tried."""

SAMPLES = 32


def blame(
    workspace: Workspace, trace: Trace, model: str, expected: str
) -> tuple[Culprit | None, Trace | None]:
    """The token with the largest fall in value, and the branch that repairs the story.

    Args:
        workspace: keeps all samples, so that nothing is drawn twice.
        trace: a finished wrong response.
        model: that made it.
        expected: the right answer.

    Returns:
        None where the value falls nowhere; no branch where no alternative is ever right.
    """
    request = value_request(trace, model, expected)
    (summary,) = run(request, workspace=workspace)[0].table("summary").to_pylist()
    position = summary["position"]
    if position is None:
        return None, None
    tried = []
    branches: dict[int, Trace] = {}
    for token_id, data, probability in _others(workspace, trace, model, position):
        changed = replaced(trace, position, token_id, data)
        asked = Request("generate", changed, model, {"n": SAMPLES})
        rollouts = group_from_samples(run(asked, workspace=workspace)[0]).rollouts
        right = [t for t in rollouts if _finished(t) and check(t, expected) is True]
        low, high = map(float, clopper_pearson(len(right), SAMPLES))
        share = len(right) / SAMPLES
        tried.append(
            Tried(token_id, show(data), probability, SAMPLES, len(right), share, low, high)
        )
        if right:
            title = f"With “{_bare(show(data))}” instead of “{_bare(summary['token'])}”"
            branches[token_id] = right[0].evolve(parent=changed.parent, title=title)
    best = max(tried, key=lambda t: t.correct, default=None)
    if best is None or not best.correct:
        best = None
    culprit = Culprit(
        position=position,
        token=summary["token"],
        before=summary["before"],
        after=summary["after"],
        alternative_id=best.token_id if best else None,
        alternative=best.token if best else None,
        why=_why(summary, best),
        tried=tuple(tried),
    )
    return culprit, branches[best.token_id] if best else None


def replaced(trace: Trace, position: int, token_id: int, data: bytes) -> Trace:
    """The trace up to ``position``, with another token there and nothing after it."""
    end = position + 1
    turns = [t for t in trace.turns if t.start < end]
    return Trace(
        ids=(*trace.ids[:position], token_id),
        pieces=(*trace.pieces[:position], data),
        tokenizer=trace.tokenizer,
        ids_origin=trace.ids_origin,
        response_start=trace.response_start,
        turns=tuple(Turn(role=t.role, start=t.start, end=min(t.end, end)) for t in turns),
        spans={"question": trace.spans.get("question", Span(start=0, end=0))},
        special=tuple(p for p in trace.special if p < position),
        added=tuple(p for p in trace.added if p < position),
        parent=Parent(digest=trace.digest, position=position),
    )


def _others(
    workspace: Workspace, trace: Trace, model: str, position: int
) -> list[tuple[int, bytes, float]]:
    """The most probable ids that did not come: id, bytes and probability."""
    special = workspace.plan_model(model).tokenizer.is_special
    stats = run(Request("statistics", trace, model), workspace=workspace)[0]
    rows = stats.table("alternatives").to_pylist()
    return [
        (row["alternative_id"], row["alternative_bytes"], exp(row["logprob"]))
        for row in rows
        if row["position"] == position
        and row["alternative_id"] != trace.ids[position]
        and not special(row["alternative_id"])
    ][:CANDIDATES]


def _finished(trace: Trace) -> bool:
    return trace.sampling is not None and trace.sampling.finish == "stop"


def _why(summary: dict[str, object], best: Tried | None) -> str:
    token = _bare(str(summary["token"]))
    count = round(float(str(summary["after"])) * int(str(summary["samples"])))
    after = f"{count or 'none'} of {summary['samples']}" if summary["samples"] else "none"
    if best is None:
        return f"After “{token}” {after} of the continuations is right, and no other token helps."
    return (
        f"With “{_bare(best.token)}” {best.correct} of {best.samples} continuations are right, "
        f"with “{token}” {after}."
    )


def _bare(token: str) -> str:
    return token.strip() or token
