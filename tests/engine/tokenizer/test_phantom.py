"""Other beginnings of a word: against enumerated spellings and the model's own logits."""

from __future__ import annotations

import pytest

from engine.encode import encode_text
from engine.errors import UserError
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Text
from engine.tokenization import Tokenizer
from engine.tokenizer.phantom import beginnings
from engine.workspace import Workspace
from tests.engine.tokenizer.test_spellings import spellings_of
from tests.engine.tokenizer.toys import toy
from tests.engine.tokenizer.wordlets import Oracle


def ask(workspace: Workspace, subject: Text, model: str, **params) -> Result:
    return run(Request("tokenizer.phantom", subject, model, params), workspace=workspace)[0]


def test_against_enumeration(workspace: Workspace, toy_model: str) -> None:
    """Each word's four parts, summed over the first tokens of all its spellings."""
    spec, oracle = toy("byte_bpe"), Oracle(toy_model, toy("byte_bpe").size)
    text = Text(prompt="the cats", response=" sat\nthere")
    ids = encode_text(text, Tokenizer.load(toy_model)).ids
    rows = ask(workspace, text, toy_model).table("words").to_pylist()
    assert [row["word"] for row in rows] == ["the", " cats", " sat", "there"]
    for row in rows:
        word = row["word"].encode()
        p = oracle.after(ids[: row["position"]])
        own = ids[row["position"]]
        assert spec.token(own) == row["tokens"][0]
        assert "".join(row["tokens"]) == row["word"]
        same = {s[0] for s in spellings_of(spec, word)} - {own}
        bare = word.lstrip()
        other = {
            s[0]
            for variant in {bare, b" " + bare, b"\n" + bare, b"\t" + bare} - {word}
            for s in spellings_of(spec, variant)
        } - (same | {own})
        assert row["original"] == pytest.approx(p[own], abs=1e-6)
        assert row["respelled"] == pytest.approx(sum(p[i] for i in same), abs=1e-6)
        assert row["white_space"] == pytest.approx(sum(p[i] for i in other), abs=1e-6)
        assert row["phantom"] == pytest.approx(row["respelled"] + row["white_space"])
        total = row["original"] + row["phantom"] + row["rest"]
        assert total == pytest.approx(1, abs=1e-12)
        best = max(same | other, key=lambda i: p[i])
        assert row["likeliest_id"] == best
        assert row["variants"] == len(same | other)
        assert row["risk"] == pytest.approx(row["phantom"] / (row["phantom"] + row["original"]))


def test_first_tokens_that_lead_nowhere_are_left_out() -> None:
    spec = toy("unigram")
    for word in (b" the", b"cat", b" tokens"):
        assert beginnings(spec, word) == {s[0] for s in spellings_of(spec, word)}


def test_parts_and_words(workspace: Workspace, toy_model: str, bare_model: str) -> None:
    text = Text(prompt="the cat sat", response=" the cat")
    words = ask(workspace, text, toy_model, segment="response").table("words")
    assert words["word"].to_pylist() == [" the", " cat"]
    only = ask(workspace, text, toy_model, word="cat").table("words")
    assert only["word"].to_pylist() == [" cat", " cat"]
    prompt = ask(workspace, text, toy_model, segment="prompt", word="cat").table("words")
    assert len(prompt) == 1
    # Without a token in front nothing predicts the first word.
    bare = ask(workspace, Text(prompt="the"), bare_model)
    assert len(bare.table("words")) == 0
    assert "No word begins" in str(bare.notes.to_pylist())
    with pytest.raises(UserError, match="segment"):
        ask(workspace, text, toy_model, segment="none")
