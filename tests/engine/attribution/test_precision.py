"""Precision against planted causes: found where they are, nowhere else, and counted by hand."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import write_rollouts
from engine.attribution.cases import Case, cases_of, judged, ranges
from engine.critical.curve import clopper_pearson
from engine.errors import UserError
from engine.records import open_rollouts
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group, Span, Trace
from engine.workspace import Workspace
from tests.engine.attribution import toys
from tests.engine.tiny import save_tokenizer


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A and B make R likely, Q makes Q likely; no other token does anything."""
    model = copy.deepcopy(toys.linear())
    network = model.model
    with torch.no_grad():
        attention = network.layers[0].self_attn
        for weight in (attention.v_proj.weight, attention.o_proj.weight):
            weight.copy_(torch.eye(16))
        network.embed_tokens.weight.zero_()
        model.lm_head.weight.zero_()
        for token, place, size in (("A", 0, 9), ("B", 0, 5), ("Q", 1, 7)):
            network.embed_tokens.weight[ord(token), place] = size
        model.lm_head.weight[ord("R"), 0] = 3
        model.lm_head.weight[ord("Q"), 1] = 3
    folder: Path = tmp_path_factory.mktemp("models") / "planted"
    model.float().save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


def marked(prompt: str, response: str = "=RQ!", shift: int = 0) -> Trace:
    """R depends on A and B, the second Q on the first; positions are found by their letters."""
    trace = toys.text(prompt, response)
    at = {letter: 1 + (prompt + response).index(letter) for letter in "ABRQ"}
    second = 1 + (prompt + response).rindex("Q")

    def span(place: int) -> Span:
        return Span(start=place, end=place + 1)

    spans = {
        "result.0": span(at["R"]),
        "cause.0.0": span(at["A"] + shift),
        "cause.0.1": span(at["B"] + shift),
        "result.7": span(second),
        "cause.7.0": span(at["Q"] + shift),
    }
    return trace.evolve(spans=spans)


def precision(workspace: Workspace, model: str, subject: object, **params: object) -> Result:
    settings = {"methods": "occlusion", "removal": "zero", **params}
    asked = Request("attribution.precision", subject, model, settings)  # type: ignore[arg-type]
    return run(asked, workspace=workspace)[0]


def test_planted_causes_are_found(workspace: Workspace, planted: str) -> None:
    found = precision(workspace, planted, marked("xAyQzzBx"), methods="occlusion,attention")
    rows = {r["kind"]: r for r in found.table("precision").to_pylist()}
    assert set(rows) == {"all", "computed", "copied"}
    for kind, targets in (("all", 2), ("computed", 1), ("copied", 1)):
        row = rows[kind]
        assert (row["method"], row["targets"], row["traces"]) == ("occlusion", targets, 1)
        assert (row["precision"], row["hit"]) == (1, 1)
    first, second = found.table("cases").to_pylist()
    assert (first["target"], first["kind"], first["causes"]) == ("R", "computed", [2, 7])
    assert first["top"] == [2, 7]  # A adds more than B
    assert (first["sources"], first["chance"]) == (9, 2 / 9)
    assert (second["target"], second["kind"], second["causes"]) == ("Q", "copied", [4])
    assert rows["all"]["chance"] == pytest.approx((2 / 9 + 1 / 10) / 2)
    # One place beside the causes there is nothing to find.
    beside = precision(workspace, planted, marked("xAyQzzBx", shift=1)).table("cases").to_pylist()
    assert [r["precision"] for r in beside] == [0, 0]
    assert not any(r["hit"] for r in beside)
    # Attention is the same everywhere here.
    reasons = [note["reason"] for note in found.notes.to_pylist()]
    assert "left out 2 times: attention gave all sources of a target the same score" in reasons


def test_one_population(workspace: Workspace, planted: str, tmp_path: Path) -> None:
    """Traces of a group and of a file are counted together, with the intervals of their number."""
    traces = [marked("xAyQzzBx"), marked("QAB"), marked("ABQxxxx", shift=1)]
    group = Group(rollouts=tuple(traces), prompt_id="letters")
    found = precision(workspace, planted, group)
    cases = found.table("cases").to_pylist()
    assert [c["rollout"] for c in cases] == [0, 0, 1, 1, 2, 2]
    singles = [
        r
        for trace in traces
        for r in precision(workspace, planted, trace).table("cases").to_pylist()
    ]
    assert [c["precision"] for c in cases] == [c["precision"] for c in singles]
    (row,) = (r for r in found.table("precision").to_pylist() if r["kind"] == "all")
    assert (row["targets"], row["traces"]) == (6, 3)
    assert row["precision"] == pytest.approx(np.mean([c["precision"] for c in cases]))
    assert row["low"] < row["precision"] < row["high"]
    hits = sum(c["hit"] for c in cases)
    assert row["hit"] == hits / 6
    low, high = clopper_pearson(hits, 6)
    assert (row["hit_low"], row["hit_high"]) == (
        pytest.approx(float(low)),
        pytest.approx(float(high)),
    )
    file = tmp_path / "letters.jsonl"
    write_rollouts(file, [group])
    again = precision(workspace, planted, open_rollouts(file))
    assert again.table("precision").equals(found.table("precision"))


def test_counts_by_hand() -> None:
    scores = {3: 0.5, 4: -2.0, 6: 0.1, 8: 0.4}
    row = judged(scores, frozenset({3, 6, 9}), 0)
    assert row["top"] == [3, 8, 6]
    assert row["precision"] == pytest.approx(2 / 3)
    assert row["hit"] is True
    assert row["chance"] == 3 / 4
    assert judged(scores, frozenset({4}), 0)["precision"] == 0
    # Equal scores: no place is better than another.
    hits = [
        judged(dict.fromkeys(range(4), 1.0), frozenset({0}), seed)["hit"] for seed in range(400)
    ]
    assert np.mean(hits) == pytest.approx(0.25, abs=0.06)
    spans = [Span(start=a, end=a + 1) for a in (10, 18, 27)]
    cases = [Case(span, frozenset({1}), "copied") for span in spans]
    assert [len(part) for part in ranges(cases)] == [2, 1]


def test_cases() -> None:
    """Causes that do not come before, and numbers without causes, are not asked about."""
    trace = toys.text("12+5", "=17 12")
    spans = {
        "result.2": Span(start=6, end=8),
        "cause.2.0": Span(start=0, end=3),
        "cause.2.1": Span(start=4, end=5),
        "result.3": Span(start=8, end=11),
        "cause.3.0": Span(start=1, end=3),
        "result.4": Span(start=5, end=6),
        "result.5": Span(start=2, end=3),
        "cause.5.0": Span(start=4, end=5),
    }
    found = cases_of(trace.evolve(spans=spans))
    assert [(c.span.start, sorted(c.causes), c.kind) for c in found] == [
        (6, [1, 2, 4], "computed"),  # without the special token in front
        (8, [1, 2], "copied"),  # " 12" reads as "12"
    ]


def test_bad_input_is_a_sentence(workspace: Workspace, planted: str) -> None:
    with pytest.raises(UserError, match="No trace marks results and their causes"):
        precision(workspace, planted, toys.text())
    with pytest.raises(UserError, match="no attribution method 'magic'"):
        precision(workspace, planted, marked("ABQ"), methods="magic")
