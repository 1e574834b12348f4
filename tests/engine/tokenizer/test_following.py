"""Which tokens may follow: always what encoding the whole text says."""

from __future__ import annotations

import functools
import itertools
import json
import random

import pytest

from engine.tokenizer import TokenizerSpec, codepoints
from engine.tokenizer.following import SHAPES, follower_of
from engine.tokenizer.loading import parse_spec
from engine.tokenizer.ranks import RULES
from engine.tokenizer.splitting import KNOWN, Splitter
from tests.engine.tokenizer.test_vocabulary import byte_level
from tests.engine.tokenizer.toys import rank_file, source, toy

TEXTS = (
    "the cat",
    " the",
    "it'",
    "a  ",
    "x\n",
    "12",
    "é",
    "日",
    "tok",
    "the cats",
    "<",
    "word'",
    "",
)


@functools.cache
def ranked(rules: str) -> TokenizerSpec:
    """The toy's tokens as a rank file (``ignore_merges``), and some that no merge makes."""
    pieces = [p.data for p in toy("byte_bpe").pieces if p.kind == "text" and len(p.data) > 1]
    ranks = [
        *(bytes([n]) for n in range(256)),
        *pieces,
        " über".encode(),
        "\u0301".encode(),
        b"qzx",
        b"\n\n  ",
    ]
    return parse_spec(rank_file(list(dict.fromkeys(ranks))), "ranks", rules)


@pytest.mark.parametrize("kind", ["byte_bpe", *RULES])
def test_as_the_library_encodes(kind: str) -> None:
    """Every token after every beginning, those that end inside a character apart."""
    spec = toy(kind) if kind == "byte_bpe" else ranked(kind)
    follower = follower_of(spec)
    assert follower is not None
    tokens = list(spec.segmenting)
    answers: set[bool | None] = set()
    for text in TEXTS:
        ids = spec.encode(text).ids
        told = follower.follow(text.encode(), ids, tokens)
        answers.update(told)
        for i, follows in zip(tokens, told, strict=True):
            data = text.encode() + spec.pieces[i].data
            if follows is not None:
                assert follows == (spec.encode(data.decode()).ids == (*ids, i)), data
            elif kind != "qwen" or data.isascii():  # before a normalizer only ASCII is safe
                with pytest.raises(UnicodeDecodeError):
                    data.decode()
    assert answers == {True, False, None}


def test_beginnings_the_tokenizer_would_cut_otherwise() -> None:
    """Nothing follows ids that are no encoding, not even as a word of its own."""
    spec = toy("byte_bpe")
    follower = follower_of(spec)
    assert follower is not None
    letters = tuple(spec.by_bytes[letter.encode()] for letter in "the")
    assert set(follower.follow(b"the", letters, [spec.by_bytes[b" "], spec.by_bytes[b"x"]])) == {
        False
    }


def test_a_token_no_merge_makes() -> None:
    """A word of its own is merged like any other unless the vocabulary is looked up first."""
    for ignored in (False, True):
        tree = json.loads(source("byte_bpe"))
        own = len(tree["model"]["vocab"])
        tree["model"] |= {
            "vocab": {**tree["model"]["vocab"], "Ġqzx": own},
            "ignore_merges": ignored,
        }
        spec = parse_spec(json.dumps(tree).encode(), "more")
        follower = follower_of(spec)
        assert follower is not None
        ids = spec.encode("the").ids
        assert follower.follow(b"the", ids, [own]) == [ignored]
        assert (spec.encode("the qzx").ids == (*ids, own)) == ignored


def test_added_tokens_and_unknown_rules() -> None:
    added = follower_of(toy("added_bpe"))
    assert added is not None
    spec = toy("added_bpe")
    ids = spec.encode("th").ids
    told = added.follow(b"th", ids, [spec.by_bytes[b"in"], spec.by_raw["ing"], spec.by_bytes[b"e"]])
    assert told[1] is None  # "thing" holds an added token
    assert told[2] == (spec.encode("the").ids == (*ids, spec.by_bytes[b"e"]))
    for kind in ("digits_bpe", "fallback_bpe", "unigram", "wordpiece", "wordlevel"):
        assert follower_of(toy(kind)) is None


@pytest.mark.parametrize("number", range(len(KNOWN)))
def test_texts_of_one_shape_are_cut_alike(number: int) -> None:
    """All texts of two characters, and many longer ones, against the library."""
    pattern = sorted(KNOWN)[number]
    spec = byte_level(pattern, [])
    cut = spec.backend._library.pre_tokenizer.pre_tokenize_str  # type: ignore[attr-defined]
    splitter = Splitter.of(spec, only=KNOWN)
    assert splitter is not None
    rng = random.Random(number)
    alike: dict[str, list[str]] = {}
    for n in range(128):
        alike.setdefault(chr(SHAPES[n]), []).append(chr(n))
    assert len(alike) == 10
    texts = ["".join(pair) for pair in itertools.product(map(chr, range(128)), repeat=2)]
    texts += ["".join(rng.choices("aAB1 \n\r\t./'sdl", k=rng.randint(3, 9))) for _ in range(2000)]
    lengths = {text: [len(form) for form, _ in cut(text)] for text in texts}
    assert all(lengths[text] == list(map(len, splitter.pieces(text) or ())) for text in texts)
    for text in texts:
        if "'" not in text:
            shape = text.translate({n: chr(SHAPES[n]) for n in range(128)})
            other = "".join(rng.choice(alike[character]) for character in shape)
            assert [len(form) for form, _ in cut(other)] == lengths[text], (text, other)


def test_no_table_disputes_the_settled_letters() -> None:
    disputed = codepoints._newer()
    settled = [c for c in codepoints._all() if codepoints._SETTLED.fullmatch(c)]
    assert len(settled) > 30_000
    assert disputed.isdisjoint(settled)
    assert not codepoints.doubtful("".join(settled))
    assert all(codepoints.doubtful("a" + c) for c in random.Random(0).sample(sorted(disputed), 50))
