"""Corpora: the same numbers as encoding everything; comparisons and premiums in closed form."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken

from engine.errors import UserError
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Corpus, Text
from engine.tokenizer import counting, reference
from engine.tokenizer.compare import disagreements
from engine.tokenizer.counting import count
from engine.tokenizer.premium import interval
from engine.tokenizer.splitting import KNOWN, Splitter
from engine.workspace import Workspace
from tests.engine.tokenizer.test_vocabulary import byte_level, made
from tests.engine.tokenizer.toys import CORPUS, KINDS, TORTURE, library, save, toy

TEXTS = [*CORPUS, *(t for t in TORTURE if t), "a \x1c\x85b\u017f\u212a \ua7d2 don'T\u3000x"]


def ask(workspace: Workspace, name: str, subject: Any, **params: Any) -> Result:
    return run(Request(name, subject, None, params), workspace=workspace)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_counts_equal_encoding_everything(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added tokens, normalizers, characters of unsure class; also when pre-tokens are let go."""
    spec = toy(kind)
    wanted = Counter(itertools.chain.from_iterable(spec.encode_ids(TEXTS)))
    found = count(spec, TEXTS)
    assert {i: n for i, n in enumerate(found.ids.tolist()) if n} == wanted
    assert found.documents == len(TEXTS)
    assert found.bytes == sum(len(t.encode()) for t in TEXTS)
    assert found.words == sum(len(t.split()) for t in TEXTS if "\x1c" not in t) + 6
    monkeypatch.setattr(counting, "MOST_FORMS", 3)
    assert (count(spec, TEXTS).ids == found.ids).all()


def test_the_fast_way_is_taken_where_it_may_be() -> None:
    from engine.tokenizer.ranks import RULES

    fast = {name: byte_level(rules.pattern, []) for name, rules in RULES.items()}
    for spec in fast.values():
        assert Splitter.of(spec) is not None
        ids = Counter(itertools.chain.from_iterable(spec.encode_ids(TEXTS)))
        assert {i: n for i, n in enumerate(count(spec, TEXTS).ids.tolist()) if n} == ids
    assert Splitter.of(byte_level(r"\w+|\W", [])) is None
    assert Splitter.of(toy("digits_bpe")) is None
    other = byte_level(r" ?\p{L}+|[^\p{L}]", [])
    assert Splitter.of(other) is not None
    assert Splitter.of(other, only=KNOWN) is None


def test_corpus(workspace: Workspace, tmp_path: Path) -> None:
    ref = reference(save("byte_bpe", tmp_path))
    documents = ("the cat sat 1234 1234", "a\u200bb 12345 e\u0301", "the the the")
    result = ask(workspace, "tokenizer.corpus", Corpus(documents=documents), tokenizer=ref)
    spec = toy("byte_bpe")
    tokens = sum(len(spec.encode(d).ids) for d in documents)
    values = {r["measure"]: r["value"] for r in result.table("summary").to_pylist()}
    assert values["tokens"] == tokens
    assert values["words"] == 11
    assert values["fertility"] == pytest.approx(tokens / 11)
    assert values["bytes_per_token"] == pytest.approx(len("".join(documents).encode()) / tokens)
    usage = result.table("usage").to_pylist()
    assert len(usage) == spec.size
    assert sum(r["count"] for r in usage) == tokens
    the = spec.by_raw["Ġthe"]
    assert usage[the]["count"] == 2
    found = {(r["finding"], r["detail"]): r for r in result.table("findings").to_pylist()}
    assert found["invisible", ""]["occurrences"] == 1
    assert found["unicode_forms", "not NFC"]["occurrences"] == 1
    numbers = [r for (name, _), r in found.items() if name == "numbers"]
    assert sum(r["occurrences"] for r in numbers) == 3
    four = next(r for r in numbers if r["detail"].startswith("4 digits"))
    assert four["occurrences"] == 2
    assert four["example"] == "1234"
    words = result.table("words").to_pylist()
    assert all(r["above_one"] == (r["tokens"] - 1) * r["count"] for r in words)
    assert [r["above_one"] for r in words] == sorted((r["above_one"] for r in words), reverse=True)


def test_what_added_tokens_would_save(workspace: Workspace, tmp_path: Path) -> None:
    ref = reference(save("byte_bpe", tmp_path))
    texts = ("quixotic the quixotic", "the cat", "zz")
    result = ask(
        workspace,
        "tokenizer.corpus",
        Corpus(documents=texts),
        tokenizer=ref,
        add=("quixotic", "zz"),
    )
    for row in result.table("added").to_pylist():
        tokens = ["quixotic", "zz"] if row["token"] is None else [row["token"]]
        more = library("byte_bpe")
        before = sum(len(more.encode(t).ids) for t in texts)
        more.add_tokens([AddedToken(t, normalized=False) for t in tokens])
        assert row["saved"] == before - sum(len(more.encode(t).ids) for t in texts) > 0
    rows = {r["token"]: r for r in result.table("added").to_pylist()}
    assert (rows["quixotic"]["documents"], rows["quixotic"]["occurrences"]) == (1, 2)


def test_disagreeing_spans_by_hand() -> None:
    """ab|ab|c against a|ba|bc: only the ends agree; equal cuts are no disagreement."""
    first = made([("a", "b")], "abc ")
    second = made([("b", "a"), ("b", "c")], "abc ")
    found = list(disagreements(first, second, "ababc c"))
    names = [(s, e, [first.raw[i] for i in a], [second.raw[i] for i in b]) for s, e, a, b in found]
    assert names == [(0, 5, ["ab", "ab", "c"], ["a", "ba", "bc"])]
    assert not list(disagreements(first, first, "ababc c"))


def test_compare(workspace: Workspace, tmp_path: Path) -> None:
    refs = [reference(save(kind, tmp_path)) for kind in ("byte_bpe", "unigram", "digits_bpe")]
    subject = Text(prompt="the cats 2023 2023 cats cats", tokenizer=refs[0])
    result = ask(workspace, "tokenizer.compare", subject, others=tuple(refs[1:]))
    specs = [toy(kind) for kind in ("byte_bpe", "unigram", "digits_bpe")]
    sizes = [len(spec.encode(subject.prompt).ids) for spec in specs]
    summary = result.table("summary").to_pylist()
    assert [r["tokens"] for r in summary] == sizes
    assert [r["against_first"] for r in summary] == pytest.approx([n / sizes[0] for n in sizes])
    for row in result.table("impact").to_pylist():
        other = specs[1 if row["tokenizer"] == summary[1]["tokenizer"] else 2]
        a, b = (len(spec.encode(row["word"]).ids) for spec in (specs[0], other))
        assert (row["first_tokens"], row["other_tokens"]) == (a, b)
        assert row["impact"] == (b - a) * row["count"] != 0
    for row in result.table("spans").to_pylist():
        part = subject.prompt.encode()[row["start_byte"] : row["end_byte"]].decode()
        assert row["text"] == part
        assert "".join(row["first"]) == part
    with pytest.raises(UserError, match="nothing to compare with"):
        ask(workspace, "tokenizer.compare", subject)


def test_premium_of_a_byte_tokenizer_is_the_ratio_of_bytes(
    workspace: Workspace, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    import orjson

    path.write_bytes(orjson.dumps(byte_level(r"\S+|\s+", []).tree))
    sentences = ("a cat", "the dog sat", "\u0436\u0443\u043a", "\u043a\u043e\u0442 и пёс")
    result = ask(
        workspace,
        "tokenizer.premium",
        Corpus(documents=sentences),
        tokenizer=reference(path),
        languages=("en", "ru"),
    )
    rows = {(r["language"], r["reference"]): r for r in result.table("premium").to_pylist()}
    sums = [sum(len(s.encode()) for s in part) for part in (sentences[:2], sentences[2:])]
    assert rows["ru", "en"]["premium"] == pytest.approx(sums[1] / sums[0])
    assert rows["ru", "en"]["byte_premium"] == pytest.approx(rows["ru", "en"]["premium"])
    assert rows["ru", "en"]["premium"] * rows["en", "ru"]["premium"] == pytest.approx(1)
    one = rows["ru", "en"]
    assert one["low"] <= one["premium"] <= one["high"]
    assert one["low"] == pytest.approx(1 / rows["en", "ru"]["high"])


def test_interval_covers_the_truth() -> None:
    """Ratios of sums of drawn sentences: 95 % intervals hold the true ratio about so often."""
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        base = rng.integers(5, 50, 60)
        tokens = rng.poisson(base * 1.5)
        low, high = interval(tokens, base, 400, seed)
        assert low is not None
        assert high is not None
        covered += low <= 1.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_bad_input(workspace: Workspace, tmp_path: Path) -> None:
    ref = reference(save("wordlevel", tmp_path))
    texts = Corpus(documents=("the cat", "dog dog", "the"))
    for params, sentence in (
        ({"languages": ("en",)}, "two or more different languages"),
        ({"languages": ("en", "de")}, "3 documents cannot be shared by 2 languages"),
    ):
        with pytest.raises(UserError, match=sentence):
            ask(workspace, "tokenizer.premium", texts, tokenizer=ref, **params)
    with pytest.raises(UserError, match="needs a tokenizer"):
        ask(workspace, "tokenizer.corpus", texts)
    with pytest.raises(UserError, match="lone surrogate"):
        ask(workspace, "tokenizer.corpus", Corpus(documents=("a\ud800",)), tokenizer=ref)
    unknown = ask(
        workspace,
        "tokenizer.premium",
        Corpus(documents=("the cat", "dog dog")),
        tokenizer=ref,
        languages=("en", "xx"),
    )
    assert unknown.table("premium")["premium"].to_pylist() == [None, None]
    assert "100% of the tokens of xx are unknown" in unknown.notes.to_pylist()[0]["reason"]
