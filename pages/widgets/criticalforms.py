"""Controls of the Critical page: what is right, which prefixes are continued, which pair scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from engine import Request, Trace, UserError
from engine.catalogue import siblings
from engine.checkers import checkers, judge
from pages.widgets import state
from pages.widgets.notice import hint

FEW = 5
DOING = {
    "critical.statistics": "Reading the text",
    "critical.scores": "Scoring",
    "critical.value": "Measuring",
    "critical.whatif": "Trying",
    "critical.agreement": "Comparing",
    "critical.paths": "Counting the samples",
}
WHERE = {
    "every": "every token",
    "sentence": "sentence ends",
    "surprisal": "most surprising tokens",
    "entropy": "most uncertain tokens",
    "contrast": "lowest contrast",
    "search": "search by halving",
}
PAIRS = {
    "siblings": "tuned siblings",
    "fitted": "fitted to this prompt",
    "models": "two models",
    "prompts": "two prompts",
    "none": "no pair",
}
STOP = 4
"""Right continuations after which a prefix is left: decides the source's rule at 64."""


@dataclass(frozen=True)
class Asked:
    """What the controls say.

    Attributes:
        answer: the right answer, empty when none was given.
        checker: name of the answer checker.
        sampling: params of ``critical.value`` that differ from its defaults.
        pair: which two distributions are contrasted.
        settings: of the pair.
    """

    answer: str
    checker: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    pair: str = "siblings"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def right(self, trace: Trace) -> bool | None:
        """Whether the trace's own answer is right."""
        if not self.answer:
            return None
        try:
            return judge(self.checker, self.answer)(trace)
        except UserError:
            return None

    @property
    def drawing(self) -> dict[str, Any]:
        """The params all sampling analyses share."""
        shared = (
            "checker",
            "n",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "max_new_tokens",
            "seed",
        )
        given = {name: self.sampling[name] for name in shared if name in self.sampling}
        return {"answer": self.answer, **given}

    def scores(self, trace: Trace, model: str) -> Request | None:
        """The request for the chosen pair's scores; None without a pair.

        Raises:
            UserError: when the pair lacks something, saying what.
        """
        beta = {} if self.settings.get("beta", 1.0) == 1.0 else {"beta": self.settings["beta"]}
        if self.pair == "siblings":
            return Request("critical.contrast", trace, {"model": model}, beta)
        if self.pair == "models":
            roles = {name: self.settings[name].strip() for name in ("positive", "negative")}
            if not all(roles.values()):
                raise UserError("Name both models of the pair: one that is better, one worse.")
            return Request("critical.contrast", trace, {**roles, "model": model}, beta)
        if self.pair == "prompts":
            prompts = {name: self.settings[name] for name in ("better", "worse")}
            return Request("critical.prompted", trace, {"model": model}, {**prompts, **beta})
        if self.pair == "fitted":
            if not self.answer:
                raise UserError("A pair is fitted to right and wrong samples: give the answer.")
            checked = {"answer": self.answer, "checker": self.checker}
            circular = {} if self.settings.get("leave_out", True) else {"leave_out": False}
            params = {**checked, **circular, **beta}
            return Request("critical.fitted", trace, {"model": model}, params)
        return None


def controls(trace: Trace) -> Asked:
    """One row of controls, and the rarer ones behind "More"."""
    name = state.name_of(trace)
    field_key = f"critical-answer-{name}"
    st.session_state.setdefault(field_key, state.expected_answer() or "")
    with st.container(key="controls-critical", horizontal=True, vertical_alignment="bottom"):
        answer = st.text_input(
            "Right answer", key=field_key, width=110, placeholder="none", persist_state="session"
        )
        where = st.selectbox(
            "Continue after",
            list(WHERE),
            key="critical-where",
            format_func=WHERE.__getitem__,
            width=180,
            persist_state="session",
        )
        n = st.number_input(
            "Samples each", 1, 4096, 64, key="critical-n", width=110, persist_state="session"
        )
        stop = st.toggle(
            f"Stop at {STOP} right",
            key="critical-stop",
            persist_state="session",
            help="Far fewer samples, the same critical token; the curve is coarser.",
        )
        pair = st.selectbox(
            "Contrast with",
            [p for p in PAIRS if p != "siblings" or siblings(state.chosen_model())],
            key="critical-pair",
            format_func=PAIRS.__getitem__,
            width=175,
            persist_state="session",
        )
        with st.popover("More"):
            more = _more(where, pair)
    checker = more.pop("checker")
    if checker == "python":
        # What the field above holds may have come with a file; a program is only ever typed.
        answer = st.text_input(
            "Expression over response",
            key="critical-python",
            placeholder='"42" in response and len(response) < 300',
        )
    settings = _pair_settings(pair, answer.strip(), more.pop("beta"), more.pop("leave_out", True))
    chosen = {
        "where": (where, "every"),
        "n": (int(n), 64),
        "stop": (STOP if stop else None, None),
        "checker": (checker, "answer"),
        **more,
    }
    sampling = {key: value for key, (value, usual) in chosen.items() if value != usual}
    return Asked(answer.strip(), checker, sampling, pair, settings)


def _more(where: str, pair: str) -> dict[str, Any]:
    """Settings with their defaults, by param."""

    def ask(label: str, key: str, low: Any, high: Any, start: Any, **rest: Any) -> Any:
        return st.number_input(
            label, low, high, start, key=f"critical-{key}", persist_state="session", **rest
        )

    known = checkers()
    found: dict[str, Any] = {}
    found["checker"] = st.selectbox(
        "Answer checked by",
        list(known),
        key="critical-checker",
        format_func=lambda n: n.replace("_", " "),
        persist_state="session",
    )
    st.caption(known[found["checker"]])
    if where == "every":
        found["every"] = (int(ask("Every k-th token", "every", 1, 4096, 1)), 1)
    elif where == "search":
        found["least"] = (ask("Least change", "least", 0.01, 1.0, 0.2, step=0.05), 0.2)
    elif where != "sentence":
        found["share"] = (ask("Share of tokens", "share", 0.01, 1.0, 0.2, step=0.05), 0.2)
    found["temperature"] = (ask("Temperature", "temperature", 0.0, 5.0, 1.0, step=0.1), 1.0)
    found["top_k"] = (ask("Top-k", "top-k", 1, None, None, placeholder="off"), None)
    found["top_p"] = (
        ask("Top-p", "top-p", 0.01, 1.0, None, step=0.05, placeholder="off"),
        None,
    )
    found["min_p"] = (ask("Min-p", "min-p", 0.0, 1.0, None, step=0.01, placeholder="off"), None)
    found["max_new_tokens"] = (int(ask("Tokens at most", "longest", 1, 32_768, 256)), 256)
    found["seed"] = (int(ask("Seed", "seed", 0, None, 0)), 0)
    second = st.selectbox(
        "Second checker",
        [None, *(c for c in known if c != "python")],
        key="critical-second",
        format_func=lambda n: "none" if n is None else n.replace("_", " "),
        persist_state="session",
        help="Judges the same continuations once more, say for a forbidden word.",
    )
    looked = ""
    if second is not None:
        looked = st.text_input("It looks for", key="critical-looked", persist_state="session")
        if looked.strip():
            found["second_checker"] = (second, None)
            found["second_answer"] = (looked, "")
    found["beta"] = ask("β of the contrast", "beta", 0.0, 20.0, 1.0, step=0.5)
    if pair == "fitted":
        found["leave_out"] = not st.toggle(
            "Fit on this very text too (circular)", key="critical-circular", persist_state="session"
        )
    return found


def _pair_settings(pair: str, answer: str, beta: float, leave_out: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"beta": float(beta)}
    if pair == "fitted":
        found["leave_out"] = leave_out
        if not leave_out:
            hint("Circular: the pair has seen the text that it judges.", key="circular")
    if pair == "models":
        with st.container(key="pair-models", horizontal=True):
            for role, label in (("positive", "Better model"), ("negative", "Worse model")):
                found[role] = st.text_input(
                    label,
                    key=f"critical-{role}",
                    placeholder="name, folder, hub id or base+adapter",
                    persist_state="session",
                )
    if pair == "prompts":
        st.session_state.setdefault(
            "critical-better", "{prompt}" + (f"(The answer is {answer}.)\n" if answer else "")
        )
        with st.container(key="pair-prompts", horizontal=True):
            for name, label in (("better", "Better prompt"), ("worse", "Worse prompt")):
                found[name] = (
                    st.text_area(
                        label,
                        value=None if name == "better" else "{prompt}",
                        key=f"critical-{name}",
                        height=80,
                        persist_state="session",
                        help="{prompt} stands for the text's own prompt.",
                    )
                    or "{prompt}"
                )
    return found


def measure_button(trace: Trace, asked: Asked) -> bool:
    """Offer to measure what is not stored; True when it was pressed."""
    n = asked.sampling.get("n", 64)
    where = asked.sampling.get("where", "every")
    prefixes = len(trace) - trace.response_start + 1
    how = f"up to {prefixes:,} prefixes" if where != "every" else f"{prefixes:,} prefixes"
    with st.container(key="measure", horizontal=True, vertical_alignment="center"):
        pressed = st.button("Measure", key="critical-measure", type="primary")
        st.text(f"{how}, {n:,} continuations each; what is drawn is kept, more adds to it.")
    return bool(pressed)
