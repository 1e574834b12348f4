"""The next byte: against enumeration of all covers, the sum rule, and the model's own logits."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable

import pytest

from engine.encode import trace_from_ids
from engine.errors import UserError
from engine.tokenization import Tokenizer
from engine.workspace import Workspace
from tests.engine.tiny import EOS as TINY_EOS
from tests.engine.tokenizer import wordlets
from tests.engine.tokenizer.nextbytes import ask, outcomes, summary
from tests.engine.tokenizer.wordlets import BOS, EOS, PAD, PIECES, TEXT, Oracle

Ids = tuple[int, ...]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return wordlets.folder(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def oracle(small: str) -> Oracle:
    return Oracle(small, len(PIECES))


def covers_of(text: str) -> list[Ids]:
    """All covers of a text over the six tokens, straight from the definition."""
    found = []
    for length in range(1, len(text) + 1):
        for ids in itertools.product(TEXT, repeat=length):
            joined = "".join(PIECES[i] for i in ids)
            before = "".join(PIECES[i] for i in ids[:-1])
            if joined.startswith(text) and not before.startswith(text):
                found.append(ids)
    return found


def canonical(tokenizer: Tokenizer) -> Callable[[Ids], bool]:
    def keeps(ids: Ids) -> bool:
        text = "".join(PIECES[i] for i in ids)
        return tokenizer.encode(text, special=False).ids == ids

    return keeps


def by_definition(oracle: Oracle, text: str, keeps: Callable[[Ids], bool]) -> dict:
    """Weight of each outcome after a text: P(text + byte), P(text, end), P(text, control)."""
    weights: dict = defaultdict(float)
    for byte in "ab":
        for ids in covers_of(text + byte):
            if keeps(ids):
                weights[ord(byte)] += oracle.probability((BOS,), ids)
    for ids in covers_of(text):
        if "".join(PIECES[i] for i in ids) == text and keeps(ids):
            own = oracle.probability((BOS,), ids)
            after = oracle.after((BOS, *ids))
            weights["end"] += own * after[EOS]
            weights["<bos>"] += own * after[BOS]
            weights["<pad>"] += own * after[PAD]
    return weights


@pytest.mark.parametrize("text", ["a", "ab", "aab", "abaab"])
def test_against_enumeration(workspace: Workspace, small: str, oracle: Oracle, text: str) -> None:
    keeps = canonical(Tokenizer.load(small))
    for covers, chosen in (("all", lambda ids: True), ("canonical", keeps)):
        wanted = by_definition(oracle, text, chosen)
        total = sum(wanted.values())
        result = ask(workspace, text, small, covers=covers, threshold=0)
        found = outcomes(result)
        assert found.keys() == {k for k, v in wanted.items() if v}
        for name, weight in found.items():
            assert weight == pytest.approx(wanted[name] / total, abs=2e-6)
        row = summary(result)
        assert row["logprob"] == pytest.approx(math.log(total), abs=1e-5)
        listed = {tuple(c["ids"]): c for c in result.table("covers").to_pylist()}
        every = [cover for cover in covers_of(text) if chosen(cover)]
        if covers == "all":
            assert set(listed) == set(every)
            # P(text) is the sum over its covers (the lemma).
            assert total == pytest.approx(sum(oracle.probability((BOS,), c) for c in every))
            for cover, one in listed.items():
                share = oracle.probability((BOS,), cover) / total
                assert one["share"] == pytest.approx(share, abs=2e-6)
                joined = "".join(PIECES[i] for i in cover)
                assert one["leftover"] == joined[len(text) :]
        assert row["covers_found"] == len(listed) == len(every)


def test_the_example_where_tokens_mislead(workspace: Workspace, small: str, oracle: Oracle) -> None:
    """Total variation is the distance of the two columns; the token view is the model's own."""
    result = ask(workspace, "aab", small, covers="all")
    view, exact = outcomes(result, "token_view"), outcomes(result)
    after = oracle.after((BOS, *Tokenizer.load(small).encode("aab", special=False).ids))
    first = defaultdict(float)
    for i in TEXT:
        first[ord(PIECES[i][0])] += after[i]
    assert view[ord("a")] == pytest.approx(first[ord("a")], abs=1e-6)
    assert view["end"] == pytest.approx(after[EOS], abs=1e-6)
    names = view.keys() | exact.keys()
    distance = sum(abs(view.get(n, 0) - exact.get(n, 0)) for n in names) / 2
    assert summary(result)["total_variation"] == pytest.approx(distance)
    assert distance > 0.01


def test_sum_and_chain_rule(workspace: Workspace, small: str) -> None:
    """P(text byte) = P(text) · P(byte | text), from separate requests."""
    for covers in ("all", "beam"):
        whole = ask(workspace, "aba", small, covers=covers, beam=256)
        known = outcomes(whole)
        for byte in "ab":
            longer = summary(ask(workspace, "aba" + byte, small, covers=covers, beam=256))
            ratio = math.exp(longer["logprob"] - summary(whole)["logprob"])
            assert known[ord(byte)] == pytest.approx(ratio, abs=3e-6)
        assert summary(whole)["pruned"] == 0


def test_a_beam_says_what_it_may_have_lost(workspace: Workspace, small: str) -> None:
    text = "abaababaa"
    exact, beam = (ask(workspace, text, small, covers=c, beam=1) for c in ("all", "beam"))
    lost = summary(beam)["pruned"]
    full, part = (math.exp(summary(r)["logprob"]) for r in (exact, beam))
    assert 0 < lost < 1
    assert part < full <= part / (1 - lost) * (1 + 1e-6)
    for name, p in outcomes(exact).items():
        assert abs(outcomes(beam).get(name, 0) - p) <= lost + 1e-9
    assert "beam" in summary(beam)["covers"]


def healed(oracle: Oracle, ids: Ids, back: int, text: str, inner: bool) -> dict:
    """Healing and alignment by recursion over what each step allows."""
    weights: dict = defaultdict(float)

    def go(before: Ids, rest: str, weight: float) -> None:
        after = oracle.after(before)
        if not rest:
            weights["end"] += weight * after[EOS]
            for i in TEXT:
                weights[ord(PIECES[i][0])] += weight * after[i]
            weights["<bos>"] += weight * after[BOS]
            weights["<pad>"] += weight * after[PAD]
            return
        allowed = [i for i in TEXT if PIECES[i].startswith(rest)]
        if inner:
            allowed += [i for i in TEXT if rest.startswith(PIECES[i]) and PIECES[i] != rest]
        total = sum(after[i] for i in allowed)
        for i in allowed:
            share = weight * after[i] / total
            if len(PIECES[i]) > len(rest):
                weights[ord(PIECES[i][len(rest)])] += share
            else:
                go((*before, i), rest[len(PIECES[i]) :], share)

    go((BOS, *ids[: len(ids) - back]), text, 1.0)
    return weights


def test_healing_and_alignment(workspace: Workspace, small: str, oracle: Oracle) -> None:
    tokenizer = Tokenizer.load(small)
    for text, back_off in (("aaba", 1), ("aabab", 2), ("abaab", 3)):
        ids = tokenizer.encode(text, special=False).ids
        result = ask(workspace, text, small, back_off=back_off)
        for method, back, inner in (("healing", 1, False), ("alignment", back_off, True)):
            taken = "".join(PIECES[i] for i in ids[max(0, len(ids) - back) :])
            wanted = healed(oracle, ids, min(back, len(ids)), taken, inner)
            found = outcomes(result, method)
            for name, weight in wanted.items():
                assert found[name] == pytest.approx(weight, abs=2e-6), (text, method)
            exact = outcomes(result)
            names = exact.keys() | found.keys()
            apart = sum(abs(exact.get(n, 0) - found.get(n, 0)) for n in names) / 2
            assert summary(result)[f"{method}_variation"] == pytest.approx(apart)


def test_single_bytes_are_the_token_model(workspace: Workspace, llama: str) -> None:
    """Every byte is one token: bytes and tokens agree, whatever covers are counted."""
    prompt = "a é"
    trace_ids = Tokenizer.load(llama).encode(prompt, special=True).ids
    after = Oracle(llama, 259).after(trace_ids)
    for covers in ("canonical", "all"):
        result = ask(workspace, prompt, llama, covers=covers, threshold=0)
        rows = result.table("bytes").to_pylist()
        assert [rows[byte]["token"] for byte in (10, 65, 200)] == ["\\x0a", "A", "\\xc8"]
        for row in rows[:256]:
            assert row["token_view"] == pytest.approx(after[row["byte"]], abs=1e-6)
        assert rows[256]["token_view"] == pytest.approx(after[TINY_EOS], abs=1e-6)
        # Bytes that begin no character are no text: only canonical covers leave them out.
        kept = [r for r in rows if covers == "all" or r["kind"] != "byte" or r["probability"]]
        mass = sum(r["token_view"] for r in kept)
        for row in kept:
            assert row["probability"] == pytest.approx(row["token_view"] / mass, rel=1e-5)
        row = summary(result)
        assert row["noncanonical"] == pytest.approx(1 - mass if covers == "canonical" else 0)
        assert row["covers_found"] == 1
        assert row["logprob"] == pytest.approx(
            row["token_logprob"] + math.log(mass if covers == "canonical" else 1), abs=1e-5
        )


def test_where_the_text_begins(workspace: Workspace, small: str, bare_model: str) -> None:
    tokenizer = Tokenizer.load(small)
    a, ab, ba = (PIECES.index(p) for p in ("a", "ab", "ba"))
    trace = trace_from_ids([BOS, ab, EOS, a, ba], tokenizer, response_start=5)
    assert summary(ask(workspace, trace, small, covers="all"))["bytes"] == 3
    shorter = ask(workspace, trace, small, covers="all", at=4)
    assert summary(shorter)["bytes"] == 1
    # The tokens after a response's start are not read.
    cut = trace_from_ids([BOS, ab, EOS, a, ba], tokenizer, response_start=4)
    assert outcomes(ask(workspace, cut, small, covers="all")) == outcomes(shorter)
    # a·ba is not what the tokenizer gives for aba.
    given = ask(workspace, trace, small)
    assert "are not what the tokenizer gives" in str(given.notes.to_pylist())
    ended = ask(workspace, trace, small, at=3)
    assert summary(ended)["healing_variation"] is None
    left_out = summary(ended)["noncanonical"]
    assert summary(ended)["total_variation"] == pytest.approx(left_out, abs=1e-6)
    bare = ask(workspace, "the ca", bare_model)
    assert "taken as given" in str(bare.notes.to_pylist())
    with pytest.raises(UserError, match="The trace has 5 tokens"):
        ask(workspace, trace, small, at=6)


def test_bad_input_is_a_sentence(workspace: Workspace, toy_model: str) -> None:
    for params, sentence in (
        ({"covers": "all"}, "at most 16 bytes, and the text has 22"),
        ({"covers": "some"}, "covers"),
        ({"beam": 0}, "beam"),
    ):
        with pytest.raises(UserError, match=sentence):
            ask(workspace, "the cat sat on the mat", toy_model, **params)
