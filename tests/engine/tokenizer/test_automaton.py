"""The automaton against the library itself: all texts over a small alphabet, all their pieces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tokenizers import Regex, pre_tokenizers

from engine.tokenizer import codepoints
from engine.tokenizer.automaton import Automaton
from engine.tokenizer.cutting import GPT2_PATTERN
from engine.tokenizer.languages import _language
from engine.tokenizer.patterns import parse
from engine.tokenizer.patterntree import UnreadableError
from engine.tokenizer.ranks import RULES
from engine.tokenizer.utf8bytes import heads, split, tails

LONGEST = 5


def pieces(node: dict[str, object], alphabet: str) -> set[str]:
    """All stretches of all pieces that a rule leaves of all short texts."""
    settings = {k: v for k, v in node.items() if k != "type"}
    kind = getattr(pre_tokenizers, str(node["type"]))
    if node["type"] == "Split":
        pattern = settings.pop("pattern")
        assert isinstance(pattern, dict)
        given = Regex(pattern["Regex"]) if "Regex" in pattern else pattern["String"]
        behavior = str(settings["behavior"])
        snake = "".join("_" + c.lower() if c.isupper() else c for c in behavior)[1:]
        rule = kind(given, snake, bool(settings.get("invert", False)))
    else:
        rule = kind(**settings)
    found: set[str] = set()
    for length in range(1, (4 if len(alphabet) > 4 else LONGEST) + 1):
        for text in itertools.product(alphabet, repeat=length):
            for piece, _ in rule.pre_tokenize_str("".join(text)):
                ends = itertools.combinations(range(len(piece) + 1), 2)
                found.update(piece[a:b] for a, b in ends)
    return found


def split_rule(pattern: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, object]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": behavior,
        "invert": invert,
    }


O200K = RULES["o200k"].pattern
RULES_TO_TRY = [
    (split_rule(GPT2_PATTERN), "a 1'st\n", True),
    (split_rule(O200K), "aA\n/!1", True),
    (split_rule(O200K), "'sSu\u0301 ", False),  # an earlier alternative always wins
    (split_rule(RULES["qwen"].pattern), "\u0e01\u0e32\u0e331 ", True),
    (split_rule(r"(?:ab){1,2}|a{2,3}b?", "Removed", True), "abc", True),
    (split_rule("a+?b*|(?i:k)c", "Removed", True), "abkK\u212ac", False),
    (split_rule("ab", "Removed"), "ab ", False),
    (split_rule("a+|b", "Removed", True), "ab ", True),
    (split_rule("[a-b]", "MergedWithPrevious"), "abc ", True),
    (split_rule(r"\s", "MergedWithNext"), "ab ", True),
    (split_rule("a", "Contiguous"), "abc", True),
    (split_rule("a*"), "ab", False),
    (split_rule("(?>a+)b|^c|b++(?!a)"), "abc", False),
    ({"type": "Digits", "individual_digits": True}, "1a\u0663", True),
    ({"type": "Digits", "individual_digits": False}, "1a\u0663", True),
    ({"type": "Punctuation", "behavior": "contiguous"}, "a!?", True),
    ({"type": "WhitespaceSplit"}, "a \n!", True),
    ({"type": "Whitespace"}, "a_! ", True),
    ({"type": "BertPreTokenizer"}, "a! ", True),
    ({"type": "CharDelimiterSplit", "delimiter": "b"}, "abc", True),
]


@pytest.mark.parametrize(("node", "alphabet", "exact"), RULES_TO_TRY)
def test_no_stretch_of_a_piece_is_refused(
    node: dict[str, object], alphabet: str, exact: bool
) -> None:
    """Never a false alarm; and where the pattern is read exactly, nothing is let through."""
    written = dict(node)
    if node["type"] == "Punctuation":
        written["behavior"] = "Contiguous"
    language = _language(str(node["type"]), written)
    assert language is not None
    automaton = Automaton(language)
    occurring = pieces(node, alphabet)
    refused = {s for s in occurring if not automaton.inside(s.encode())}
    assert not refused
    if exact:
        short = ("".join(t) for n in range(1, 4) for t in itertools.product(alphabet, repeat=n))
        assert {s for s in short if automaton.inside(s.encode())} <= occurring


def test_parts_of_characters() -> None:
    """Any bytes cut out of a piece are let through; bytes that no piece holds are not."""
    automaton = Automaton(parse(r"\p{Thai}+|[^\p{Thai}]"))
    text = "\u0e01\u0e32".encode()
    for a, b in itertools.combinations(range(len(text) + 1), 2):
        assert automaton.inside(text[a:b])
    assert not automaton.inside("a\u0e01".encode()[:2])
    assert not automaton.inside(b"\x81a")
    walk = automaton.inside(b"a\xe0\xb8")
    assert (walk.states, walk.stopped) == (0, 1)
    assert not automaton.inside(b"\xe0\x9f\x80")  # overlong
    assert not automaton.inside(b"\xed\xa0\x80")  # a surrogate
    assert not automaton.inside(b"\xff")
    assert automaton.follows("\u0e32".encode())
    assert not automaton.follows(b"a")


def test_cut_characters_by_enumeration() -> None:
    """Heads and tails name exactly the characters whose UTF-8 begins or ends so."""
    some = [*range(0x80, 0x900), *range(0xD700, 0xD800), *range(0xE000, 0xE100)]
    some += [*range(0xFFF0, 0x10100), *range(0x10FF80, 0x110000)]
    asked: set[tuple[bool, bytes]] = set()
    for code_point in some[::7]:
        data = chr(code_point).encode()
        asked.update((True, data[:n]) for n in range(1, len(data)))
        asked.update((False, data[n:]) for n in range(1, len(data)))
    for first, part in asked:
        places = heads(part) if first else tails(part)
        named = {c for place in places for c in range(0x110000)[place]}
        for code_point in some:
            data = chr(code_point).encode()
            whole = data.startswith(part) if first else data.endswith(part)
            assert (code_point in named) == (whole and len(part) < len(data))
    assert heads(b"\xf5") == heads(b"\xc1") == heads(b"a") == ()
    assert split(b"\x80\x80\x80\x80a") is None
    assert split(b"\xa9ab\xe2\x82") is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "folded"),
    [(r"\p{L}", 0), (r"\p{N}", 0), (r"\s", 0), (r"\w", 0), (r"\p{Han}", 0), ("s", 1), ("[a-z]", 1)],
)
def test_sets_are_the_librarys(source: str, folded: int) -> None:
    """Every code point there is, asked of the library."""
    everything = codepoints._all()
    asked = Regex(f"(?i:{source})" if folded else source)
    truth = codepoints.none()
    for _, (a, b) in pre_tokenizers.Split(asked, "removed", True).pre_tokenize_str(everything):
        truth[codepoints._places()[a:b]] = True
    np.testing.assert_array_equal(codepoints.of_pattern(source, folded=bool(folded)), truth)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"(a)\1", r"\\1"),
        (r"a{1,200}", "more than 64 times"),
        (r"[a&&b]", "&&"),
        (r"(?i:straße)", "without case"),
        (r"(?i:\p{Lu})", "without case"),
        (r"(?m:.)", r"\(\?m"),
        (r"\X", r"\\X"),
        ("(a", "group without an end"),
        ("[a", "an end in the middle"),
        (r"\p{Nonsense}", "Nonsense"),
        ("a)b", r"unmatched '\)'"),
        ("((a{64}){64}){64}", "states"),
    ],
)
def test_what_cannot_be_read_is_named(pattern: str, what: str) -> None:
    with pytest.raises(UnreadableError, match=what):
        Automaton(parse(pattern))


def test_alternatives_after_a_flag() -> None:
    """``(?i)`` holds to the end of its group."""
    automaton = Automaton(parse("x(?i)ab|c"))
    assert all(automaton.accepts(t) for t in ("xab", "xAB", "xC"))
    assert not any(automaton.accepts(t) for t in ("c", "Xab", "xa"))


def test_a_fixed_number_may_be_optional() -> None:
    """``a{2}?`` is (aa)? in Ruby's dialect; the library is asked, too."""
    automaton = Automaton(parse("xa{2}?b"))
    for text, whole in (("xb", True), ("xaab", True), ("xab", False)):
        cut = pre_tokenizers.Split(Regex("xa{2}?b"), "isolated").pre_tokenize_str(text)
        assert (cut == [(text, (0, len(text)))]) == whole or not whole
        assert automaton.accepts(text) == whole


def test_hostile_patterns_take_no_memory() -> None:
    many = "".join(chr(0x4E00 + n) for n in range(400))
    for pattern, what in ((many, "more than 300"), ("a" * 20_000, "more than 10,000")):
        with pytest.raises(UnreadableError, match=what):
            parse(pattern)
