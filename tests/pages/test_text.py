"""What a token looks like on screen: nothing invisible, nothing invented."""

from __future__ import annotations

import math
import unicodedata

import pytest

from engine.render.text import (
    BOX,
    DIM,
    END,
    beginning,
    escape_markdown,
    markup,
    number,
    one_line,
    plain,
)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "·the"),
        ("a\n\n", "a⏎⏎"),
        ("\t", "⇥"),
        ("\r\n", "␍⏎"),
        (b"\xf0\x9f", r"\xf0\x9f"),
        (b"a\xe2\x82", r"a\xe2\x82"),
        ("é漢字", "é漢字"),
        ("\u202eabc", "U+202Eabc"),
        ("a\u200bb", "aU+200Bb"),
        ("\x00\x1b", "U+0000U+001B"),
        ("\ufffd", "U+FFFD"),
        ("\u00a0", "U+00A0"),
        ("\u3164", "U+3164"),
        ("\u0301", "◌\u0301"),
        ("\ud800", r"\xed\xa0\x80"),
        ("", "empty"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
    ],
)
def test_tokens_are_shown_honestly(token, shown):
    assert plain(token) == shown
    assert "\ufffd" not in plain(token)


SPACES_AND_CONTROLS = [
    chr(c)
    for c in range(0x110000)
    if unicodedata.category(chr(c)) in {"Cc", "Cf", "Zs", "Zl", "Zp"}
]
# Default_Ignorable_Code_Point of Unicode 16 among letters and marks, and what is blank besides.
BLANK = [
    *map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800)),
    *map(chr, (0x3164, 0xFFA0, 0xFFFC, 0xFFFD, 0x16FE4, 0x1D159)),
    *map(chr, range(0xFE00, 0xFE10)),  # variation selectors
    *map(chr, range(0xE0100, 0xE01F0)),
    *map(chr, range(0xE0001, 0xE0080)),  # tags
]


def test_nothing_that_the_eye_cannot_see_is_drawn_as_itself():
    assert len(SPACES_AND_CONTROLS) > 200
    for c in SPACES_AND_CONTROLS + BLANK:
        for token in (c, f"a{c}b", f" {c}"):
            shown = plain(token)
            assert c not in shown, f"U+{ord(c):04X}"
            assert set(shown) & set("·⏎⇥␍") if c in " \n\t\r" else f"U+{ord(c):04X}" in shown


def test_bidi_controls_cannot_turn_what_stands_beside():
    for c in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
        assert plain(f"{c}abc") == f"U+{ord(c):04X}abc"


def test_a_mark_without_a_letter_gets_a_circle_and_a_pile_of_them_is_written_out():
    assert plain("\n\u0301") == "⏎◌\u0301"
    assert plain("\u202e\u0301") == "U+202E◌\u0301"
    assert plain("e\u0301\u0302") == "e\u0301\u0302"
    piled = plain("e" + "\u0301" * 20)
    assert piled.count("\u0301") == 4
    assert piled.count("U+0301") == 16


def test_a_response_on_one_line_keeps_its_spaces():
    assert one_line("a b\nc\u202e <b>") == "a b⏎cU+202E <b>"
    assert one_line("\ud800") == r"\xed\xa0\x80"
    assert one_line("x" * 500).endswith("x…")


def test_marks_are_balanced_whatever_the_bytes():
    for start in range(0, 256, 7):
        data = bytes((start + 37 * k) % 256 for k in range(40))
        text = markup(data)
        opened = text.count(DIM) + text.count(BOX)
        assert opened == text.count(END)
        assert plain(data).isprintable()


def test_a_special_token_is_named_and_text_that_looks_like_one_is_not():
    assert plain("<|bos|>", special=True) == "⟨bos⟩"
    assert plain("<|bos|>") == "<|bos|>"


def test_a_very_long_token_is_cut_and_says_so():
    assert len(plain("x" + " y" * 5000)) < 200
    assert "10,001 bytes" in plain("x" + " y" * 5000)
    assert plain("x" * 1000) == "x" * 120 + "… 1,000 bytes"
    assert plain(b"\xff" * 100) == r"\xff" * 29 + "… 100 bytes"
    assert markup("x" * 1000, longest=2000) == "x" * 1000


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0030, "0.00300"),
        (5.8199, "5.82"),
        (0.99999, "1.00"),
        (1234, "1,234"),
        (-2.5, "−2.50"),
        (1.234e-9, "1.23·10⁻⁹"),
        (9.999e-5, "0.000100"),
        (1.5e-5, "1.50·10⁻⁵"),
        (123456.0, "123,456"),
        (0.0, "0"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (5e-324, "4.94·10⁻³²⁴"),
    ],
)
def test_numbers_have_three_significant_digits(value, shown):
    assert number(value) == shown


def test_markdown_loses_its_meaning():
    hostile = "![x](http://evil.example/a.png) **b** $x$ :red[y] <img src=x> `c`\n# h"
    escaped = escape_markdown(hostile)
    for sign in "![]()*$:<>`#":
        assert all(escaped[i - 1] == "\\" for i, c in enumerate(escaped) if c == sign)
    assert "\n" not in escaped


def test_the_beginning_of_a_text_is_whole_words():
    assert beginning("one two three", 48) == "one two three"
    assert beginning("one two three\nfour", 9) == "one two"
    assert beginning("one two three", 7) == "one"  # whether the word went on is not known
    assert beginning("sesquipedalian", 5) == "sesqu"
    assert beginning("日本語", 4) == "日"
    assert beginning("", 5) == ""
