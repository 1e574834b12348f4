"""What a tokenizer does to a text: each detector on a text it must find, and one it must not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.export import flat_provenance
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Message, Text
from engine.tokenizer import TokenizerSpec, reference
from engine.tokenizer.detectors import DETECTORS
from engine.tokenizer.detectors.boundary import boundary
from engine.tokenizer.detectors.numbers import agreement, pattern, threes
from engine.tokenizer.detectors.words import variants
from engine.tokenizer.injection import template_of
from engine.tokenizer.looked import Finding, Looked
from engine.workspace import Workspace
from tests.engine.tokenizer.toys import KINDS, TORTURE, save, toy


def find(name: str, kind: str, text: str) -> list[Finding]:
    return list(DETECTORS[name](Looked(toy(kind), text, len(text))))


def looked(workspace: Workspace, kind: str, text: str, folder: Path, **params: Any) -> Result:
    subject = Text(prompt=text, tokenizer=reference(save(kind, folder)))
    return run(Request("tokenizer.text", subject, None, params), workspace=workspace)[0]


def test_tables(workspace: Workspace, tmp_path: Path) -> None:
    """Bytes add up; the last step of each stretch leaves its tokens; letters lie in tokens."""
    for kind, text in itertools.product(("byte_bpe", "unigram", "fallback_bpe"), TORTURE[2:6:3]):
        result = looked(workspace, kind, text, tmp_path / kind)
        data, spec = text.encode(), toy(kind)
        tokens = result.table("tokens").to_pylist()
        assert [t["token_id"] for t in tokens] == list(spec.encode(text).ids)
        covered = {b for t in tokens for b in range(t["start_byte"], t["end_byte"])}
        if kind == "byte_bpe":
            assert covered == set(range(len(data)))
            spans = [data[t["start_byte"] : t["end_byte"]] for t in tokens]
            assert spans == [t["token_bytes"] for t in tokens]
        cuts = result.table("cuts").to_pylist()
        for number, rows in itertools.groupby(cuts, key=lambda row: row["pretoken"]):
            steps = list(rows)
            mine = [spec.raw[t["token_id"]] for t in tokens if t["pretoken"] == number]
            if spec.unknown not in spec.encode(text).ids:
                assert steps[-1]["parts"] == mine
            for before, after in itertools.pairwise(steps):
                if after["action"] == "merge":
                    assert after["left"] in before["parts"]
                    assert after["right"] in before["parts"]
                    assert after["rank"] is not None
        for row in result.table("letters").to_pylist():
            holding = [
                t["position"]
                for t in tokens
                if t["start_byte"] < row["end_byte"] and row["start_byte"] < t["end_byte"]
            ]
            assert [row["first_token"], row["last_token"]] == [holding[0], holding[-1]]
            assert row["split"] == (len(holding) > 1)
    places = [r["place"] for r in result.table("letters").to_pylist()]
    assert places.count(0) <= len(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_come_back(kind: str) -> None:
    """A finding exactly where the library's decoding gives another text; spans are sound."""
    spec = toy(kind)
    for text in TORTURE:
        found = find("round_trip", kind, text)
        decoded = spec.backend.decode([spec.encode(text).ids])[0]
        assert bool(found) == (decoded != text and bool(text))
        for one in found:
            assert 0 <= one.start <= one.end <= len(text.encode())
            text.encode()[one.start : one.end].decode()
        for name, detect in DETECTORS.items():
            for one in detect(Looked(spec, text, len(text))):
                assert 0 <= one.start <= one.end <= len(text.encode()), name
                assert "\ufffd" not in "".join((*one.before, *one.after))


def test_the_stage_that_lost_it() -> None:
    ligature = find("round_trip", "added_bpe", "a ﬁ b")
    assert [(f.start, f.end) for f in ligature] == [(2, 5)]
    assert "normalization (NFKC): 'ﬁ'" in ligature[0].evidence
    assert "'fi' (U+0066 U+0069)" in ligature[0].evidence
    spaces = find("round_trip", "wordpiece", "the  cat")
    assert [(f.start, f.end) for f in spaces if "drops" in f.evidence] == [(3, 5)]
    unknown = find("round_trip", "wordlevel", "the dog")
    assert [(f.start, f.end) for f in unknown if "cannot spell" in f.evidence] == [(4, 7)]


def test_unicode_forms() -> None:
    text = "cafe\u0301 é"
    found = find("unicode_forms", "byte_bpe", text)
    assert [(f.start, f.end, f.severity) for f in found] == [(3, 6, "warning"), (7, 9, "note")]
    composed, apart = (toy("byte_bpe").encode_ids([t])[0] for t in ("é", "e\u0301"))
    assert f"{len(apart)} tokens; NFC {len(composed)} token" in found[0].evidence
    assert len(found[0].before) == len(apart)
    assert len(found[0].after) == len(composed)
    assert not find("unicode_forms", "added_bpe", text)  # its normalizer makes them equal


def test_hidden_characters_and_look_alikes() -> None:
    found = find("invisible", "byte_bpe", "a\u200bb \u202ec 👩\u200d👧")
    assert [(f.start, f.end) for f in found] == [(1, 4), (6, 9)]
    spec = toy("byte_bpe")
    cost = len(spec.encode("a\u200bb").ids) - len(spec.encode("ab").ids)
    assert f"{cost:+d} tokens" in found[0].evidence
    mixed = find("mixed_scripts", "byte_bpe", "the c\u0430t кот 日本ご a1")
    assert [(f.start, f.end) for f in mixed] == [(4, 8)]
    assert mixed[0].after == tuple(spec.token(i) for i in spec.encode_ids(["cat"])[0])


def test_emoji() -> None:
    text = "x 👨‍👩‍👧 🦊"
    found = find("emoji", "byte_bpe", text)
    assert [text.encode()[f.start : f.end].decode() for f in found] == ["👨‍👩‍👧", "🦊"]
    spec = toy("byte_bpe")
    holding = [b for b in spec.encode(text).bounds if b[0] < found[0].end and found[0].start < b[1]]
    assert f"5 code points and {len(holding)} tokens" in found[0].evidence
    assert "\\xf0" in found[0].before[0] or "\\xf0" in found[0].before[1]


def test_patterns_of_numbers_by_enumeration() -> None:
    """All ways to cut up to seven digits (Singh and Strouse: 123|456|7 and 1|234|567)."""
    assert pattern((3, 3, 1)) == ("left", 3)
    assert pattern((1, 3, 3)) == ("right", 3)
    assert pattern((3, 2, 2))[0] == pattern((5, 2, 1))[0] == "irregular"  # p50k, anthropic
    assert agreement((3, 3, 1)) == 0
    assert agreement((1, 3, 3)) == 1
    assert agreement((7,)) == 1
    for length in range(2, 8):
        for inner in itertools.product((False, True), repeat=length - 1):
            cuts = [0, *(n for n, there in enumerate(inner, 1) if there), length]
            sizes = [b - a for a, b in itertools.pairwise(cuts)]
            kind, group = pattern(sizes)
            if len(sizes) == 1:
                continue
            left = [min(group, length - at) for at in range(0, length, group or length)]
            assert (kind in ("left", "both", "single")) == (group > 0 and sizes == left)
            assert (kind in ("right", "both", "single")) == (group > 0 and sizes == left[::-1])
            good = sum((length - c) % 3 == 0 for c in cuts[1:-1])
            assert agreement(sizes) == pytest.approx(good / (len(sizes) - 1))
        assert sum(threes(length)) == length
        assert agreement(threes(length)) == 1


def test_numbers() -> None:
    found = find("numbers", "digits_bpe", "in 2023 and 2023, 7")
    assert [(f.start, f.end, f.severity) for f in found] == [(3, 7, "note")]
    assert "2023 is cut 2|0|2|3: digit by digit" in found[0].evidence
    assert "it occurs 2 times" in found[0].evidence
    assert found[0].before[-1] == "3"


def test_words_by_case_and_space() -> None:
    spec = toy("byte_bpe")
    (word,) = variants(spec, "THE the")
    assert word.occurrences == 2
    texts = ("the", " the", "The", " The", "THE", " THE")
    assert list(word.counts.values()) == [len(spec.encode(t).ids) for t in texts]
    found = find("word_variants", "byte_bpe", "it is TOKENIZATION of tokenization")
    assert [(f.start, f.end) for f in found] == [(6, 18)]
    assert len(found[0].before) - len(found[0].after) >= 2


def test_a_prefix_space_is_no_part_of_a_word() -> None:
    """Llama 2's kind puts a space first: inside a line the bare word has none."""
    spec = toy("fallback_bpe")
    (word,) = variants(spec, "the")
    assert spec.prefix_space
    assert word.counts["spaced"] == len(spec.encode("the").ids) == 1
    assert word.counts["bare"] == len(spec.form_ids("the")) == 2


def test_special_and_added_tokens() -> None:
    text = "say <bos> sting"
    found = find("special_tokens", "added_bpe", text)
    assert [(f.start, f.end, f.severity) for f in found] == [(4, 9, "error")]
    assert "control id 0" in found[0].evidence
    like = find("special_tokens", "added_bpe", "＜bos＞")
    assert [f.finding for f in like] == ["special_lookalike"]
    assert like[0].end == 9
    assert not find("special_tokens", "byte_bpe", "＜bos＞")
    added = find("added_tokens", "added_bpe", "sting ing a  foo b word")
    assert [(f.start, f.end) for f in added] == [(2, 5), (11, 16)]
    assert "cuts the word it stands in (t|ing| )" in added[0].evidence
    assert "swallows the white space" in added[1].evidence


def test_through_the_template(workspace: Workspace, tmp_path: Path) -> None:
    """A template that writes the message as it is lets tokens in; one that strips them does not."""
    plain = "{% for m in messages %}<bos>{{ m.content }}{% endfor %}"
    stripped = plain.replace("m.content", "m.content | replace('<', '')")
    subject = Text(prompt="x <eos>", tokenizer=reference(save("byte_bpe", tmp_path)))
    for template, wanted in ((plain, True), (stripped, False), (None, None), ("{{ 1/0 }}", None)):
        request = Request("tokenizer.text", subject, None, {"chat_template": template})
        result = run(request, workspace=workspace)[0]
        rows = {r["special"]: r for r in result.table("specials").to_pylist()}
        assert rows["<eos>"]["through_template"] is wanted
        assert rows["<eos>"]["in_text"] == 1
        assert rows["<bos>"]["through_template"] is None
    path = Path(subject.tokenizer.path)
    assert template_of(subject.tokenizer) is None
    path.with_name("tokenizer_config.json").write_text(json.dumps({"chat_template": plain}))
    assert template_of(subject.tokenizer) == plain


def unstable(spec: TokenizerSpec, prompt: str) -> int:
    """Tokens of the prompt that no token of the vocabulary, put behind it, changes."""
    ids = list(spec.encode(prompt).ids)
    stable = len(ids)
    for i in spec.segmenting:
        try:
            more = spec.pieces[i].data.decode()
        except UnicodeDecodeError:
            continue
        row = list(spec.encode(prompt + more).ids)
        same = next((n for n, (a, b) in enumerate(zip(ids, row, strict=False)) if a != b), len(ids))
        stable = min(stable, same)
    return stable


@pytest.mark.parametrize("prompt", ["the ", "it is a tok", "the cat", "x\n", "there is.", "def ma"])
def test_the_prompts_end_against_all_tokens(prompt: str) -> None:
    spec = toy("byte_bpe")
    found = boundary(spec, prompt)
    # Continuations of several tokens may change more than single tokens do.
    assert found.stable <= unstable(spec, prompt)
    assert (found.moved > 0) == (found.stable < found.tokens)
    if found.example:
        text, other, own = found.example
        ids = spec.encode(prompt + text).ids
        assert ids[found.stable : found.stable + len(other)] == other
        assert spec.encode(prompt).ids[found.stable :] == own


def test_the_prompts_end_in_a_text(workspace: Workspace, tmp_path: Path) -> None:
    """The boundary is the prompt's end, also when a response follows."""
    ref = reference(save("byte_bpe", tmp_path))
    subject = Text(prompt="the ", response="cat.", tokenizer=ref)
    result = run(Request("tokenizer.text", subject, None, {}), workspace=workspace)[0]
    rows = result.table("findings").to_pylist()
    (row,) = [r for r in rows if r["finding"] == "prompt_boundary"]
    assert (row["start_byte"], row["end_byte"]) == (3, 4)
    assert "leave the last space out" in row["evidence"]


def test_bad_input(workspace: Workspace, tmp_path: Path) -> None:
    ref = reference(save("byte_bpe", tmp_path))
    for subject, sentence in (
        (Text(prompt="a\ud800", tokenizer=ref), "half of a character"),
        (Text(prompt="", tokenizer=ref), "There is no text"),
        (Text(messages=(Message(role="user", content="a"),), tokenizer=ref), "plain text"),
        (Text(prompt="a"), "needs a tokenizer"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(Request("tokenizer.text", subject, None, {}), workspace=workspace)
    result = looked(workspace, "byte_bpe", "a\x00b", tmp_path / "null")
    assert result.table("tokens").num_rows == 3


def test_an_export_names_the_tokenizer_where_no_model_does(
    workspace: Workspace, tmp_path: Path
) -> None:
    ref = reference(save("byte_bpe", tmp_path))
    cut = looked(workspace, "byte_bpe", "the cat", tmp_path)
    audit = run(Request("tokenizer.vocabulary", ref), workspace=workspace)[0]
    for result in (cut, audit):
        shown = flat_provenance(result.provenance)
        assert (shown["model"], shown["tokenizer_digest"]) == (None, toy("byte_bpe").digest)
