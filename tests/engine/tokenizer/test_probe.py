"""Questions are right, scores are the model's own, and the bundled models differ in sums."""

from __future__ import annotations

import pyarrow.parquet
import pytest
from scipy.stats import binomtest

from engine import cli
from engine.errors import UserError
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Text
from engine.tokenization import Tokenizer
from engine.tokenizer.puzzles import CHARACTER_TASKS, WORDS, character_puzzles, number_puzzles
from engine.workspace import Workspace
from tests.engine.tokenizer.toys import toy
from tests.engine.tokenizer.wordlets import Oracle


def ask(workspace: Workspace, text: str, model: str, **params) -> Result:
    subject = Text(prompt=text)
    return run(Request("tokenizer.probe", subject, model, params), workspace=workspace)[0]


@pytest.mark.parametrize("task", CHARACTER_TASKS)
def test_the_right_answer_is_right(task: str) -> None:
    """Every question is solved again from its wording, and one answer only is right."""
    puzzles = character_puzzles(task, WORDS, 40, 2, seed=3)
    assert len({puzzle.prompt for puzzle in puzzles}) == 40
    assert puzzles == character_puzzles(task, WORDS, 40, 2, seed=3)
    assert puzzles != character_puzzles(task, WORDS, 40, 2, seed=4)
    for puzzle in puzzles:
        assert puzzle.prompt.count("\n") == 2
        question = puzzle.prompt.splitlines()[-1]
        words = [puzzle.prompt[a:b] for a, b in puzzle.subjects]
        assert all(word in WORDS for word in words)
        word = words[0]
        letter = None if puzzle.letter is None else puzzle.prompt[puzzle.letter]
        right = {
            "count": lambda o, w=word, c=letter: w.count(c) == int(o),
            "locate": lambda o, w=word, c=letter: w[int(o) - 1 : int(o)] == c,
            "compare": lambda o, w=words: len(w[o == "B"]) > len(w[o == "A"]),
            "reverse": lambda o, w=word: o[::-1] == w,
            "spell": lambda o, w=word: o.split("-") == list(w),
        }[task]
        assert [right(o.strip()) for o in puzzle.options].count(True) == 1
        assert right(puzzle.options[puzzle.answer].strip())
        assert len({len(option) for option in puzzle.options}) == 1
        if letter is not None:
            assert f"the letter {letter} " in question
            assert puzzle.subjects[0][0] <= puzzle.letter < puzzle.subjects[0][1]
    places = [puzzle.answer for puzzle in puzzles]
    assert len(set(places)) > 1


def test_sums_are_right() -> None:
    for task in ("add", "subtract"):
        for digits in (1, 2, 3):
            for puzzle in number_puzzles(task, digits, 15, "So {a}{op}{b}=", seed=0):
                (a, b), (c, d) = puzzle.subjects
                first, second = int(puzzle.prompt[a:b]), int(puzzle.prompt[c:d])
                sign = puzzle.prompt[b]
                assert puzzle.prompt == f"So {first}{sign}{second}="
                result = first + second if sign == "+" else first - second
                assert puzzle.options[puzzle.answer] == str(result)
                assert len(set(puzzle.options)) == 4
                assert {len(option) for option in puzzle.options} == {len(str(result))}
                assert len(str(max(first, second))) == digits == puzzle.digits


def test_scores_are_the_models_own(workspace: Workspace, toy_model: str) -> None:
    """Answers, margins, groups and intervals of a tiny random model, from its logits."""
    spec, oracle = toy("byte_bpe"), Oracle(toy_model, toy("byte_bpe").size)
    tasks = ("compare", "add")
    text = "token tokenizer there strings"
    result = ask(workspace, text, toy_model, questions=3, tasks=tasks, shots=1, digits=2)
    cases = result.table("cases").to_pylist()
    assert len(cases) == 3 + 2 * 3
    tokenizer = Tokenizer.load(toy_model)
    puzzles = character_puzzles("compare", tuple(text.split()), 3, 1, 0)
    puzzles += [p for n in (1, 2) for p in number_puzzles("add", n, 3, "{a}{op}{b}=", 0)]
    for case, puzzle in zip(cases, puzzles, strict=True):
        assert case["prompt"] == puzzle.prompt
        context = tokenizer.encode(puzzle.prompt, special=True).ids
        scores = [oracle.probability(context, spec.encode(option).ids) for option in puzzle.options]
        best = max(range(len(scores)), key=lambda n: scores[n])
        assert case["given"] == puzzle.options[best].strip()
        assert case["correct"] == (best == puzzle.answer)
        pieces = [piece.strip() for piece in case["pieces"]]
        words = [puzzle.prompt[a:b] for a, b in puzzle.subjects]
        assert "".join(pieces).startswith(words[0])
        assert case["tokens"] == len(pieces)
        assert case["digits"] == puzzle.digits
    rows = {(r["task"], r["by"], r["group"]): r for r in result.table("tasks").to_pylist()}
    for task in tasks:
        own = [case for case in cases if case["task"] == task]
        row = rows[task, "all", "all"]
        right = sum(case["correct"] for case in own)
        assert (row["n"], row["correct"]) == (len(own), right)
        assert row["accuracy"] == right / len(own)
        interval = binomtest(right, len(own)).proportion_ci(0.95, "exact")
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        assert row["chance"] == (0.5 if task == "compare" else 0.25)
        for by in {key[1] for key in rows if key[0] == task}:
            parts = [r for key, r in rows.items() if key[:2] == (task, by)]
            assert sum(r["n"] for r in parts) == len(own)
            assert sum(r["correct"] for r in parts) == right


def test_the_bundled_models_differ(workspace: Workspace) -> None:
    """The model that has a token for each number adds better than the one with a token a digit."""
    found = {}
    for model in ("demo", "demo-multidigit"):
        result = ask(workspace, "", model, tasks=("add",), questions=24, digits=2)
        rows = {(r["by"], r["group"]): r for r in result.table("tasks").to_pylist()}
        found[model] = rows["digits", "2"]
        cuts = {c["cut"] for c in result.table("cases").to_pylist() if c["digits"] == 2}
        assert cuts == ({"single"} if model == "demo" else {"whole"})
    assert found["demo"]["n"] == 24
    assert found["demo"]["high"] < found["demo-multidigit"]["low"]


def test_written_answers(workspace: Workspace, seven: str) -> None:
    result = ask(workspace, "", seven, tasks=("add",), questions=4, digits=1, answers="written")
    for case in result.table("cases").to_pylist():
        assert set(case["given"]) <= {"7", "8"}
        assert case["correct"] == (case["given"] == case["expected"])
        assert case["margin"] is None
    assert result.table("tasks")["chance"].to_pylist()[0] is None
    assert "cannot be guessed" in str(result.notes.to_pylist())


def test_bad_input_is_a_sentence(workspace: Workspace, toy_model: str) -> None:
    for text, params, sentence in (
        ("word", {}, "fewer than two words"),
        ("", {"frame": "{a}="}, "write {a} and {b}"),
        ("", {"tasks": ()}, "tasks"),
        ("", {"tasks": ("sing",)}, "tasks"),
        ("aaa bbb", {"tasks": ("reverse",)}, "No question could be made"),
    ):
        with pytest.raises(UserError, match=sentence):
            ask(workspace, text, toy_model, **params)


def test_command_line(tmp_path, toy_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    out = tmp_path / "x.parquet"
    argv = ["run", "tokenizer.probe", "--model", toy_model, "--prompt", "", "--quiet"]
    more = ["--set", "tasks=count,add", "--set", "questions=2", "--out", str(out)]
    assert cli.main([*argv, *more]) == 0
    assert pyarrow.parquet.read_table(out)["task"].to_pylist()[0] == "count"
