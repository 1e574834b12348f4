"""What is asked on the Attribution page: target, value, method, sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

import engine
from engine import Request, Trace
from engine.registry import Analysis
from pages.widgets import address, state
from pages.widgets.paramform import param_form

WHOLE = 128
"""Tokens of a response up to which all of it is explained at once."""

EAGER = 2e11
"""Parameters × tokens² of what is computed unasked: some five seconds on two cores."""

FIRST = "occlusion"
SHARED = (
    "targets", "explain", "contrast", "together", "granularity", "spans", "special", "memory",
)  # fmt: skip
EXPLAINED = {
    "logprob": ("log-probability", "nats"),
    "logit": ("logit", ""),
    "probability": ("probability", ""),
    "entropy": ("entropy", "nats"),
    "kl": ("divergence from another model", "nats"),
}
ADDITIVE = (
    "occlusion", "input_x_gradient", "integrated_gradients", "gradient_shap", "grains",
    "kernel_shap", "lime", "shapley_sampling",
)  # fmt: skip
"""Methods whose scores are parts of the explained value, in its unit."""

SOURCES = {"token": "tokens", "word": "words", "sentence": "sentences", "spans": "own spans"}
PARTS = {"response": "the whole response", "answer": "the answer", "selected": "what I select"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a visitor wants to know.

    Attributes:
        method: name without the family.
        part: which tokens are explained: one of ``PARTS``.
        shared: settings that every method has.
        own: settings of this method that differ from their defaults.
        other: the second model, for ``kl``.
    """

    method: str
    part: str
    shared: Mapping[str, Any]
    own: Mapping[str, Any]
    other: str | None = None

    @property
    def unit(self) -> str:
        """Of the scores, where they are parts of the explained value."""
        if self.method not in ADDITIVE:
            return ""
        return EXPLAINED[self.shared.get("explain", "logprob")][1]

    @property
    def contrast(self) -> str | None:
        """What the target is compared with."""
        return self.shared.get("contrast")

    def targets(self, trace: Trace, span: tuple[int, int]) -> str:
        """The target tokens as the analyses read them."""
        if self.part == "selected":
            first = max(span[0], 1)
            return f"{first}:{max(span[1], first) + 1}"
        if self.part == "answer":
            return "answer" if "answer" in trace.spans else "auto"
        return "response" if trace.response_start < len(trace) else f"1:{len(trace)}"

    def request(
        self, trace: Trace, span: tuple[int, int], method: str | None = None, **more: Any
    ) -> Request:
        """Scores of the targets by the chosen method, or by another at its defaults."""
        own = self.own if method in (None, self.method) else {}
        params = {"targets": self.targets(trace, span), **self.shared, **own, **more}
        models = {"model": state.chosen_model()}
        if self.other:
            models["other"] = self.other
        return Request(f"attribution.{method or self.method}", trace, models, params)


def eager(trace: Trace) -> bool:
    """Whether a text is explained unasked: one reading for each of its tokens is soon done."""
    located = state.workspace().plan_model(state.chosen_model()).located
    return located.parameters * len(trace) ** 2 <= EAGER


def methods(*, contrast: bool = False) -> dict[str, Analysis]:
    """The methods that give scores of a target, by short name, the first one first.

    Args:
        contrast: also those that explain a target against another only.
    """
    found = {
        name.removeprefix("attribution."): analysis
        for name, analysis in engine.analyses().items()
        if name.startswith("attribution.")
        and "attribution" in analysis.tables
        and "targets" in analysis.params.model_fields
        and (contrast or name != "attribution.grains")
    }
    return {FIRST: found[FIRST], **{n: found[n] for n in sorted(found) if n != FIRST}}


def controls(trace: Trace) -> Asked:
    """One row: what is explained, by which method; the rest is folded away."""
    known = methods(contrast=bool(st.session_state.get("attribution-contrast")))
    parts = [p for p in PARTS if p != "answer" or "answer" in trace.spans]
    long = len(trace) - trace.response_start > WHOLE
    first_part = "response" if not long else "answer" if "answer" in parts else "selected"
    with st.container(key="controls-attribution", horizontal=True, vertical_alignment="bottom"):
        method = _choice(
            "Method", {n: n.replace("_", " ") for n in known}, FIRST, "attribution-method", "method"
        )
        part = _choice(
            "Explain", {p: PARTS[p] for p in parts}, first_part, "attribution-part", "part"
        )
        contrast = st.text_input(
            "rather than",
            key="attribution-contrast",
            width=170,
            placeholder="nothing else",
            persist_state="session",
            help=(
                "Why this and not that: a token or a continuation, as it is written, with its "
                "space in front. It is compared with the answer, or with what you select."
            ),
        )
        with st.popover("Settings"):
            shared, other = _shared(contrast)
            own = param_form(known[method], key=f"attribution-{method}", without=SHARED, columns=2)
    if contrast and part == "response":
        part = "answer" if "answer" in parts else "selected"
    return Asked(method, part, shared, own, other)


def _shared(contrast: str) -> tuple[dict[str, Any], str | None]:
    found: dict[str, Any] = {"contrast": contrast} if contrast else {}
    names = {n: title for n, (title, _) in EXPLAINED.items()}
    left, right = st.columns(2)
    with left:
        explain = _choice("Value", names, "logprob", "attribution-explain", "value", None)
    with right:
        sources = _choice("Sources", SOURCES, "token", "attribution-sources", "sources", None)
    if explain != "logprob":
        found["explain"] = explain
    if sources != "token":
        found["granularity"] = sources
    if sources == "spans":
        found["spans"] = st.text_input(
            "Own spans",
            "",
            key="attribution-spans",
            placeholder="3:7, 9:12",
            help="Token positions; the end is not included.",
            persist_state="session",
        )
    if st.toggle(
        "Special tokens too",
        key="attribution-special",
        help="Otherwise they always stay and have no score.",
        persist_state="session",
    ):
        found["special"] = True
    other = None
    if explain == "kl":
        other = st.selectbox(
            "The other model",
            [m.name for m in engine.available_models(state.workspace().profile) if m.available],
            key="attribution-other",
            persist_state="session",
        )
    return found, other


def _choice(
    label: str,
    names: Mapping[str, str],
    first: str,
    key: str,
    param: str,
    width: int | None = 220,
) -> str:
    """A choice that stands in the address by its stable name."""
    address.take(key, names, first, param=param)
    chosen = st.selectbox(
        label,
        list(names),
        key=key,
        format_func=names.__getitem__,
        persist_state="session",
        **({} if width is None else {"width": width}),
    )
    address.put(key, chosen or first, first, param=param)
    return chosen or first
