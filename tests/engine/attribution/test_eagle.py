"""EAGLE: closed forms on an additive model, all subsets by brute force, reliance by hand."""

from __future__ import annotations

import copy
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from engine.attribution.greedy import Ask, Pace, exact, fast
from engine.errors import UserError
from tests.engine.attribution import toys
from tests.engine.tiny import VOCABULARY

TRACE = toys.text("Who, 3?", " Me.")


def additive(label: int) -> PreTrainedModel:
    """All logits are 0 but that of one id, which is linear in the embeddings."""
    model = copy.deepcopy(toys.linear())
    with torch.no_grad():
        word = model.lm_head.weight[label].clone()
        model.lm_head.weight.zero_()
        model.lm_head.weight[label] = word
    return model


def chance(z: Any) -> Any:
    """p of that id at its logit."""
    return np.exp(z) / (np.exp(z) + VOCABULARY - 1)


def test_additive_model_in_closed_form() -> None:
    """Order, curves, scores, areas and reliance, all from the logit's parts."""
    target = 10
    model = toys.loaded(additive(TRACE.ids[target]))
    parts = toys.linear_scores(TRACE, target)
    start, parts = parts[0], parts[1:]
    found = toys.run("attribution.eagle", model, TRACE, targets=str(target), removal="zero")
    order = np.argsort(-parts)
    sums = start + np.concatenate([[0], np.cumsum(parts[order])])
    rows = found.tables["order"].to_pylist()
    assert [r["source_position"] for r in rows] == [None, *(order + 1)]
    insertion, deletion = chance(sums), chance(start + parts.sum() - (sums - start))
    np.testing.assert_allclose([r["insertion"] for r in rows], insertion, rtol=1e-6)
    np.testing.assert_allclose([r["deletion"] for r in rows], deletion, rtol=1e-6)
    gains = np.diff(insertion + 1 - deletion)
    np.testing.assert_allclose(found.matrix()[0][order], gains, atol=1e-8)
    assert found.matrix().sum() == pytest.approx(2 * (insertion[-1] - insertion[0]), rel=1e-5)

    (row,) = found.tables["reliance"].to_pylist()
    area = ((insertion[:-1] + insertion[1:]) / 2).mean()
    assert row["insertion_auc"] == pytest.approx(area, rel=1e-6)
    assert row["deletion_auc"] == pytest.approx(((deletion[:-1] + deletion[1:]) / 2).mean())
    assert row["influence"] == pytest.approx(area - insertion.min(), rel=1e-5)
    prompt, response = parts[:7].sum(), parts[7:].sum()
    both, none = chance(start + parts.sum()), chance(start)
    alone, other = chance(start + prompt), chance(start + response)
    assert row["with_context"] == pytest.approx(both)
    assert row["prior"] == pytest.approx(none)
    assert row["from_prompt"] == pytest.approx((alone - none + both - other) / 2, rel=1e-5)
    assert row["from_response"] == pytest.approx((other - none + both - alone) / 2, rel=1e-5)
    assert row["from_prompt"] + row["from_response"] == pytest.approx(row["from_context"])
    assert row["sensitive"] == (both - none > 0.2)


def brute_chance(model: Any, kept: Any, target: int) -> float:
    """p(target) when the embeddings of all other tokens but the first are zero."""
    network = model.model
    with torch.no_grad():
        embedded = network.get_input_embeddings()(torch.tensor([TRACE.ids[:target]]))
        for token in set(range(1, target)) - {k + 1 for k in kept}:
            embedded[0, token] = 0
        logits = network(inputs_embeds=embedded).logits[0, -1]
    return float(logits.softmax(-1)[TRACE.ids[target]])


def test_beside_all_subsets() -> None:
    model, target = toys.loaded("llama"), 7
    values = {
        kept: brute_chance(model, kept, target)
        for size in range(7)
        for kept in combinations(range(6), size)
    }

    def objective(kept: Any, necessity: float = 0.5) -> float:
        rest = tuple(k for k in range(6) if k not in kept)
        return 2 * values[tuple(sorted(kept))] + necessity * (1 - values[rest])

    settings = {"targets": "7", "removal": "zero", "insight": 2.0, "necessity": 0.5}
    found = toys.run("attribution.eagle", model, TRACE, **settings)
    rows = found.tables["subsets"].to_pylist()
    best = [max(map(objective, combinations(range(6), size))) for size in range(7)]
    np.testing.assert_allclose([r["best"] for r in rows], best, rtol=1e-6)
    greedy: list[int] = []
    while len(greedy) < 6:
        left = [k for k in range(6) if k not in greedy]
        greedy.append(max(left, key=lambda k: objective([*greedy, k])))
    steps = found.tables["order"].to_pylist()
    assert [r["source_position"] - 1 for r in steps[1:]] == greedy
    np.testing.assert_allclose(
        [r["greedy"] for r in rows], [objective(greedy[:k]) for k in range(7)], rtol=1e-6
    )
    assert all(r["greedy"] <= r["best"] + 1e-9 for r in rows)
    # Each target has its own order; as one they share that of their mean.
    two = toys.run("attribution.eagle", model, TRACE, **settings | {"targets": "7:9"})
    np.testing.assert_allclose(two.matrix()[0][:6], found.matrix()[0], atol=1e-9)
    one = toys.run(
        "attribution.eagle", model, TRACE, **settings | {"targets": "7:9"}, together=True
    )
    assert one.tables["order"].num_rows == 7
    full = one.column("with_context", "reliance")
    assert full == pytest.approx(two.column("with_context", "reliance").mean())


def drive(search: Ask, value: Any) -> tuple[list[int], int]:
    """Order and number of sets looked at."""
    sets, looked = next(search), 0
    while True:
        looked += len(sets)
        try:
            sets = search.send(value(sets))
        except StopIteration as stop:
            return stop.value, looked


def test_searches() -> None:
    """Exact and fast agree where gains add up; fast looks at far fewer sets and loses nothing."""
    gains = np.random.default_rng(1).normal(size=60)
    order, looked = drive(exact(60), lambda sets: sets @ gains)
    assert order == np.argsort(-gains).tolist()
    assert looked == 60 * 61 / 2
    quick, few = drive(fast(60, Pace()), lambda sets: sets @ gains)
    assert quick == order
    assert few < looked / 2
    # Interactions: still each source once, and the first is the best one alone.
    pairs = np.random.default_rng(2).normal(size=(60, 60))
    quick, _ = drive(fast(60, Pace(4, 7, 3)), lambda s: np.einsum("ma,ab,mb->m", s, pairs, s))
    assert sorted(quick) == list(range(60))
    assert quick[0] == np.argmax(np.diag(pairs))
    assert drive(fast(1, Pace()), lambda sets: sets @ gains[:1])[0] == [0]


def test_a_contrast_is_a_preference() -> None:
    """p(y) / (p(y) + p(other)) of single tokens, and of whole continuations."""
    model = toys.loaded("llama")
    with torch.no_grad():
        p = model.model(torch.tensor([TRACE.ids[:9]])).logits[0, -1].softmax(-1)
    found = toys.run("attribution.eagle", model, TRACE, targets="9", contrast="x")
    wanted = p[TRACE.ids[9]] / (p[TRACE.ids[9]] + p[ord("x")])
    assert found.column("with_context", "reliance")[0] == pytest.approx(float(wanted))

    def likely(ids: Any) -> float:
        with torch.no_grad():
            rows = model.model(torch.tensor([[*TRACE.ids[:9], *ids]])).logits[0].log_softmax(-1)
        return float(sum(rows[8 + i, token] for i, token in enumerate(ids)))

    longer = toys.run("attribution.eagle", model, TRACE, targets="9:11", contrast="xyz")
    gap = likely(TRACE.ids[9:11]) - likely(b"xyz")
    wanted = 1 / (1 + np.exp(-gap))
    assert longer.column("with_context", "reliance")[0] == pytest.approx(wanted)


def test_what_has_no_number() -> None:
    model = toys.loaded("llama")
    with pytest.raises(UserError, match="target's probability: use explain=logprob"):
        toys.run("attribution.eagle", model, TRACE, explain="entropy")
    gone = toys.run("attribution.eagle", model, TRACE, targets="5", removal="delete", special=True)
    assert gone.tables["reliance"]["prior"].to_pylist() == [None]
    assert gone.tables["reliance"]["with_context"].to_pylist() != [None]
    assert any("nothing is left to predict from" in reason for _, _, reason in gone.notes)
