"""Canonical covers of real tokenizers by enumeration, and predictions after many tails."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.tokenizer import TokenizerSpec
from engine.tokenizer.outcomes import rows_of
from engine.tokenizer.tails import Tails
from engine.tokenizer.windows import completions, window
from engine.workspace import Workspace
from tests.engine.tiny import EOS as TINY_EOS
from tests.engine.tiny import tiny_folder, tiny_ids, walked
from tests.engine.tokenizer.conftest import model_folder
from tests.engine.tokenizer.nextbytes import ask, outcomes, summary
from tests.engine.tokenizer.test_spellings import spellings_of
from tests.engine.tokenizer.toys import toy
from tests.engine.tokenizer.wordlets import Oracle

Ids = tuple[int, ...]


def is_canonical(spec: TokenizerSpec, ids: Ids) -> bool:
    """Whether some text has these tokens first; incomplete characters are completed."""
    data = b"".join(spec.pieces[i].data for i in ids)
    try:
        return spec.encode(data.decode()).ids == ids
    except UnicodeDecodeError:
        pass
    for character in _CHARACTERS:
        for cut in (1, 2, 3):
            head = character.encode()[:cut]
            if len(character.encode()) > cut and data.endswith(head):
                try:
                    text = data[: -len(head)].decode() + character
                except UnicodeDecodeError:
                    continue
                if spec.encode(text).ids[: len(ids)] == ids:
                    return True
    return False


# White space beyond ASCII (joins a run of spaces), every lead byte, and the toy's own characters.
_CHARACTERS = [*"\x85\xa0\u2003\u3000", *map(chr, range(0x80, 0x800, 7))]
_CHARACTERS += map(chr, (*range(0x800, 0xD800, 499), *range(0x65C0, 0x6600)))
_CHARACTERS += map(chr, (*range(0xE000, 0x10000, 499), *range(0x10000, 0x10FFFF, 997)))


@pytest.mark.parametrize("text", ["the ca", "it'", "sat  ", "é", "tok"])
def test_canonical_covers_of_real_rules(workspace: Workspace, toy_model: str, text: str) -> None:
    """With GPT-2's pre-tokenizer: every cover by enumeration, kept if encoding gives it back."""
    spec, data = toy("byte_bpe"), text.encode()
    model = Oracle(toy_model, spec.size)
    # The toy model's config says that this id, a piece of text elsewhere, ends a text.
    speaking = [i for i in spec.segmenting if i != TINY_EOS]
    wanted: dict[Ids, float] = {}
    for place in range(len(data)):
        for before in spellings_of(spec, data[:place]):
            for i in speaking:
                piece = spec.pieces[i].data
                ids = (*before, i)
                crosses = len(piece) > len(data) - place and piece.startswith(data[place:])
                if crosses and is_canonical(spec, ids):
                    wanted[ids] = model.probability((0,), ids)
    own = spec.encode(text).ids
    after = model.after((0, *own))
    weights: dict = defaultdict(float)
    for ids, weight in wanted.items():
        weights[b"".join(spec.pieces[i].data for i in ids)[len(data)]] += weight
    base = model.probability((0,), own)
    for i, p in enumerate(after):
        if i not in speaking:
            weights["end" if i == TINY_EOS else spec.raw[i]] += base * p
        elif is_canonical(spec, (*own, i)):
            weights[spec.pieces[i].data[0]] += base * p
    total = sum(weights.values())
    result = ask(workspace, text, toy_model, threshold=0, listed=200)
    found = outcomes(result)
    for name in (*range(256), "end", "<bos>", "<eos>"):
        assert found.get(name, 0) == pytest.approx(weights[name] / total, abs=2e-6), name
    row = summary(result)
    assert row["logprob"] == pytest.approx(math.log(total), abs=1e-5)
    assert row["covers_found"] == len(wanted) + 1
    assert row["unchecked"] == 0
    assert row["noncanonical"] > 0
    # Few forwards: the prompt, the shared beginning, and the covers side by side.
    assert row["forwards"] < 20


def test_unchecked_covers_are_said(workspace: Workspace, toy_model: str) -> None:
    checked, quick = (summary(ask(workspace, "the ca", toy_model, threshold=t)) for t in (0, 0.01))
    assert checked["unchecked"] == 0 < quick["unchecked"] < 1
    assert quick["noncanonical"] < checked["noncanonical"]


@pytest.mark.parametrize("family", walked("llama", "gpt2", "mistral"))
def test_tails_are_read_as_whole_sequences(workspace: Workspace, family: str) -> None:
    """Shared beginnings, padding and sliding windows change no prediction."""
    base, more = tiny_ids(12), tiny_ids(20, seed=1)[1:]
    tails = [(), tuple(more[:1]), tuple(more[:6]), tuple(more[3:5]), tuple(more[:5])]
    model = workspace.load(workspace.plan_model(str(tiny_folder(family))))
    seen = 0
    for batch in Tails(model, base).read(tails):
        for at, weight, row in batch:
            logits = model.full_logits([*base, *tails[at]])
            logs = torch.log_softmax(logits.double(), -1)
            own = sum(float(logs[len(base) - 1 + n, i]) for n, i in enumerate(tails[at]))
            assert weight == pytest.approx(own, abs=1e-4)
            np.testing.assert_allclose(row.logs(np.arange(259)), logs[-1, :259].numpy(), atol=1e-3)
            seen += 1
    assert seen == len(tails)


def test_logits_become_rows() -> None:
    row = rows_of(torch.tensor([[0.0, math.log(3.0), -math.inf]]))[0]
    np.testing.assert_allclose(np.exp(row.logs(np.arange(3))), [0.25, 0.75, 0], atol=1e-7)


def test_windows_and_completions() -> None:
    spec = toy("byte_bpe")
    text = "the cats sat there too; that was it. " * 30 + "the to"
    ids, data = spec.encode(text).ids, text.encode()
    found = window(spec, ids, data, len(data) - 2)
    assert found is not None
    assert 4 <= len(found.data) < 20
    assert found.encode([found.data])[0] == list(ids[found.token :])
    assert window(spec, ids[:-1], data, len(data) - 2) is None
    assert list(completions(b"a")) == [b"a"]
    assert list(completions(b"a\xc3")) == [b"a\xc3" + bytes([n]) for n in range(0x80, 0xC0)]
    assert list(completions(b"\x80")) == []
    assert all(done.decode() for done in completions(b"x\xe0"))


@pytest.mark.parametrize("kind", ["fallback_bpe", "unigram", "added_bpe", "digits_bpe"])
def test_other_tokenizers(workspace: Workspace, tmp_path: Path, kind: str) -> None:
    """Prefix spaces, byte fallback, scores, normalization and added tokens: by enumeration."""
    folder, spec = model_folder(tmp_path / kind, kind, bos=True), toy(kind)
    model = Oracle(folder, spec.size)
    speaking = [i for i in spec.segmenting if i != TINY_EOS]
    for text in ("a c", "the"):
        own = spec.encode(text).ids
        data = spec.decode_bytes(own)

        def keeps(ids: Ids, data: bytes = data) -> bool:
            """Encoding the tokens' text gives them back; what ends in half a character is left."""
            joined = b"".join(spec.pieces[i].data for i in ids)
            bare = joined[1:] if spec.prefix_space and joined.startswith(b" ") else joined
            return spec.encode(bare.decode()).ids == ids

        weights: dict = defaultdict(float)
        unclear: set[int] = set()
        for place in range(len(data) + 1):
            for before in spellings_of(spec, data[:place]):
                for i in speaking:
                    piece, skip = spec.pieces[i].data, len(data) - place
                    if len(piece) <= skip or not piece.startswith(data[place:]):
                        continue
                    if not piece.isascii():
                        unclear.add(piece[skip])
                    elif keeps((*before, i)):
                        weights[piece[skip]] += model.probability((0,), (*before, i))
        result = ask(workspace, text, folder, threshold=0)
        found = outcomes(result)
        end = model.probability((0,), (*own, TINY_EOS)) if spec.size > TINY_EOS else None
        likely = max(weights.keys() - unclear, key=lambda byte: weights[byte])
        scale = found[likely] / weights[likely]
        for byte in set(range(128)) - unclear:
            assert found.get(byte, 0) == pytest.approx(weights[byte] * scale, abs=3e-6), byte
        if end is not None:
            assert found["end"] == pytest.approx(end * scale, abs=3e-6)
        assert weights
        assert result.table("summary")["unchecked"].to_pylist() == [0]
