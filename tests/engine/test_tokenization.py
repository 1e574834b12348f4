"""Bytes per token against brute force, for the three ways vocabularies write bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from engine.errors import UserError
from engine.tokenization import Tokenizer, show

TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)


def byte_level(merges: bool = True) -> Tokenizer:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320 if merges else 258,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the cat sat on the mat 🤗 naïve 12 34"] * 8, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return Tokenizer(backend.to_str())


def sentencepiece_like() -> Tokenizer:
    vocabulary = {"<unk>": 0, "<s>": 1}
    vocabulary.update({f"<0x{byte:02X}>": 2 + byte for byte in range(256)})
    for piece in ("▁", "a", "b", "c", "▁a", "▁ab", "ab"):
        vocabulary[piece] = len(vocabulary)
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    backend = Backend(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return Tokenizer(backend.to_str())


TOKENIZERS = {"byte_level": byte_level(), "sentencepiece": sentencepiece_like()}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_pieces_join_to_the_text_byte_for_byte(name: str, text: str) -> None:
    if name == "sentencepiece":
        text = text.replace("▁", "")  # indistinguishable from a space there, see below
    encoding = TOKENIZERS[name].encode(text, special=True)
    body = [p for i, p in enumerate(encoding.pieces) if i not in encoding.added]
    assert b"".join(body) == text.encode()
    assert encoding.exact
    assert encoding.added == (0,)


def test_emoji_is_cut_into_bytes_not_characters() -> None:
    tokenizer = byte_level(merges=False)
    encoding = tokenizer.encode("🤗", special=False)
    assert encoding.pieces == (b"\xf0", b"\x9f", b"\xa4", b"\x97")
    assert show(encoding.pieces[0]) == "\\xf0"


def test_literal_lower_block_is_reported_as_inexact() -> None:
    assert not TOKENIZERS["sentencepiece"].encode("a▁b", special=False).exact


def test_added_tokens_are_literal_and_not_byte_mapped() -> None:
    backend = Backend.from_str(_source(byte_level()))
    backend.add_tokens(["Ġé"])
    tokenizer = Tokenizer(backend.to_str())
    token_id = tokenizer.id_of("Ġé")
    assert token_id is not None
    assert tokenizer.piece(token_id).data == "Ġé".encode()
    assert tokenizer.piece(token_id).kind == "added"


def test_special_text_typed_by_a_user_is_a_special_token_with_its_own_bytes() -> None:
    encoding = TOKENIZERS["byte_level"].encode("a</s>b", special=True)
    assert encoding.exact
    assert b"</s>" in encoding.pieces
    assert set(encoding.special) == {0, encoding.pieces.index(b"</s>")}
    assert encoding.added == (0,)


def test_wordpiece() -> None:
    backend = Backend(
        models.WordPiece({"[UNK]": 0, "un": 1, "##able": 2, "cat": 3}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(backend.to_str())
    encoding = tokenizer.encode("unable cat", special=False)
    assert encoding.pieces == (b"un", b"able", b" cat")
    assert encoding.exact


def test_unknown_ids() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    with pytest.raises(UserError, match="no token id 99999"):
        tokenizer.pieces([99_999])
    with pytest.raises(UserError, match="no token id -1"):
        tokenizer.pieces([-1])


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff"])
def test_lone_surrogate_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match="lone surrogate"):
        TOKENIZERS["byte_level"].encode(text, special=False)


def test_too_long_is_refused_before_tokenizing() -> None:
    with pytest.raises(UserError, match="shorten"):
        TOKENIZERS["byte_level"].encode("a" * (9 << 20), special=False)


def test_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(UserError, match="could not be read"):
        Tokenizer.load(tmp_path)


def test_a_changed_file_is_read_again_and_the_digest_ignores_layout(tmp_path: Path) -> None:
    import os

    source = _source(byte_level())
    file = tmp_path / "tokenizer.json"
    file.write_text(source)
    first = Tokenizer.load(tmp_path)
    file.write_text(json.dumps(json.loads(source), indent=3))
    os.utime(file, ns=(1, 1))
    assert Tokenizer.load(tmp_path).digest == first.digest
    file.write_text(_source(sentencepiece_like()))
    os.utime(file, ns=(2, 2))
    assert Tokenizer.load(tmp_path).digest != first.digest


def _source(tokenizer: Tokenizer) -> str:
    return str(tokenizer._backend.to_str())
