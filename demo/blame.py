"""Which token broke a wrong story, and what the model says with a better one in its place."""

from __future__ import annotations

from engine import Request, Trace, group_from_samples, run
from engine.answers import check
from engine.critical.value import value_request
from engine.gallery import Culprit, Tried
from engine.subjects import Parent, Span, Turn
from engine.workspace import Workspace

SAMPLES = 64
"""What the analyses draw by default."""


def blame(
    workspace: Workspace, trace: Trace, model: str, expected: str
) -> tuple[Culprit | None, Trace | None]:
    """The token with the largest fall in value, and the branch that repairs the story.

    Both come from the analyses that the Critical page runs, with their default settings.

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
    (result,) = run(whatif_request(trace, model, expected, position), workspace=workspace)
    rows = [row for row in result.table("alternatives").to_pylist() if not row["said"]]
    tried = [
        Tried(
            row["alternative_id"],
            row["alternative"],
            *(row[name] for name in ("probability", "samples", "correct", "value", "low", "high")),
        )
        for row in rows
    ]
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
    if best is None:
        return culprit, None
    data = rows[tried.index(best)]["alternative_bytes"]
    branch = _repaired(workspace, replaced(trace, position, best.token_id, data), model, expected)
    title = f"With “{_bare(best.token)}” instead of “{_bare(summary['token'])}”"
    return culprit, branch.evolve(title=title)


def whatif_request(trace: Trace, model: str, expected: str, position: int) -> Request:
    """What the Critical page asks at a token, with its default settings."""
    params = {"answer": expected, "position": position}
    return Request("critical.whatif", trace, {"model": model}, params)


def _repaired(workspace: Workspace, changed: Trace, model: str, expected: str) -> Trace:
    """The first right continuation; it is one of those that were counted."""
    asked = Request("generate", changed, model, {"n": SAMPLES})
    rollouts = group_from_samples(run(asked, workspace=workspace)[0]).rollouts
    right = [t for t in rollouts if _finished(t) and check(t, expected) is True]
    return right[0].evolve(parent=changed.parent)


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
