"""``run``: the one function pages, command line, notebooks and scripts call."""

from __future__ import annotations

import threading
from collections.abc import Callable

from engine.errors import Cancelled
from engine.jobs import Handle
from engine.plan import make_plan
from engine.result import Request, Result
from engine.schema import Progress
from engine.workspace import Workspace, default_workspace

OnProgress = Callable[[int, Progress], None]


def run(
    *requests: Request,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    workspace: Workspace | None = None,
) -> list[Result]:
    """Answer requests, from the store where possible.

    All requests are checked before the first is computed. They share forward passes: a model
    reads a sequence once, however many of them ask about it.

    Args:
        requests: what is wanted.
        on_progress: called in this thread with the request's number and its progress.
        cancel: when set, unfinished requests are cancelled at their next step.
        workspace: default: this process's own.

    Returns:
        One result per request, in order; ``status`` is ``partial`` for one that was cancelled
        after its first tables.

    Raises:
        UserError: for the first request that cannot be answered, with the reason.
        Cancelled: when cancelled before a request had any tables.
    """
    workspace = workspace or default_workspace()
    plans = [make_plan(request, workspace) for request in requests]
    if workspace.runner.inside:
        return [workspace.run_plan_inline(plan) for plan in plans]
    if cancel is not None and cancel.is_set():
        # Nothing is begun: a small request would be done before anybody could stop it.
        stored = [workspace.stored(plan) for plan in plans]
        if any(result is None for result in stored):
            raise Cancelled
        return [result for result in stored if result is not None]
    handles = [workspace.submit_plan(plan) for plan in plans]
    told: dict[int, Progress] = {}
    try:
        for handle in handles:
            while not handle.done:
                if cancel is not None and cancel.is_set():
                    for each in handles:
                        each.leave()
                if on_progress:
                    _tell(handles, told, on_progress)
                # Without anyone to tell, nothing needs looking after while the job runs.
                handle.wait(0.05 if on_progress or cancel else None)
        return [handle.result() for handle in handles]
    except BaseException:
        for handle in handles:
            handle.leave()
        raise


def _tell(
    handles: list[Handle[Result]], told: dict[int, Progress], on_progress: OnProgress
) -> None:
    for number, handle in enumerate(handles):
        progress = handle.progress
        if progress is not None and told.get(number) is not progress:
            told[number] = progress
            on_progress(number, progress)


__all__ = ["Cancelled", "OnProgress", "run"]
