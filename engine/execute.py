"""Running a plan: store first, then the analysis step by step, then the store again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import tokenkernel

from cache import Stored, StoreError
from engine import keys
from engine.context import Context
from engine.errors import Cancelled
from engine.plan import Plan, check_trace, iter_rollouts
from engine.registry import check_tables, find
from engine.result import Result
from engine.schema import NOTES, Progress, Tables
from engine.subjects import Rollouts, Subject, TokenizerRef
from engine.subjectstore import TABLE as SUBJECT
from engine.subjectstore import subject_table
from engine.version import __version__

if TYPE_CHECKING:
    from engine.workspace import Workspace

log = logging.getLogger("tokenscope")


def from_store(plan: Plan, workspace: Workspace) -> Result | None:
    """The stored complete result of a plan, or None."""
    stored = workspace.store.get(plan.key)
    if stored is None or stored.meta.get("status") != "complete":
        return None
    return result_of(stored)


def result_of(stored: Stored) -> Result:
    """A stored result as it is handed out.

    Raises:
        UserError: for one of an analysis that this version does not have.
    """
    tables = dict(stored.tables)
    notes = tables.pop("notes", NOTES.empty_table())
    declared = find(str(stored.meta.get("analysis"))).tables
    return Result(
        key=stored.key,
        analysis=stored.meta["analysis"],
        status="complete" if stored.meta.get("status") == "complete" else "partial",
        origin="cache",
        tables={name: tables[name] for name in declared if name in tables},
        notes=notes,
        provenance=stored.meta["provenance"],
    )


def execute(plan: Plan, workspace: Workspace) -> Generator[Progress, None, Result]:
    """Answer a plan; a job for the runner.

    A cancelled plan that has yielded tables ends as a ``partial`` result; it is kept until the
    complete one takes its place, and handed to the next attempt as ``ctx.resume``.
    """
    found = from_store(plan, workspace)
    if found is not None:
        return found
    # So that a page that looks at once finds the job waiting, not a blocked worker.
    yield Progress(None, "Starting")
    earlier = workspace.store.get(plan.key)
    started = time.perf_counter()
    if plan.lifted:
        steps = _lifted(plan, workspace)
    else:
        resume = dict(earlier.tables) if earlier is not None else None
        steps = _single(plan, workspace, resume)
    state: _State | None = None
    status, reason = "complete", ""
    try:
        for step in steps:
            if isinstance(step, Progress):
                yield step if state is None else replace(step, so_far=_tables_of(state))
            else:
                state = step
    except Cancelled as stop:
        steps.close()
        if state is None:
            raise
        status, reason = "partial", str(stop)
    assert state is not None, f"{plan.analysis.name} yielded no tables"
    tables, notes = state()
    if reason:
        row = {"table": next(iter(tables), None), "reason": reason}
        notes = pa.concat_tables([pa.Table.from_pylist([row], schema=NOTES), notes])
    provenance = _provenance(plan, status, time.perf_counter() - started)
    meta = {
        "analysis": plan.analysis.name,
        "version": plan.analysis.version,
        "subject": plan.subject.digest,
        "status": status,
        "created": provenance["created"],
        "title": plan.subject.title,
        "document": dict(plan.document),
        "provenance": provenance,
    }
    not_stored = None
    kept = {**tables, "notes": notes}
    about = subject_table(plan.subject)
    if about is not None:
        kept[SUBJECT] = about
    try:
        workspace.store.put(plan.key, kept, meta)
    except StoreError as error:  # the numbers are still good
        not_stored = str(error)
        log.warning("result not stored: %s", error)
    return Result(
        key=plan.key,
        analysis=plan.analysis.name,
        status="complete" if status == "complete" else "partial",
        origin="computed",
        tables=dict(tables),
        notes=notes,
        provenance=provenance,
        not_stored=not_stored,
    )


# Tables and notes so far; a callable, so that joining many parts is done once, at the end.
_State = Callable[[], tuple[Mapping[str, pa.Table], pa.Table]]


def _tables_of(state: _State) -> Callable[[], Mapping[str, pa.Table]]:
    return lambda: state()[0]


def _single(
    plan: Plan, workspace: Workspace, resume: Mapping[str, pa.Table] | None
) -> Generator[Progress | _State, None, None]:
    ctx = Context(plan, workspace, resume)
    steps = iter(plan.analysis.run(ctx))
    for step in steps:
        if isinstance(step, Tables):
            state = check_tables(plan.analysis, step), ctx.notes
            yield lambda state=state: state  # type: ignore[misc]
        else:
            yield step


def _lifted(plan: Plan, workspace: Workspace) -> Generator[Progress | _State, None, None]:
    """An analysis of one trace over all rollouts: each is a request of its own, so nothing that
    was computed before is computed again, and what is done stays when the job is cancelled."""
    parts: dict[str, list[pa.Table]] = {name: [] for name in plan.analysis.tables}
    notes: list[pa.Table] = []
    total = plan.subject.count if isinstance(plan.subject, Rollouts) else None
    total = total or len(getattr(plan.subject, "rollouts", ()))
    for index, (prompt_id, trace) in enumerate(iter_rollouts(plan.subject)):
        for model in plan.models.values():
            check_trace(trace, model)
        document = {**plan.document, "subject": trace.digest}
        one = replace(
            plan, subject=trace, document=document, key=keys.digest(document), lifted=False
        )
        result = workspace.run_plan_inline(one)
        for name, table in result.tables.items():
            parts[name].append(_labelled(table, index, prompt_id, plan))
        notes.append(
            result.notes.set_column(
                result.notes.column_names.index("rollout"),
                "rollout",
                pa.array([index] * result.notes.num_rows, pa.int64()),
            )
        )
        yield lambda: (_joined(parts), pa.concat_tables(notes))
        yield Progress((index + 1) / max(total, 1), f"Rollout {index + 1:,} of {total:,}")


def _labelled(table: pa.Table, index: int, prompt_id: str | None, plan: Plan) -> pa.Table:
    n = table.num_rows
    table = table.add_column(0, "rollout", pa.array([index] * n, pa.int64()))
    if isinstance(plan.subject, Rollouts):
        table = table.add_column(0, "group", pa.array([prompt_id] * n, pa.string()))
    return table


def _joined(parts: Mapping[str, list[pa.Table]]) -> dict[str, pa.Table]:
    return {name: pa.concat_tables(tables) for name, tables in parts.items()}


@lru_cache(maxsize=8)
def _version(library: str) -> str:
    return version(library)


def _tokenizer(subject: Subject) -> str | None:
    """Digest of the tokenizer that a subject itself names."""
    ref = subject if isinstance(subject, TokenizerRef) else getattr(subject, "tokenizer", None)
    return ref.tokenizer if isinstance(ref, TokenizerRef) else None


def _provenance(plan: Plan, status: str, seconds: float) -> dict[str, Any]:
    import sys

    loaded = [m for m in ("torch", "transformers", "tokenizers") if m in sys.modules]
    return {
        "key": plan.key,
        "analysis": plan.analysis.name,
        "version": plan.analysis.version,
        "status": status,
        "subject": {
            "kind": plan.subject.kind,
            "digest": plan.subject.digest,
            "title": plan.subject.title,
            "tokenizer": _tokenizer(plan.subject),
        },
        "models": {
            role: {"name": model.located.name, "ref": str(model.ref), **model.identity()}
            for role, model in plan.models.items()
        },
        "params": plan.document["params"],
        "code_version": __version__,
        "kernel": tokenkernel.isa(),
        "libraries": {name: _version(name) for name in loaded},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 6),
    }
