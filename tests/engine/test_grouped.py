"""``grouped``: means, intervals and shares against brute force, over one trace or many."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.encode import trace_from_ids
from engine.errors import UserError
from engine.records import open_rollouts, write_rollouts
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group, Rollouts, Text, Trace, simple_turns
from engine.texts import bootstrap
from engine.texts.grouping import deciles
from engine.texts.tokenclass import token_classes
from engine.tokenization import Tokenizer
from engine.workspace import Workspace
from tests.engine.tiny import BOS, EOS

TEXT = Text(prompt="Wie groß? ", response="the cat is 12, the dog is 7.\n")


def compute(workspace: Workspace, model: str, subject: object, **params: object) -> Result:
    return run(Request("grouped", subject, model, params), workspace=workspace)[0]


def frame(result: Result) -> pd.DataFrame:
    return result.to_pandas("groups").set_index("group")


def population(result: Result) -> dict:
    (row,) = result.table("population").to_pylist()
    return row


@pytest.fixture
def tokenizer(llama: str) -> Tokenizer:
    return Tokenizer.load(Path(llama))


def logged(tokenizer: Tokenizer, text: str, values: list[float | None]) -> Trace:
    """A trace of bytes whose response carries a signal of a log."""
    ids = [BOS, 63, *text.encode()]
    trace = trace_from_ids(ids, tokenizer, response_start=2)
    return trace.evolve(signals={"score": (None, None, *values)})


def many(tokenizer: Tokenizer, count: int, seed: int = 0) -> list[Trace]:
    rng = np.random.default_rng(seed)
    traces = []
    for _ in range(count):
        text = "".join(rng.choice(list("aab c1.")) for _ in range(rng.integers(3, 20)))
        shift = rng.normal()
        values = [float(v) for v in rng.normal(shift, 1, len(text))]
        if rng.random() < 0.3:
            values[0] = None
        traces.append(logged(tokenizer, text, values))
    return traces


def brute(traces: list[Trace], keys) -> pd.DataFrame:
    """Every group by hand, from the log's signal."""
    rows = [
        {"trace": n, "key": key, "value": value}
        for n, trace in enumerate(traces)
        for key, value in zip(
            keys(trace), trace.signals["score"][trace.response_start :], strict=True
        )
        if value is not None
    ]
    table = pd.DataFrame(rows)
    groups = table.groupby("key")
    return pd.DataFrame(
        {
            "count": groups.value.count(),
            "traces": groups.trace.nunique(),
            "mean": groups.value.mean(),
            "median": groups.value.median(),
            "q25": groups.value.quantile(0.25),
            "q75": groups.value.quantile(0.75),
            "share": groups.value.count() / len(table),
        }
    )


WAYS = {
    "token": lambda t: [p.decode() for p in t.pieces[t.response_start :]],
    "class": lambda t: token_classes(t)[t.response_start :],
    "position": lambda t: [
        f"{i // 5 * 5}–{i // 5 * 5 + 4}" for i in range(len(t) - t.response_start)
    ],
    "position_decile": lambda t: [
        f"{10 * (10 * i // n)}–{10 * (10 * i // n) + 10} %"
        for n in [len(t) - t.response_start]
        for i in range(n)
    ],
    "role": lambda t: t.roles[t.response_start :],
    "segment": lambda t: t.segments[t.response_start :],
}


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("count", [1, 9])
def test_every_way_to_group_by_brute_force(
    workspace: Workspace, llama: str, tokenizer: Tokenizer, by: str, count: int
) -> None:
    traces = many(tokenizer, count)
    subject = Group(rollouts=tuple(traces)) if count > 1 else traces[0]
    result = compute(workspace, llama, subject, signal="log:score", by=by, width=5)
    found, expected = frame(result), brute(traces, WAYS[by])
    assert set(found.index) == set(expected.index)
    expected = expected.loc[found.index]
    for column in expected.columns:
        np.testing.assert_allclose(found[column], expected[column], err_msg=column)
    inside = found.dropna(subset=["low"])
    assert (inside.low <= inside["mean"]).all()
    assert (inside["mean"] <= inside.high).all()
    # Where an interval cannot be had it is empty, with a reason.
    alone = found.traces < 2 if count > 1 else found["count"] < 2
    assert found.low.isna().tolist() == found.high.isna().tolist() == alone.tolist()
    assert alone.any() == ("low" in result.notes["column"].to_pylist())
    assert found.sum_share.isna().all()  # values have both signs
    whole = population(result)
    values = [v for t in traces for v in t.signals["score"] if v is not None]
    assert whole["mean"] == pytest.approx(np.mean(values))
    assert whole["tokens"] - whole["missing"] == len(values) == found["count"].sum()
    assert whole["interval"] == ("traces" if count > 1 else "tokens")


def test_frequency_deciles_rank_distinct_tokens(
    workspace: Workspace, llama: str, tokenizer: Tokenizer
) -> None:
    text = "aaaaaabbbccdef"
    trace = logged(tokenizer, text, [float(ord(c)) for c in text])
    found = frame(compute(workspace, llama, trace, signal="log:score", by="frequency_decile"))
    # d, e, f: ranks 1 to 3, mean 2 of 6; then c 4, b 5, a 6: deciles ⌈10 r / 6⌉.
    assert found["count"].to_dict() == {"4": 3, "7": 2, "9": 3, "10": 6}
    assert found["mean"]["10"] == ord("a")
    assert found.detail["4"] == "seen once"
    assert found.detail["10"] == "seen 6 times"
    assert found.sum_share.sum() == pytest.approx(1)


def test_deciles_by_brute_force() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        counts = {k: int(c) for k, c in enumerate(rng.integers(1, 8, rng.integers(1, 40)))}
        values = list(counts.values())
        for key, decile in deciles(counts).items():
            below = sum(v < counts[key] for v in values)
            equal = sum(v == counts[key] for v in values)
            rank = below + (equal + 1) / 2
            assert decile == math.ceil(round(10 * rank / len(values), 9))
    twenty = {k: k for k in range(1, 21)}
    assert list(deciles(twenty).values()) == [d for d in range(1, 11) for _ in range(2)]
    assert set(deciles(dict.fromkeys(range(7), 3)).values()) == {6}


def test_a_signal_of_statistics(workspace: Workspace, llama: str) -> None:
    stats = run(Request("statistics", TEXT, llama), workspace=workspace)[0].to_pandas("tokens")
    response = stats[stats.segment != "prompt"]
    for signal in ("surprisal", "entropy", "rank"):
        result = compute(workspace, llama, TEXT, signal=signal, by="token")
        found = result.to_pandas("groups").set_index("token_id")
        expected = response.groupby("token_id")[signal].mean()
        np.testing.assert_allclose(found["mean"], expected[found.index], rtol=1e-6)
        assert found["count"].tolist() == sorted(found["count"], reverse=True)
        total = response[signal].astype(float).sum()
        shares = response.groupby("token_id")[signal].sum()[found.index] / total
        np.testing.assert_allclose(found.sum_share, shares.astype(float), rtol=1e-6)


def test_parts(workspace: Workspace, llama: str) -> None:
    stats = run(Request("statistics", TEXT, llama), workspace=workspace)[0].to_pandas("tokens")
    means = {}
    for part in ("prompt", "response", "all"):
        result = compute(workspace, llama, TEXT, segment=part, by="segment")
        means[part] = population(result)["mean"]
    prompt = stats.segment == "prompt"
    assert means["prompt"] == pytest.approx(stats.entropy[prompt].mean())
    assert means["response"] == pytest.approx(stats.entropy[~prompt].mean())
    assert means["all"] == pytest.approx(stats.entropy.mean())
    # The first token has no value: it is missing, in no group.
    assert population(result)["missing"] == 1
    assert frame(result)["count"].sum() == len(stats) - 1


def test_a_signal_of_another_analysis(workspace: Workspace, llama: str) -> None:
    summary = run(Request("summary", TEXT, llama), workspace=workspace)[0].to_pandas("tokens")
    response = summary[summary.segment != "prompt"]
    result = compute(workspace, llama, TEXT, signal="summary:fork", by="class")
    expected = response.fork.astype(float).groupby(response.token_class).mean()
    found = frame(result)["mean"]
    np.testing.assert_allclose(found, expected[found.index])
    assert population(result)["signal"] == "summary@1:fork"
    again = compute(workspace, llama, TEXT, signal="summary@1:fork", by="class")
    assert (again.key, again.origin) == (result.key, "cache")


@pytest.mark.parametrize(
    ("signal", "says"),
    [
        ("entropi", "it has: logprob, surprisal, entropy"),
        ("summary:entropi", "it has: surprisal"),
        ("sumary:fork", "did you mean summary"),
        ("generate:logprob", "no values per token"),
        ("grouped:mean", "no values per token"),
        ("log:score", "No trace brought a signal 'score'"),
        ("", "it has: logprob"),
        (":", "There is no analysis"),
    ],
)
def test_an_unknown_signal_says_which_there_are(
    workspace: Workspace, llama: str, signal: str, says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        compute(workspace, llama, TEXT, signal=signal)
    assert "\n" not in str(error.value)


def test_there_must_be_something_to_look_at(
    workspace: Workspace, llama: str, tokenizer: Tokenizer
) -> None:
    with pytest.raises(UserError, match="no response to look at: set segment=all"):
        compute(workspace, llama, Text(prompt="Only a prompt"))
    bare = trace_from_ids([72, 105], tokenizer, response_start=0)
    with pytest.raises(UserError, match="no prompt to look at: set segment=response"):
        compute(workspace, llama, bare, segment="prompt")
    with pytest.raises(UserError, match="width"):
        compute(workspace, llama, TEXT, width=0)
    alone = trace_from_ids([BOS], tokenizer, response_start=0)
    with pytest.raises(UserError, match="no value of entropy"):
        compute(workspace, llama, alone)


def test_the_order_of_the_traces_does_not_matter(
    workspace: Workspace, llama: str, tokenizer: Tokenizer
) -> None:
    traces = many(tokenizer, 7)
    for by in ("class", "token", "frequency_decile"):
        one, other = (
            compute(workspace, llama, Group(rollouts=tuple(t)), signal="log:score", by=by)
            for t in (traces, traces[::-1])
        )
        assert one.key != other.key
        for table in ("groups", "population"):
            assert one.table(table).equals(other.table(table))


def test_a_file_of_rollouts_is_one_population(
    workspace: Workspace, llama: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    traces = many(tokenizer, 6)
    groups = [Group(rollouts=tuple(traces[:2])), Group(rollouts=tuple(traces[2:]))]
    write_rollouts(tmp_path / "rollouts.jsonl", groups)
    file = open_rollouts(tmp_path / "rollouts.jsonl")
    assert isinstance(file, Rollouts)
    streamed = compute(workspace, llama, file, signal="log:score")
    together = compute(workspace, llama, Group(rollouts=tuple(traces)), signal="log:score")
    assert streamed.table("groups").equals(together.table("groups"))
    assert population(streamed)["traces"] == 6


@pytest.mark.parametrize("stored", ["each", "group"])
def test_stored_statistics_are_enough(
    workspace: Workspace, llama: str, tokenizer: Tokenizer, monkeypatch, stored: str
) -> None:
    traces = tuple(many(tokenizer, 3))
    group = Group(rollouts=traces)
    for subject in traces if stored == "each" else [group]:
        run(Request("statistics", subject, llama), workspace=workspace)
    monkeypatch.setattr(Workspace, "load", lambda *_: pytest.fail("the model was loaded"))
    result = compute(workspace, llama, group, by="token")
    assert population(result)["traces"] == 3
    means = [
        run(Request("statistics", t, llama), workspace=workspace)[0]
        .to_pandas("tokens")
        .entropy[t.response_start :]
        for t in traces
    ]
    assert population(result)["mean"] == pytest.approx(np.concatenate(means).mean())


def test_special_tokens_are_a_class_of_their_own(
    workspace: Workspace, llama: str, tokenizer: Tokenizer
) -> None:
    trace = trace_from_ids([BOS, 72, 105, EOS], tokenizer, response_start=1)
    found = frame(compute(workspace, llama, trace))
    assert found["count"].to_dict() == {"content": 2, "special": 1}
    token = compute(workspace, llama, trace, by="token").to_pandas("groups")
    assert token.token_bytes.tolist() == [b"<eos>", b"H", b"i"]
    assert Counter(token.token_id) == {72: 1, 105: 1, EOS: 1}


# -- intervals -------------------------------------------------------------------------------


def covered(clusters: int, per: int, over: str, trials: int = 200) -> float:
    """How often a 95 % interval holds the true mean 0, with values alike within a trace."""
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(trials):
        effects = rng.normal(0, 1, clusters)
        values = (effects[:, None] + rng.normal(0, 1, (clusters, per))).ravel()
        trace = np.repeat(np.arange(clusters), per)
        group = np.zeros_like(trace)
        settings = {"resamples": 300, "seed": trial}
        if over == "traces":
            low, high = bootstrap.over_traces(values, group, trace, 1, **settings)
        else:
            low, high = bootstrap.over_tokens(values, group, 1, **settings)
        hits += low[0] <= 0 <= high[0]
    return hits / trials


def test_intervals_over_traces_cover_and_those_over_tokens_would_not() -> None:
    assert 0.88 <= covered(30, 20, "traces") <= 0.99
    assert covered(30, 20, "tokens") < 0.7


def test_intervals_over_tokens_cover_where_tokens_are_independent() -> None:
    rng = np.random.default_rng(8)
    hits = 0
    for trial in range(200):
        values = rng.exponential(1.0, 60)
        low, high = bootstrap.over_tokens(values, np.zeros(60, int), 1, resamples=300, seed=trial)
        hits += low[0] <= 1 <= high[0]
    assert 0.86 <= hits / 200 <= 0.99


def test_the_bootstrap_has_the_known_standard_error() -> None:
    """Percentiles of the mean of n draws: mean ± 1.96 s/√n, as n grows."""
    rng = np.random.default_rng(9)
    values = rng.normal(3, 2, 4000)
    low, high = bootstrap.over_tokens(values, np.zeros(4000, int), 1, resamples=4000, seed=0)
    error = 1.96 * values.std() / math.sqrt(4000)
    assert low[0] == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high[0] == pytest.approx(values.mean() + error, abs=0.1 * error)
    trace = np.arange(4000)
    low, high = bootstrap.over_traces(values, trace * 0, trace, 1, resamples=2000, seed=0)
    assert low[0] == pytest.approx(values.mean() - error, abs=0.15 * error)
    assert high[0] == pytest.approx(values.mean() + error, abs=0.15 * error)


def test_groups_do_not_disturb_each_other(monkeypatch) -> None:
    rng = np.random.default_rng(10)
    values = rng.normal(size=300)
    group, trace = rng.integers(0, 12, 300), rng.integers(0, 9, 300)
    settings = {"resamples": 200, "seed": 1}
    whole = bootstrap.over_traces(values, group, trace, 12, **settings)
    monkeypatch.setattr(bootstrap, "_CELLS", 400)  # two groups at a time
    assert np.array_equal(whole, bootstrap.over_traces(values, group, trace, 12, **settings))
    only = group == 5
    kept = bootstrap.over_traces(values[only], group[only], trace[only], 12, **settings)
    if trace[only].max() == trace.max():
        assert kept[0][5] == whole[0][5]
    assert np.isnan(kept[0][:5]).all()


def test_a_log_without_ids_or_model(workspace: Workspace) -> None:
    trace = Trace(
        ids=(-1,) * 4,
        pieces=(b"Q: ", b"the", b" cat", b" the"),
        ids_origin="logged",
        response_start=1,
        turns=simple_turns(4, 1),
        signals={"logprob": (None, -1.0, -4.0, -3.0), "advantage": (None, 0.5, None, 1.5)},
    )

    def found(signal: str, by: str = "class") -> dict[str, float]:
        request = Request("grouped", trace, params={"signal": signal, "by": by})
        return frame(run(request, workspace=workspace)[0])["mean"].to_dict()

    assert found("log:advantage") == {"function": 1.0}
    assert found("surprisal") == {"function": 2.0, "content": 4.0}
    assert found("statistics.logged:surprisal") == found("surprisal")
    assert found("log:logprob", by="token") == {" cat": -4.0, " the": -3.0, "the": -1.0}
    with pytest.raises(UserError, match="has no value of entropy"):
        found("entropy")
