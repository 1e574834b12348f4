"""Links that give the same view: written for a visitor to copy, read when one arrives.

``?text=NAME`` names an example, ``?result=KEY`` a stored result (any trace computed here);
``model=NAME`` and ``select=12-15`` go with both. A page's own widgets add theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import streamlit as st

import engine
from engine import Request, Text, Trace, UserError
from engine.plan import make_plan
from pages.widgets import state
from pages.widgets.selection import Selection

_OURS = ("text", "result", "model", "select")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Link:
    """What a link names; all from strangers, so nothing is trusted yet."""

    text: str | None = None
    result: str | None = None
    model: str | None = None
    select: tuple[int, int] | None = None


def parse(params: Mapping[str, str]) -> Link:
    """Read a link's parameters; what is malformed is left out."""
    found = _RANGE.fullmatch(params.get("select", ""))
    select = (int(found[1]), int(found[2] or found[1])) if found else None
    result = params.get("result", "")
    return Link(
        text=params.get("text") or None,
        result=result if re.fullmatch("[0-9a-f]{12,64}", result) else None,
        model=params.get("model") or None,
        select=select,
    )


def arrive() -> None:
    """Once per link: show what it names. Called before the sidebar is drawn."""
    given = {k: st.query_params[k] for k in _OURS if k in st.query_params}
    if given and given != state.recall("link"):
        _follow(parse(given))
    state.remember("link", given)
    state.apply_opening()


def _follow(link: Link) -> None:
    try:
        if link.result is not None:
            state.open_result(link.result, select=link.select)
        elif link.text is not None:
            item = state.gallery_item(link.text)
            if item is None:
                raise UserError(f"The link names an example {link.text[:40]!r} that is not here.")
            state.open_example(item.name, model=link.model, select=link.select)
        elif link.model is not None:
            st.session_state["model"] = link.model
    except UserError as error:
        state.remember("link.error", str(error))


def address(trace: Trace, selection: Selection | None) -> dict[str, str]:
    """Parameters of a link to what is shown; empty when nothing stored stands behind it."""
    model = state.chosen_model()
    item = state.shown_example()
    if item is not None:
        params = {"text": item.name}
        if model != item.model:
            params["model"] = model
    else:
        key = stored_key(trace)
        if key is None:
            return {}
        params = {"result": key[:16]}
    if selection is not None and selection.signature == state.name_of(trace):
        first, last = sorted((selection.first, selection.last))
        params["select"] = f"{first}-{last}" if last > first else f"{first}"
    return params


def stored_key(trace: Trace) -> str | None:
    """Key of a stored result that carries the trace."""
    try:
        plan = make_plan(state.first_request(trace, state.chosen_model()), state.workspace())
    except UserError:
        return None
    return plan.key if state.workspace().store.contains(plan.key) else None


def query(params: Mapping[str, str]) -> str:
    """``?a=b&c=d``, safe for any value."""
    return "?" + urlencode(params) if params else ""


def python(request: Request, trace: Trace, position: int | None = None) -> str:
    """The same computation as Python: what *Copy as Python* puts on the clipboard."""
    lines = ["import engine", ""]
    item = state.shown_example()
    model: Any = request.models
    if isinstance(model, Mapping):
        model = model["model"] if set(model) == {"model"} else dict(model)
    if item is not None and item.trace.digest == trace.digest:
        lines.append(f"item = next(i for i in engine.gallery() if i.name == {item.name!r})")
        subject = "item.trace"
    elif _same_text(trace):
        lines.append(
            f"text = engine.Text(prompt={_text_of(trace, 0)!r}, response={_text_of(trace, 1)!r})"
        )
        subject = "text"
    else:
        key = stored_key(trace)
        lines.append(
            "# The tokens as they are stored on this machine; elsewhere, import the result first."
            if key
            else "# These tokens are not stored: save them as a trace file and read it here."
        )
        lines.append(
            f"_, trace = engine.default_workspace().reopen({key!r})"
            if key
            else 'trace = engine.read_subject("trace.jsonl")'
        )
        subject = "trace"
    params = f", {dict(request.params)!r}" if request.params else ""
    models = f", {model!r}" if model else ", None" if params else ""
    lines.append(
        f"(result,) = engine.run(engine.Request({request.analysis!r}, {subject}{models}{params}))"
    )
    lines.append("frame = result.to_pandas()")
    if position is not None:
        lines.append(f"frame[frame.position == {position}]")
    return "\n".join(lines) + "\n"


def _text_of(trace: Trace, part: int) -> str:
    a, b = ((0, trace.response_start), (trace.response_start, len(trace)))[part]
    added = set(trace.added)
    data = b"".join(trace.pieces[p] for p in range(a, b) if p not in added)
    return data.decode("utf-8")


def _same_text(trace: Trace) -> bool:
    """Whether the text alone gives this very trace again, and so the same key."""
    try:
        text = Text(prompt=_text_of(trace, 0), response=_text_of(trace, 1))
        again: Any = engine.encode(text, state.chosen_model(), state.workspace())
    except (UserError, UnicodeDecodeError):
        return False
    return bool(again.digest == trace.digest)
