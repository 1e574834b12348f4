"""Files of many texts, and the command line that reads them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.csv
import pytest

from engine.cli import _params, main
from engine.errors import UserError
from engine.readers import corpus
from engine.registry import find


def test_lines_and_jsonl() -> None:
    assert corpus.read_corpus("a\n\nä b\n".encode(), "x.txt").documents == ("a", "ä b")
    lines = b'{"text": "a\\nb", "id": 1}\n\n{"text": ""}\n'
    assert corpus.read_corpus(lines, "x.jsonl").documents == ("a\nb", "")


@pytest.mark.parametrize(
    ("data", "name", "sentence"),
    [
        (b"\xff\xfe", "x.txt", "x.txt is no UTF-8 text (byte 0): save it as UTF-8."),
        (b"\n \n"[:1], "x.txt", "x.txt holds no text: give one document in each line."),
        (b'{"text": ""}\n{}', "y.jsonl", 'y.jsonl, line 2: an object with "text" is expected.'),
        (b"[[[[", "x.jsonl", 'x.jsonl, line 1: an object with "text" is expected.'),
    ],
)  # fmt: skip
def test_what_is_no_corpus_is_one_sentence(data: bytes, name: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        corpus.read_corpus(data, name)
    assert str(caught.value) == sentence


def test_a_file_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.txt"
    file.write_text("abcdef")
    monkeypatch.setattr(corpus, "MOST_BYTES", 5)
    monkeypatch.setattr(Path, "read_bytes", lambda _: 1 / 0)
    with pytest.raises(UserError, match="has 6 bytes; at most 5 are read: give a part of it"):
        corpus.open_corpus(file)


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    texts, out = tmp_path / "texts.txt", tmp_path / "out.csv"
    texts.write_text("Tom has 12 pens.\nTom has 12 pens.\n", encoding="utf-8")
    asked = ["run", "tokenizer.corpus", "--corpus", str(texts), "--tokenizer", "demo"]
    assert main([*asked, "--table", "words", "--out", str(out)]) == 0
    counts = dict(zip(*pyarrow.csv.read_csv(out).select([0, 1]).to_pydict().values(), strict=True))
    assert 2 in counts.values() or "2" in map(str, counts.values())
    assert main([*asked[:3], str(tmp_path / "no.txt"), *asked[4:], "--out", str(out)]) == 2
    assert "There is no file no.txt" in capsys.readouterr().err


def test_lists_are_typed_with_commas() -> None:
    declared = find("tokenizer.ids")
    for typed in ("ids=1,2,30", "ids=[1, 2, 30]"):
        assert declared.parse(_params([typed], declared)).ids == (1, 2, 30)
    assert declared.parse(_params(["ids=7"], declared)).ids == (7,)
    declared = find("tokenizer.premium")
    assert declared.parse(_params(["languages=en,fr"], declared)).languages == ("en", "fr")
