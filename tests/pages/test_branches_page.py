"""The Branches page without a browser: growing, checking and walking a tree of branches."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

import engine
from engine.branching.align import align
from engine.branching.branches import ORIGIN, Branch, Place, Tree, judged, places
from engine.branching.branchfile import dumps, loads
from engine.errors import Cancelled
from engine.render import branching
from engine.statistics import ALTERNATIVES
from engine.trace import Sampling, Span, Trace, simple_turns
from pages.widgets import branch_state as grown
from pages.widgets import state
from pages.widgets.branch_state import View
from tests.pages.cold import Cold
from tests.pages.navigation import arrive, open_page, turn_to
from tests.pages.test_tokens_page import Slow, idle, texts, until

HOSTILE = (
    "<script>alert(1)</script>",
    "![](http://evil.example/a)",
    "[x](javascript:alert(1))",
    "$\\href{http://evil.example}{x}$",
    "\u202e:red[x]",
    "\x1b[31m",
)


def test_it_opens_on_a_gallery_result_without_torch(cold: Cold):
    seen = cold["branches"]
    assert seen["title"] == ["What if it had said something else?"]
    assert not seen["torch"]
    assert not seen["transformers"]
    assert not seen["exceptions"]
    assert any(label.startswith("Continue with") for label in seen["buttons"])


# -- the page ---------------------------------------------------------------------------------


@pytest.fixture
def app(app_home: Path) -> AppTest:
    return open_page("branches")


def tree(app: AppTest) -> Tree:
    trees = app.session_state["tokenscope.branches.trees"]
    return list(trees.values())[-1]


def grow(app: AppTest, typed: str, n: int = 2, longest: int = 4) -> AppTest:
    app.text_input(key="branch-typed").set_value(typed)
    app.number_input(key="branch-n").set_value(n)
    app.number_input(key="branch-longest").set_value(longest).run()
    app.button(key="branch-continue").click().run()
    return until(app, idle)


def expected_field(app: AppTest):
    return next(t for t in app.text_input if t.label == "Right answer")


def test_typed_text_is_forced_checked_and_kept(app: AppTest):
    stored = len(tree(app).branches)
    selected = app.session_state["tokenscope.selection"].first
    typed = "8\nAnswer: 8\n"
    expected_field(app).set_value("8").run()
    grow(app, typed, n=3)
    assert not app.exception
    branch = tree(app).branches[-1]
    assert len(tree(app).branches) == stored + 1
    assert b"".join(branch.pieces).decode() == typed
    assert branch.position == selected
    assert branch.logprob < 0
    assert [t.sampling.index for t in branch.traces] == [0, 1, 2]
    assert branch.verdicts == tuple(engine.answers.check(t, "8") for t in branch.traces)
    said = texts(app)
    assert any(t.startswith("Shown: “8⏎A") for t in said)
    assert any("tokens the same" in t for t in said)
    assert app.session_state["tokenscope.selection"].first == selected
    # The tree stays when the page changes and comes back; more draws join the same branch.
    turn_to(app, "tokens")
    turn_to(app, "branches")
    assert tree(app).branches[-1] == branch
    app.button(key="branch-parent").click().run()
    grow(app, typed, n=4)
    assert len(tree(app).branches) == stored + 1
    assert tree(app).branches[-1].traces[:3] == branch.traces
    assert len(tree(app).branches[-1].traces) == 4
    expected_field(app).set_value("").run()
    assert set(tree(app).branches[-1].verdicts) == {None}
    labels = [b.label for b in app.get("download_button")]
    assert labels[-2:] == ["All as one tree (JSON)", "These continuations as rollouts (JSONL)"]
    app.button(key="branch-remove").click().run()
    assert len(tree(app).branches) == stored
    assert not app.exception


def test_a_branch_grows_from_a_branch_and_opens_elsewhere(app: AppTest):
    grow(app, "x", n=1)
    first = tree(app).branches[-1]
    grow(app, "yz", n=1)
    second = tree(app).branches[-1]
    assert second.parent == Place(branch=first.id, sample=0)
    app.button(key="branch-open").click().run()
    shown = app.session_state["tokenscope.trace"]
    assert shown.digest == second.traces[0].digest
    assert not app.exception
    turn_to(app, "branches")
    view = next(iter(app.session_state["tokenscope.branches.views"].values()))
    assert view.shown == Place(branch=second.id, sample=0)
    assert second in tree(app).branches


def test_the_sampler_is_asked_only_when_it_would_change_something(app: AppTest):
    assert "What the sampler keeps" not in texts(app)
    app.number_input(key="branch-top-k").set_value(3).run()
    until(app, lambda a: idle(a) and "What the sampler keeps" in texts(a))
    assert not app.exception


def test_another_page_asks_for_a_change_here(app: AppTest):
    trace = engine.gallery()[0].trace
    at = trace.response_start + 2
    rows = branching.alternatives(_statistics(trace), at)
    wish = rows[2]["id"]
    app.session_state["tokenscope.branch.request"] = (at, wish)
    app.run()
    assert app.session_state["tokenscope.selection"].first == at
    assert app.session_state["tokenscope.branches.choice"]["id"] == wish
    assert "tokenscope.branch.request" not in app.session_state


def _statistics(trace: Trace) -> dict[str, pa.Table]:
    request = state.statistics_request(trace, engine.gallery()[0].model)
    found = engine.default_workspace().lookup(request)
    assert found is not None
    return dict(found.tables)


def test_what_cannot_be_forced_is_said_and_loses_nothing(app: AppTest):
    before = tree(app)
    trace = before.root
    name = trace.digest[:24]
    app.session_state["tokenscope.branch.request"] = (0, None)
    app.run()
    assert app.session_state["tokenscope.selection"].signature == name
    app.text_input(key="branch-typed").set_value("x").run()
    app.button(key="branch-continue").click().run()
    problems = [t for t in texts(app) if "choose a later one" in t]
    assert len(problems) == 1
    assert "\n" not in problems[0]
    assert tree(app) == before
    assert not app.exception


def test_hostile_text_is_only_ever_text(app: AppTest):
    for typed in HOSTILE:
        grow(app, typed, n=1, longest=2)
        assert not app.exception
        assert "wrong inside" not in " ".join(texts(app))
        labels = [b.label for b in app.button] + [s.label for s in app.selectbox]
        markdown = [m.value for m in app.markdown]
        for raw in (r"!\[\]\(", r"\]\(javascript", r"(?<!\\)<script", r":red\[", r"(?<!\\)\$"):
            assert not any(re.search(raw, label) for label in labels + markdown), typed


def test_slow_going_on_can_be_cancelled(app: AppTest, monkeypatch: pytest.MonkeyPatch):
    slow, answer = Slow(), state.answer

    def wait(slot: str, *rest: object, **more: object) -> object:
        if slot != grown.SLOT:
            return answer(slot, *rest, **more)
        if slow.cancelled:
            raise Cancelled
        return state.Job("key", slow)

    monkeypatch.setattr(state, "answer", wait)
    app.button(key="branch-continue").click().run()
    assert any(t.startswith("Going on: ") for t in texts(app))
    assert app.button(key="branch-continue").disabled
    app.button(key="cancel-branch").click().run()
    assert slow.cancelled
    assert "Cancelled before the first continuation was finished." in texts(app)
    assert not app.button(key="branch-continue").disabled
    assert not app.exception


def test_a_log_without_ids_says_what_to_do(app: AppTest):
    trace = engine.gallery()[0].trace
    logged = trace.evolve(ids=(-1,) * len(trace), tokenizer=None, title="a log")
    app.session_state["text"] = state.OWN
    app.session_state["tokenscope.trace"] = logged
    app.run()
    assert any("gives no token ids" in t for t in texts(app))
    assert not app.exception


# -- what a visitor has -----------------------------------------------------------------------


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    kept: dict[str, object] = {}
    monkeypatch.setattr(state, "recall", lambda name, default=None: kept.get(name, default))

    def remember(name: str, value: object) -> None:
        kept.pop(name, None)
        if value is not None:
            kept[name] = value

    monkeypatch.setattr(state, "remember", remember)
    return kept


def trace_of(text: str, index: int = 0) -> Trace:
    pieces = tuple(c.encode() for c in text)
    answer = {"answer": Span(start=len(text) - 1, end=len(text))}
    return Trace(
        ids=tuple(map(ord, text)),
        pieces=pieces,
        ids_origin="generated",
        response_start=2,
        turns=simple_turns(len(text), 2),
        spans=answer,
        sampling=Sampling(index=index),
    )


def small_tree() -> Tree:
    one = Branch(
        position=3,
        forced=(ord("x"),),
        logprob=-1.25,
        sampling=Sampling(),
        traces=(trace_of("Q:ax7", 0), trace_of("Q:ax8", 2)),
    )
    two = Branch(
        parent=Place(branch=one.id, sample=2),
        position=4,
        forced=(),
        sampling=Sampling(temperature=0.5, top_k=3, seed=9),
        traces=(trace_of("Q:ax9"),),
    )
    return judged(Tree(root=trace_of("Q:ab8"), branches=(one, two)), "8")


KEY = ("root", "demo")


def test_clicks_in_the_tree(memory):
    tree = small_tree()
    one, two = tree.branches
    grown.keep(KEY, tree)
    assert grown.view_of(KEY) == View()
    assert grown.beside(tree, View()) == Place(branch=one.id, sample=0)
    grown.step(KEY, {"branch": one.id, "sample": 2, "beside": False, "stamp": 1})
    assert grown.view_of(KEY) == View(Place(branch=one.id, sample=2))
    assert grown.beside(tree, grown.view_of(KEY)) == ORIGIN
    grown.step(KEY, {"branch": two.id, "sample": 0, "beside": True, "stamp": 2})
    assert grown.view_of(KEY).shown == Place(branch=one.id, sample=2)
    assert grown.beside(tree, grown.view_of(KEY)) == Place(branch=two.id, sample=0)
    view = grown.view_of(KEY)
    for event in (
        None,
        7,
        {},
        {"branch": one.id},
        {"branch": one.id, "sample": 1},
        {"branch": one.id, "sample": -2},
        {"branch": one.id, "sample": "0"},
        {"branch": "elsewhere", "sample": 0},
        {"branch": ["root"], "sample": 0},
    ):
        grown.step(KEY, event)
        assert grown.view_of(KEY) == view
    # What grew from a branch goes with it, and what looked at it falls back.
    grown.cut(KEY, one.id)
    assert grown.tree_of(KEY).branches == ()
    assert grown.view_of(KEY) == View()
    assert grown.beside(grown.tree_of(KEY), View()) is None


def test_only_so_many_trees_are_kept(memory):
    for n in range(grown.MOST_TREES + 3):
        grown.keep((str(n), "demo"), Tree(root=trace_of("Q:a")))
        if n > 3:
            grown.keep(("0", "demo"), Tree(root=trace_of("Q:b")))
    assert len(memory["branches.trees"]) == grown.MOST_TREES
    assert ("0", "demo") in memory["branches.trees"]
    with pytest.raises(engine.UserError, match="put away"):
        grown.tree_of(("1", "demo"))


ROWS = [{"id": 5, "said": True}, {"id": 6, "said": False}, {"id": 7, "said": False}]


@pytest.mark.parametrize(
    ("previous", "event", "chosen"),
    [
        (None, None, 6),
        (None, {"text": "t", "position": 4, "id": 7, "stamp": 1}, 7),
        (None, {"text": "t", "position": 4, "id": -1, "stamp": 1}, -1),
        (None, {"text": "other", "position": 4, "id": 7, "stamp": 1}, 6),
        (None, {"text": "t", "position": 3, "id": 7, "stamp": 1}, 6),
        (None, {"text": "t", "position": 4, "id": 99, "stamp": 1}, 6),
        (None, {"text": "t", "position": 4, "id": "7", "stamp": 1}, 6),
        (None, {"text": "t", "position": 4, "id": 7, "stamp": None}, 6),
        (None, {"text": "t", "position": 4, "id": 7, "stamp": True}, 6),
        ({"text": "t", "position": 4, "id": 5, "stamp": 9}, None, 5),
        (
            {"text": "t", "position": 4, "id": 5, "stamp": 9},
            {"text": "t", "position": 4, "id": 7, "stamp": 8},
            5,
        ),
        (
            {"text": "t", "position": 4, "id": 5, "stamp": 9},
            {"text": "t", "position": 4, "id": 7, "stamp": 10},
            7,
        ),
    ],
)
def test_the_newest_choice_for_this_token_counts(previous, event, chosen):
    assert grown.next_choice(previous, "t", 4, ROWS, event)["id"] == chosen
    assert grown.next_choice(None, "t", 0, [], event)["id"] == grown.NOTHING


# -- what is drawn ----------------------------------------------------------------------------


def test_the_tree_as_rows_and_chips():
    tree = small_tree()
    one, _ = tree.branches
    data = branching.tree_data(tree, Place(branch=one.id, sample=2), ORIGIN)
    root, first, second = data["rows"]
    assert (root["branch"], root["depth"], root["label"]) == ("root", 0, "as it was said")
    assert [c["mark"] for c in root["chips"]] == ["right"]
    assert (first["forced"], first["said"], first["label"]) == ("x", "b", "at 3")
    assert first["facts"] == ["1 of 2 right", "log p −1.25", "T 1"]
    assert [(c["sample"], c["answer"], c["mark"]) for c in first["chips"]] == [
        (0, "7", "wrong"),
        (2, "8", "right"),
    ]
    assert (second["depth"], second["label"]) == (2, "at 4 of no. 3")
    assert second["facts"] == ["0 of 1 right", "T 0.5, top-k 3, seed 9"]
    assert data["shown"] == [one.id, 2]
    assert data["compared"] == ["root", 0]
    unchecked = branching.tree_data(judged(tree, None), ORIGIN, None)
    assert {c["mark"] for row in unchecked["rows"] for c in row["chips"]} == {"unchecked"}
    assert unchecked["rows"][1]["facts"][0] == "2 not checked"
    nobody = judged(Tree(root=tree.root.evolve(spans={}), branches=tree.branches), "8")
    none = tree.branches[0].evolve(verdicts=(True, None))
    assert branching.facts(none, True)[0] == "1 of 2 right, 1 unanswered"
    assert branching.tree_data(nobody, ORIGIN, None)["rows"][0]["chips"][0] == {
        "sample": 0,
        "answer": "–",
        "mark": "none",
        "title": "no. 1: no answer found, cannot be checked",
    }
    assert [branching.place_name(tree, p) for p in places(tree)] == [
        "As it was said",
        "“x” at 3, no. 1",
        "“x” at 3, no. 3",
        "Drawn again at 4, no. 1 of no. 3",
    ]


def test_two_traces_above_each_other():
    head = "Q:" + "a" * 60
    a, b = trace_of(head + "x\n8"), trace_of(head + "yz\n8")
    rows = align(a, b)
    data = branching.aligned_data(a, b, rows, titles=("one", "two"))
    kinds = [pair["kind"] for pair in data["pairs"]]
    assert kinds == ["skipped", *["same"] * 10, "changed", "same", "same"]
    assert data["pairs"][0]["text"] == "52 tokens the same"
    changed = data["pairs"][11]
    assert (changed["a"], changed["b"], changed["ends"]) == (["x"], ["y", "z"], False)
    assert data["pairs"][12]["ends"]
    assert data["summary"] == "64 tokens the same, 1 changed"
    whole = branching.aligned_data(a, b, rows, titles=("one", "two"), whole=True)
    assert len(whole["pairs"]) == 62 + 3
    spelled = ["".join(t for p in whole["pairs"] for t in p[side]) for side in "ab"]
    assert spelled == [t.text.replace("\n", "\x01⏎\x03") for t in (a, b)]


def test_a_very_long_pair_is_cut_short_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(branching, "MOST_PAIRS", 5)
    a = trace_of("Q:" + "a" * 30)
    data = branching.aligned_data(a, a, align(a, a), titles=("", ""), whole=True)
    assert len(data["pairs"]) == 6
    assert data["pairs"][-1] == {"kind": "skipped", "text": "… and so on"}


def stats(rank: int = 1) -> dict[str, pa.Table]:
    tokens = pa.table(
        {
            "token_id": pa.array([1, 9], pa.int64()),
            "token_bytes": pa.array([b"a", b"<b>"], pa.binary()),
            "special": [False, False],
            "logprob": pa.array([None, -2.0], pa.float32()),
            "rank": pa.array([None, 30], pa.int64()),
        }
    )
    rows = [(1, 1, 4, " c", b" c", -0.5), (1, 2, 5, "\\xc3", b"\xc3", -1.5)]
    columns = dict(zip(ALTERNATIVES.columns, zip(*rows, strict=True), strict=True))
    return {"tokens": tokens, "alternatives": pa.table(columns, schema=ALTERNATIVES.schema())}


def test_the_alternatives_with_what_was_said():
    data = branching.choices_data(stats(), 1, text="t", chosen=5)
    assert [(r["id"], r["rank"], r["piece"], r["said"]) for r in data["rows"]] == [
        (4, 1, "\x01·\x03c", False),
        (5, 2, "\x02\\xc3\x03", False),
        (9, 30, "\x01⟨b⟩\x03", True),
    ]
    assert [r["before"] for r in data["rows"]] == ["0.607", "0.223", "0.135"]
    assert data["where"] == "position 1 · said with p = 0.135, rank 30"
    assert not data["two"]
    start = branching.choices_data(stats(), 0, text="t", chosen=-1)
    assert start["rows"] == []
    assert start["where"] == "position 0"


def test_what_the_sampler_keeps_stands_beside_it():
    kept = {
        "kept": pa.table(
            {"token_id": [4, 9], "after": [1.0, 0.0], "kept": [True, False]},
        ),
        "summary": pa.table(
            {
                "kept": [1],
                "vocabulary": [1280],
                "kept_mass": [0.6065],
                "entropy_before": [1.25],
                "entropy_after": [0.0],
            }
        ),
    }
    data = branching.choices_data(stats(), 1, text="t", chosen=4, kept=kept)
    assert [(r["after"], r["cut"], r["afterShare"]) for r in data["rows"]] == [
        ("1.00", False, 1.0),
        ("", False, None),  # not listed: unknown, not 0
        ("cut", True, 0.0),
    ]
    assert data["note"] == (
        "1 of 1,280 tokens kept; the model gave them 0.607. Entropy 1.25 → 0 nats."
    )


def test_the_tree_on_the_page_is_the_tree_in_the_file(app: AppTest):
    grow(app, "7", n=1, longest=2)
    assert loads(dumps(tree(app))) == tree(app)


# -- a tree comes back ------------------------------------------------------------------------


def brought(data: bytes) -> AppTest:
    """A new visitor who drops a file on the Start page."""
    app = arrive()
    app.session_state["tokenscope.drawn"] = True
    app.run()
    app.text_area(key="drop-text").set_value(data.decode()).run()
    assert not app.exception
    return app


def test_a_downloaded_tree_comes_back_for_another_visitor(app: AppTest):
    expected_field(app).set_value("8").run()
    grow(app, "8\nAnswer: 8\n", n=2)
    before = tree(app)
    other = brought(dumps(before))
    forks, grown = len(before.branches), sum(len(b.traces) for b in before.branches)
    assert any(
        t.startswith(f"TokenScope branches, {forks} fork") and f"{grown} continuation" in t
        for t in texts(other)
    )
    other.button(key="drop-branches").click().run()
    until(other, idle)
    assert not other.exception
    assert other.title[0].value == "What if it had said something else?"
    assert tree(other) == before
    assert before.root.title in [t.value for t in other.sidebar.text]
    assert expected_field(other).value == "8"
    # What is grown here from the same text stays when the file comes once more.
    grow(other, "7", n=1, longest=2)
    assert len(tree(other).branches) == forks + 1
    other.switch_page("pages/start.py").run()
    other.text_area(key="drop-text").set_value(dumps(before).decode()).run()
    other.button(key="drop-branches").click().run()
    until(other, idle)
    assert {b.id for b in before.branches} < {b.id for b in tree(other).branches}


def test_verdicts_of_a_file_are_not_believed(app: AppTest):
    expected_field(app).set_value("8").run()
    grow(app, "8\nAnswer: 8\n", n=1)
    record = json.loads(dumps(tree(app)))
    assert record["branches"][-1]["verdicts"] == [True]
    record["branches"][-1]["verdicts"] = [False]
    other = brought(json.dumps(record).encode())
    other.button(key="drop-branches").click().run()
    until(other, idle)
    assert tree(other).branches[-1].verdicts == (True,)


def test_a_tree_of_tokens_nobody_has_is_no_dead_end(app: AppTest):
    grow(app, "7", n=1, longest=2)
    record = json.loads(dumps(tree(app)))
    for trace in (record["root"], *(t for b in record["branches"] for t in b["traces"])):
        trace["tokenizer"] = "0" * 64
    other = brought(json.dumps(record).encode())
    other.button(key="drop-branches").click().run()
    assert not other.exception
    assert any("No model at hand has the tokens of this tree" in t for t in texts(other))


def test_other_weights_are_said(app: AppTest):
    grow(app, "7", n=1, longest=2)
    record = json.loads(dumps(tree(app)))
    branch = record["branches"][-1]
    branch["sampling"]["fingerprint"] = "f" * 64
    del branch["id"]  # it names how the branch was drawn
    other = brought(json.dumps(record).encode())
    other.button(key="drop-branches").click().run()
    until(other, idle)
    assert any("Other weights" in t for t in texts(other))
