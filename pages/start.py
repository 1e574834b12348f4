"""Which token broke it?"""

from __future__ import annotations

from typing import Any

import streamlit as st

import engine
from engine import GalleryItem, Request, Result, Trace
from engine.critical.value import value_request
from engine.render.details import details
from engine.render.signals import Signal
from engine.render.strip import payload, pieces, plain_payload
from engine.render.text import escape_markdown, number, one_line
from engine.render.views import Mark, curve_data
from pages.widgets import drop, places, state
from pages.widgets.about import kernel_line
from pages.widgets.downloads import downloads
from pages.widgets.notice import guarded, hint, problem
from pages.widgets.selection import Selection, next_selection
from pages.widgets.share import share
from pages.widgets.stream import stream
from pages.widgets.strip import bus, token_details, token_strip
from pages.widgets.views import curve

CHANNEL = "start"
FEW = 5
STORY = "start"
"""The example the page opens on."""
CHOSEN = (
    "This story was chosen because its chances fall sharply at one token and another token there "
    "mends it: it shows what can happen, not how often."
)


@guarded
def page() -> None:
    """The whole page, top to bottom."""
    error = state.recall("link.error")
    if error:
        problem(error, key="link")
    item = _story()
    found = None if item is None else _stored(item)
    with st.container(key="head"):
        st.title("Which token broke it?", anchor=False)
        if item is None or found is None:
            st.text("Nothing is known to have gone wrong in this text.")
        else:
            with st.container(key="lede"):
                st.text(
                    "The model solved this story one token at a time and got it wrong. Click the "
                    "token you suspect; a curve then shows how likely a right answer still was "
                    "after each one."
                )
    if item is not None and found is not None:
        _picture(item, *found)
        return
    with st.container(key="hint-start", horizontal=True, vertical_alignment="center"):
        st.text("The other pages show it; here only stories that went wrong can be guessed at.")
        if state.gallery_item(STORY) and st.button("Show one that went wrong"):
            state.open_example(STORY)
            st.rerun()
    _bring()


def _bring() -> None:
    st.divider()
    drop.drop_zone()


def _story() -> GalleryItem | None:
    """The chosen example if it has a culprit, or the page's own on the first visit."""
    item = state.shown_example()
    return item if item is not None and item.culprit is not None else None


def _stored(item: GalleryItem) -> tuple[Trace, Result, Result, Request] | None:
    """Statistics and value curve of the story, if both are stored for the chosen model."""
    trace, model = item.trace, state.chosen_model()
    planned = state.workspace().plan_model(model)
    if trace.tokenizer != planned.tokenizer.digest or item.expected is None:
        return None
    request = value_request(trace, model, item.expected)
    statistics = state.workspace().lookup(state.statistics_request(trace, model))
    values = state.workspace().lookup(request)
    if statistics is None or values is None:
        return None
    return trace, statistics, values, request


@st.cache_resource(max_entries=8, show_spinner=False)
def _payload(key: str, text: str, _result: Result) -> dict[str, Any]:
    columns = engine.analyses()["statistics"].tables["tokens"].columns
    return payload(dict(_result.tables), channel=CHANNEL, columns=columns, text=text, tools=False)


@st.fragment
@guarded
def _picture(
    item: GalleryItem, trace: Trace, statistics: Result, values: Result, request: Request
) -> None:
    """The story and what is below it; a click draws only these again."""
    _linked(item, trace, statistics, values, request)
    # Its fields take the browser a quarter of what the first picture costs: they come after it.
    if state.painted():
        _bring()


def _linked(
    item: GalleryItem, trace: Trace, statistics: Result, values: Result, request: Request
) -> None:
    """Strip, curve and panel."""
    assert item.culprit is not None
    name, culprit = state.name_of(trace), item.culprit
    guesses: dict[str, int] = state.recall("guesses", {})
    left, right = st.columns([2.35, 1], gap="medium")
    with left:
        if name in guesses:
            data = _payload(statistics.key, name, statistics)
            event, drawn = token_strip(data, key="strip-answered")
        else:
            data = plain_payload(trace.pieces, trace.segments, special=trace.special, text=name)
            event, drawn = token_strip(data, key="strip-asked")
            # The first click is the guess; a selection brought from another page is none.
            if event and event.get("signature") == name:
                guess = max(int(event["first"]), int(event["last"]))
                if trace.response_start <= guess < len(trace):
                    state.remember("guesses", {**guesses, name: guess})
                    here = Selection(name, culprit.position, culprit.position, event["stamp"] + 1)
                    state.remember("selection", here)
                    st.rerun()
                hint("That is the question; the mistake is in the answer below it.", key="guess")
    state.painted(drawn)
    if name not in guesses:
        with right, st.container(key="details-box"):
            st.subheader("Your guess", anchor=False)
            st.text("One token decided it. Everything before could still have ended well.")
            if st.button("I give up: show me", key="give-up"):
                here = Selection(name, culprit.position, culprit.position, 1)
                state.remember("guesses", {**guesses, name: -1})
                state.remember("selection", here)
                st.rerun()
        return
    guess = guesses[name]
    table = values.table("tokens")
    with left:
        said, other = _word(culprit.token), _word(culprit.alternative or "")
        curve_event = curve(_curve(item, trace, values, table, said, other), key="curve")
        st.text(_verdict(guess, culprit.position, table["value"].to_pylist(), said, other))
        with st.container(key="hint-chosen"):
            st.text(CHOSEN)
        if state.recall("streamed") == name:
            _branch(item, trace, other)
        with st.container(key="actions"):
            share(request, trace)
            downloads(values, "tokens", "Values", key="values")
            downloads(statistics, "tokens", "Tokens", key="tokens")
        _about_story(item, values)
    selection = next_selection(
        state.recall("selection"),
        name,
        len(trace),
        culprit.position,
        {"strip": event, "curve": curve_event},
    )
    state.remember("selection", selection)
    shown = details(
        statistics.tables,
        selection.first,
        selection.last,
        [Signal(**s) for s in data["signals"]],
        reasons=statistics.notes,
    )
    # Here a few lines say enough; the Tokens page has the rest.
    best = [a for a in shown["alternatives"] if a["rank"] <= FEW or a["said"]]
    shown = {**shown, "alternatives": best[: FEW + 1], "more": []}
    with right, st.container(key="details-box"):
        token_details(shown, key="details")
        label = f"Make it say “{escape_markdown(other)}” instead"
        if item.branch is not None and st.button(label, key="make", type="primary"):
            state.remember("streamed", name)
            state.warm(state.chosen_model())
            st.rerun()
        places.questions("start")
    marks = [{"position": culprit.position, "kind": "culprit", "text": _fall(culprit)}]
    if guess not in (-1, culprit.position):
        marks.append({"position": guess, "kind": "guess", "text": "your guess"})
    bus(
        CHANNEL,
        {"signal": "surprisal", "prompt": False, "marks": marks, **selection.message()},
        key="bus",
    )


def _about_story(item: GalleryItem, values: Result) -> None:
    """How the story came to be here, and what its figures therefore do not say."""
    box = st.expander("About this story", key="about-story", on_change="rerun")
    if not box.open:
        return
    best = None if item.culprit is None else item.culprit.best
    with box:
        if best is not None:
            st.text(
                f"The chance of a right answer is the share of right ones among continuations "
                f"drawn after each token; with “{_word(best.token)}” there, {best.correct} of "
                f"{best.samples} were right."
            )
        st.text(
            "Many stories were tried. One was kept only if its chances fall by at least 0.5 at one "
            "token, and another of the model's likely tokens there mends it at least 6 times in "
            "10; the story this page opens on falls from at least 0.7 to at most 0.05 and is "
            "mended at least 8 times in 10. The token that mends it is the best of up to three "
            "tried, judged by the very continuations that are counted here, and the intervals do "
            "not correct for this choice: read the figures as an example, never as a rate."
        )
        st.markdown(f"**How it was computed.** {kernel_line(values)}")


def _word(token: str) -> str:
    """A token as it is quoted in a sentence."""
    return one_line(token.strip() or token)


def _fall(culprit: Any) -> str:
    return f"{culprit.before:.2f} → {culprit.after:.2f}"


def _curve(
    item: GalleryItem, trace: Trace, values: Result, table: Any, said: str, other: str
) -> dict[str, Any]:
    assert item.culprit is not None
    at = item.culprit.position
    low, high, samples = (table[c].to_pylist() for c in ("low", "high", "samples"))
    interval = ""
    if None not in (low[at - 1], high[at - 1], low[at], high[at]):
        interval = (
            f"{samples[at - 1] or samples[at]} continuations per prefix, 95 % interval "
            f"{low[at - 1]:.2f}–{high[at - 1]:.2f} → {low[at]:.2f}–{high[at]:.2f}"
        )
    mark = Mark(at, f"“{said}” instead of “{other}”: {_fall(item.culprit)}", interval, before=True)
    start = trace.response_start
    signal = Signal("value", "chance of a right answer", "", "", "sequential", 0.0, 1.0, ("0", "1"))
    return curve_data(
        table["value"].to_pylist()[start:],
        pieces=_marked(values, trace)[start:],
        signal=signal,
        start=start,
        offset=start,
        text=state.name_of(trace),
        channel=CHANNEL,
        title="Chance of a right answer after each token",
        marks=[mark],
        reveal=True,
    )


def _marked(values: Result, trace: Trace) -> list[str]:
    return pieces(dict(values.tables))


def _verdict(guess: int, culprit: int, values: list[float | None], said: str, other: str) -> str:
    why = f"“{said}” broke it: with “{other}” there it could still have ended well."
    if guess == culprit:
        return f"You found it. {why}"
    if guess == -1 or values[guess] is None:
        return why
    chance = number(100 * (values[guess] or 0.0))
    if guess < culprit:
        return f"Not yet: after your guess {chance} % of the answers were still right. {why}"
    return f"Too late: by your guess it was already lost. {why}"


def _branch(item: GalleryItem, trace: Trace, other: str) -> None:
    """The stored branch, as if it were being said; the live model loads meanwhile."""
    assert item.branch is not None
    assert item.culprit is not None
    finished = stream(
        trace,
        item.branch,
        change=item.culprit.position,
        titles=("What it said", f"Made to say “{other}”"),
        verdicts=(_answer(trace, item, False), _answer(item.branch, item, True)),
        key="stream",
    )
    if finished and places.exists("branches") and st.button("Now try it yourself", key="live"):
        state.request_branch(item.culprit.position, item.culprit.alternative_id)
        places.go("branches")


def _answer(trace: Trace, item: GalleryItem, right: bool) -> str:
    span = trace.spans.get("answer")
    said = (
        ""
        if span is None
        else one_line(
            b"".join(trace.pieces[span.start : span.end]).decode("utf-8", "replace").strip()
        )
    )
    return f"Answer {said}: right" if right else f"Answer {said}: wrong, {item.expected} is right"


page()
