"""Occlusion: against closed forms and texts read by the plain model, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.attribution import sampled
from engine.attribution.hierarchical import Search
from engine.attribution.reading import Reader
from engine.errors import UserError
from engine.registry import find
from engine.result import Request
from engine.reward.wide import wide
from engine.running import run as run_requests
from engine.schema import Tables
from engine.subjects import Text
from engine.workspace import Workspace
from tests.engine.attribution import toys
from tests.engine.tiny import FAMILIES, VOCABULARY, tiny_folder

LONG = "What is it that I see, and why, if at all? Say it now."
"""Long enough that versions of it share their beginnings."""


def plain(model, ids, rows, labels) -> np.ndarray:
    """Log-probabilities of labels at rows of a text, by the model's own forward."""
    with torch.no_grad(), wide():
        logits = model.model(torch.tensor([list(ids)])).logits[0, list(rows), :VOCABULARY]
    return logits.double().log_softmax(-1)[range(len(labels)), list(labels)].numpy()


def test_closed_form() -> None:
    """On a linear model a score is the source's own summand, to the position and the sign."""
    model, trace = toys.loaded(toys.linear()), toys.text()
    last = len(trace) - 1
    found = toys.run("attribution.occlusion", model, trace, explain="logit", removal="zero")
    wanted = toys.linear_scores(trace, last)
    np.testing.assert_allclose(found.matrix()[0], wanted[1:], atol=1e-8)
    assert np.abs(found.matrix()[0][1:] - wanted[1:-1]).max() > 0.01
    # Without any source only BOS speaks; in a linear model the sources add up.
    np.testing.assert_allclose(found.column("baseline"), wanted[0], atol=1e-8)
    np.testing.assert_allclose(found.column("residual"), 0, atol=1e-8)
    # The neutral embedding is the mean over all ids.
    neutral = toys.run("attribution.occlusion", model, trace, explain="logit")
    mean = toys.linear().model.embed_tokens.weight.detach().mean(0).numpy()
    layer = toys.linear().model.layers[0].self_attn
    moved = (layer.o_proj.weight @ layer.v_proj.weight).detach().numpy()
    word = toys.linear().lm_head.weight[trace.ids[last]].detach().numpy()
    own = mean @ moved.T @ word / last + np.eye(last)[-1] * (mean @ word)
    np.testing.assert_allclose(neutral.matrix()[0], (wanted - own)[1:], atol=1e-8)


@pytest.mark.parametrize("family", [*FAMILIES, "llama half"])
def test_replacing_is_reading_the_other_text(family: str) -> None:
    """All targets from one forward with a shared prefix are the plain model's, text by text."""
    name, half = family.split()[0], family.endswith("half")
    model = toys.loaded(name, torch.bfloat16 if half else torch.float64)
    trace = toys.text(LONG, " Yes")
    found = toys.run(
        "attribution.occlusion",
        model,
        trace,
        targets="response",
        removal="replace",
        replacement="_",
    )
    rows = [p - 1 for p in range(trace.response_start, len(trace))]
    labels = trace.ids[trace.response_start :]
    base = plain(model, trace.ids, rows, labels)
    matrix, tolerance = found.matrix(), 0.35 if half else 1e-8
    # A few places suffice: at the start, where prefixes begin to be shared, within the response.
    for source in (1, 2, 15, 16, 17, 30, len(trace) - 5, len(trace) - 3, len(trace) - 2):
        ids = list(trace.ids)
        ids[source] = ord("_")
        wanted = base - plain(model, ids, rows, labels)
        after = [i for i, row in enumerate(rows) if row >= source]
        np.testing.assert_allclose(matrix[after, source - 1], wanted[after], atol=tolerance)
        before = [i for i, row in enumerate(rows) if row < source]
        assert np.isnan(matrix[before, source - 1]).all()
    cost = found.tables["cost"].to_pylist()[0]
    assert cost["tokens"] < 0.9 * len(trace) * len(matrix[0])


def test_deleting_is_the_shorter_text() -> None:
    """For several targets, and for the difference to a longer continuation."""
    model, trace = toys.loaded("qwen2"), toys.text("Say it.", " now")
    ids, start = list(trace.ids), trace.response_start
    found = toys.run(
        "attribution.occlusion", model, trace, targets="response", removal="delete"
    ).matrix()
    for target in range(start, len(ids)):
        full = plain(model, ids, [target - 1], [ids[target]])
        for source in range(1, target):
            shorter = ids[:source] + ids[source + 1 : target]
            gone = plain(model, shorter, [len(shorter) - 1], [ids[target]])
            np.testing.assert_allclose(found[target - start, source - 1], full - gone, atol=1e-8)

    def rather(context: list[int], said: list[int]) -> float:
        rows = range(len(context) - 1, len(context) + len(said) - 1)
        return float(plain(model, context + said, rows, said).sum())

    said, other = ids[start : start + 2], list(b" later")
    asked = {"targets": f"{start}:{start + 2}", "removal": "delete"}
    found = toys.run("attribution.occlusion", model, trace, contrast=" later", **asked).matrix()
    full = rather(ids[:start], said) - rather(ids[:start], other)
    for source in range(1, start):
        context = ids[:source] + ids[source + 1 : start]
        wanted = full - (rather(context, said) - rather(context, other))
        np.testing.assert_allclose(found[0, source - 1], wanted, atol=1e-8)
    # With BOS a source too, the first token is predicted from nothing once all before it is gone.
    bare = toys.run(
        "attribution.occlusion", model, trace, targets="1", removal="delete", special=True
    )
    assert np.isnan(bare.matrix()).all()
    assert {n[1] for n in bare.notes} == {"score", "baseline"}


def test_contrast_is_antisymmetric() -> None:
    model = toys.loaded("gpt2")
    first, second = toys.text("Is it?", " yes"), toys.text("Is it?", " no")
    asked = {"targets": "7:11"}
    one = toys.run("attribution.occlusion", model, first, contrast=" no", **asked)
    two = toys.run("attribution.occlusion", model, second, contrast=" yes", targets="7:10")
    np.testing.assert_allclose(one.matrix(), -two.matrix(), atol=1e-9)
    np.testing.assert_allclose(one.column("value"), -two.column("value"), atol=1e-9)


def test_larger_sources_and_other_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word is taken away as one; one text at a time gives the same numbers."""
    model, trace = toys.loaded("llama"), toys.text("One two. It!", " 4")
    last = len(trace) - 1

    def ask(removal="zero", **params):
        return toys.run("attribution.occlusion", model, trace, removal=removal, **params)

    words = ask(granularity="word")
    starts = words.tables["attribution"]["source_position"].to_pylist()
    ends = words.tables["attribution"]["source_end"].to_pylist()
    assert words.tables["attribution"]["source"].to_pylist()[:2] == ["One", " two"]
    embedded = model.model.get_input_embeddings().weight.detach()[list(trace.ids)]
    full = plain(model, trace.ids, [last - 1], [trace.ids[last]])
    for start, end, score in zip(starts, ends, words.matrix()[0], strict=True):
        changed = embedded.clone()
        changed[start:end] = 0
        with torch.no_grad(), wide():
            logits = model.model(inputs_embeds=changed[None]).logits[0, last - 1, :VOCABULARY]
        gone = logits.log_softmax(-1)[trace.ids[last]].numpy()
        np.testing.assert_allclose(score, full[0] - gone, atol=1e-9)
    spans = ",".join(f"{a}:{b}" for a, b in zip(starts, ends, strict=True))
    own = ask(granularity="spans", spans=spans)
    np.testing.assert_allclose(own.matrix(), words.matrix(), atol=1e-9)
    assert len(ask(granularity="sentence").matrix()[0]) < len(starts)
    before = [ask(removal=way).matrix() for way in ("zero", "delete")]
    monkeypatch.setattr(Reader, "batch_size", lambda *_, **__: 3)
    for way, wanted in zip(("zero", "delete"), before, strict=True):
        np.testing.assert_allclose(ask(removal=way).matrix(), wanted, atol=1e-9)


def test_memory_bounds_the_batch() -> None:
    model = toys.loaded("llama", torch.float32)
    reader = Reader(model, toys.text(LONG).ids, 16)
    small, large = reader.batch_size(4096), Reader(model, reader.ids, 64).batch_size(4096)
    assert 1 <= small < large <= 5 * small
    assert reader.batch_size(10**9) == 1


def test_hierarchical() -> None:
    """On a long text the largest scores are found, exactly, within the budget."""
    model, trace = toys.loaded("llama"), toys.text((LONG + " ") * 3, "ok")
    ask = {"removal": "zero", "targets": "response"}
    flat = toys.run("attribution.occlusion", model, trace, **ask)
    found = toys.run(
        "attribution.occlusion", model, trace, strategy="hierarchical", share=0.5, **ask
    )
    scores, whole = found.matrix(), flat.matrix()
    known = np.isfinite(scores)
    np.testing.assert_allclose(scores[known], whole[known], atol=1e-8)
    top = np.argsort(-np.abs(np.nan_to_num(whole)), axis=1)[:, :3]
    assert np.take_along_axis(known, top, 1).all()
    cost = found.tables["cost"].to_pylist()[0]
    assert cost["forwards"] + 2 * cost["backwards"] <= 0.5 * len(whole[0])
    assert np.isnan(found.column("total")).all()
    assert "strategy=flat" in found.notes[0][2]
    block = found.tables["blocks"].to_pylist()[0]
    span = f"{block['start']}:{block['end']}"
    alone = toys.run("attribution.occlusion", model, trace, granularity="spans", spans=span, **ask)
    np.testing.assert_allclose(alone.matrix()[0, 0], block["score"], atol=1e-8)
    assert flat.tables["blocks"].num_rows == 0


def test_search_looks_where_it_matters() -> None:
    """One target's scores are a million times the other's: both have their largest found."""
    count, budget = 2000, 400
    truth = np.zeros((2, count))
    truth[0, [3, 700, 701, 1500, 1999]] = [-5e6, 4e6, 3e6, 4e6, 2e6]
    truth[1, [10, 900, 1200]] = [1, -2, 1]
    hints = np.zeros((2, count))
    hints[:, 1200] = 1e-9
    # Two that cancel in every block, and only a gradient tells of them.
    truth[1, [300, 301]] = [3, -3]
    hints[1, [300, 301]] = 1e-9
    search = Search(count, budget, hints)
    blocks = search.first()
    assert len(blocks) == 3 + 63
    while blocks:
        assert not set(blocks) & set(search.effects)
        search.learn(blocks, np.array([truth[:, a:b].sum(1) for a, b in blocks]))
        blocks = search.next()
    assert len(search.effects) <= budget
    assert all(end > start for start, end in search.effects)
    scores = search.scores(2)
    rows, columns = np.nonzero(truth)
    np.testing.assert_array_equal(scores[rows, columns], truth[rows, columns])


def test_what_is_known_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped leaves the scores it has; they are the final ones."""
    monkeypatch.setattr(sampled, "PARTIAL_SECONDS", 0.0)
    monkeypatch.setattr(Reader, "batch_size", lambda *_, **__: 4)
    model, trace = toys.loaded("llama"), toys.text()
    params = find("attribution.occlusion").parse({"removal": "zero"})
    final = toys.run("attribution.occlusion", model, trace, removal="zero").matrix()[0]
    states: list[np.ndarray] = []

    def watch(said: Tables) -> dict:
        scores = said["attribution"]["score"].to_pylist()
        states.append(np.array([np.nan if v is None else v for v in scores]))
        return {}

    monkeypatch.setattr(toys, "dict", watch, raising=False)
    monkeypatch.setattr(toys, "check_tables", lambda *_: {})
    toys.run("attribution.occlusion", model, trace, **params.model_dump())
    counts = [int(np.isfinite(state).sum()) for state in states]
    assert len(set(counts)) > 3
    assert counts == sorted(counts)
    assert counts[-1] == len(final)
    for state in states:
        known = np.isfinite(state)
        np.testing.assert_allclose(state[known], final[known], atol=1e-12)


BAD = {
    "says the same": {"targets": "17", "contrast": " "},
    "outside the text": {"targets": "900:901"},
    "response is empty": {"targets": "response"},
    "single token": {"removal": "replace", "replacement": "ab"},
    "belong together": {"removal": "replace"},
    "overlap at token 4": {"granularity": "spans", "spans": "2:5,4:6"},
    "beyond what comes before": {"granularity": "spans", "spans": "2:22"},
    "reads at most": {},
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input(workspace: Workspace, said: str) -> None:
    """One sentence that says what to change."""
    subject = Text(prompt="One two, three. ", response="" if "empty" in said else " four")
    if said == "reads at most":
        subject = Text(prompt="long " * 100, response="x")
    request = Request("attribution.occlusion", subject, str(tiny_folder("llama")), BAD[said])
    with pytest.raises(UserError, match=said) as caught:
        run_requests(request, workspace=workspace)
    assert len(str(caught.value)) < 250
