"""Retokenization drift: against the definition, token by token, with the bundled tokenizers."""

from __future__ import annotations

import random
from itertools import accumulate
from pathlib import Path

import pytest

from engine.encode import trace_from_ids
from engine.result import Request
from engine.rollouts.retokenize import regions_of
from engine.running import run
from engine.subjects import Group, Text
from engine.tokenization import Tokenizer
from engine.workspace import Workspace

MODELS = Path(__file__).resolve().parents[3] / "demo" / "models"
DEMO = Tokenizer.load(MODELS / "demo")
DIGITS = Tokenizer.load(MODELS / "demo-multidigit")


def ids_of(*pieces: str, tokenizer: Tokenizer = DEMO) -> list[int]:
    found = [tokenizer.encode(piece, special=False).ids for piece in pieces]
    assert all(len(ids) == 1 for ids in found), "each of these is one token"
    return [ids[0] for ids in found]


def canonical(ids: list[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    text = b"".join(tokenizer.pieces(ids)).decode("utf-8", "replace")
    return tokenizer.encode(text, special=False).ids


def cuts(ids: tuple[int, ...], tokenizer: Tokenizer) -> set[int]:
    return set(accumulate(len(piece) for piece in tokenizer.pieces(ids)))


@pytest.mark.parametrize("tokenizer", [DEMO, DIGITS], ids=["demo", "demo-multidigit"])
def test_regions_put_in_place_give_exactly_what_encoding_gives(tokenizer: Tokenizer) -> None:
    draw = random.Random(5)
    plain = [i for i in range(tokenizer.size) if not tokenizer.is_special(i)]
    same = differ = partial = 0
    for _ in range(400):
        ids = draw.choices(plain, k=draw.randint(1, 12))
        if draw.random() < 0.3:  # what the tokenizer itself would write
            ids = list(canonical(ids, tokenizer))
        found = regions_of(ids, tokenizer)
        expected = canonical(ids, tokenizer)
        assert (not found) == (tuple(ids) == expected)
        rebuilt: list[int] = []
        at = 0
        for region in found:
            assert at <= region.start < region.end
            rebuilt += ids[at : region.start] + list(region.canonical)
            at = region.end
        assert tuple(rebuilt + ids[at:]) == expected
        for region in found:
            given = tuple(ids[region.start : region.end])
            assert given != region.canonical
            if region.kind == "partial UTF-8":
                partial += 1
                continue
            # No inner cut is shared: the region could not be smaller.
            shared = cuts(given, tokenizer) & cuts(region.canonical, tokenizer)
            assert shared == {len(b"".join(tokenizer.pieces(given)))}
        same += not found
        differ += bool(found)
    assert min(same, differ, partial) > 20


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        (("th", "e"), "word"),
        ((" ", "is"), "whitespace"),
        (("<", "|", "e", "nd", "|", ">"), "special"),
    ],
)
def test_kinds(pieces: tuple[str, ...], kind: str) -> None:
    (region,) = regions_of(ids_of(*pieces), DEMO)
    assert region.kind == kind
    assert (region.start, region.end) == (0, len(pieces))


def test_numbers_cut_in_another_way() -> None:
    whole = DIGITS.encode("42", special=False).ids
    assert len(whole) == 1
    (region,) = regions_of(ids_of("4", "2", tokenizer=DIGITS), DIGITS)
    assert (region.kind, region.canonical) == ("number", whole)


def test_half_a_character_is_named_and_its_neighbours_are_not() -> None:
    snow = DEMO.encode("the ☃", special=False).ids
    assert len(snow) > 3
    (region,) = regions_of([*snow[:-1], *ids_of("\n")], DEMO)
    assert region.kind == "partial UTF-8"
    assert region.start > 0
    assert region.end == len(snow) - 1
    assert not regions_of(snow, DEMO)


def test_special_tokens_stand_for_themselves() -> None:
    end = DEMO.id_of("<|end|>")
    assert end is not None
    word = list(DEMO.encode("It is", special=False).ids)
    assert not regions_of([*word, end, *word, end, end], DEMO)
    assert not regions_of([], DEMO)


def test_the_analysis_says_where_and_how_many(workspace: Workspace) -> None:
    prompt = DEMO.encode("It", special=True).ids
    is_, blank, bare = ids_of(" is", " ", "is")
    response = [is_, blank, bare, is_]
    trace = trace_from_ids([*prompt, *response], DEMO, response_start=len(prompt))
    masked = trace.evolve(trainable=(False,) * (len(prompt) + 2) + (True,) * 2)
    group = Group(rollouts=(masked, trace), rewards=(0.0, 1.0))
    lifted = run(Request("reward.drift", group, "demo"), workspace=workspace)[0].table()
    assert lifted["trained"].to_pylist() == [True, None]
    result = run(Request("reward.drift", masked, "demo"), workspace=workspace)[0]
    (row,) = result.table("regions").to_pylist()
    start = len(prompt) + 1
    assert (row["segment"], row["start_position"], row["end_position"]) == (
        "response",
        start,
        start + 2,
    )
    assert (row["given"], row["canonical"]) == ([blank, bare], [is_])
    assert (row["given_pieces"], row["canonical_pieces"]) == ([" ", "is"], [" is"])
    assert trace.text_bytes[row["start_byte"] : row["end_byte"]] == b" is"
    assert (row["text"], row["region_class"]) == (" is", "whitespace")
    prompt_row, response_row = result.table("counts").to_pylist()
    assert prompt_row == {
        "segment": "prompt",
        "tokens": len(prompt) - 1,  # the tokenizer's own first token is not of the text
        "canonical_tokens": len(prompt) - 1,
        "regions": 0,
        "changed_tokens": 0,
        "changed_share": 0.0,
    }
    assert response_row["canonical_tokens"] == len(canonical(response, DEMO)) == 3
    assert (response_row["regions"], response_row["changed_share"]) == (1, 0.5)
    assert workspace._pool is None  # no weights were read


def test_ids_made_here_have_nothing_to_drift_from(workspace: Workspace) -> None:
    text = Text(prompt="It is", response=" 5")
    result = run(Request("reward.drift", text, "demo"), workspace=workspace)[0]
    assert result.table("regions").num_rows == result.table("counts").num_rows == 0
    assert "made from text" in result.notes["reason"][0].as_py()
