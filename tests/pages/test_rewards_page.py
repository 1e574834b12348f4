"""The Rewards page without a browser: its group, a training log, more signals, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import engine
from engine import Request
from pages.widgets import rewardviews, state
from pages.widgets.paramform import param_form
from tests.pages.cold import Cold
from tests.pages.navigation import open_page
from tests.pages.test_tokens_page import idle, texts, until


@pytest.fixture
def app(app_home: Path) -> AppTest:
    opened = open_page("rewards")
    opened.session_state["tokenscope.drawn"] = True
    return healthy(until(opened.run(), idle))


def healthy(app: AppTest) -> AppTest:
    assert not app.exception
    assert "wrong inside" not in " ".join(texts(app))
    return app


def turn(app: AppTest, tab: str) -> AppTest:
    """Turn to another tab: only the open one is drawn."""
    app.session_state["reward-tabs"] = tab
    return healthy(until(app.run(), idle))


def said(app: AppTest) -> str:
    return " ".join(texts(app))


def test_it_opens_on_stored_results_without_torch(cold: Cold) -> None:
    seen = cold["rewards"]
    assert seen["title"] == ["What would the next RL step do to each token?"]
    assert (seen["torch"], seen["transformers"]) == (False, False)
    text = " ".join(seen["text"])
    assert "of 16 answers are right" in text
    assert "The largest influence has" in text
    assert "Compute hidden rewards" not in seen["buttons"]
    assert "Make the step" not in seen["buttons"], "stored, too"
    assert "Take its effect apart" not in seen["buttons"]
    assert any("answer" in columns and "effect" in columns for columns in seen["tables"])


def test_the_numbers_are_those_of_the_analyses(app: AppTest) -> None:
    item = next(i for i in engine.gallery() if i.group is not None and i.model == "demo")
    assert item.group is not None
    (thr,) = engine.run(Request("reward.thr", item.group, item.model))
    assert thr.origin == "cache"
    (row,) = thr.table("groups").to_pylist()
    sentence = next(t for t in texts(app) if "answers are right" in t)
    assert sentence.startswith(f"{row['correct']} of {row['rewarded']} answers are right")
    assert f"{100 * row['top_tenth']:.0f} % of all |THR|" in sentence
    best = rewardviews.strongest(thr)
    assert best is not None
    tokens = thr.table("tokens").to_pylist()
    assert abs(best["influence"]) == max(
        abs(t["influence"]) for t in tokens if t["influence"] is not None
    )
    assert f"in answer {best['rollout'] + 1}" in sentence
    effects = next(d.value for d in app.dataframe if "effect" in d.value.columns)
    assert len(effects) == 16
    answers = next(d.value for d in app.dataframe if "thr_sum" in d.value.columns)
    assert answers["advantage"].sum() == pytest.approx(0, abs=1e-6)


def log_of(folder: Path) -> Path:
    """Two steps of a verl run on two prompts."""
    folder.mkdir()
    prompt = "Question: Tom has 12 pens. He buys 5 more. How many pens does he have?\n"
    for step in (1, 2):
        lines = []
        for number in range(4):
            answer = 17 if number < 1 + step else 18
            lines.append(
                {
                    "input": prompt,
                    "output": f"Solution: He has 12+5={answer} pens.\nAnswer: {answer}",
                    "gts": "17",
                    "score": float(answer == 17),
                    "step": step,
                }
            )
        lines.append({"input": "Question: 1+1?\n", "output": "2", "score": 1.0, "step": step})
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / f"{step}.jsonl").write_text(text + '\n{"input": broken\n')
    return folder


def test_a_training_log_from_a_folder(app: AppTest, tmp_path: Path) -> None:
    app.segmented_control(key="rewards-from").set_value("log").run()
    assert "verl dumps" in said(healthy(app))
    app.text_input(key="rewards-path").set_value(str(tmp_path / "nowhere")).run()
    assert "nowhere" in said(healthy(app))
    folder = log_of(tmp_path / "run")
    app.text_input(key="rewards-path").set_value(str(folder)).run()
    healthy(until(app, idle))
    assert "run: 10 rollouts (verl)." in said(app)
    assert "There are no token ids" in said(app)
    listed = next(d.value for d in app.dataframe if "variance" in d.value.columns)
    assert next(iter(listed["variance"])) == pytest.approx(0.25)
    assert len(listed) == 4
    steps = next(d.value for d in app.dataframe if "reward_q05" in d.value.columns)
    assert list(steps["step"]) == [1, 2]
    assert "This prompt over the steps" in said(app)
    assert "lines could not be read" in " ".join(e.label for e in app.expander)
    next(b for b in app.button if b.label == "Compute hidden rewards").click().run()
    healthy(until(app, idle))
    assert "2 of 4 answers are right" in said(app)


def test_more_signals_and_what_they_need(app: AppTest) -> None:
    turn(app, "More signals")
    app.selectbox(key="more-which").set_value("reward.forking").run()
    next(b for b in app.button if b.label == "Show it above").click().run()
    healthy(until(app, idle))
    assert "Shown: forking tokens (80/20)" in said(app)
    options = app.get("button_group")
    assert any("fork" in str(o.options).lower() for o in options)
    app.selectbox(key="more-which").set_value("reward.d3s").run()
    next(b for b in app.button if b.label == "Show it above").click().run()
    healthy(until(app, idle))
    problems = [t for t in texts(app) if "reward.d3s" in t or "rollouts" in t.lower()]
    assert problems, "a required choice that was not made is said"
    next(b for b in app.button if b.label == "Take all away").click().run()
    healthy(until(app, idle))
    assert "Shown:" not in said(app)


def test_weights_rules_drift_and_the_matrix(app: AppTest) -> None:
    turn(app, "Weights")
    next(b for b in app.button if b.label == "Make the weights").click().run()
    healthy(until(app, idle))
    assert any("zero" in d.value.columns for d in app.dataframe)
    turn(app, "Drift")
    next(b for b in app.button if b.label == "Check the round trip").click().run()
    healthy(until(app, idle))
    assert "would be cut otherwise" in said(app)
    turn(app, "My rule")
    app.text_input(key="rules-old").set_value("demo-positive").run()
    next(b for b in app.button if b.label == "Apply the rules").click().run()
    healthy(until(app, idle))
    drops = next(d.value for d in app.dataframe if "dropped" in d.value.columns)
    assert {"clip", "icepop", "dppo"} <= set(drops["rule"])
    turn(app, "Do signals agree?")
    assert "Over at most" in said(app), "the matrix is stored"


def test_a_group_of_one_kind_and_one_without_rewards(app: AppTest) -> None:
    item = next(i for i in engine.gallery() if i.group is not None and i.model == "demo")
    group = item.group
    assert group is not None
    right = [n for n, r in enumerate(group.rewards) if r]
    some = [group.rollouts[n] for n in right[:3]]
    app.session_state["text"] = "own"
    app.session_state["tokenscope.trace"] = some[0]
    app.session_state["tokenscope.group"] = engine.Group(
        rollouts=tuple(some), rewards=(1.0, 1.0, 1.0)
    )
    app.run()
    next(b for b in app.button if b.label == "Compute hidden rewards").click().run()
    healthy(until(app, idle))
    assert "Nothing sets these answers apart" in said(app)
    app.session_state["tokenscope.group"] = engine.Group(rollouts=tuple(some))
    app.run()
    assert any(t.label == "Right answer" for t in healthy(app).text_input)


FORMS = """
import streamlit as st
import engine
from pages.widgets.paramform import param_form
for name, declared in engine.analyses().items():
    with st.container():
        st.session_state[f"got-{name}"] = param_form(declared, key=name)
"""


def test_a_form_for_every_analysis(app_home: Path) -> None:
    """Drawn from the declaration alone; untouched it asks for nothing."""
    assert param_form is not None
    app = AppTest.from_string(FORMS, default_timeout=60).run()
    assert not app.exception
    for name, declared in engine.analyses().items():
        required = {n for n, f in declared.params.model_fields.items() if f.is_required()}
        got = app.session_state[f"got-{name}"]
        assert set(got) <= required, name


def test_a_result_of_a_model_that_is_not_here(app_home: Path, tmp_path: Path, capsys) -> None:
    """Computed on the machine with the weights, written as a file, looked at without them."""
    from engine.cli import main
    from engine.records import write_rollouts
    from engine.shelves.library import Library
    from tests.engine.tiny import tiny_model

    model = tmp_path / "far"
    tiny_model("llama", path=model)
    with engine.Workspace(tmp_path / "there", role="client") as there:
        tokenizer = there.plan_model(str(model)).tokenizer
        traces = [
            engine.encode_text(engine.Text(prompt="Q?", response=text), tokenizer)
            for text in ("a 7", "b 8", "c 7")
        ]
    groups = [
        engine.Group(rollouts=tuple(traces), rewards=rewards, prompt_id=name)
        for name, rewards in (("one", (1.0, 0.0, 1.0)), ("two", (0.0, 0.0, 1.0)))
    ]
    write_rollouts(tmp_path / "rollouts.jsonl", groups)
    before = os.environ["TOKENSCOPE_HOME"]
    os.environ["TOKENSCOPE_HOME"] = str(tmp_path / "there")
    try:
        code = main(
            ["run", "reward.thr", "--model", str(model), "--rollouts",
             str(tmp_path / "rollouts.jsonl"), "--out", str(tmp_path / "results.zip"), "--quiet"]
        )  # fmt: skip
    finally:
        os.environ["TOKENSCOPE_HOME"] = before
    assert code == 0
    assert "2 results, 2 computed" in capsys.readouterr().out
    for file in model.iterdir():
        file.unlink()
    model.rmdir()
    report = Library(engine.default_workspace(), ()).bring(
        "results.zip", (tmp_path / "results.zip").read_bytes()
    )
    assert len(report.keys) == 2
    _, group = engine.default_workspace().reopen(report.keys[0])
    assert isinstance(group, engine.Group)
    opened = open_page("rewards")
    opened.session_state["tokenscope.drawn"] = True
    opened.session_state["text"] = state.OWN
    opened.session_state["tokenscope.trace"] = group.rollouts[0]
    opened.session_state["tokenscope.group"] = group
    opened.session_state["tokenscope.given"] = report.keys[0]
    app = healthy(until(opened.run(), idle))
    assert "Computed elsewhere with" in said(app)
    assert "of 3 answers are right" in said(app)
    assert any("thr_sum" in d.value.columns for d in app.dataframe)
