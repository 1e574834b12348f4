"""The shipped tokenizers: bytes, digits, BOS, and the boundary between prompt and response."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import demo.tokenizer as tokenization
from demo.build import MODELS
from demo.stories import problems

SHIPPED = {name: tokenization.load(MODELS / name) for name in ("demo", "demo-multidigit")}


@pytest.fixture(params=SHIPPED)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = SHIPPED[request.param]
    return found


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    for tokenizer in SHIPPED.values():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if not any(special in text for special in tokenization.SPECIALS):
            assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_every_byte_has_an_id(tokenizer: Tokenizer) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert len(ByteLevel.alphabet()) == 256
    assert all(tokenizer.token_to_id(char) is not None for char in ByteLevel.alphabet())


def test_special_ids_and_bos(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(t) for t in tokenization.SPECIALS] == [0, 1, 2]
    assert tokenizer.encode("Question").ids[0] == tokenization.BOS
    assert tokenization.BOS not in tokenizer.encode("Question", add_special_tokens=False).ids


def test_digits() -> None:
    def cut(name: str, text: str) -> list[str]:
        return list(SHIPPED[name].encode(text, add_special_tokens=False).tokens)

    assert cut("demo", " 156-24=132") == ["Ġ", *"156-24=132"]
    assert cut("demo-multidigit", " 156-24=132") == ["Ġ", "156", "-", "24", "=", "132"]
    assert cut("demo-multidigit", "1234") == ["123", "4"]
    assert cut("demo-multidigit", "999") == ["99", "9"]


def test_tokenizers_differ_in_numbers_only() -> None:
    models = {n: json.loads((MODELS / n / "tokenizer.json").read_text())["model"] for n in SHIPPED}
    single, multi = models["demo"], models["demo-multidigit"]
    assert multi["merges"][: len(single["merges"])] == single["merges"]
    assert single["vocab"].items() <= multi["vocab"].items()
    added = set(multi["vocab"]) - set(single["vocab"])
    assert added == {str(n) for n in range(10, 161)}
    assert not any(len(t) > 1 and any(c.isdigit() for c in t) for t in single["vocab"])


def test_prompt_and_response_apart_equal_both_together(tokenizer: Tokenizer) -> None:
    for p in itertools.islice(problems("boundary", "test"), 300):
        apart = (
            tokenizer.encode(p.prompt).ids
            + tokenizer.encode(p.response, add_special_tokens=False).ids
        )
        assert apart == tokenizer.encode(p.text).ids


def test_every_number_starts_at_a_token(tokenizer: Tokenizer) -> None:
    """So that a span of the generator is a whole number of tokens."""
    for p in itertools.islice(problems("tokens", "test"), 100):
        offsets = tokenizer.encode(p.text, add_special_tokens=False).offsets
        edges = {edge for pair in offsets for edge in pair}
        for step in p.steps:
            for start, end in (step.span, *(s for o in step.operands for s in (o.source, o.copy))):
                assert {start, end} <= edges


def test_training_a_small_tokenizer(tmp_path: Path) -> None:
    made = tokenization.train(tokenization.corpus(200), 400)
    both = (made, tokenization.with_numbers(made))
    assert both[1].get_vocab_size() == both[0].get_vocab_size() + 151
    tokenization.save(made, tmp_path, 8192)
    assert (
        tokenization.load(tmp_path).encode("Ana has 24 pens.").ids
        == made.encode("Ana has 24 pens.").ids
    )
