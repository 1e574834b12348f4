"""Spellings of a text: by enumeration, by the model's own logits, and draw by draw."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine import cli
from engine.encode import trace_from_ids
from engine.errors import UserError
from engine.limits.profile import Profile
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Text
from engine.tokenization import Tokenizer
from engine.tokenizer import TokenizerSpec, reference
from engine.tokenizer.drawing import Dropout, StochasTok, dropout_draws
from engine.tokenizer.scoring import Lattice, Sample, _Sampler, exact_share, sampled_share
from engine.workspace import Workspace
from tests.engine.tokenizer.toys import KINDS, letters, save, toy


def spellings_of(spec: TokenizerSpec, data: bytes) -> list[tuple[int, ...]]:
    """All id sequences whose bytes join to ``data``, by recursion."""
    if not data:
        return [()]
    found: list[tuple[int, ...]] = []
    for i in spec.segmenting:
        piece = spec.pieces[i].data
        if data.startswith(piece):
            found += [(i, *rest) for rest in spellings_of(spec, data[len(piece) :])]
    return found


def ask(workspace: Workspace, text: str | Text, kind: str | None, models=None, **params) -> Result:
    subject = Text(prompt=text) if isinstance(text, str) else text
    if kind is not None:
        path = save(kind, workspace.home)
        subject = subject.evolve(tokenizer=reference(path))
    return run(Request("tokenizer.spellings", subject, models, params), workspace=workspace)[0]


def logprob64(folder: str, context: tuple[int, ...], ids) -> float:
    """Log-probability of ids after a context, from the model's own logits in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    real = toy("byte_bpe").size
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *ids]])).logits[0, :, :real]
    logs = torch.log_softmax(logits, -1)
    start = len(context)
    return float(sum(logs[start + n - 1, i] for n, i in enumerate(ids)))


@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_the_best_by_enumeration(workspace: Workspace, kind: str) -> None:
    spec = toy(kind)
    for text in ("the cat", "tokens"):
        result = ask(workspace, text, kind, k=7, drawn=0)
        row = result.table("spellings").to_pylist()[0]
        ids = spec.encode(text).ids
        if spec.unknown in ids:
            assert row["canonical_length"] is None
            continue
        data = spec.decode_bytes(ids)
        every = spellings_of(spec, data)
        lengths = sorted(map(len, every))
        assert row["spellings"] == str(len(every))
        assert row["log2_spellings"] == pytest.approx(math.log2(len(every)))
        assert row["bits_per_byte"] == pytest.approx(math.log2(len(every)) / len(data))
        assert (row["canonical_length"], row["shortest_length"]) == (len(ids), lengths[0])
        best = result.table("best").to_pylist()
        placed = [r for r in best if r["place"] is not None]
        assert [r["length"] for r in placed] == lengths[:7]
        assert [r["place"] for r in placed] == list(range(1, len(placed) + 1))
        assert all(tuple(r["ids"]) in every for r in best)
        assert len({tuple(r["ids"]) for r in best}) == len(best)
        assert [tuple(r["ids"]) for r in best if r["canonical"]] == [ids]
        lattice = result.table("lattice").to_pylist()
        edges = {(r["start_byte"], r["end_byte"], r["token_id"]) for r in lattice}
        used = set()
        for spelling in every:
            at = 0
            for i in spelling:
                used.add((at, at + len(spec.piece(i).data), i))
                at += len(spec.piece(i).data)
        assert edges == used
        assert [r["token_id"] for r in lattice if r["canonical"]] == list(ids)


def test_best_by_score(workspace: Workspace) -> None:
    spec = toy("unigram")
    assert spec.scores is not None
    result = ask(workspace, "the cat", "unigram", k=5, order="score", drawn=0)
    data = spec.decode_bytes(spec.encode("the cat").ids)
    scores = sorted(
        (sum(spec.scores[i] for i in s) for s in spellings_of(spec, data)), reverse=True
    )
    placed = [r for r in result.table("best").to_pylist() if r["place"] is not None]
    assert [r["score"] for r in placed] == pytest.approx(scores[:5])
    # Unigram's own encoding is the best path, so the canonical spelling comes first.
    assert placed[0]["canonical"]
    with pytest.raises(UserError, match="has no scores: order its spellings by length"):
        ask(workspace, "the cat", "byte_bpe", order="score")


def test_words(workspace: Workspace) -> None:
    spec = toy("byte_bpe")
    result = ask(workspace, "the cat the the", "byte_bpe", part="words", k=2)
    rows = {r["text"]: r for r in result.table("spellings").to_pylist()}
    assert {text: r["occurrences"] for text, r in rows.items()} == {"the": 1, " cat": 1, " the": 2}
    for text, row in rows.items():
        assert row["spellings"] == str(len(spellings_of(spec, text.encode())))
        assert row["canonical_length"] == len(spec.encode(text))
    assert {r["part"] for r in result.table("best").to_pylist()} == {0, 1, 2}
    marked = ask(workspace, "the cat the", "fallback_bpe", part="words", drawn=0)
    counts = {r["text"]: r["occurrences"] for r in marked.table("spellings").to_pylist()}
    assert counts == {" the": 2, " cat": 1}


def test_long_texts_have_a_logarithm_only(workspace: Workspace) -> None:
    result = ask(workspace, "the cats " * 1000, "byte_bpe", drawn=0, k=0)
    row = result.table("spellings").to_pylist()[0]
    assert row["spellings"] is None
    exact = toy("byte_bpe").trie.count(b"the cats " * 1000)
    assert row["log2_spellings"] == pytest.approx(math.log2(exact >> 1000) + 1000, rel=1e-12)
    reasons = {(r["table"], r["column"]) for r in result.notes.to_pylist()}
    assert ("spellings", "spellings") in reasons
    assert ("lattice", None) in reasons


def test_a_changed_text_is_said(workspace: Workspace) -> None:
    result = ask(workspace, "ﬁx", "added_bpe", drawn=0)
    assert result.table("spellings")["text"].to_pylist() == ["fix"]
    assert "changes the text" in result.notes.to_pylist()[0]["reason"]
    unknown = ask(workspace, "Ω", "unigram")
    assert unknown.table("spellings")["canonical_length"].to_pylist() == [None]
    assert "cannot spell all of the text" in str(unknown.notes.to_pylist())


# -- with a model ----------------------------------------------------------------------------


def test_share_by_enumeration(workspace: Workspace, toy_model: str) -> None:
    """Exact, and the importance sampler's estimate of the same number."""
    text = "a cat"
    result = ask(workspace, text, None, toy_model, k=1000, order="probability", drawn=0)
    spec = toy("byte_bpe")
    every = spellings_of(spec, text.encode())
    logs = {ids: logprob64(toy_model, (0,), ids) for ids in every}
    best = result.table("best").to_pylist()
    assert len(best) == len(every)
    for row in best:
        assert row["logprob"] == pytest.approx(logs[tuple(row["ids"])], abs=1e-4)
    assert [r["logprob"] for r in best] == sorted((r["logprob"] for r in best), reverse=True)
    total = np.logaddexp.reduce(list(logs.values()))
    share = result.table("share").to_pylist()[0]
    own = logs[spec.encode(text).ids]
    assert share["method"] == "exact"
    assert share["spellings"] == len(every)
    assert share["logprob"] == pytest.approx(total, abs=1e-4)
    assert share["canonical_logprob"] == pytest.approx(own, abs=1e-4)
    assert share["canonical_share"] == pytest.approx(math.exp(own - total), rel=1e-3)
    assert share["low"] == share["high"] == share["canonical_share"]


def test_sampled_share_agrees_with_the_exact_one(
    workspace: Workspace, toy_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ " the cats" has 36 spellings: of the few that are not read, the draws find the mass."""
    exact = ask(workspace, " the cats", None, toy_model, drawn=0).table("share").to_pylist()[0]
    monkeypatch.setattr("engine.tokenizer.spellingdraws.EXACT_SHARE", 1)
    result = ask(workspace, " the cats", None, toy_model, drawn=0, samples=30)
    found = result.table("share").to_pylist()[0]
    assert (exact["method"], found["method"]) == ("exact", "sampled")
    for name in ("canonical_logprob", "logprob"):
        assert found[name] == pytest.approx(exact[name], abs=0.01)
    assert found["low"] <= found["canonical_share"] <= found["high"]
    assert found["canonical_share"] == pytest.approx(exact["canonical_share"], abs=0.01)


def test_the_sampled_share_is_unbiased_and_covers() -> None:
    """600 estimates of a string with 40 spellings of known probability."""
    random = np.random.default_rng(0)
    p = random.dirichlet(np.full(40, 0.5)) * 1e-5
    q = p**0.8 / (p**0.8).sum()
    logs = np.log(p)
    totals, covered = [], 0
    for _ in range(600):
        drawn = random.choice(40, 60, p=q)
        samples = [Sample((int(i),), logs[i], logs[i] - math.log(q[i])) for i in drawn]
        found = sampled_share((3,), {(3,): logs[3]}, samples)
        totals.append(math.exp(found.logprob))
        covered += found.low <= p[3] / p.sum() <= found.high
    assert np.mean(totals) / p.sum() == pytest.approx(1, abs=0.01)
    assert covered / 600 >= 0.93


def test_importance_weights() -> None:
    """A lattice of two places: q ∝ p over what fits, and w = p / q for every draw."""
    lattice = Lattice(
        2,
        (np.array([1, 1]), np.array([2, 2]), np.array([], np.int64)),
        (np.array([0, 1]), np.array([0, 2]), np.array([], np.int64)),
    )
    sampler, random = _Sampler(lattice, 3000), np.random.default_rng(0)
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.3]])).expand(3000, -1)
    assert sampler.step(logits, random) is not None
    assert sampler.step(logits, random) is None
    samples = sampler.samples()
    for s in samples[:50]:
        assert s.logprob == pytest.approx(sum(math.log([0.5, 0.2, 0.3][i]) for i in s.ids))
        assert s.weight == pytest.approx(math.log(0.7) + math.log(0.8))
    counts = Counter(s.ids for s in samples)
    for ids, q in {(0, 0): 0.5 * 0.5, (1, 2): 0.2 * 0.3}.items():
        q /= 0.7 * 0.8
        assert counts[ids] / 3000 == pytest.approx(q, abs=4 * math.sqrt(q * (1 - q) / 3000))


def test_the_response_is_spelled_after_the_prompt(workspace: Workspace, toy_model: str) -> None:
    text = Text(prompt="the ", response="cat")
    result = ask(workspace, text, None, toy_model, drawn=0)
    row = result.table("spellings").to_pylist()[0]
    assert row["text"] == "cat"
    spec = toy("byte_bpe")
    context = (0, *spec.encode("the ").ids)
    own = next(r for r in result.table("best").to_pylist() if r["canonical"])
    assert own["logprob"] == pytest.approx(logprob64(toy_model, context, own["ids"]), abs=1e-4)


def test_without_a_token_before_it(workspace: Workspace, bare_model: str) -> None:
    result = ask(workspace, "cat", None, bare_model, drawn=0)
    assert result.table("share").num_rows == 0
    assert set(result.table("best")["logprob"].to_pylist()) == {None}
    assert "does not predict the first token" in str(result.notes.to_pylist())
    after = ask(workspace, Text(prompt="a", response="cat"), None, bare_model, drawn=0)
    assert after.table("share").num_rows == 1


def test_interval_and_bound_of_the_share() -> None:
    exact = exact_share(math.log(0.2), np.log([0.2, 0.1, 0.1]).tolist())
    assert (exact.share, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))

    def sample(name: int, p: float, w: float) -> Sample:
        return Sample((name,), math.log(p), math.log(w))

    # Spellings 1 (canonical) and 2 are summed; the second half finds 3 once in four draws.
    halves = [*[sample(2, 0.1, 0.3)] * 4, *[sample(2, 0.1, 0.3)] * 3, sample(3, 0.05, 0.4)]
    found = sampled_share((1,), {(1,): math.log(0.2)}, halves)
    assert math.exp(found.logprob) == pytest.approx(0.3 + 0.4 / 4)
    assert found.share == pytest.approx(0.2 / 0.4)
    sigma = np.std([0, 0, 0, 0.4], ddof=1) / 2
    assert found.high == pytest.approx(0.2 / (0.3 + 0.05))  # 3 was seen: at least so probable
    none_seen = (1 - 0.025**0.25) * 0.4
    assert found.low == pytest.approx(0.2 / (0.3 + max(0.1 + 1.959964 * sigma, none_seen)))
    assert found.effective == pytest.approx((0.9 + 0.4) ** 2 / (3 * 0.09 + 0.16))
    all_seen = sampled_share((1,), {(1,): math.log(0.2)}, [sample(2, 0.1, 0.3)] * 200)
    assert all_seen.share == pytest.approx(2 / 3)
    assert all_seen.low == pytest.approx(0.2 / (0.3 + (1 - 0.025**0.01) * 0.3))


# -- draws -----------------------------------------------------------------------------------


def dropout_by_coins(spec: TokenizerSpec, form: str, p: float) -> dict[tuple[int, ...], float]:
    """All outcomes of algorithm 1: every possible merge has a coin of its own at every step."""
    ranks = {(spec.raw[a], spec.raw[b]): n for n, (a, b, _) in enumerate(spec.merges or ())}
    found: Counter[tuple[int, ...]] = Counter()

    def go(parts: tuple[str, ...], mass: float) -> None:
        pairs = [(ranks[q], n) for n in range(len(parts) - 1) if (q := parts[n : n + 2]) in ranks]
        for coins in itertools.product((True, False), repeat=len(pairs)):
            own = math.prod(p if coin else 1 - p for coin in coins)
            left = [pair for pair, coin in zip(pairs, coins, strict=True) if not coin]
            if own * mass == 0:
                continue
            if not left:
                found[tuple(spec.raw.index(part) for part in parts)] += mass * own
            else:
                _, at = min(left)
                go((*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]), mass * own)

    go(tuple(form), 1.0)
    return dict(found)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.7, 1.0])
def test_dropout_by_its_coins(p: float) -> None:
    spec = letters(["a b", "b c", "ab c", "c a"])
    exact = Dropout(spec, p).exact("abcab")
    wanted = dropout_by_coins(spec, "abcab", p)
    assert set(exact) == set(wanted)
    assert exact == pytest.approx(wanted)
    assert sum(exact.values()) == pytest.approx(1)
    if p == 0:
        assert set(exact) == {spec.encode("abcab").ids}
    counts, short = dropout_draws(spec, spec.pretokens("abcab"), p, 4000, 0)
    assert short == exact
    for ids, probability in exact.items():
        sigma = math.sqrt(probability * (1 - probability) / 4000)
        assert abs(counts[ids] / 4000 - probability) <= 4 * sigma


def test_stochastok_splits() -> None:
    spec = toy("byte_bpe")
    ids = spec.encode("the tokenization").ids
    drawer, random = StochasTok(spec, 2.0), np.random.default_rng(0)
    for token in ids:
        data = spec.piece(token).data
        pairs = {
            (a, b)
            for a in spec.segmenting
            for b in spec.segmenting
            if data.startswith(spec.piece(a).data)
            and spec.piece(a).data + spec.piece(b).data == data
        }
        assert set(drawer.ways(token)) == pairs
    for _ in range(200):
        made = drawer.draw(ids, random)
        assert spec.decode_bytes(made) == spec.decode_bytes(ids)
        assert len(ids) <= len(made) <= len(ids) + 2 * len(ids)
    single = spec.raw.index("a")
    assert drawer.ways(single) == []
    assert drawer.draw((single,), random) == (single,)
    assert StochasTok(spec, 0.9).draw((ids[0],), random) == (ids[0],)


def test_draws_table(workspace: Workspace) -> None:
    result = ask(workspace, " token", "byte_bpe", drawn=500, dropout=0.3, proportion=0.0)
    rows = result.table("draws").to_pylist()
    dropout = [r for r in rows if r["method"] == "bpe_dropout"]
    assert sum(r["draws"] for r in dropout) == 500
    assert sum(r["probability"] for r in dropout) == pytest.approx(1)
    assert [r["share"] for r in rows if r["method"] == "stochastok"] == [1.0]
    assert sum(r["canonical"] for r in dropout) == 1
    again = ask(workspace, " token", "byte_bpe", drawn=500, dropout=0.3, proportion=0.0)
    assert again.origin == "cache"
    other = ask(workspace, "the cat", "unigram", drawn=10)
    assert {r["method"] for r in other.table("draws").to_pylist()} == {"stochastok"}
    assert "no merges to leave out" in str(other.notes.to_pylist())


# -- the way in ------------------------------------------------------------------------------


def test_command_line(tmp_path: Path, toy_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    out = tmp_path / "x.parquet"
    path = save("byte_bpe", tmp_path)
    argv = ["run", "tokenizer.spellings", "--prompt", "cats", "--out", str(out), "--quiet"]
    assert cli.main([*argv, "--tokenizer", str(path)]) == 0
    names = {"text", "spellings", "bits_per_byte", "canonical_length", "shortest_length"}
    table = pyarrow.parquet.read_table(out)
    assert names <= set(table.column_names)
    assert table["spellings"].to_pylist() == [str(len(spellings_of(toy("byte_bpe"), b"cats")))]
    assert cli.main([*argv, "--model", toy_model, "--table", "share"]) == 0
    assert pyarrow.parquet.read_table(out).num_rows == 1


@pytest.fixture
def hosted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("TOKENSCOPE_PROFILE", "hosted")
    with Workspace(tmp_path / "home", profile=Profile.from_env()) as made:
        yield made


def test_bad_input_is_a_sentence(workspace: Workspace, toy_model: str, tmp_path: Path) -> None:
    for text, models, params, sentence in (
        ("a", None, {}, "needs a tokenizer: name a tokenizer.s file, or a model"),
        ("", toy_model, {}, "There is no text"),
        ("a\ud800", toy_model, {}, "lone surrogate"),
        (Text(messages=[{"role": "user", "content": "a"}]), toy_model, {}, "plain text"),
        ("a", toy_model, {"k": -1}, "k: Input should be"),
        ("a", {"model": toy_model, "other": "demo"}, {}, "has no role 'other'"),
    ):
        with pytest.raises(UserError, match=sentence):
            ask(workspace, text, None, models, **params)
    with pytest.raises(UserError, match="under a model: name one"):
        ask(workspace, "a", "byte_bpe", order="probability")
    with pytest.raises(UserError, match="another tokenizer than the one chosen"):
        ask(workspace, "a", "unigram", toy_model)
    path = save("byte_bpe", tmp_path)
    text = Text(prompt="a", tokenizer=reference(path))
    path.write_text(save("unigram", tmp_path).read_text("utf-8"), "utf-8")
    with pytest.raises(UserError, match="no longer the one that was chosen"):
        run(Request("tokenizer.spellings", text), workspace=workspace)


def test_strangers_name_no_files(hosted: Workspace, tmp_path: Path) -> None:
    ref = reference(save("byte_bpe", tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="Files cannot be named here"):
        run(Request("tokenizer.spellings", Text(prompt="a", tokenizer=ref)), workspace=hosted)
    trace = trace_from_ids((1,), Tokenizer.load(ref.path), response_start=0)
    with pytest.raises(UserError, match="Files cannot be named here"):
        run(Request("tokenizer.ids", trace, None, {"tokenizer": ref}), workspace=hosted)
    demo = run(Request("tokenizer.spellings", Text(prompt="a cat"), "demo"), workspace=hosted)[0]
    assert demo.table("share").num_rows == 1
