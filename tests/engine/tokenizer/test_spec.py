"""Tokenizers as data: against the library they came from, byte by byte, and hostile files."""

from __future__ import annotations

import base64
import importlib.util
import io
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.pieces import byte_symbols
from engine.subjects import Text, TokenizerRef
from engine.tokenization import Tokenizer
from engine.tokenizer import installed, load_spec, reference
from engine.tokenizer.cutting import alternatives
from engine.tokenizer.loading import parse_spec
from tests.engine.tokenizer.toys import (
    CORPUS,
    KINDS,
    TORTURE,
    letters,
    library,
    rank_file,
    save,
    source,
    toy,
)

RANDOM = tuple(
    "".join(random.Random(n).choices("the cats ing12\n'é🤗ﬁ \u0301 word foo", k=30))
    for n in range(25)
)


def model_ids(kind: str, form: str) -> list[int]:
    return [token.id for token in library(kind).model.tokenize(form)]


@pytest.mark.parametrize("kind", KINDS)
def test_against_the_library(kind: str) -> None:
    """Bytes, ids, cuts and steps of every toy on every text."""
    spec, own = toy(kind), library(kind)
    assert spec.mismatches == 0
    assert spec.digest == Tokenizer(source(kind)).digest
    own.encode_special_tokens = True
    for text in (*TORTURE, *RANDOM, "<bos>the</s>[UNK]"):
        encoded = spec.encode(text)
        assert list(encoded.ids) == own.encode(text, add_special_tokens=False).ids
        assert spec.encode_ids([text]) == [list(encoded.ids)]
        data = text.encode()
        last = 0
        for token_id, (start, end) in zip(encoded.ids, encoded.bounds, strict=True):
            assert last <= start <= end <= len(data)
            last = end
            piece = spec.piece(token_id).data
            if spec.normalize(text).text == text and token_id != spec.unknown:
                prefix = piece.removeprefix(b" ")
                here = data[start:end].replace("▁".encode(), b" ")
                assert here in (piece, prefix)
        cuts = spec.pretokens(text)
        made: list[int] = []
        for cut in cuts:
            made += [cut.added] if cut.added is not None else model_ids(kind, cut.form)
        assert made == list(encoded.ids), text
        assert all(a.end <= b.start for a, b in itertools.pairwise(cuts))
        for cut in cuts:
            steps = spec.merge_steps(cut.form) if cut.added is None else ()
            parts = steps[-1].parts if steps else ()
            if parts and spec.unknown is None:
                assert [spec.raw.index(p) for p in parts] == model_ids(kind, cut.form)


def test_bounds_are_bytes_of_the_original_text() -> None:
    text = "🤗 é"
    spec = toy("byte_bpe")
    bounds = spec.encode(text).bounds
    assert [text.encode()[a:b] for a, b in bounds] == [
        spec.piece(i).data for i in spec.encode(text).ids
    ]
    assert bounds[0][1] < 4  # the library says characters 0 to 1 for all of its tokens

    nfkc = toy("added_bpe")
    text = "ﬁx１"  # "fix1" after normalization: the first letter stands for all of the ligature
    cut = {
        nfkc.token(i): span
        for i, span in zip(nfkc.encode(text).ids, nfkc.encode(text).bounds, strict=True)
    }
    assert cut["1"] == (4, 7)
    assert cut["f"] == (0, 3)
    assert cut["i"] == (3, 3)
    assert nfkc.normalize(text).text == "fix1"
    assert nfkc.normalize(text).spans == ((0, 3), (0, 3), (3, 4), (4, 7))
    assert nfkc.normalize("e\u0301x").spans == ((0, 3), (3, 4))

    fallback = toy("fallback_bpe")
    assert fallback.prefix_space
    encoded = fallback.encode("the cat")
    assert encoded.bounds == ((0, 3), (3, 7))
    assert fallback.decode_bytes(encoded.ids) == b" the cat"
    assert fallback.text_bytes(encoded.ids) == b"the cat"
    # The mark itself in a text is its three bytes, though it becomes a space.
    assert fallback.encode("a▁a").bounds[-2:] == ((1, 4), (4, 5))

    words = toy("wordpiece")
    encoded = words.encode("  The cat ")
    assert [b"  The cat "[a:b] for a, b in encoded.bounds] == [b" The", b" cat"]
    assert words.lossy
    unknown = toy("wordlevel").encode("the Ω cat")
    assert unknown.bounds == ((0, 3), (4, 6), (7, 10))


def test_unknown_words() -> None:
    spec = toy("wordpiece")
    text = "Ωx, ΩΩ Ω the"
    encoded = spec.encode(text)
    assert encoded.exact
    words = [text.encode()[a:b].decode() for a, b in encoded.bounds]
    assert words == ["Ωx", ",", "ΩΩ", "Ω", " the"]


def test_unknown_characters_and_what_comes_after() -> None:
    spec = toy("unigram")
    text = "cat ΩΩ cat"
    encoded = spec.encode(text)
    at = encoded.ids.index(spec.unknown)
    a, b = encoded.bounds[at]
    assert encoded.exact
    assert text.encode()[a:b].decode().strip() == "ΩΩ"
    assert encoded.bounds[-1][1] == len(text.encode())


def test_special_tokens_in_a_text() -> None:
    spec = toy("byte_bpe")
    eos = spec.raw.index("<eos>")
    assert eos not in spec.encode("a<eos>b").ids
    assert spec.encode("a<eos>b", "parse").ids[1] == eos
    assert spec.encode("a<eos>b", "parse").bounds[1] == (1, 6)
    assert spec.encode("a<eos>b").ids == spec.encode("a<eos>b", "text").ids
    assert spec.decode_bytes(spec.encode("a<eos>b").ids) == b"a<eos>b"
    with pytest.raises(UserError, match=r"special token <eos> \(id 1\)"):
        spec.encode("a<eos>b", "error")
    assert spec.encode("ab", "error").ids == spec.encode("ab").ids
    assert spec.piece(eos).kind == "special"
    assert eos not in spec.segmenting
    assert spec.specials == {0: "<bos>", 1: "<eos>"}


def test_added_tokens_cut_words_and_swallow_spaces() -> None:
    spec = toy("added_bpe")
    ing, foo, word = (spec.raw.index(t) for t in ("ing", "foo", "word"))
    assert spec.piece(ing).kind == "added"
    encoded = spec.encode("string  foo b")
    assert dict(zip(encoded.ids, encoded.bounds, strict=True))[foo] == (6, 11)
    assert ing in encoded.ids
    assert word in spec.encode("a word!").ids
    assert word not in spec.encode("a wordy").ids
    cut = spec.pretokens("string")
    assert [(p.start, p.end, p.added) for p in cut] == [(0, 3, None), (3, 6, ing)]
    assert cut[1].rule == "added token"


def test_rules_are_named() -> None:
    cut = toy("digits_bpe").pretokens("the cats 12!?  x")
    assert [(p.form, p.rule) for p in cut] == [
        ("the", r"Split:  ?\p{L}+"),
        ("Ġcats", r"Split:  ?\p{L}+"),
        ("Ġ", r"Split: \s+"),
        ("1", "Digits"),
        ("2", "Digits"),
        ("!?", r"Split:  ?[^\s\p{L}\p{N}]+"),
        ("Ġ", r"Split: \s+(?!\S)"),
        ("Ġx", r"Split:  ?\p{L}+"),
    ]
    assert alternatives(r"a|(?:b|c)|[|\]]|\||d") == ["a", "(?:b|c)", r"[|\]]", r"\|", "d"]


def test_steps_come_in_order_of_rank() -> None:
    spec = letters(["a b", "b c", "ab c"])
    steps = spec.merge_steps("abcab")
    assert [(s.action, s.at, s.token, s.rank) for s in steps] == [
        ("merge", 0, "ab", 0),
        ("merge", 2, "ab", 0),
        ("merge", 0, "abc", 2),
    ]
    assert steps[-1].parts == ("abc", "ab")
    assert spec.merges == ((0, 1, 3), (1, 2, 4), (3, 2, 5))
    whole = letters(["a b"], ignore_merges=True)
    assert whole.merge_steps("ab")[0].action == "whole"
    assert toy("unigram").merges is None
    assert toy("unigram").scores is not None
    assert [s.token for s in toy("wordpiece").merge_steps("zebra€")] == ["[UNK]"]


def ranks_of(kind: str) -> list[bytes]:
    """A toy's tokens as a rank file lists them: bytes first, then in order of merges."""
    spec = toy(kind)
    singles = [bytes([byte]) for byte in range(256)]
    return singles + [spec.piece(merged).data for _, _, merged in spec.merges or ()]


def test_a_rank_file_cuts_as_the_merges_it_came_from(tmp_path: Path) -> None:
    ranks = ranks_of("byte_bpe")
    file = tmp_path / "toy.tiktoken"
    file.write_bytes(rank_file(ranks))
    with pytest.raises(UserError, match="does not say how text is cut"):
        load_spec(file)
    spec = load_spec(f"{file}#gpt2")
    assert spec.kind == "bpe"
    assert len(spec.merges or ()) == len(ranks) - 256
    known = toy("byte_bpe")
    for text in (*TORTURE, *RANDOM):
        pieces = [spec.piece(i).data for i in spec.encode(text).ids]
        assert pieces == [known.piece(i).data for i in known.encode(text).ids]
    assert spec.specials == {50_256: "<|endoftext|>"}
    assert spec.encode("<|endoftext|>", "parse").ids == (50_256,)
    assert spec.piece(50_000).kind == "unused"


def test_a_token_without_merges_is_found_as_a_whole() -> None:
    ranks = [bytes([byte]) for byte in range(256)] + [b"xyz"]
    spec = parse_spec(rank_file(ranks), "toy", "gpt2")
    assert spec.encode("xyz").ids == (256,)
    assert len(spec.encode("xyzx").ids) == 4
    assert spec.merges == ()


def test_a_tekken_file_uses_the_first_ranks_only() -> None:
    ranks = [*ranks_of("byte_bpe")[:300], b"the cat never used"]
    document = {
        "config": {
            "pattern": r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+",
            "default_vocab_size": 310,
            "default_num_special_tokens": 10,
        },
        "vocab": [
            {"rank": r, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for r, token in enumerate(ranks)
        ],
    }
    spec = parse_spec(json.dumps(document).encode(), "tekken")
    assert spec.size == 310
    assert spec.piece(10 + ord("a")).data == b"a"
    assert spec.encode("a1").ids == (10 + ord("a"), 10 + ord("1"))
    assert spec.specials[3] == "[INST]"
    assert spec.mismatches == 0
    assert spec.encode("[INST]", "parse").ids == (3,)
    del document["config"]["pattern"]
    with pytest.raises(UserError, match="not a complete Tekken file"):
        parse_spec(json.dumps(document).encode(), "tekken")


def _changed(**model: object) -> bytes:
    tree = json.loads(source("byte_bpe"))
    tree["model"].update(model)
    return json.dumps(tree).encode()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b" \n", "is empty"),
        (b"\x00\x01\x02nothing", "is no tokenizer that can be read"),
        (b"root:x:0:0:root:/root:/bin/bash\n", "is no tokenizer that can be read"),
        (b"\n# A text that begins with an empty line\n", "is no tokenizer that can be read"),
        (b"\n\n\n\n\n text", "is no tokenizer that can be read"),
        (b"{", "is not valid JSON"),
        (b"[]", "is JSON but no tokenizer"),
        (b"{}", "is JSON but no tokenizer"),
        (b'{"model": {}}', "empty vocabulary"),
        (b'{"model": []}', "is JSON but no tokenizer"),
        (b'{"model": {"vocab": {"a": 1}}}', "could not be read as a tokenizer"),
        (b'{"config": {}, "vocab": []}', "not a complete Tekken file"),
        (b'{"config": {"default_num_special_tokens": 1e9}, "vocab": 3}', "not a complete Tekken"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "is not valid JSON"),
        (_changed(vocab={"a": 4_000_000_000}, merges=[]), "id 4,000,000,000; ids must lie"),
        (_changed(vocab={"a": -1}, merges=[]), "id -1"),
        (_changed(vocab={"a": "x"}, merges=[]), "could not be read as a tokenizer"),
        (_changed(vocab=[["a"], 3]), "could not be read as a tokenizer"),
        (_changed(merges=[["not", "there"]]), "could not be read as a tokenizer"),
        (_changed(type="Unheard"), "could not be read as a tokenizer"),
        (b"YQ== 0\nYg== x\n", "line 2 is no token with its rank"),
        (b"YQ== 0\n!! 1\n", "line 2 is no token with its rank"),
        (b"YQ== 99999999999\n", "does not say how|ids must lie"),
    ],
)
def test_hostile_files_are_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        parse_spec(data, "stranger.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nowhere/tokenizer.json", "holds no tokenizer.json"),
        ("a\x00b", "holds no tokenizer.json"),
        ("x" * 5000, "holds no tokenizer.json"),
        (".", "holds no tokenizer.json"),
        ("installed:none", "No tokenizer none is installed"),
    ],
)
def test_hostile_paths_are_one_sentence(path: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_spec(path)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_characters_are_refused(text: str) -> None:
    for ask in (toy("byte_bpe").encode, toy("byte_bpe").normalize, toy("byte_bpe").pretokens):
        with pytest.raises(UserError, match="lone surrogate"):
            ask(text)
    with pytest.raises(UserError, match="lone surrogate"):
        toy("byte_bpe").encode_ids(["a", text])


def test_ids_out_of_range_are_refused() -> None:
    spec = toy("byte_bpe")
    for wrong in (-1, spec.size, 2**40):
        with pytest.raises(UserError, match=f"has no token id {wrong}"):
            spec.decode_bytes([5, wrong])
        assert spec.piece(wrong).kind == "unused"


def test_dropout_in_a_file_is_switched_off() -> None:
    spec = parse_spec(_changed(dropout=0.9), "dropout")
    assert len({spec.encode("the tokenization of cats").ids for _ in range(20)}) == 1


def test_subjects(tmp_path: Path) -> None:
    path = save("byte_bpe", tmp_path)
    ref = reference(path.parent)
    assert ref == TokenizerRef(
        path=str(path.parent), tokenizer=toy("byte_bpe").digest, title="byte_bpe"
    )
    plain, named = Text(prompt="a"), Text(prompt="a", tokenizer=ref)
    elsewhere = Text(prompt="a", tokenizer=ref.evolve(path="elsewhere", title=None))
    assert plain.digest != named.digest == elsewhere.digest


def test_bytes_and_their_symbols_are_inverse() -> None:
    assert len(set(byte_symbols())) == 256
    assert byte_symbols()[32] == "Ġ"


def test_importing_needs_no_torch() -> None:
    code = "import sys, engine.tokenizer; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_sentencepiece_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package sentencepiece: install it"):
        parse_spec(b"\x0a\x0e\x0a\x05<unk>", "tokenizer.model")


@pytest.mark.skipif(not importlib.util.find_spec("sentencepiece"), reason="no sentencepiece")
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece_itself(kind: str) -> None:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=340,
        model_type=kind,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    own = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    spec = parse_spec(model.getvalue(), "toy.model")
    assert (spec.kind, spec.mismatches, spec.prefix_space) == (kind, 0, True)
    assert spec.around == ((own.bos_id(),), ())
    for text in (*TORTURE[2:], *RANDOM):
        encoded = spec.encode(text)
        assert list(encoded.ids) == own.encode(text)
        assert spec.encode_ids([text]) == [list(encoded.ids)]
        assert encoded.exact
        covered = b"".join(text.encode()[a:b] for a, b in encoded.bounds)
        assert covered.split() == text.encode().split()
        form = spec.pretokens(text)[0].form
        if kind == "bpe":
            assert spec.form_ids(form) == encoded.ids
    assert spec.encode("a<s>b").ids != spec.encode("a<s>b", "parse").ids
    assert own.bos_id() in spec.encode("a<s>b", "parse").ids


@pytest.mark.skipif(not importlib.util.find_spec("mistral_common"), reason="no mistral-common")
def test_tekken() -> None:
    names = {found.name for found in installed()}
    assert "tekken_240718" in names
    spec = load_spec("installed:tekken_240718")
    assert (spec.size, spec.mismatches) == (131_072, 0)
    golden = {"the": 4, " hello": 32, "tokenization": 1186, " strawberry": 444, "日本語": 30}
    golden |= {"1234567": 1, "🤗": 1, " antidisestablishmentarianism": 58_084_200}
    assert {text: spec.trie.count(text.encode()) for text in golden} == golden
    best = spec.trie.best(b" antidisestablishmentarianism", 1)[0]
    assert (best.cost, len(spec.encode(" antidisestablishmentarianism"))) == (6, 7)
    partial = sum(
        piece.kind == "text" and piece.data.decode("utf-8", "ignore").encode() != piece.data
        for piece in spec.pieces
    )
    assert partial == 1435
