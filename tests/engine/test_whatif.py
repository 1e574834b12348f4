"""What if another token had stood there: against a chain whose values are known exactly."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.critical.curve import clopper_pearson
from engine.critical.instead import replacements
from engine.critical.passk import pass_at_k
from engine.encode import encode_text, trace_from_ids
from engine.errors import Cancelled, UserError
from engine.execute import execute
from engine.limits.profile import Profile
from engine.plan import make_plan
from engine.records import write_trace
from engine.result import Request, Result
from engine.running import run
from engine.sampling import generation
from engine.sampling.generation import Sampler
from engine.subjects import Text, Trace
from engine.workspace import Workspace
from tests.engine.markov import markov_folder
from tests.engine.test_cli import call, here
from tests.engine.tiny import BOS, EOS

__all__ = ["here"]

# After x, 8 is said in any case: x is the token of doom. After z nothing ends.
CHAIN = {
    ord("\n"): {ord("a"): 0.45, ord("x"): 0.3, ord("b"): 0.15, EOS: 0.1},
    ord("a"): {ord("7"): 0.8, ord("8"): 0.2},
    ord("x"): {ord("8"): 1.0},
    ord("b"): {ord("7"): 0.5, ord("8"): 0.3, ord("z"): 0.2},
    ord("7"): {EOS: 1.0},
    ord("8"): {EOS: 1.0},
    ord("z"): {ord("z"): 1.0},
}
VALUES = {"x": 0.0, "a": 0.8, "b": 0.5, "7": 1.0, "8": 0.0}
WITHOUT_X = (0.45 * 0.8 + 0.15 * 0.5) / 0.7


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return markov_folder(tmp_path_factory.mktemp("models") / "chain", CHAIN, other=ord("x"))


def trace_of(workspace: Workspace, chain: str, response: str, prompt: str = "Q?\n") -> Trace:
    tokenizer = workspace.plan_model(chain).tokenizer
    return encode_text(Text(prompt=prompt, response=response), tokenizer)


def request(trace: Trace, chain: str, at: int = 0, **params) -> Request:
    settings = {"answer": "7", "checker": "contains", "max_new_tokens": 4, **params}
    return Request(
        "critical.whatif", trace, chain, {"position": trace.response_start + at, **settings}
    )


def ask(workspace: Workspace, trace: Trace, chain: str, at: int = 0, **params) -> Result:
    return run(request(trace, chain, at, **params), workspace=workspace)[0]


def by_text(result: Result) -> dict[str, dict]:
    return {row["alternative"]: row for row in result.table("alternatives").to_pylist()}


def conditions(result: Result) -> dict[str, dict]:
    return {row["condition"]: row for row in result.table("conditions").to_pylist()}


def reasons(result: Result) -> str:
    return "; ".join(result.notes["reason"].to_pylist())


def test_the_chain_is_what_its_table_says(workspace: Workspace, chain: str) -> None:
    trace = trace_of(workspace, chain, "x8")
    rows = ask(workspace, trace, chain, n=1, alternatives=4).table("alternatives").to_pylist()
    assert [row["alternative"] for row in rows[:3]] == ["x", "a", "b"]
    assert [row["said"] for row in rows] == [True, False, False, False, False]
    for row, probability in zip(rows, (0.3, 0.45, 0.15), strict=False):
        assert row["probability"] == pytest.approx(probability, rel=1e-4)
    assert BOS not in [row["alternative_id"] for row in rows], "special tokens are left out"
    assert EOS not in [row["alternative_id"] for row in rows]


def test_every_value_is_the_chains_own(workspace: Workspace, chain: str) -> None:
    n = 600
    trace = trace_of(workspace, chain, "x8")
    result = ask(workspace, trace, chain, n=n, alternatives=2)
    for text, row in by_text(result).items():
        truth = VALUES[text]
        assert abs(row["value"] - truth) < 4 * max((truth * (1 - truth) / n) ** 0.5, 1e-9), text
        assert (row["low"], row["high"]) == clopper_pearson(row["correct"], n)
        assert row["value"] == row["correct"] / n
    cut = by_text(result)["b"]["cut"]
    assert abs(cut / n - 0.2) < 4 * (0.16 / n) ** 0.5
    kept, changed = conditions(result)["with"], conditions(result)["without"]
    assert (kept["samples"], kept["correct"], kept["value"]) == (n, 0, 0.0)
    assert changed["samples"] == n
    spread = (WITHOUT_X * (1 - WITHOUT_X) / n) ** 0.5
    assert abs(changed["value"] - WITHOUT_X) < 4 * spread
    assert (changed["low"], changed["high"]) == clopper_pearson(changed["correct"], n)


def test_one_position_later_it_is_another_question(workspace: Workspace, chain: str) -> None:
    """After a, the 8 is the mistake, and the only other thing is a 7."""
    trace = trace_of(workspace, chain, "a8")
    result = ask(workspace, trace, chain, at=1, n=16, alternatives=1)
    rows = by_text(result)
    assert (rows["8"]["value"], rows["7"]["value"]) == (0.0, 1.0)
    assert rows["8"]["probability"] == pytest.approx(0.2, rel=1e-4)
    assert rows["7"]["probability"] == pytest.approx(0.8, rel=1e-4)
    assert conditions(result)["without"]["value"] == 1.0


def test_every_number_is_counted_from_stored_samples(workspace: Workspace, chain: str) -> None:
    n = 24
    trace = trace_of(workspace, chain, "b7")
    params = {"n": n, "alternatives": 2, "seed": 5, "temperature": 1.5, "top_k": 3}
    result = ask(workspace, trace, chain, **params)
    sampler = Sampler(max_new_tokens=4, seed=5, temperature=1.5, top_k=3)
    model = workspace.plan_model(chain)
    prefix = trace.ids[: trace.response_start]

    def drawn(token: int, count: int) -> list:
        return list(workspace.samples(model, (*prefix, token), sampler, count))[-1]

    def right(token: int, c) -> bool:
        text = bytes(i for i in (token, *c.ids) if i < 256).decode()
        return c.finish == "stop" and "7" in text

    for row in by_text(result).values():
        samples = drawn(row["alternative_id"], n)
        assert row["correct"] == sum(right(row["alternative_id"], c) for c in samples)
        assert row["cut"] == sum(c.finish == "length" for c in samples)

    # What takes b's place, by the reference of the sampler itself: b is banned before the filters.
    plain = torch.tensor(
        [np.log(CHAIN[ord("\n")].get(i, np.exp(-60))) for i in range(259)], dtype=torch.float64
    )
    plain[ord("b")] = -torch.inf
    mass = generation.weights(plain.log_softmax(-1)[None], sampler)
    uniform = generation.uniforms(5, (*prefix, -1 - ord("b")), range(n), 1)[:, 0]
    chosen = generation.inverse(mass.expand(n, -1), torch.tensor(uniform))[:, 0].tolist()
    assert set(chosen) == {ord("a"), ord("x"), EOS}, "top-k leaves three of the others"
    correct = 0
    for token in set(chosen) - {EOS}:
        correct += sum(right(token, c) for c in drawn(token, chosen.count(token)))
    without = conditions(result)["without"]
    assert (without["samples"], without["correct"]) == (n, correct)


def test_more_samples_add_and_the_first_replacements_stay(
    workspace: Workspace, chain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = np.log(np.array([0.1, 0.2, 0.3, 0.4]))
    prefix = (1, 2, 3)
    few = replacements(logs, 2, Sampler(seed=3), prefix, 5)
    many = replacements(logs, 2, Sampler(seed=3), prefix, 4000)
    assert many[:5] == few
    shares = np.bincount(many, minlength=4) / 4000
    np.testing.assert_allclose(shares, [1 / 7, 2 / 7, 0, 4 / 7], atol=0.035)
    assert replacements(logs, 3, Sampler(seed=3), prefix, 5) != few
    assert replacements(logs, 2, Sampler(seed=4), prefix, 5) != few

    drawn: list[tuple] = []
    real = generation.sample

    def sample(model, prefix, sampler, indices, **more):
        for batch in real(model, prefix, sampler, indices, **more):
            drawn.extend((tuple(prefix), c.index) for c in batch)
            yield batch

    monkeypatch.setattr(generation, "sample", sample)
    trace = trace_of(workspace, chain, "x8")
    ask(workspace, trace, chain, n=6, alternatives=1)
    first = list(drawn)
    ask(workspace, trace, chain, n=15, alternatives=3)
    assert len(set(drawn)) == len(drawn), "nothing is drawn twice"
    assert len(drawn) > len(first)
    drawn.clear()
    ask(workspace, trace, chain, n=15, alternatives=2)
    assert drawn == []


def test_nothing_is_lost_when_it_is_cancelled(workspace: Workspace, chain: str) -> None:
    trace = trace_of(workspace, chain, "x8")
    steps = execute(make_plan(request(trace, chain, n=8), workspace), workspace)
    for step in steps:
        if step.message.startswith("16 of"):
            break
    with pytest.raises(StopIteration) as stop:
        steps.throw(Cancelled())
    partial = stop.value.value
    assert partial.status == "partial"
    assert [row["alternative"] for row in partial.table("alternatives").to_pylist()] == ["x"]
    assert conditions(partial)["without"]["value"] is None
    whole = ask(workspace, trace, chain, n=8)
    assert whole.status == "complete"
    assert whole.table("alternatives").slice(0, 1).equals(partial.table("alternatives"))


def test_pairs_are_what_dpo_reads(workspace: Workspace, chain: str) -> None:
    trace = trace_of(workspace, chain, "x8")
    result = ask(workspace, trace, chain, n=64, alternatives=2)
    rows = by_text(result)
    pairs = result.table("pairs")
    assert pairs.column_names[:3] == ["prompt", "chosen", "rejected"]
    assert [(p["chosen"], p["rejected"]) for p in pairs.to_pylist()] == [("a", "x"), ("b", "x")]
    for pair in pairs.to_pylist():
        assert pair["prompt"] == "Q?\n", "without the token that the tokenizer puts in front"
        best, worst = rows[pair["chosen"]], rows[pair["rejected"]]
        assert (pair["chosen_id"], pair["rejected_id"]) == (
            best["alternative_id"],
            worst["alternative_id"],
        )
        assert (pair["chosen_value"], pair["chosen_low"]) == (best["value"], best["low"])
        assert (pair["rejected_value"], pair["rejected_high"]) == (worst["value"], worst["high"])
        assert pair["chosen_low"] > pair["rejected_high"]
        assert pair["position"] == trace.response_start


def test_the_said_one_may_be_better_and_bytes_are_no_pair(workspace: Workspace, chain: str) -> None:
    trace = trace_of(workspace, chain, "a7")
    result = ask(workspace, trace, chain, n=64, alternatives=1, ids=[255, ord("x"), ord("a")])
    assert list(by_text(result)) == ["a", "x", r"\xff"], "each once"
    (pair,) = result.table("pairs").to_pylist()
    assert (pair["chosen"], pair["rejected"]) == ("a", "x")
    assert r"a pair was left out: a or \xff is no whole character" in reasons(result)
    started = (*trace_of(workspace, chain, "a7").ids[:-2], 0xF0, *b"\na")
    tokenizer = workspace.plan_model(chain).tokenizer
    broken = trace_from_ids(started, tokenizer, response_start=trace.response_start)
    result = ask(workspace, broken, chain, at=2, n=64, alternatives=1)
    assert result.table("pairs").num_rows == 0
    assert "the text before it ends inside a character" in reasons(result)


def test_too_few_samples_make_no_pair(workspace: Workspace, chain: str) -> None:
    result = ask(workspace, trace_of(workspace, chain, "x8"), chain, n=2, alternatives=2)
    assert result.table("pairs").num_rows == 0
    assert "no alternative is clearly better or worse" in reasons(result)


def test_typed_text(workspace: Workspace, chain: str) -> None:
    trace = trace_of(workspace, chain, "x8")
    row = by_text(ask(workspace, trace, chain, n=8, alternatives=0, text="a7"))["a7"]
    assert row["alternative_id"] is None
    assert row["alternative_bytes"] == b"a7"
    assert row["probability"] == pytest.approx(0.45 * 0.8, rel=1e-4)
    assert (row["samples"], row["correct"], row["value"]) == (8, 8, 1.0)
    result = ask(workspace, trace, chain, n=8, alternatives=0, text="a7")
    assert "several tokens has no id" in reasons(result)
    (pair,) = result.table("pairs").to_pylist()
    assert (pair["chosen"], pair["chosen_id"], pair["rejected_id"]) == ("a7", None, ord("x"))
    single = by_text(ask(workspace, trace, chain, n=8, alternatives=0, text="a"))["a"]
    assert single["alternative_id"] == ord("a")


@pytest.mark.parametrize(("text", "value"), [("a7<eos>", 1.0), ("a8<eos>7", 0.0)])
def test_what_ends_the_response_is_certain(
    workspace: Workspace, chain: str, text: str, value: float
) -> None:
    trace = trace_of(workspace, chain, "x8")
    result = ask(workspace, trace, chain, n=8, alternatives=0, text=text, ids=[EOS])
    row = by_text(result)[text]
    assert (row["samples"], row["correct"], row["cut"]) == (0, 0, 0)
    assert (row["value"], row["low"], row["high"]) == (value,) * 3
    end = by_text(result)["<eos>"]
    assert (end["value"], end["samples"]) == (0.0, 0)
    assert end["probability"] == pytest.approx(0.1, rel=1e-4)


def test_what_was_cut_off_counts_as_wrong(workspace: Workspace, chain: str) -> None:
    """Every z goes on to the limit, so nothing that holds one is right."""
    trace = trace_of(workspace, chain, "b7")
    result = ask(workspace, trace, chain, n=32, alternatives=0, answer="z", ids=[ord("z")])
    row = by_text(result)["z"]
    assert (row["samples"], row["cut"], row["correct"]) == (32, 32, 0)
    assert by_text(result)["b"]["cut"] > 0
    assert by_text(result)["b"]["correct"] == 0
    without = ask(workspace, trace, chain, at=1, n=32, alternatives=0, answer="z")
    row = conditions(without)["without"]
    assert row["cut"] > 0
    assert row["correct"] == 0


def test_greedy_is_certain_and_the_second_best_takes_its_place(
    workspace: Workspace, chain: str
) -> None:
    trace = trace_of(workspace, chain, "a7")
    result = ask(workspace, trace, chain, temperature=0, alternatives=2)
    rows = by_text(result)
    assert {text: row["value"] for text, row in rows.items()} == {"a": 1.0, "x": 0.0, "b": 1.0}
    assert all(row["samples"] == 1 and row["low"] == row["high"] for row in rows.values())
    both = conditions(result)
    assert (both["with"]["value"], both["without"]["value"]) == (1.0, 0.0)
    assert result.table("pass_at_k").to_pylist() == [{"k": 1, "with": 1.0, "without": 0.0}]


def test_pass_at_k_of_both_conditions(workspace: Workspace, chain: str) -> None:
    result = ask(workspace, trace_of(workspace, chain, "b7"), chain, n=10, alternatives=0)
    both = conditions(result)
    rows = result.table("pass_at_k").to_pylist()
    assert [row["k"] for row in rows] == list(range(1, 11))
    for name in ("with", "without"):
        assert [row[name] for row in rows] == pass_at_k(10, both[name]["correct"])
        assert rows[0][name] == both[name]["value"]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_k_by_all_subsets(pair: tuple[int, int]) -> None:
    n, c = pair
    for k, value in enumerate(pass_at_k(n, c), start=1):
        sets = list(combinations(range(n), k))
        assert value == sum(min(chosen) < c for chosen in sets) / len(sets)


def test_pass_at_k_of_many() -> None:
    values = pass_at_k(4096, 1)
    np.testing.assert_allclose(values, np.arange(1, 4097) / 4096, rtol=1e-15)
    assert pass_at_k(4096, 0) == [0.0] * 4096
    with pytest.raises(ValueError):
        pass_at_k(3, 4)


@pytest.mark.parametrize(
    ("at", "params", "sentence"),
    [
        (-1, {}, "is in the prompt: choose a response token, from 4 on"),
        (9, {}, "outside the text of 7 tokens: choose a response token, 4 to 6"),
        (2, {}, "The response has ended at position 6"),
        (0, {"answer": None}, "needs the right answer"),
        (0, {"text": ""}, "There is no text to put there"),
        (0, {"ids": [4000]}, "has no token 4000"),
        (0, {"checker": "regex", "answer": "("}, "no regular expression"),
        (0, {"n": 0}, "n: Input should be greater"),
    ],
)
def test_bad_input_is_a_sentence(
    workspace: Workspace, chain: str, at: int, params: dict, sentence: str
) -> None:
    trace = trace_of(workspace, chain, "x8<eos>")
    with pytest.raises(UserError, match=sentence):
        ask(workspace, trace, chain, at=at, **{"n": 2, "alternatives": 1, **params})


def test_without_a_response_there_is_nothing_to_replace(workspace: Workspace, chain: str) -> None:
    with pytest.raises(UserError, match="There is no response in which another token could stand"):
        ask(workspace, trace_of(workspace, chain, ""), chain)


def test_the_hosted_profile_limits_the_samples(tmp_path: Path, chain: str) -> None:
    """As in ``critical.value``: of each prefix; the time limit holds for all of them together."""
    with Workspace(tmp_path / "home", profile=Profile(name="hosted", max_samples=32)) as hosted:
        trace = trace_of(hosted, chain, "x8")
        make_plan(request(trace, chain, n=32), hosted)
        with pytest.raises(UserError, match=r"At most 32 samples .* set n to 32 or less"):
            make_plan(request(trace, chain, n=33), hosted)


def test_pairs_from_the_command_line(here: Path, chain: str, capsys) -> None:
    with Workspace(here / "other") as workspace:
        trace = trace_of(workspace, chain, "x8")
    write_trace(here / "t.jsonl", trace)
    out = here / "pairs.jsonl"
    given = ("position=4", "answer=7", "checker=contains", "max_new_tokens=4", "alternatives=2")
    settings = [part for pair in given for part in ("--set", pair)]
    asked = ("run", "critical.whatif", "--model", chain, "--trace", str(here / "t.jsonl"))
    code, _, error = call(capsys, *asked, *settings, "--table", "pairs", "--out", str(out))
    assert code == 0, error
    lines = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert [(line["prompt"], line["chosen"], line["rejected"]) for line in lines] == [
        ("Q?\n", "a", "x"),
        ("Q?\n", "b", "x"),
    ]
    beside = orjson.loads((here / "pairs.provenance.json").read_bytes())
    assert beside["provenance"]["key"] == lines[0]["result_key"]
    assert beside["provenance"]["params"]["position"] == 4
