"""The Tokens page without a browser: what it opens on, what it answers to bad input."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenkernel
from streamlit.testing.v1 import AppTest

import engine
from engine import kernel
from engine.errors import Cancelled
from pages.widgets import state
from pages.widgets.selection import Selection
from tests.pages.cold import Cold
from tests.pages.navigation import ROOT

HOSTILE = "</script><img src=x onerror=alert(1)>"


def texts(app: AppTest) -> list[str]:
    return [t.value for t in app.text]


def until(app: AppTest, ready: Callable[[AppTest], bool], seconds: float = 60) -> AppTest:
    """Draw the page again, as its progress fragment does, until ``ready``."""
    end = time.monotonic() + seconds
    while not ready(app):
        assert time.monotonic() < end, f"still waiting: {texts(app)}"
        time.sleep(0.3)
        app.run()
    return app


@pytest.fixture
def app(app_home: Path) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    return app.switch_page("pages/tokens.py").run()


@pytest.fixture
def own(app: AppTest) -> AppTest:
    return app.button(key="own").click().run()


def shown(app: AppTest) -> engine.Trace:
    return app.session_state["tokenscope.trace"]


def idle(app: AppTest) -> bool:
    return not any(b.label == "Cancel" for b in app.button)


def test_it_opens_on_a_gallery_result_without_torch(cold: Cold):
    seen = cold["tokens"]
    assert seen["title"] == ["What did the model think of every token?"]
    assert not seen["torch"]
    assert not seen["transformers"]
    assert seen["selection"] > 0
    assert any(t.startswith("Surprisal") for t in seen["text"])


def test_every_statistic_can_be_chosen(app: AppTest):
    for name in ("rank", "entropy", "probability", "margin", "self_certainty"):
        app.session_state["statistic"] = name
        app.run()
        assert not app.exception
        assert "wrong inside" not in " ".join(texts(app))


def test_about_says_which_kernel_computes(app: AppTest, monkeypatch: pytest.MonkeyPatch):
    app.session_state["tokenscope.drawn"] = True
    app.session_state["about"] = True
    app.run()
    assert not app.exception
    said = [m.value for m in app.markdown if m.value.startswith("**How it was computed.**")]
    (here,) = (m.replace("\\", "") for m in said)
    assert tokenkernel.about() in here
    made = engine.default_workspace().lookup(
        state.statistics_request(engine.gallery()[0].trace, "demo")
    )
    assert made is not None
    other = made.provenance["kernel"] != tokenkernel.isa()
    assert ("The result that is shown was computed with" in here) is other


def test_the_kernel_of_a_result_is_said_where_it_is_another():
    here = tokenkernel.about()
    assert kernel.sentence() == kernel.sentence(tokenkernel.isa()) == kernel.sentence(3) == here
    assert kernel.sentence("neon").startswith(f"{here} The result that is shown was computed")
    assert "the kernel for neon" in kernel.sentence("neon")


def test_the_table_comes_once_the_strip_is_painted(app: AppTest):
    assert not app.dataframe
    app.session_state["tokenscope.drawn"] = True
    app.run()
    table = app.dataframe[0].value
    assert len(table) == len(engine.gallery()[0].trace)
    assert table["surprisal"].isna().tolist()[:2] == [True, False]
    labels = [b.label for b in app.get("download_button")]
    assert labels == ["CSV", "Parquet", "Arrow", "JSON", "JSONL", "XLSX"] * 2


def test_a_pasted_response_is_read(own: AppTest):
    own.text_area(key="prompt").set_value("Ann has 3 pens.\n")
    own.text_area(key="response").set_value("She has 3 pens.")
    own.button(key="read").click().run()
    until(own, idle)
    assert shown(own).response_text == "She has 3 pens."
    assert own.session_state["tokenscope.selection"].last < len(shown(own))
    assert not own.exception


def test_generating_lists_the_answers_and_shows_one(own: AppTest):
    own.text_area(key="prompt").set_value("Ann has")
    own.number_input(key="n").set_value(3)
    own.number_input(key="longest").set_value(5)
    own.button(key="generate").click().run()
    until(own, lambda a: "tokenscope.group" in a.session_state and idle(a))
    assert "3 responses" in [h.value for h in own.subheader]
    group = own.session_state["tokenscope.group"]
    assert shown(own).digest == group.rollouts[0].digest
    own.session_state["answer"] = 3
    own.run()
    assert not own.exception


@pytest.mark.parametrize(
    ("prompt", "response", "says"),
    [
        ("", "", "no text"),
        ("word " * 200_000, "", ""),
        ("a 7 b " * 4_000, "", ""),
    ],
    ids=["empty", "1 MB", "over the context"],
)
def test_bad_input_gets_one_sentence_and_loses_nothing(own: AppTest, prompt, response, says):
    before = shown(own)
    own.text_area(key="prompt").set_value(prompt)
    own.text_area(key="response").set_value(response)
    own.button(key="read").click().run()
    error = own.session_state["tokenscope.input.error"]
    assert says in error
    assert "\n" not in error
    assert len(error) < 300
    assert error in texts(own)
    assert shown(own) == before
    assert own.text_area(key="prompt").value == prompt
    assert not own.exception


def test_generate_without_a_prompt_says_so(own: AppTest):
    own.text_area(key="prompt").set_value("")
    own.button(key="generate").click().run()
    assert "prompt" in own.session_state["tokenscope.input.error"]


@pytest.mark.parametrize("text", ["a", "\x00\x01", "\u202e<img src=x onerror=alert(1)>", "💥"])
def test_odd_text_is_read_like_any_other(own: AppTest, text: str):
    own.text_area(key="prompt").set_value(text)
    own.text_area(key="response").set_value("")
    own.button(key="read").click().run()
    until(own, idle)
    assert not own.exception
    assert "wrong inside" not in " ".join(texts(own))


def test_the_selection_carries_over_to_the_same_text_only(app: AppTest):
    trace = engine.gallery()[0].trace
    here = app.session_state["tokenscope.selection"]
    assert here.signature == trace.digest[:24]
    kept = Selection(here.signature, 2, 5, 7, "another page")
    app.session_state["tokenscope.selection"] = kept
    app.run()
    assert app.session_state["tokenscope.selection"] == kept
    app.session_state["tokenscope.selection"] = Selection("x" * 24, 2, 5, 7, "another text")
    app.run()
    assert app.session_state["tokenscope.selection"] == here


def test_a_statistic_of_another_text_is_not_missed(app: AppTest):
    app.session_state["statistic"] = "no_such_signal"
    app.run()
    assert not app.exception
    assert any(t.startswith("Surprisal") for t in texts(app))


def logged_trace(**more: object) -> engine.Trace:
    candidate = engine.subjects.Candidate
    listed = (candidate(piece="4", logprob=-0.2), candidate(piece=HOSTILE, logprob=-2.0))
    given = {
        "ids": (-1, -1, -1),
        "pieces": ("Q", "A: ", HOSTILE),
        "ids_origin": "logged",
        "response_start": 1,
        "turns": ({"start": 0, "end": 3, "role": "text"},),
        "signals": {"logprob": (None, -0.1, -2.0), "reward_share": (None, 0.5, -0.5)},
        "candidates": ((), (), listed),
        **more,
    }
    return engine.Trace.model_validate(given)


def test_a_log_without_a_model_shows_what_the_log_says(app: AppTest):
    app.session_state["tokenscope.trace"] = logged_trace()
    app.session_state["text"] = state.OWN
    app.session_state["tokenscope.drawn"] = True
    until(app, idle)
    app.run()
    assert not app.exception
    assert app.title[0].value == "What does the log say of every token?"
    assert app.session_state["tokenscope.selection"].first == 2
    table = app.dataframe[0].value
    assert table["surprisal"].tolist()[1:] == pytest.approx([0.1, 2.0])
    assert table["entropy_low"].isna().tolist() == [True, False, False]
    assert table["logged_reward_share"].tolist()[1:] == [0.5, -0.5]
    assert "logged_logprob" not in table
    # The upper bound is not known here: there is nothing to colour by.
    (pills,) = [b for b in app.get("button_group") if b.key == "statistic"]
    offered = [option.content for option in pills.proto.options]
    assert "entropy, at least" in offered
    assert "entropy, at most" not in offered


def test_a_log_with_ids_of_nobody_knows_whom_is_not_read_by_a_model(app: AppTest):
    app.session_state["tokenscope.trace"] = logged_trace(ids=(1, 2, 3))
    app.session_state["text"] = state.OWN
    app.run()
    assert app.title[0].value == "What does the log say of every token?"


def test_a_log_without_numbers_still_shows_its_text(app: AppTest):
    app.session_state["tokenscope.trace"] = logged_trace(signals={}, candidates=None)
    app.session_state["text"] = state.OWN
    until(app, idle)
    app.run()
    assert not app.exception
    assert any("no log-probabilities" in t for t in texts(app))
    assert app.get("bidi_component")


class Slow:
    """A job that goes on until it is cancelled."""

    done = False
    cancelled = False
    ahead = None
    progress = engine.Progress(0.4, "Read the logits of 40 of 100 tokens", 12.0)

    def cancel(self) -> None:
        self.cancelled = True


def test_slow_work_says_how_far_it_is_and_can_be_cancelled(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
):
    slow = Slow()
    monkeypatch.setattr(state, "answer", lambda *_, **__: state.Job("key", slow))
    app.run()
    progress = "Reading the text: read the logits of 40 of 100 tokens · about 12 s left"
    assert progress in texts(app)
    app.button(key="cancel-statistics").click().run()
    assert slow.cancelled

    def cancelled(*_: object, **__: object) -> None:
        raise Cancelled

    monkeypatch.setattr(state, "answer", cancelled)
    app.run()
    assert "Cancelled." in texts(app)
    monkeypatch.undo()
    next(b for b in app.button if b.label == "Start again").click().run()
    assert "Cancelled." not in texts(app)
    assert not app.exception


def test_a_model_that_is_not_there_gets_one_sentence(app: AppTest, monkeypatch: pytest.MonkeyPatch):
    # AppTest cannot type a new option into a select box.
    monkeypatch.setattr(state, "chosen_model", lambda: "no-such-model-anywhere")
    app.run()
    assert not app.exception
    said = " ".join(texts(app))
    assert "no-such-model-anywhere" in said
    assert "wrong inside" not in said


def test_a_fault_shows_no_traceback(app: AppTest, monkeypatch: pytest.MonkeyPatch):
    def explode(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(engine, "analyses", explode)
    app.run()
    assert not app.exception
    assert "Something went wrong inside TokenScope" in " ".join(texts(app))
    assert "secret detail" not in " ".join(texts(app) + [c.value for c in app.code])
