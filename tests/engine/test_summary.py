"""``summary``: perplexity, bits, quantiles, rolling entropy and forks against their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.encode import trace_from_ids
from engine.errors import UserError
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group, Span, Text, Trace, simple_turns
from engine.texts.textstats import cascade_quantiles, parts_of, rolling_mean, top_share
from engine.tokenization import Tokenizer
from engine.workspace import Workspace
from tests.engine.tiny import BOS, EOS, tiny_folder, tiny_model

TEXT = Text(prompt="Wie groß? ", response="Solution: 1+1=2.\nAnswer: 2")


def compute(workspace: Workspace, model: str, subject: Text | Trace, **params: object) -> Result:
    return run(Request("summary", subject, model, params), workspace=workspace)[0]


def rows(result: Result, table: str = "summary") -> dict[str, dict]:
    return {row["segment"]: row for row in result.table(table).to_pylist()}


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that finds every token equally likely: all has a closed form."""
    folder = tmp_path_factory.mktemp("uniform")
    model = tiny_model("llama", path=folder)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.save_pretrained(folder)
    return str(folder)


def test_a_model_that_knows_nothing(workspace: Workspace, uniform: str) -> None:
    result = compute(workspace, uniform, TEXT)
    everything = rows(result)["all"]
    size, count = 259, len(TEXT.prompt.encode() + TEXT.response.encode())
    assert everything["tokens"] == count + 1
    assert everything["predicted"] == everything["bytes"] == count
    assert everything["perplexity"] == pytest.approx(size, rel=1e-5)
    assert everything["bits_per_token"] == pytest.approx(math.log2(size), rel=1e-6)
    assert everything["bits_per_byte"] == pytest.approx(math.log2(size), rel=1e-6)
    assert everything["entropy"] == pytest.approx(math.log(size), rel=1e-6)
    assert everything["logprob"] == pytest.approx(-count * math.log(size), rel=1e-6)
    assert everything["first_choice"] == 1  # rank counts strictly larger logits
    # All entropies are equal: exactly the share is marked, the earlier tokens, the rest is tied.
    (forks,) = result.table("forks").to_pylist()
    ranked = len(TEXT.response.encode())
    assert forks["population"] == ranked
    assert forks["forks"] == math.ceil(0.2 * ranked)
    assert forks["tied"] == ranked - forks["forks"]
    marks = result.table("tokens")["fork"].to_pylist()[-ranked:]
    assert marks == [True] * forks["forks"] + [False] * forks["tied"]


@pytest.mark.parametrize("window", [1, 3, 16])
def test_every_number_by_hand(workspace: Workspace, llama: str, window: int) -> None:
    result = compute(workspace, llama, TEXT, window=window, share=0.3)
    stats = run(Request("statistics", TEXT, llama), workspace=workspace)[0].to_pandas("tokens")
    prompt = len(TEXT.prompt.encode()) + 1
    parts = {
        "all": stats,
        "prompt": stats[:prompt],
        "response": stats[prompt:],
        "answer": stats[stats.segment == "answer"],
    }
    found = rows(result)
    assert set(parts) < set(found)
    for name, part in parts.items():
        row = found[name]
        nats = [s for s in part.surprisal if not math.isnan(s)]
        assert (row["start"], row["end"]) == (part.index[0], part.index[-1] + 1)
        assert row["predicted"] == len(nats) == len(part) - (name in ("all", "prompt"))
        assert row["logprob"] == pytest.approx(-sum(nats))
        assert row["surprisal"] == pytest.approx(sum(nats) / len(nats))
        assert row["perplexity"] == pytest.approx(math.exp(sum(nats) / len(nats)))
        assert row["bits_per_token"] == pytest.approx(sum(nats) / len(nats) / math.log(2))
        assert row["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / len(nats))
        assert row["entropy"] == pytest.approx(part.entropy.mean())
        ranks = part["rank"].dropna()
        assert row["first_choice"] == pytest.approx(sum(r == 1 for r in ranks) / len(ranks))

    tokens = result.to_pandas("tokens")
    entropy = stats.entropy.astype(float).tolist()
    for t, value in enumerate(tokens.rolling_entropy):
        if t < window:  # position 0 has no entropy, so the first full window ends at ``window``
            assert math.isnan(value)
        else:
            assert value == pytest.approx(sum(entropy[t - window + 1 : t + 1]) / window, rel=1e-5)
    response = sorted(range(prompt, len(entropy)), key=lambda t: (-entropy[t], t))
    forks = set(response[: math.ceil(0.3 * len(response))])
    for t, mark in enumerate(tokens.fork):
        assert mark == (None if t < prompt else t in forks)
    assert found["all"]["forks"] == found["response"]["forks"] == len(forks)
    assert found["prompt"]["forks"] is None
    (chosen,) = result.table("forks").to_pylist()
    assert chosen["threshold"] == pytest.approx(min(entropy[t] for t in forks), rel=1e-6)
    assert tokens.token_class[prompt] == "content"
    assert tokens.surprisal.equals(stats.surprisal)


def test_the_forks_are_those_of_the_papers_code() -> None:
    """get_global_entropy_top_mask: torch.topk of max(1, int(n · ratio + 0.9999)) values."""
    rng = np.random.default_rng(1)
    for n in [*range(1, 60), 1000, 4097]:
        values = rng.normal(size=n) ** 2
        for share in (0.2, 0.05, 1.0):
            count = max(1, int(n * share + 0.9999))
            expected = torch.zeros(n, dtype=torch.bool)
            expected[torch.topk(torch.tensor(values), k=count).indices] = True
            marks, threshold, tied = top_share(values, share)
            assert marks.tolist() == expected.tolist()
            assert threshold == values[marks].min()
            assert tied == 0
    assert top_share(np.ones(35), 0.2)[0].tolist() == [True] * 7 + [False] * 28


def test_cascade_quantiles() -> None:
    rng = np.random.default_rng(2)
    values = -rng.exponential(size=37)
    levels = cascade_quantiles(np.append(values, np.nan))
    assert levels[0] == values.min()
    assert levels[-1] == values.max()
    assert levels == sorted(levels)
    ordered = np.sort(values)
    for alpha, level in zip(np.arange(11) / 10, levels, strict=True):
        at = alpha * 36
        low = int(at)
        high = min(low + 1, 36)
        assert level == pytest.approx(ordered[low] + (at - low) * (ordered[high] - ordered[low]))
    assert cascade_quantiles(np.array([np.nan])) == [None] * 11


def test_quantiles_are_of_the_log_probability(workspace: Workspace, llama: str) -> None:
    result = compute(workspace, llama, TEXT)
    stats = run(Request("statistics", TEXT, llama), workspace=workspace)[0].to_pandas("tokens")
    table = result.to_pandas("quantiles")
    response = table[table.segment == "response"].set_index("alpha").logprob
    known = stats[stats.segment != "prompt"].logprob
    assert response[0.0] == pytest.approx(known.min())
    assert response[0.5] == pytest.approx(known.median())
    assert response[1.0] == pytest.approx(known.max())


def test_a_rolling_mean_needs_its_whole_window() -> None:
    values = np.array([np.nan, 1.0, 2.0, 6.0, 3.0])
    assert rolling_mean(values, 2)[2:].tolist() == [1.5, 4.0, 4.5]
    assert np.isnan(rolling_mean(values, 2)[:2]).all()
    assert np.isnan(rolling_mean(values, 6)).all()
    assert rolling_mean(values, 1)[1:].tolist() == [1, 2, 6, 3]


def test_special_tokens_count_as_tokens_but_not_as_text(workspace: Workspace, llama: str) -> None:
    tokenizer = Tokenizer.load(Path(llama))
    trace = trace_from_ids([BOS, 72, 105, EOS], tokenizer, response_start=1)
    result = compute(workspace, llama, trace)
    stats = run(Request("statistics", trace, llama), workspace=workspace)[0].to_pandas("tokens")
    row = rows(result)["all"]
    assert (row["tokens"], row["predicted"], row["bytes"]) == (4, 3, 2)
    assert row["logprob"] == pytest.approx(stats.logprob[1:].sum())
    assert row["bits_per_byte"] == pytest.approx(stats.surprisal[1:3].sum() / math.log(2) / 2)
    assert result.table("tokens")["token_class"].to_pylist()[-1] == "special"


def test_without_a_prompts_bos_the_first_byte_counts_nowhere(
    workspace: Workspace, llama: str
) -> None:
    tokenizer = Tokenizer.load(Path(llama))
    trace = trace_from_ids([72, 105, 33], tokenizer, response_start=1)
    stats = run(Request("statistics", trace, llama), workspace=workspace)[0].to_pandas("tokens")
    row = rows(compute(workspace, llama, trace))["all"]
    assert (row["tokens"], row["predicted"], row["bytes"]) == (3, 2, 3)
    assert row["bits_per_byte"] == pytest.approx(stats.surprisal[1:].sum() / math.log(2) / 2)


def reasons(result: Result, table: str, column: str | None) -> list[str]:
    notes = result.notes.to_pylist()
    return [n["reason"] for n in notes if n["table"] == table and n["column"] == column]


def test_a_text_without_a_response_has_no_forks_until_they_are_asked_for(
    workspace: Workspace, llama: str
) -> None:
    text = Text(prompt="Only a prompt")
    result = compute(workspace, llama, text)
    assert "response" not in rows(result)
    assert rows(result)["all"]["forks"] is None
    assert set(result.table("tokens")["fork"].to_pylist()) == {None}
    (chosen,) = result.table("forks").to_pylist()
    assert (chosen["population"], chosen["threshold"], chosen["forks"]) == (0, None, None)
    for table, column in (("summary", "forks"), ("tokens", "fork"), ("forks", None)):
        assert "no response" in reasons(result, table, column)[0]
    among_all = compute(workspace, llama, text, population="all")
    assert rows(among_all)["all"]["forks"] == math.ceil(0.2 * len("Only a prompt"))


def test_one_token_has_no_numbers_but_reasons(workspace: Workspace, llama: str) -> None:
    trace = trace_from_ids([BOS], Tokenizer.load(Path(llama)), response_start=1)
    result = compute(workspace, llama, trace, population="all")
    row = rows(result)["all"]
    assert (row["tokens"], row["predicted"], row["bytes"]) == (1, 0, 0)
    undefined = ("logprob", "surprisal", "perplexity", "bits_per_token", "bits_per_byte", "entropy",
                 "first_choice", "forks")  # fmt: skip
    assert {row[name] for name in undefined} == {None}
    assert all(reasons(result, "summary", name) for name in undefined)
    assert set(result.table("quantiles")["logprob"].to_pylist()) == {None}


def test_parts() -> None:
    trace = Trace(
        ids=(1,) * 6,
        pieces=(b"a",) * 6,
        ids_origin="logged",
        response_start=2,
        turns=({"role": "text", "start": 0, "end": 6},),
        spans={"reasoning": Span(start=2, end=4), "answer": Span(start=5, end=6),
               "question": Span(start=0, end=0)},
    )  # fmt: skip
    assert parts_of(trace) == [
        ("all", 0, 6),
        ("prompt", 0, 2),
        ("response", 2, 6),
        ("reasoning", 2, 4),
        ("answer", 5, 6),
    ]
    whole = trace.evolve(response_start=0, spans={})
    assert parts_of(whole) == [("all", 0, 6)]


def test_over_a_group_each_rollout_has_its_own_rows(workspace: Workspace, llama: str) -> None:
    tokenizer = Tokenizer.load(Path(llama))
    one, two = (
        trace_from_ids([BOS, 72, *tail], tokenizer, response_start=2)
        for tail in ([105, 33], [106, 33, 34, 35])
    )
    (lifted,) = run(Request("summary", Group(rollouts=(one, two)), llama), workspace=workspace)
    alone = compute(workspace, llama, two)
    table = lifted.to_pandas("summary")
    assert (
        table[table.rollout == 1]
        .drop(columns="rollout")
        .reset_index(drop=True)
        .equals(alone.to_pandas("summary"))
    )


def test_stored_statistics_need_no_model(workspace: Workspace, llama: str, monkeypatch) -> None:
    run(Request("statistics", TEXT, llama), workspace=workspace)
    monkeypatch.setattr(Workspace, "load", lambda *_: pytest.fail("the model was loaded"))
    assert compute(workspace, llama, TEXT).status == "complete"


def test_params_out_of_range(workspace: Workspace) -> None:
    folder = str(tiny_folder("llama"))
    for params in ({"window": 0}, {"share": 0.0}, {"share": 1.1}, {"population": "prompt"}):
        with pytest.raises(Exception, match=next(iter(params))):
            compute(workspace, folder, TEXT, **params)


def test_a_log_without_a_model_says_what_it_can(workspace: Workspace) -> None:
    """Statistics of the log stand in; what it does not tell is empty, with a reason."""
    logprobs = (None, -1.0, -0.5, None, -2.5)
    trace = Trace(
        ids=(-1,) * 5,
        pieces=(b"Q", b": ", b"the", b" cat", b"s"),
        ids_origin="logged",
        response_start=2,
        turns=simple_turns(5, 2),
        signals={"logprob": logprobs},
    )
    (result,) = run(Request("summary", trace, params={"window": 1}), workspace=workspace)
    found = rows(result)
    assert found["all"]["perplexity"] == pytest.approx(math.exp(4 / 3))
    assert found["response"]["predicted"] == 2
    assert found["response"]["bits_per_byte"] == pytest.approx(3 / math.log(2) / 4)
    assert found["all"]["entropy"] is None
    assert reasons(result, "summary", "entropy")
    assert found["response"]["forks"] is None
    assert "unknown" in reasons(result, "tokens", "fork")[0]
    tokens = result.to_pandas("tokens")
    assert tokens.rolling_surprisal.dropna().tolist() == [1.0, 0.5, 2.5]
    assert tokens.token_class.tolist() == [
        "content", "punctuation", "function", "content", "content"
    ]  # fmt: skip
    with pytest.raises(UserError, match="no token ids"):
        compute(workspace, "demo", trace)
    with pytest.raises(UserError, match="needs a model"):
        run(Request("summary", TEXT), workspace=workspace)
