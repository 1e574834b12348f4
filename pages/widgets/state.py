"""What the app remembers for one visitor, and how pages reach the engine."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import streamlit as st

import engine
from engine import GalleryItem, Group, Request, Result, Text, Trace, UserError, Workspace
from engine.jobs import Handle
from engine.limits.rates import Visitor
from engine.plan import make_plan
from pages.widgets.selection import Selection

OWN = "own"
"""The choice "Your own text" in the list of texts."""

_PREFIX = "tokenscope."


def workspace() -> Workspace:
    """The store, models and worker of this process."""
    return engine.default_workspace()


def remember(name: str, value: Any) -> None:
    """Keep a value for this visitor on every page; None forgets it."""
    if value is None:
        st.session_state.pop(_PREFIX + name, None)
    else:
        st.session_state[_PREFIX + name] = value


def own_keys() -> frozenset[str]:
    """Keys of all results this visitor asked for."""
    return frozenset(recall("keys", ()))


def own(keys: Iterable[str]) -> None:
    """Count results as this visitor's own: brought along, not computed here."""
    remember("keys", {*own_keys(), *keys})


def recall(name: str, default: Any = None) -> Any:
    """A value kept by ``remember``."""
    return st.session_state.get(_PREFIX + name, default)


def painted(drawn: bool = False) -> bool:
    """Whether this visitor has seen a picture: all else of a page comes after the first one.

    Args:
        drawn: what the view that is the picture reports.
    """
    if drawn:
        remember("drawn", True)
    return bool(recall("drawn"))


def gallery_item(name: str) -> GalleryItem | None:
    """The example with this name."""
    return next((item for item in engine.gallery() if item.name == name), None)


def shown_example() -> GalleryItem | None:
    """The example that is chosen, None for a text of the visitor's own."""
    return gallery_item(st.session_state.get("text", ""))


def chosen_model() -> str:
    """The model's name as the sidebar has it."""
    return st.session_state.get("model") or "demo"


def name_of(trace: Trace) -> str:
    """What selections and views call a trace: the beginning of its digest."""
    return trace.digest[:24]


def shown_trace() -> Trace | None:
    """The trace the pages show: the chosen example, or the visitor's own.

    An example is cut again when the chosen model has another tokenizer.
    """
    item = shown_example()
    trace: Trace | None = item.trace if item else recall("trace")
    if trace is None:
        items = engine.gallery()
        trace = items[0].trace if items else None
    return None if trace is None else fitting(trace, chosen_model())


def shown_group(trace: Trace) -> Group | None:
    """The responses the shown one belongs to, when there are several."""
    item = shown_example()
    group = item.group if item is not None else recall("group")
    if not isinstance(group, Group) or len(group.rollouts) < 2:
        return None
    return group if any(t.digest == trace.digest for t in group.rollouts) else None


def expected_answer() -> str | None:
    """The right answer to what is shown, when it is known."""
    item = shown_example()
    return item.expected if item is not None else recall("expected")


@dataclass(frozen=True, slots=True)
class _Opening:
    """What to show when the next page is drawn: widgets are set before they are drawn."""

    text: str
    model: str | None
    trace: Trace | None
    expected: str | None
    select: tuple[int, int] | None


def open_example(
    name: str, *, model: str | None = None, select: tuple[int, int] | None = None
) -> None:
    """Show an example of the gallery from the next run on."""
    item = gallery_item(name)
    if item is not None:
        remember("opening", _Opening(name, model or item.model, item.trace, None, select))


def open_trace(
    trace: Trace,
    *,
    model: str | None = None,
    expected: str | None = None,
    select: tuple[int, int] | None = None,
) -> None:
    """Show a trace as the visitor's own text from the next run on.

    Follow it with ``places.go`` or ``st.rerun``.
    """
    remember("opening", _Opening(OWN, model, trace, expected, select))


def open_result(key: str, *, select: tuple[int, int] | None = None) -> Result:
    """Show what a stored result looked at; of a group its first rollout.

    The result itself is remembered: a page can show it without the model that made it.

    Raises:
        UserError: when there is no such result, or it does not say what it looked at.
    """
    result, subject = workspace().reopen(key)
    if subject is None:
        raise UserError("This result does not carry what it looked at: open its file instead.")
    models = result.provenance.get("models") or {}
    ref = next((m.get("ref") for m in models.values()), None)
    if isinstance(subject, Group):
        remember("group", subject)
        remember("group.index", 0)
        subject, expected = subject.rollouts[0], subject.expected
    else:
        expected = None
    remember("given", result.key)
    open_trace(subject, model=ref, expected=expected, select=select)
    return result


def apply_opening() -> None:
    """Set widgets and selection to what is to be shown; before any widget is drawn."""
    opening: _Opening | None = recall("opening")
    if opening is None:
        return
    remember("opening", None)
    st.session_state["text"] = opening.text
    if opening.model:
        st.session_state["model"] = opening.model
    if opening.text == OWN:
        remember("trace", opening.trace)
        remember("expected", opening.expected)
        for name in ("prompt", "response"):
            st.session_state.pop(name, None)
    if opening.select is not None and opening.trace is not None:
        try:
            trace = fitting(opening.trace, chosen_model())
        except UserError:  # the page says it
            return
        first, last = (min(p, len(trace) - 1) for p in opening.select)
        stamp = int(time.time() * 1000)
        remember("selection", Selection(name_of(trace), first, last, stamp, "link"))


def fitting(trace: Trace, model: str) -> Trace:
    """The trace in the tokens of ``model``: itself if they are, else its text cut again.

    Raises:
        UserError: for an unknown model, or a text the model cannot read.
    """
    planned = workspace().plan_model(model)
    if trace.tokenizer in (None, planned.tokenizer.digest):
        return trace
    text = Text(prompt=trace.prompt_text, response=trace.response_text, title=trace.title)
    return engine.encode(text, model, workspace())


def first_request(trace: Trace, model: str) -> Request:
    """What is asked of any trace first: its statistics, or those its log brought along."""
    brought = trace.candidates is not None or "logprob" in trace.signals
    if trace.has_ids and not (trace.tokenizer is None and brought):
        return statistics_request(trace, model)
    return Request("statistics.logged", trace)


def statistics_request(trace: Trace, model: str) -> Request:
    """The request every view of a trace starts from."""
    return Request("statistics", trace, {"model": model}, {"top_k": 20})


@dataclass(slots=True)
class Job:
    """The computation a visitor waits for in one place of a page.

    Attributes:
        key: the computation.
        handle: the engine's job.
        outcome: its result, or what it ended with; kept so that a page drawn again neither
            starts a cancelled or failed job anew nor loses a partial result.
    """

    key: str
    handle: Handle[Result]
    outcome: Result | BaseException | None = None


def answer(slot: str, request: Request, *, start: bool = True) -> Result | Job | None:
    """The result if it is stored or done, else the running job; one job per slot and visitor.

    A job left for another request is given up.

    Args:
        slot: the place in the page that waits.
        request: what is wanted.
        start: False to look only at what is stored or already running.

    Raises:
        UserError: when the request cannot be met.
        Cancelled: when the visitor cancelled it and nothing was finished.
    """
    plan = make_plan(request, workspace())
    own((plan.key,))
    job: Job | None = recall(f"job.{slot}")
    if job is not None and job.key != plan.key:
        give_up(slot)
        job = None
    if job is None:
        found = workspace().lookup(request)
        if found is not None or not start:
            return found
        job = Job(plan.key, workspace().submit_plan(plan, visitor()))
        remember(f"job.{slot}", job)
    # Small jobs end within the blink of an eye: no need for a progress bar to flash up.
    if job.outcome is None and job.handle.wait(0.25):
        try:
            job.outcome = job.handle.result()
        except Exception as error:
            job.outcome = error
    if isinstance(job.outcome, BaseException):
        raise job.outcome
    return job.outcome or job


def visitor() -> Visitor:
    """Who asks: this session, and the address it comes from."""
    name = recall("visitor")
    if name is None:
        name = uuid.uuid4().hex
        remember("visitor", name)
    return Visitor(name, st.context.ip_address)


def give_up(slot: str) -> None:
    """Stop waiting for a slot's job and forget how it ended."""
    job: Job | None = recall(f"job.{slot}")
    if job is not None:
        job.handle.leave()
    remember(f"job.{slot}", None)


def ask_for_answers(prompt: str, params: dict[str, Any]) -> None:
    """Start generating; ``waiting_answers`` tells how it goes.

    Raises:
        UserError: for a prompt the model cannot continue, or a parameter out of range.
    """
    if not prompt:
        raise UserError("There is no prompt yet: type one, then press Generate.")
    trace = engine.encode(Text(prompt=prompt), chosen_model(), workspace())
    request = Request("generate", trace, {"model": chosen_model()}, params)
    make_plan(request, workspace())
    give_up("generate")
    remember("generate", request)


def waiting_answers() -> Job | None:
    """The generation still running; a finished one becomes the visitor's group of answers.

    Raises:
        UserError: when generating was not possible.
        Cancelled: when it was cancelled before the first answer.
    """
    request: Request | None = recall("generate")
    if request is None:
        return None
    try:
        found = answer("generate", request)
    except BaseException:
        remember("generate", None)
        give_up("generate")
        raise
    if isinstance(found, Job) or found is None:
        return found
    remember("generate", None)
    give_up("generate")
    group = engine.group_from_samples(found)
    remember("given", None)
    remember("group", group)
    remember("group.table", found.table("samples"))
    remember("group.partial", found.status == "partial")
    show_rollout(0)
    return None


def warm(model: str) -> None:
    """Begin to load a model in the background, so that what a visitor asks next is quick."""
    if recall("warm") != model:
        remember("warm", model)
        workspace().warm(model)


def request_branch(position: int, token_id: int | None = None) -> None:
    """Ask the Branches page to change this token, to the given id if there is one."""
    remember("branch.request", (position, token_id))


def show_rollout(index: int) -> None:
    """Show one of the answers in the strip."""
    group: Group | None = recall("group")
    if group is not None:
        remember("trace", group.rollouts[index])
        remember("group.index", index)


def show_text(prompt: str, response: str) -> None:
    """Show a text of the visitor's own.

    Raises:
        UserError: for a text the model cannot read, saying what to change.
    """
    if not prompt and not response:
        raise UserError("There is no text yet: type a prompt, or paste a text with its response.")
    trace = engine.encode(Text(prompt=prompt, response=response), chosen_model(), workspace())
    make_plan(statistics_request(trace, chosen_model()), workspace())
    remember("group", None)
    remember("trace", trace)
