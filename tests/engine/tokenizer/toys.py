"""Small tokenizers of every kind, trained or written by hand; no downloads."""

from __future__ import annotations

import base64
import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from engine.tokenizer import TokenizerSpec
from engine.tokenizer.loading import parse_spec

CORPUS = [
    "the cat sat on the mat and the cats sat there too; that was it.",
    "there is nothing like the tokenization of tokens in a tokenizer's token stream",
    "un unbelievable repaid repaid rights right HIV AIDS February Dormer Saturday 12345 2023",
    "def main():\n    return string\n\n\nprint('hello  world')  # é ﬁ 日本語 🤗 naïve café",
] * 4

TORTURE = (
    "",
    " ",
    "the cat",
    "  the  cats\n\n\tsat 12345 ",
    "é e\u0301 ﬁ １２３ naïve",
    "日本語🤗👨‍👩‍👧 x",
    "unseen Ω≈ç√ \x00\x01 ￿",
    "it's THE cat's\r\nmat.",
    "a\u200bb\ufeffc ▁x Ġy",
)


def _byte_level(regex: str | None = None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    if regex is None:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.Split(Regex(regex), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def _with_added() -> Tokenizer:
    from tokenizers import AddedToken

    made = _byte_level()
    made.normalizer = normalizers.NFKC()
    made.add_tokens([AddedToken("ing", normalized=True), AddedToken("foo", lstrip=True)])
    made.add_tokens([AddedToken("word", single_word=True, normalized=False)])
    return made


def _fallback() -> Tokenizer:
    """Like Llama 2: a mark for spaces put in by the normalizer, bytes for unknown characters."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab.update({f"<0x{byte:02X}>": 3 + byte for byte in range(256)})
    for piece in ("▁", *"abcdehilnorstu", "▁t", "he", "▁the", "at", "▁c", "▁cat", "in", "▁▁"):
        vocab[piece] = len(vocab)
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "t"), ("▁", "c"), ("▁c", "at")]
    merges += [("i", "n"), ("▁", "▁")]
    made = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def _unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", "<s>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def _wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "[CLS]"], show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def _wordlevel() -> Tokenizer:
    vocab = {word: i for i, word in enumerate(["[UNK]", "the", "cat", "sat", "12345"])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


_MAKERS = {
    "byte_bpe": _byte_level,
    "digits_bpe": lambda: _byte_level(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    "added_bpe": _with_added,
    "fallback_bpe": _fallback,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
    "wordlevel": _wordlevel,
}
KINDS = tuple(_MAKERS)


@functools.cache
def source(kind: str) -> str:
    """The ``tokenizer.json`` of a toy."""
    return str(_MAKERS[kind]().to_str())


@functools.cache
def toy(kind: str) -> TokenizerSpec:
    """A toy as a specification."""
    return parse_spec(source(kind).encode(), kind)


def library(kind: str) -> Tokenizer:
    """The same, as the library reads it."""
    return Tokenizer.from_str(source(kind))


def save(kind: str, folder: Path) -> Path:
    """Write a toy's ``tokenizer.json`` into a folder of its own."""
    path = folder / kind / "tokenizer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source(kind), "utf-8")
    return path


def letters(merges: list[str], alphabet: str = "abc", **more: Any) -> TokenizerSpec:
    """A BPE over single letters: ``merges`` as ``"a b"``, in order of priority."""
    pairs = [tuple(pair.split(" ")) for pair in merges]
    pieces = [*alphabet, *dict.fromkeys("".join(pair) for pair in pairs)]
    tree = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": merges,
            **more,
        },
    }
    return parse_spec(json.dumps(tree).encode(), "letters")


def rank_file(ranks: list[bytes]) -> bytes:
    """tiktoken's format."""
    lines = (base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(ranks))
    return b"\n".join(lines) + b"\n"
