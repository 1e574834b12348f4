"""ReAGent: step by step against a plain loop, at its limits, and what stands in for tokens."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.attribution.reading import Reader
from engine.attribution.reagent import ReagentParams
from engine.attribution.replacing import Replacer, class_pools, ordinary_ids
from engine.attribution.sampled import uniforms
from engine.errors import UserError
from engine.registry import find
from engine.reward.wide import wide
from engine.texts.tokenclass import token_classes
from tests.engine.attribution import toys
from tests.engine.tiny import EOS, VOCABULARY


def likely(model, trace, rank: int = 0):
    """The trace with its last token replaced by the model's own choice."""
    with torch.no_grad(), wide():
        logits = model.model(torch.tensor([trace.ids])).logits[0, -2, :256]
    choice = int(logits.argsort(descending=True)[rank])
    return trace.evolve(ids=(*trace.ids[:-1], choice), pieces=(*trace.pieces[:-1], bytes([choice])))


def predictions(model, ids) -> np.ndarray:
    """Logits [V] after the ids."""
    with torch.no_grad(), wide():
        return model.model(torch.tensor([ids.tolist()])).logits[0, -1, :VOCABULARY].numpy()


def plain(model, trace, pools, params: ReagentParams) -> np.ndarray:
    """The method as its paper has it, one probe and one text at a time; scores of the sources."""
    own, target, count = np.array(trace.ids[:-1]), trace.ids[-1], len(trace) - 2
    shares = []

    def chance(ids: np.ndarray) -> float:
        logits = predictions(model, ids)
        return float(np.exp(logits[target] - np.logaddexp.reduce(logits)))

    def other(purpose: str, number: int, gone: np.ndarray) -> np.ndarray:
        draws = uniforms(params.seed, f"reagent {purpose}", number, len(own))
        ids = own.copy()
        for position in np.flatnonzero(gone) + 1:
            pool = pools[position]
            ids[position] = pool[int(draws[position] * len(pool))]
        return ids

    for probe in range(params.probes):
        score = uniforms(params.seed, "reagent start", probe, count)
        for step in range(params.max_steps):
            number = step * 256 + probe
            gone = uniforms(params.seed, "reagent mask", number, count) < params.rate
            change = chance(own) - chance(other("replace", number, gone))
            odds = np.log((1 + change) / 2) - np.log(1 - (1 + change) / 2)
            score = score + np.where(gone, odds, -odds)
            least = np.ones(count, bool)
            least[np.argsort(-score)[: params.keep]] = False
            best = np.argsort(-predictions(model, other("check", number, least)))
            if target in best[: params.top_k]:
                shares.append(np.exp(score) / np.exp(score).sum())
                break
    return np.mean(shares, axis=0)


@pytest.mark.parametrize("sampler", ["uniform", "class", "model"])
def test_step_by_step(sampler: str) -> None:
    model = toys.loaded("qwen2")
    trace = likely(model, toys.text("One 2 three.", "4"))
    asked = {"sampler": sampler, "probes": 2, "max_steps": 25, "seed": 4, "keep": 4, "top_k": 9}
    found = toys.run("attribution.reagent", model, trace, **asked)
    ordinary = np.arange(256)
    pools = {p: ordinary[ordinary != trace.ids[p]] for p in range(len(trace) - 1)}
    kinds, standing = token_classes(trace), class_pools(toys.tokenizer())
    for position in range(1, len(trace) - 1):
        own = trace.ids[position]
        if sampler == "class":
            same = standing[kinds[position]]
            pools[position] = same[same != own]
        elif sampler == "model":
            logits = predictions(model, np.array(trace.ids[:position]))[:256].copy()
            logits[own] = -np.inf
            pools[position] = np.array([int(logits.argmax())])
    wanted = plain(model, trace, pools, ReagentParams(**asked))
    np.testing.assert_allclose(found.matrix()[0], wanted, atol=1e-9)
    np.testing.assert_allclose(found.matrix().sum(), 1)
    probes = found.tables["probes"].to_pylist()
    assert any(p["stopped"] and p["steps"] > 1 for p in probes)
    chance = predictions(model, np.array(trace.ids[:-1]))
    chance = np.exp(chance - np.logaddexp.reduce(chance))[trace.ids[-1]]
    np.testing.assert_allclose(found.column("value"), chance, atol=1e-9)


def test_only_the_last_token_counts() -> None:
    """A model that reads nothing else: it is found by every probe, for every target."""
    model = toys.loaded(toys.deaf())
    trace = likely(model, toys.text("One two.", "4"))
    found = toys.run("attribution.reagent", model, trace, keep=1, sampler="uniform")
    assert found.tables["probes"]["stopped"].to_pylist() == [True] * 8
    assert found.matrix()[0].argmax() == len(found.matrix()[0]) - 1
    assert found.notes == []
    # The start alone would not have found it.
    starts = [uniforms(0, "reagent start", b, 8).argmax() for b in range(8)]
    assert set(starts) != {7}


def test_where_nothing_matters() -> None:
    """No change of the probability: the importances stay where they began, and a note says why."""
    network = toys.tiny_model("llama")
    with torch.no_grad():
        network.model.norm.weight.zero_()
    trace = toys.text("One two.", "4!")
    asked = {"targets": "response", "max_steps": 5, "probes": 4}
    found = toys.run("attribution.reagent", toys.loaded(network), trace, top_k=1, **asked)
    # All logits are equal: the target is among the most probable whatever is kept.
    assert found.tables["probes"]["steps"].to_pylist() == [1] * 8
    for i, count in enumerate((8, 9)):
        starts = np.stack([uniforms(0, "reagent start", b, 18).reshape(2, 9)[i] for b in range(4)])
        shares = np.exp(starts[:, :count])
        wanted = (shares / shares.sum(1, keepdims=True)).mean(0)
        np.testing.assert_allclose(found.matrix()[i, :count], wanted, atol=1e-12)
    unlikely = likely(toys.loaded("llama"), toys.text("One two.", "4"), rank=250)
    never = toys.run("attribution.reagent", toys.loaded("llama"), unlikely, max_steps=3, top_k=1)
    assert not any(never.tables["probes"]["stopped"].to_pylist())
    np.testing.assert_allclose(never.matrix().sum(), 1)
    assert "No probe stopped within 3 steps" in never.notes[0][2]


def test_same_numbers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By seed, in other batches, and by probe: more of them change nothing of the first."""
    model = toys.loaded("gpt2")
    trace = likely(model, toys.text("One two.", " 4"))
    asked = {"targets": "response", "max_steps": 6, "probes": 3}
    whole = toys.run("attribution.reagent", model, trace, **asked)
    other = toys.run("attribution.reagent", model, trace, seed=1, **asked)
    assert np.nanmax(np.abs(whole.matrix() - other.matrix())) > 1e-3
    monkeypatch.setattr(Reader, "batch_size", lambda *_, **__: 2)
    small = toys.run("attribution.reagent", model, trace, **asked)
    np.testing.assert_allclose(small.matrix(), whole.matrix(), atol=1e-9)
    more = toys.run("attribution.reagent", model, trace, **{**asked, "probes": 4})
    first = [p for p in more.tables["probes"].to_pylist() if p["probe"] < 3]
    assert first == whole.tables["probes"].to_pylist()
    words = toys.run("attribution.reagent", model, trace, granularity="word", **asked)
    assert words.matrix().shape == (2, 4)
    np.testing.assert_allclose(np.nansum(words.matrix(), 1), 1)
    together = toys.run("attribution.reagent", model, trace, together=True, **asked)
    assert together.matrix().shape[0] == 1


def test_replacements() -> None:
    """Of the same class, never the token itself, never special."""
    tokenizer, trace = toys.tokenizer(), toys.text("On 3, so.", "x")
    ordinary = ordinary_ids(tokenizer)
    assert EOS not in ordinary
    assert len(ordinary) == 256
    model = toys.loaded("llama")
    work = SimpleNamespace(
        trace=trace,
        context=len(trace) - 1,
        model=model,
        ctx=SimpleNamespace(
            tokenizer=tokenizer, logits=lambda a, b: model.full_logits(trace.ids)[a:b, :VOCABULARY]
        ),
    )
    draws = np.random.default_rng(0).random((400, work.context))
    classes = token_classes(trace)
    pools = class_pools(tokenizer)
    for sampler in ("uniform", "class", "model"):
        ids = Replacer(work, sampler).ids(draws)
        assert not (ids == np.array(trace.ids[:-1])).any()
        assert set(ids.ravel()) <= set(ordinary)
        for position in range(1, work.context):
            if sampler == "class":
                assert set(ids[:, position]) <= set(pools[classes[position]])
            elif sampler == "model":
                assert len(set(ids[:, position])) == 1
    assert set(b"0123456789") <= set(pools["number"])
    assert ord("a") in pools["content"] or ord("a") in pools["function"]


def test_settings() -> None:
    """It has no contrast and no other number than the probability."""
    for given, said in (
        ({"contrast": " x"}, "leave it out"),
        ({"explain": "logprob"}, "probability"),
        ({"granularity": "spans"}, "belong together"),
    ):
        with pytest.raises(UserError, match=said):
            find("attribution.reagent").parse(given)
