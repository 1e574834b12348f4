"""A form for an analysis's settings, made from their declaration."""

from __future__ import annotations

import types
from collections.abc import Collection
from typing import Any, Literal, get_args, get_origin

import annotated_types
import streamlit as st
from pydantic.fields import FieldInfo

from engine.registry import Analysis

NONE = "not chosen"


def param_form(
    analysis: Analysis, *, key: str, without: Collection[str] = (), columns: int = 4
) -> dict[str, Any]:
    """Draw a widget for each setting; returns those that differ from their default.

    Args:
        analysis: whose settings.
        key: of the place in the page.
        without: settings that are asked for elsewhere.
        columns: widgets in a row.
    """
    known = analysis.params.model_fields.items()
    fields = {n: f for n, f in known if n not in without and _drawable(_kind(f.annotation)[0])}
    found: dict[str, Any] = {}
    places = st.columns(columns)
    for number, (name, field) in enumerate(fields.items()):
        with places[number % columns]:
            value = _widget(name, field, f"{key}-{name}")
        if value != field.get_default():
            found[name] = value
    return found


def _drawable(kind: Any) -> bool:
    """Whether there is a widget for a type; lists and pairs are asked for elsewhere."""
    return get_origin(kind) is Literal or kind in (bool, int, float, str)


def _widget(name: str, field: FieldInfo, key: str) -> Any:
    kind, optional = _kind(field.annotation)
    label, text = field.title or name, field.description
    default = None if field.is_required() else field.get_default()
    if get_origin(kind) is Literal:
        choices = [*([None] if optional else []), *get_args(kind)]
        return st.selectbox(
            label,
            choices,
            index=choices.index(default) if default in choices else 0,
            format_func=lambda c: NONE if c is None else str(c).replace("_", " "),
            key=key,
            help=text,
            persist_state="session",
        )
    if kind is bool:
        return st.toggle(label, bool(default), key=key, help=text, persist_state="session")
    if kind in (int, float):
        low, high = _bounds(field, kind)
        return st.number_input(
            label,
            low,
            high,
            default if default is None else kind(default),
            key=key,
            help=text,
            placeholder=NONE if optional else None,
            persist_state="session",
            **({} if kind is int else {"format": "%.4g", "step": _step(default)}),
        )
    given = st.text_input(label, default or "", key=key, help=text, persist_state="session")
    return given or (None if optional else given)


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of a setting, and whether it may stay empty."""
    if isinstance(annotation, types.UnionType) or str(get_origin(annotation)) == "typing.Union":
        kinds = [k for k in get_args(annotation) if k is not type(None)]
        return kinds[0], len(kinds) < len(get_args(annotation))
    return annotation, False


def _bounds(field: FieldInfo, kind: type) -> tuple[Any, Any]:
    """Smallest and largest value; what the browser cannot count to is left open."""
    low = high = None
    shift = 1 if kind is int else 0
    for rule in field.metadata:
        if isinstance(rule, annotated_types.Ge):
            low = kind(rule.ge)
        elif isinstance(rule, annotated_types.Gt):
            low = kind(rule.gt) + shift
        elif isinstance(rule, annotated_types.Le):
            high = kind(rule.le)
        elif isinstance(rule, annotated_types.Lt):
            high = kind(rule.lt) - shift
    most = (1 << 53) - 1
    return (
        None if low is None or abs(low) > most else low,
        None if high is None or abs(high) > most else high,
    )


def _step(default: Any) -> float:
    return 0.05 if default is None or abs(default) >= 0.05 else max(abs(default), 1e-6)
