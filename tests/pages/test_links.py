"""Links and Python snippets: the same view again, and nothing believed that strangers write."""

from __future__ import annotations

from pathlib import Path

import pytest

import engine
from engine import Request, Text, run
from pages.widgets import links, state
from pages.widgets.links import Link, parse, query
from tests.pages.navigation import arrive, turn_to


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({}, Link()),
        ({"text": "start", "model": "demo"}, Link(text="start", model="demo")),
        ({"select": "12-15"}, Link(select=(12, 15))),
        ({"select": "7"}, Link(select=(7, 7))),
        ({"select": "-3"}, Link()),
        ({"select": "1-2-3"}, Link()),
        ({"select": "٣"}, Link(select=(3, 3))),
        ({"select": "9" * 30}, Link()),
        ({"result": "ab" * 32}, Link(result="ab" * 32)),
        ({"result": "../../etc/passwd"}, Link()),
        ({"result": "abc"}, Link()),
    ],
)
def test_what_a_link_names(params: dict[str, str], wanted: Link) -> None:
    assert parse(params) == wanted


def test_any_value_fits_into_an_address() -> None:
    assert query({}) == ""
    assert query({"text": "a&b=c#d é"}) == "?text=a%26b%3Dc%23d+%C3%A9"


def test_an_example_with_a_selection(app_home: Path) -> None:
    app = arrive(text="wrong-sum", select="70-72")
    assert not app.exception
    assert app.session_state["text"] == "wrong-sum"
    selection = app.session_state["tokenscope.selection"]
    item = state.gallery_item("wrong-sum")
    assert item is not None
    assert (selection.first, selection.last) == (70, 72)
    assert selection.signature == state.name_of(item.trace)


def test_an_example_of_the_other_model_brings_its_model(app_home: Path) -> None:
    app = arrive(text="solved-multidigit")
    assert app.session_state["model"] == "demo-multidigit"


def test_a_selection_beyond_the_end_is_brought_back(app_home: Path) -> None:
    app = arrive(text="wrong-sum", select="999999-999999")
    item = state.gallery_item("wrong-sum")
    assert item is not None
    assert app.session_state["tokenscope.selection"].last == len(item.trace) - 1


def test_a_value_is_named_by_its_column(app_home: Path) -> None:
    """What is shown may be worded better one day; links, old ones too, open all the same."""
    label = engine.analyses()["statistics"].tables["tokens"].columns["max_prob"].label
    assert label not in ("", "max_prob"), "a value whose label differs from its name"
    for given, shown in (
        ({"signal": "max_prob"}, "max_prob"),
        ({"statistic": label}, "max_prob"),
        ({"signal": "<img src=x>"}, "surprisal"),
    ):
        app = turn_to(arrive(**given), "tokens")
        assert not app.exception
        assert app.session_state["statistic"] == shown
        assert ("max_prob" in app.query_params.get("signal", "")) is (shown == "max_prob")
        assert "statistic" not in app.query_params


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"text": "<img src=x>"}, "names an example"),
        ({"result": "0" * 16}, "no result 0000"),
    ],
)
def test_a_link_that_leads_nowhere_says_so(
    app_home: Path, params: dict[str, str], reason: str
) -> None:
    app = arrive(**params)
    assert not app.exception
    assert any(reason in t.value for t in app.text)


def test_an_own_text_by_its_result(app_home: Path) -> None:
    workspace = engine.default_workspace()
    trace = engine.encode(Text(prompt="7+8=", response="15", title="sum"), "demo", workspace)
    (result,) = run(state.statistics_request(trace, "demo"), workspace=workspace)
    app = arrive(result=result.key[:16], select="2")
    assert app.session_state["text"] == state.OWN
    assert app.session_state["tokenscope.trace"] == trace
    assert app.session_state["tokenscope.selection"].first == 2


def run_python(code: str) -> engine.Result:
    found: dict[str, object] = {}
    exec(compile(code, "copied", "exec"), found)
    result = found["result"]
    assert isinstance(result, engine.Result)
    return result


@pytest.fixture
def session(app_home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What widgets and ``remember`` keep, without a browser."""
    kept: dict[str, object] = {}
    monkeypatch.setattr(state.st, "session_state", kept)
    return kept


def test_python_of_an_example_gives_the_same_result(session: dict[str, object]) -> None:
    session["text"] = "wrong-sum"
    item = state.gallery_item("wrong-sum")
    assert item is not None
    request = state.statistics_request(item.trace, "demo")
    again = run_python(links.python(request, item.trace, 70))
    assert again.origin == "cache"
    assert again.key == run(request)[0].key


@pytest.mark.parametrize(
    "text",
    [
        Text(prompt="7+8=", response="15"),
        Text(prompt='"""\\ \n{x}\u202e', response="'''${y}`"),
    ],
)
def test_python_of_an_own_text_gives_the_same_result(
    session: dict[str, object], text: Text
) -> None:
    session["text"] = state.OWN
    trace = engine.encode(text, "demo", engine.default_workspace())
    request = state.statistics_request(trace, "demo")
    (result,) = run(request)
    again = run_python(links.python(request, trace))
    assert again.key == result.key


def test_python_of_tokens_that_no_text_gives(session: dict[str, object]) -> None:
    """Generated digits may be cut otherwise than a tokenizer would: the ids must come along."""
    session["text"] = state.OWN
    planned = engine.default_workspace().plan_model("demo")
    ids = engine.encode(Text(prompt="a b"), "demo").ids
    odd = engine.trace_from_ids((*ids, *ids[1:]), planned.tokenizer, response_start=len(ids))
    request = Request("statistics", odd, {"model": "demo"}, {"top_k": 20})
    (result,) = run(request)
    assert run_python(links.python(request, odd)).key == result.key
