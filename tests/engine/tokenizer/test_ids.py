"""Ids against what the tokenizer gives for their bytes: regions, their names, their price."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pyarrow.parquet
import pytest

from engine import cli
from engine.encode import encode_text, trace_from_ids
from engine.errors import UserError
from engine.records import write_rollouts
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group, Text, TokenizerRef
from engine.tokenization import Tokenizer
from engine.tokenizer import TokenizerSpec, reference
from engine.tokenizer.artifacts import ARTIFACTS, CLASSES, artifacts
from engine.tokenizer.canonical import canonical, edits, is_canonical
from engine.tokenizer.loading import parse_spec
from engine.workspace import Workspace
from tests.engine.tokenizer.test_spellings import logprob64, spellings_of
from tests.engine.tokenizer.toys import letters, rank_file, save, toy

RANKS = [
    *(bytes([byte]) for byte in range(256)),
    *(b"he", b"the", b" the", b"12", b"123", b"\n\n", b"!?", "é".encode(), b"a1", b"e c", b"ab"),
    *(b"abc", b"bc"),
]


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenizerSpec, TokenizerRef]:
    """A rank file with one token for each kind of difference, cut as GPT-2 cuts."""
    path = tmp_path_factory.mktemp("ranks") / "toy.tiktoken"
    path.write_bytes(rank_file(RANKS))
    return parse_spec(rank_file(RANKS), "toy", "gpt2"), reference(f"{path}#gpt2")


def ids_of(spec: TokenizerSpec, pieces: list[bytes]) -> list[int]:
    return [next(i for i in spec.segmenting if spec.pieces[i].data == piece) for piece in pieces]


def ask(workspace: Workspace, subject, models=None, **params) -> Result:
    return run(Request("tokenizer.ids", subject, models, params), workspace=workspace)[0]


# -- what is canonical -----------------------------------------------------------------------


def test_canonical_is_pairwise_for_pure_bpe() -> None:
    """All sequences of up to four of ten ids (11,110): canonical if and only if each pair is."""
    spec = letters(["a b", "c a", "b c", "ab c", "ab ab", "c c", "bc a"])
    assert spec.size == 10
    pairs = {pair: is_canonical(spec, pair) for pair in itertools.product(range(10), repeat=2)}
    singles = [is_canonical(spec, [i]) for i in range(10)]
    seen = 0
    for length in range(1, 5):
        for ids in itertools.product(range(10), repeat=length):
            wanted = all(singles[i] for i in ids) and all(pairs[p] for p in itertools.pairwise(ids))
            assert is_canonical(spec, ids) == wanted, ids
            seen += 1
    assert seen == 11_110
    assert not all(singles)  # one token that merging never leaves: "bca"


@pytest.mark.parametrize("kind", ["byte_bpe", "digits_bpe", "fallback_bpe", "unigram"])
def test_regions_put_into_the_given_ids_make_them_canonical(kind: str) -> None:
    spec, rng = toy(kind), random.Random(0)
    for text in ("the cats sat", " it's 12 cats", "tokens  é there", "a"):
        own = spec.encode(text).ids
        if spec.unknown in own:
            continue
        assert is_canonical(spec, own)
        every = spellings_of(spec, spec.decode_bytes(own)[:9])
        for given in rng.sample(every, min(20, len(every))):
            again = canonical(spec, given)
            if again.broken or spec.decode_bytes(again.ids) != spec.decode_bytes(given):
                continue  # the text's beginning is no text of its own
            assert again.ids == tuple(spec.encode(spec.text_bytes(given).decode()).ids)
            found, replaced = edits(spec, given, again.ids)
            assert replaced == 0
            made: list[int] = []
            at = 0
            for region in found:
                made += given[at : region.given[0]]
                made += again.ids[slice(*region.other)]
                at = region.given[1]
                mine = spec.decode_bytes(given[slice(*region.given)])
                assert mine == spec.decode_bytes(again.ids[slice(*region.other)])
                before = len(spec.decode_bytes(given[: region.given[0]]))
                assert (region.start, region.end) == (before, before + len(mine))
            assert (*made, *given[at:]) == again.ids
            assert bool(found) == (tuple(given) != again.ids)


def test_special_tokens_and_joints_stay() -> None:
    spec = toy("byte_bpe")
    the, cat = spec.encode("the").ids, spec.encode(" cat").ids
    assert is_canonical(spec, (0, *the, 1, 0, *cat))
    t, he = spec.encode("t").ids, spec.encode("he").ids
    joined = spec.encode("the").ids
    assert (*t, *he) != joined
    assert canonical(spec, (*t, *he)).ids == joined
    assert canonical(spec, (*t, *he), cuts=[len(t)]).ids == (*t, *he)
    spelled = spec.encode("<eos>", "text").ids
    assert canonical(spec, spelled).ids == (1,)


def test_ids_that_end_inside_a_character() -> None:
    spec = toy("byte_bpe")
    euro = ids_of(spec, [b"\xe2", b"\x82"])
    a, t = ids_of(spec, [b"a", b"t"])
    found = canonical(spec, [a, t, *euro])
    assert found.broken == ((2, 4),)
    assert found.ids == (*spec.encode("at").ids, *euro)
    assert found.ends[-2:] == (3, 4)
    assert not is_canonical(spec, euro)


# -- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "before", "after"),
    [
        (1, [" February"], ["February"]),
        (2, [" Saturday"], [" ", " Saturday"]),
        (3, [" However"], ["\n", "However"]),
        (4, [" unbelievable"], ["un", "bel", "ievable"]),
        (5, [" Dorm", "er"], ["D", "orm", "er"]),
        (6, [" repaid"], ["re", "paid"]),
        (7, [" HIV"], ["H", "IV"]),
        (8, [" rights"], ["right", "s"]),
    ],
)
def test_the_papers_examples(number: int, before: list[str], after: list[str]) -> None:
    spec = toy("byte_bpe")
    sides = [[piece.encode() for piece in side] for side in (before, after)]
    found = artifacts(spec, *sides, "then the")
    assert found[0] == ARTIFACTS[number - 1]
    # Types 4 to 8 lost the space in front as well.
    assert (ARTIFACTS[0] in found) == (number not in (2, 3))
    assert artifacts(spec, sides[1], sides[0], "then the")[0] == ARTIFACTS[number - 1]


def test_a_capital_may_be_the_sentences() -> None:
    spec = toy("byte_bpe")
    assert b" the" in spec.by_bytes
    split = ([b" The"], [b" T", b"he"])
    assert artifacts(spec, *split, "and")[0] == ARTIFACTS[4]
    for ahead in ("", "It was. ", "so:\n", 'He said: "'):
        assert artifacts(spec, *split, ahead)[0] == ARTIFACTS[3]
    assert artifacts(spec, [b" Qxz"], [b" Q", b"xz"], "")[0] == ARTIFACTS[4]


@pytest.mark.parametrize(
    ("pieces", "name", "relation", "crosses"),
    [
        ([b" ", b"the"], CLASSES[5], "finer", False),
        ([b"1", b"2"], CLASSES[3], "finer", False),
        ([b"1", b"2", b"3"], CLASSES[3], "finer", False),
        ([b"\n", b"\n", b"\n"], CLASSES[4], "finer", False),
        ([b"!", b"?"], CLASSES[6], "finer", False),
        ([b"\xc3", b"\xa9"], CLASSES[2], "finer", False),
        ([b"a1"], CLASSES[7], "coarser", True),
        ([b"e c"], CLASSES[5], "coarser", True),
        ([b"a", b"b"], CLASSES[8], "finer", False),
        ([b"a", b"bc"], CLASSES[8], "finer", False),
        ([bytes([b]) for b in b"<|endoftext|>"], CLASSES[0], "finer", False),
    ],
)
def test_our_classes(
    workspace: Workspace,
    ranked: tuple[TokenizerSpec, TokenizerRef],
    pieces: list[bytes],
    name: str,
    relation: str,
    crosses: bool,
) -> None:
    spec, ref = ranked
    given = ids_of(spec, [b"x", *pieces, b"x"])
    rows = ask(workspace, ref, ids=given).table("regions").to_pylist()
    # Letters stand at both sides; white space may draw one of them into the difference.
    row = next(r for r in rows if r["start"] <= 1 < r["end"])
    assert row["region_class"] == name
    assert row["relation"] == relation
    assert row["crosses_cut"] == crosses
    data = b"x" + b"".join(pieces) + b"x"
    assert data[row["start_byte"] : row["end_byte"]] == b"".join(
        spec.piece(i).data for i in row["given_ids"]
    )


def test_normalization_is_a_class_of_its_own(workspace: Workspace) -> None:
    spec = toy("added_bpe")
    path = save("added_bpe", workspace.home)
    given = ids_of(spec, [b"x", *(bytes([b]) for b in "ﬁ".encode()), b"x"])
    rows = ask(workspace, reference(path), ids=given).table("regions").to_pylist()
    assert [r["region_class"] for r in rows] == [CLASSES[1]]
    assert b"fi" in b"".join(spec.piece(i).data for i in rows[0]["canonical_ids"])


# -- two lists -------------------------------------------------------------------------------


def test_phantom_edits_between_two_lists(workspace: Workspace) -> None:
    spec = toy("byte_bpe")
    ref = reference(save("byte_bpe", workspace.home))
    source = spec.encode("the cat sat on the mat").ids
    same = ask(workspace, ref, ids=source, other=source)
    assert same.table("regions").num_rows == 0
    assert same.table("summary")["canonical"].to_pylist() == [True]
    # " cat" written as "c", "at": the space is lost, the word is the same. "on" becomes "it".
    split = (
        ids_of(spec, [b"c", b"at"]) if b"at" in spec.by_bytes else ids_of(spec, [b"c", b"a", b"t"])
    )
    cat, on = spec.encode(" cat").ids, spec.encode(" on").ids
    edited: list[int] = []
    for i in source:
        edited += split if (i,) == cat else [i]
    at = edited.index(on[0])
    edited[at : at + len(on)] = spec.encode(" it").ids
    result = ask(workspace, ref, ids=edited, other=source)
    rows = result.table("regions").to_pylist()
    assert [r["given_ids"] for r in rows] == [split]
    assert rows[0]["canonical_ids"] == list(cat)
    assert ARTIFACTS[0] in rows[0]["artifacts"]
    summary = result.table("summary").to_pylist()[0]
    assert (summary["regions"], summary["replaced"]) == (1, 1)
    assert not summary["canonical"]


# -- through run -----------------------------------------------------------------------------


def test_a_trace_and_its_price(workspace: Workspace, toy_model: str) -> None:
    spec = toy("byte_bpe")
    tokenizer = workspace.plan_model(toy_model).tokenizer
    good = encode_text(Text(prompt="the ", response="cat sat"), tokenizer)
    result = ask(workspace, good, toy_model)
    summary = result.table("summary").to_pylist()[0]
    assert summary["canonical"]
    assert summary["delta_logprob"] == pytest.approx(0)
    drifted = [0, *ids_of(spec, [b"t", b"h", b"e", b" "]), *spec.encode(" cat").ids]
    trace = trace_from_ids(drifted, tokenizer, response_start=1)
    result = ask(workspace, trace, toy_model)
    row = result.table("regions").to_pylist()[0]
    summary = result.table("summary").to_pylist()[0]
    wanted = [0, *spec.encode("the  cat").ids]
    assert summary["canonical_tokens"] == len(wanted)
    given = logprob64(toy_model, (0,), drifted[1:])
    assert summary["given_logprob"] == pytest.approx(given, abs=1e-4)
    assert summary["canonical_logprob"] == pytest.approx(
        logprob64(toy_model, (0,), wanted[1:]), abs=1e-4
    )
    swapped = [*drifted[: row["start"]], *row["canonical_ids"], *drifted[row["end"] :]]
    assert row["delta_logprob"] == pytest.approx(
        logprob64(toy_model, (0,), swapped[1:]) - given, abs=1e-4
    )
    both = ask(workspace, Group(rollouts=(good, trace)), toy_model)
    assert both.table("summary")["canonical"].to_pylist() == [True, False]
    assert set(both.table("regions")["rollout"].to_pylist()) == {1}


def test_a_trace_without_its_model(workspace: Workspace, toy_model: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(toy_model)
    trace = encode_text(Text(prompt="the cat"), tokenizer)
    result = ask(workspace, trace, tokenizer=reference(toy_model))
    assert result.table("summary")["canonical"].to_pylist() == [True]
    assert "No model was given" in str(result.notes.to_pylist())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tokenizer.json").write_bytes((Path(toy_model) / "tokenizer.json").read_bytes())
    assert ask(workspace, trace, tokenizer=reference(elsewhere)).origin == "cache"
    with pytest.raises(UserError, match="belong to another tokenizer"):
        ask(workspace, trace, tokenizer=reference(save("unigram", tmp_path)))
    with pytest.raises(UserError, match="needs a tokenizer"):
        ask(workspace, trace)


def test_ids_that_make_no_text(workspace: Workspace) -> None:
    spec = toy("byte_bpe")
    ref = reference(save("byte_bpe", workspace.home))
    result = ask(workspace, ref, ids=ids_of(spec, [b"a", b"\xe2", b"\x82"]))
    row = result.table("regions").to_pylist()[0]
    assert row["region_class"] == "character split"
    assert row["given"] == ["\\xe2", "\\x82"]
    assert row["canonical"] is None
    assert row["artifact"] is None
    assert "end inside a character" in str(result.notes.to_pylist())
    empty = ask(workspace, ref, ids=[])
    assert empty.table("summary")["canonical"].to_pylist() == [True]


def test_bad_input_is_a_sentence(workspace: Workspace, toy_model: str) -> None:
    ref = reference(save("byte_bpe", workspace.home))
    size = toy("byte_bpe").size
    for params, sentence in (
        ({}, "There are no ids: give them"),
        ({"ids": [size]}, f"has no token id {size}"),
        ({"ids": [-1]}, "has no token id -1"),
        ({"ids": [1], "other": [2**60]}, "has no token id"),
        ({"ids": ["x"]}, "ids"),
        ({"ids": [1] * 200_001}, "ids"),
    ):
        with pytest.raises(UserError, match=sentence):
            ask(workspace, ref, **params)
    with pytest.raises(UserError, match="another tokenizer"):
        ask(workspace, reference(save("unigram", workspace.home)), toy_model, ids=[1])
    text = Text(prompt="something else", tokenizer=ref)
    notes = ask(workspace, text, ids=[5]).notes.to_pylist()
    assert "do not spell the text" in str(notes)


def test_command_line(tmp_path: Path, toy_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    out = tmp_path / "x.parquet"
    path = save("byte_bpe", tmp_path)
    given = ids_of(toy("byte_bpe"), [b"t", b"h", b"e"])
    argv = ["run", "tokenizer.ids", "--out", str(out), "--quiet", "--set", f"ids={given}"]
    for whose in (["--tokenizer", str(path)], ["--model", toy_model]):
        assert cli.main([*argv, *whose]) == 0
        table = pyarrow.parquet.read_table(out)
        names = {"start_byte", "end_byte", "given", "canonical", "artifact", "artifacts"}
        assert {*names, "region_class"} <= set(table.column_names)
        assert table["canonical"].to_pylist() == [["the"]]


def test_command_line_with_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of ids and a tokenizer's file, no model."""
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    path = save("byte_bpe", tmp_path)
    tokenizer = Tokenizer.load(path)
    good = encode_text(Text(prompt="the", response=" cat"), tokenizer)
    drifted = trace_from_ids(
        ids_of(toy("byte_bpe"), [b"t", b"h", b"e"]), tokenizer, response_start=0
    )
    log, out = tmp_path / "log.jsonl", tmp_path / "x.parquet"
    write_rollouts(log, [Group(rollouts=(good, drifted))])
    argv = ["run", "tokenizer.ids", "--rollouts", str(log), "--table", "summary", "--quiet"]
    assert cli.main([*argv, "--tokenizer", str(path), "--out", str(out)]) == 0
    assert pyarrow.parquet.read_table(out)["canonical"].to_pylist() == [True, False]
