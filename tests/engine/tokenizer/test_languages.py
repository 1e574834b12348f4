"""Languages of a vocabulary, against sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.catalogue import BUNDLED_FOLDER
from engine.result import Request
from engine.running import run
from engine.tokenizer import alphabets, load_spec, reference
from engine.tokenizer.alphabets import Alphabet, fitting, letters_of
from engine.workspace import Workspace


def alphabet(code: str, letters: str) -> Alphabet:
    return Alphabet(code, code, "Latn", 1, frozenset(letters))


def test_letters_are_small_and_composed() -> None:
    assert letters_of(" Été 12-e\u0301!") == {"é", "t"}
    assert letters_of("12 -.") == set()


def test_tokens_fit_the_alphabets_that_hold_all_their_letters() -> None:
    tokens = [{"a"}, {"a", "b"}, {"b", "z"}, {"ß"}]
    chosen = [alphabet("one", "ab"), alphabet("two", "abß"), alphabet("none", "q")]
    expected = [[t <= a.letters for t in tokens] for a in chosen]
    assert fitting(tokens, chosen).tolist() == expected
    assert fitting([], chosen).shape == (3, 0)


def test_credits_sum_to_the_tokens_that_fit(tmp_path: Path) -> None:
    ref = reference(BUNDLED_FOLDER / "demo")
    with Workspace(tmp_path) as workspace:
        (result,) = run(Request("tokenizer.languages", ref), workspace=workspace)
        (few,) = run(
            Request("tokenizer.languages", ref, None, {"speakers": 80_000_000}),
            workspace=workspace,
        )
    (summary,) = result.table("summary").to_pylist()
    rows = result.table("languages").to_pylist()
    assert sum(r["credit"] for r in rows) == pytest.approx(summary["fitting"])
    assert len(few.table("languages")) < len(rows) == summary["languages"]
    # English by sets, and by name: what it holds is counted token by token.
    english = next(a for a in alphabets.alphabets() if a.code == "en_Latn")
    assert english.letters == set("abcdefghijklmnopqrstuvwxyz")
    counted = 0
    for piece in load_spec(ref.path).pieces:
        letters = letters_of(piece.data.decode("utf-8", "replace").replace("\ufffd", ""))
        whole = piece.kind != "special" and "\ufffd" not in piece.data.decode("utf-8", "replace")
        counted += bool(whole and letters and letters <= english.letters)
    row = next(r for r in rows if r["code"] == "en_Latn")
    assert row["ids"] == counted > 500
    assert row["single"] == 1.0
