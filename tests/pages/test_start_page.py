"""The first minute without a browser: guess, curve, branch, chips, what a visitor brings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenkernel
from streamlit.testing.v1 import AppTest

import engine
from pages.widgets import state
from tests.pages.cold import Cold
from tests.pages.navigation import ROOT, arrive


def texts(app: AppTest) -> str:
    return "\n".join(t.value for t in app.text)


def labels(app: AppTest) -> list[str]:
    return [b.label for b in app.button]


@pytest.fixture
def app(app_home: Path) -> AppTest:
    """The page once its story is painted: what is below comes after it."""
    app = arrive()
    app.session_state["tokenscope.drawn"] = True
    return app.run()


def test_the_question_and_its_answer_need_no_torch(cold: Cold) -> None:
    found = cold["start"]
    item = state.gallery_item("start")
    assert item is not None
    assert item.culprit is not None
    assert found["title"] == ["Which token broke it?"]
    assert not found["torch"]
    assert f"Make it say “{item.culprit.alternative}” instead" in found["buttons"]
    assert any("broke it" in t for t in found["text"])


def test_the_drop_zone_waits_for_the_first_picture(app_home: Path) -> None:
    first = arrive()
    assert not first.exception
    assert "give-up" in {b.key for b in first.button}
    assert not first.text_area
    first.session_state["tokenscope.drawn"] = True
    assert first.run().text_area(key="drop-text").value == ""
    # Where there is no picture there is nothing to wait for.
    other = arrive()
    other.selectbox(key="text").set_value("solved").run()
    assert other.text_area(key="drop-text").value == ""


def test_nothing_is_told_before_the_guess(app: AppTest) -> None:
    assert not app.exception
    assert "broke it:" not in texts(app)
    assert not any(label.startswith("Make it say") for label in labels(app))


def test_giving_up_selects_the_culprit(app: AppTest) -> None:
    app.button(key="give-up").click().run()
    item = state.gallery_item("start")
    assert item is not None
    assert item.culprit is not None
    assert app.session_state["tokenscope.selection"].first == item.culprit.position
    assert "broke it:" in texts(app)


def test_the_chips_lead_on_with_trace_and_selection(app: AppTest) -> None:
    app.button(key="give-up").click().run()
    before = app.session_state["tokenscope.selection"]
    app.button(key="questions-tokens").click().run()
    assert not app.exception
    assert app.title[0].value == engine.analyses()["statistics"].title
    after = app.session_state["tokenscope.selection"]
    assert (after.signature, after.first) == (before.signature, before.first)


def test_only_pages_that_exist_are_offered(app: AppTest) -> None:
    app.button(key="give-up").click().run()
    offered = {label for label in labels(app) if label.endswith("?")}
    pages = {path.stem for path in (ROOT / "pages").glob("*.py")}
    assert ("Why this?" in offered) == ("attribution" in pages)
    assert ("What if it had not?" in offered) == ("branches" in pages)


def test_a_text_that_went_right_has_no_question(app: AppTest) -> None:
    app.selectbox(key="text").set_value("solved").run()
    assert not app.exception
    assert "Nothing is known to have gone wrong" in texts(app)
    next(b for b in app.button if b.label == "Show one that went wrong").click().run()
    assert app.session_state["text"] == "start"
    assert "give-up" in {b.key for b in app.button}


@pytest.mark.parametrize("name", ["wrong-step", "wrong-sum-multidigit"])
def test_other_wrong_stories_can_be_asked_about(app: AppTest, name: str) -> None:
    app.selectbox(key="text").set_value(name).run()
    app.button(key="give-up").click().run()
    assert not app.exception
    assert "broke it:" in texts(app)


def test_the_page_says_how_its_story_was_chosen(app: AppTest) -> None:
    said = "This story was chosen because its chances fall sharply at one token"
    assert said not in texts(app), "that would be telling"
    app.button(key="give-up").click().run()
    assert texts(app).count(said) == 1
    assert any("not how often" in t.value for t in app.text if said in t.value)
    assert any("not how often" in t.value for t in app.sidebar.text)
    app.session_state["about-story"] = True
    app.run()
    assert not app.exception
    item = state.gallery_item("start")
    assert item is not None
    assert item.culprit is not None
    best = item.culprit.best
    assert best is not None
    assert f"{best.correct} of {best.samples} were right" in texts(app)
    assert "never as a rate" in texts(app)
    assert any(tokenkernel.about().split(" (")[0] in m.value for m in app.markdown)


def test_pasted_text_is_recognised_and_opens(app: AppTest) -> None:
    app.text_area(key="drop-text").set_value("Question: 3+4?\n").run()
    assert not app.exception
    app.button(key="drop-encode").click().run()
    assert not app.exception
    assert app.session_state["text"] == state.OWN
    assert app.session_state["tokenscope.trace"].text == "Question: 3+4?\n"


def test_a_log_without_a_model_shows_what_it_has(app: AppTest) -> None:
    tokens = [
        {
            "token": token,
            "logprob": -0.1,
            "bytes": list(token.encode()),
            "top_logprobs": [
                {"token": token, "logprob": -0.1, "bytes": list(token.encode())},
                {"token": "?", "logprob": -3.0, "bytes": [63]},
            ],
        }
        for token in ("The", " answer", " is", " 7")
    ]
    log = {
        "object": "chat.completion",
        "model": "gpt-test",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The answer is 7"},
                "logprobs": {"content": tokens},
                "finish_reason": "stop",
            }
        ],
    }
    app.text_area(key="drop-text").set_value(json.dumps(log)).run()
    assert "log-prob" in texts(app)
    app.button(key="drop-look").click().run()
    assert not app.exception
    assert app.session_state["tokenscope.trace"].text == "The answer is 7"
    assert app.title[0].value == engine.analyses()["statistics.logged"].title


@pytest.mark.parametrize(
    "pasted",
    ['{"messages": [{"role": "user"', '{"choices": 3}', "[" * 5000, '{"messages": []}'],
)
def test_broken_input_gets_a_sentence(app: AppTest, pasted: str) -> None:
    app.text_area(key="drop-text").set_value(pasted).run()
    assert not app.exception
    assert "Something went wrong inside TokenScope" not in texts(app)
