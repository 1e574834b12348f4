"""Classes of tokens: whole words decide, wherever the tokenizer cut."""

from __future__ import annotations

import numpy as np
import pytest

from engine.texts.function_words import FUNCTION_WORDS, is_function_word
from engine.texts.tokenclass import CLASS_DOCS, CLASSES, classes_of, token_classes
from engine.trace import Trace, simple_turns

WORDS = {
    "the": "function",
    "The": "function",
    "CANNOT": "function",
    "don't": "function",
    "won’t": "function",
    "it's": "function",
    "I’m": "function",
    "Maya's": "content",
    "nails": "content",
    "naïve": "content",
    "e\u0301te\u0301": "content",
    "ﬁnd": "content",
    "the\u00ad": "function",
    "Ｔｈｅ": "function",
    "one": "content",
    "seven": "content",
    "Привет": "word",
    "日本": "word",
    "नमस्ते": "word",
    "раypal": "word",  # Cyrillic and Latin
    "56": "number",
    "1,234.5": "number",
    "½": "number",
    "٣": "number",
    "+": "punctuation",
    "…": "punctuation",
    "🤗": "punctuation",
    "'": "punctuation",
    "\n\n": "whitespace",
    "\u00a0": "whitespace",
    "\x00": "other",
    "\u202e": "other",
}


@pytest.mark.parametrize(("text", "expected"), WORDS.items())
def test_one_word(text: str, expected: str) -> None:
    assert classes_of([text.encode()]) == [expected]
    assert classes_of([b" " + text.encode()]) == [expected]


def test_every_class_is_explained_and_can_occur() -> None:
    assert set(CLASS_DOCS) == set(CLASSES)
    assert set(WORDS.values()) | {"special", "mixed"} == set(CLASSES)


def test_classes_do_not_depend_on_where_a_word_is_cut() -> None:
    rng = np.random.default_rng(0)
    words = list(WORDS)
    for _ in range(300):
        chosen = [words[i] for i in rng.integers(0, len(words), 6)]
        # Spaces between, so that neighbours do not make another word of them.
        data = [(" " + word).encode() for word in chosen]
        pieces, expected = [], []
        for word, piece in zip(chosen, data, strict=True):
            cuts = sorted({1, len(piece), *rng.integers(1, len(piece) + 1, 3).tolist()})
            if rng.random() < 0.5:
                cuts.remove(1)
            start = 0
            for cut in cuts:
                pieces.append(piece[start:cut])
                alone = piece[start:cut] == b" "
                expected.append("whitespace" if alone else WORDS[word])
                start = cut
        assert classes_of(pieces) == expected


def test_a_word_goes_on_over_the_borders_of_tokens() -> None:
    assert classes_of([b" no", b"t"]) == ["function"] * 2
    assert classes_of([b" no", b"te"]) == ["content"] * 2
    assert classes_of([b" don", b"'", b"t", b"'"]) == [*["function"] * 3, "punctuation"]
    assert classes_of([b"3", b".", b"5", b"."]) == [*["number"] * 3, "punctuation"]
    assert classes_of([b"x", b"2"]) == ["content", "number"]


def test_a_token_of_several_classes_is_mixed() -> None:
    assert classes_of([b'?"', b",\n", b" the cat", b"7 ", b"=8"]) == [
        "punctuation",
        "punctuation",
        "mixed",
        "number",
        "mixed",
    ]


def test_bytes_that_are_no_text() -> None:
    assert classes_of([b"\xff", b" a\xff", b""]) == ["other", "mixed", "other"]
    smile = "🤗".encode()
    assert classes_of([smile[:2], smile[2:]]) == ["punctuation"] * 2
    # A part of a character whose rest never comes is not a character.
    assert classes_of([smile[:2], b" the"]) == ["other", "function"]


def test_special_and_added_tokens_end_a_word() -> None:
    pieces = (b"<bos>", b"no", b"<sep>", b"te")
    trace = Trace(
        ids=(0, 1, 2, 3),
        pieces=pieces,
        ids_origin="logged",
        response_start=0,
        turns=simple_turns(4, 0),
        special=(2,),
        added=(0,),
    )
    assert token_classes(trace) == ["special", "function", "special", "content"]
    assert classes_of(pieces[1:2] + pieces[3:]) == ["content"] * 2
    assert classes_of([]) == []
    assert classes_of([b"<eos>"], {0}) == ["special"]


def test_a_long_text_of_one_word() -> None:
    assert classes_of([b"a"] * 50_000) == ["content"] * 50_000


def test_the_list_holds_single_lower_case_words() -> None:
    assert all(w == w.casefold() and w.replace("'", "").isalpha() for w in FUNCTION_WORDS)
    assert not FUNCTION_WORDS & {"one", "two", "get", "time", "answer", "given"}
    assert is_function_word("they've")
    assert not is_function_word("o'clock")
    assert not is_function_word("'s")
