"""Faithfulness: measures by brute force and by hand, baselines, ranks, and what is left out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine import registry
from engine.attribution.chance import Chance
from engine.attribution.curves import Curves, Grid, area, ranking
from engine.attribution.faithfulness import FaithfulnessParams
from engine.attribution.measures import BETTER, Bench, Measured, interval, tells
from engine.attribution.scored import request
from engine.attribution.settings import TABLES, RemovalParams
from engine.attribution.softmetrics import Soft, hellinger, soft_nc, soft_ns, stay
from engine.attribution.verdict import Standing, agreements, verdicts
from engine.attribution.work import MODELS, Work
from engine.errors import UserError
from engine.registry import analysis
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Trace
from engine.workspace import Workspace
from tests.engine.attribution import toys
from tests.engine.tiny import save_tokenizer

TRACE = toys.text("Who, 3?", " Me.")
SHUFFLES = {"draws": 4, "permutations": 4}


def work_of(model: Any, **params: Any) -> Work:
    ctx: Any = SimpleNamespace(
        subject=TRACE,
        params=FaithfulnessParams(removal="zero", **params),
        models={"model": model},
        tokenizer=toys.tokenizer(),
    )
    return Work(ctx)


def end_of(steps: Any) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def predictions(model: Any, target: int, kept: Any) -> torch.Tensor:
    """All probabilities when only some tokens behind the first keep their embeddings."""
    network = model.model
    with torch.no_grad():
        embedded = network.get_input_embeddings()(torch.tensor([TRACE.ids[:target]]))
        for token in set(range(1, target)) - set(kept):
            embedded[0, token] = 0
        return network(inputs_embeds=embedded).logits[0, -1].softmax(-1)


def bench_of(work: Work, **changes: Any) -> Bench:
    settings = {"draws": 4, "permutations": 4, "steps": 10, "scale": "max", "seed": 0}
    return Bench(work, Chance(work), Soft(work, 0), **settings | changes)


def test_soft_measures_at_their_limits() -> None:
    """a = 1 keeps all, a = 0 nothing; 0 and 1 are ERASER's sufficiency and comprehensiveness."""
    model = toys.loaded("llama")
    work = work_of(model, targets="5:7")
    own = np.array([1.0, 0, 1, 1, 0])
    stays = np.stack([np.ones(5), np.zeros(5), own, 1 - own])
    for compat in (False, True):
        found = end_of(Soft(work, 3, compat=compat).distances(stays, np.array([0, 1, 2, 5])))
        for column, target in enumerate((5, 6)):
            whole = predictions(model, target, range(1, target))
            for row, kept in zip(found, stays, strict=True):
                part = predictions(model, target, 1 + np.flatnonzero(kept))
                root = (whole.sqrt() - part.sqrt()).square().sum()
                wanted = root / 2**0.5 if compat else (root / 2).sqrt()
                assert row[column] == pytest.approx(float(wanted), abs=1e-6)
    empty = found[1]
    np.testing.assert_allclose(soft_ns(found[0], empty), 1)
    np.testing.assert_allclose(soft_ns(empty, empty), 0)
    np.testing.assert_allclose(soft_nc(empty, empty), 1)
    assert np.isnan(soft_ns(np.zeros(2), np.zeros(2))).all()
    p, q = torch.tensor([1.0, 0]), torch.tensor([0.0, 1])
    assert float(hellinger(p, q)) == pytest.approx(1)
    assert float(hellinger(p, q, compat=True)) == pytest.approx(2**0.5)


def test_soft_masks() -> None:
    """More kept is closer, on average; a mask is the same for all, and memory changes nothing."""
    model = toys.loaded("llama", torch.float32)
    work = work_of(model, targets="9")
    draws = np.tile(np.arange(32), 5)
    stays = np.repeat(np.linspace(0, 1, 5), 32)[:, None] * np.ones(8)
    soft = Soft(work, 0)
    found = end_of(soft.distances(stays, draws)).reshape(5, 32)
    assert (np.diff(found.mean(1)) < 0).all()
    assert found[-1].max() == 0
    again = end_of(Soft(work_of(model, targets="9", memory=16), 0).distances(stays, draws))
    np.testing.assert_allclose(again.reshape(5, 32), found, atol=1e-6)
    other = end_of(Soft(work, 1).distances(stays, draws)).reshape(5, 32)
    assert np.abs(other - found)[1:-1].max() > 1e-3
    # Elements are kept one by one, with the probability asked for.
    mask = soft.masks[0]
    assert mask.shape == (9, 32)
    assert (mask < 0.3).mean() == pytest.approx(0.3, abs=0.1)


def test_scales() -> None:
    """Signed scores are clipped, a missing one is 0, and a constant is what it is."""
    scores = np.array([-2.0, 1, 4, np.nan])
    np.testing.assert_allclose(stay(scores, "max"), [0, 0.25, 1, 0])
    np.testing.assert_allclose(stay(scores, "raw"), [0, 1, 1, 0])
    np.testing.assert_allclose(stay(np.array([1.0, 2, 5]), "minmax"), [0, 0.25, 1])
    np.testing.assert_allclose(stay(np.full(3, 0.2), "max"), 1)
    np.testing.assert_allclose(stay(-np.ones(3), "max"), 0)
    assert tells(np.array([0, 0.1]))
    assert not any(tells(np.array(s)) for s in ([], [1.0], [0, 0], [2, 2], [np.nan, 0]))


def test_curves_by_hand() -> None:
    grid = Grid.of(4, 10)
    assert grid.counts.tolist() == [0, 1, 2, 3, 4]
    assert grid.counts[grid.tops].tolist() == [1, 1, 1, 1, 2]
    kept, without = np.array([0, 0.1, 0.5, 0.6, 0.9]), np.array([0.9, 0.4, 0.2, 0.2, 0])
    curves = Curves(grid, kept, without)
    assert curves.insertion == pytest.approx((0.05 + 0.3 + 0.55 + 0.75) / 4)
    assert curves.deletion == pytest.approx((0.65 + 0.3 + 0.2 + 0.1) / 4)
    assert curves.sufficiency == pytest.approx((4 * 0.8 + 0.4) / 5)
    assert curves.comprehensiveness == pytest.approx((4 * 0.5 + 0.7) / 5)
    large = Grid.of(30, 5)
    assert large.counts[large.steps].tolist() == [0, 6, 12, 18, 24, 30]
    assert large.counts[large.tops].tolist() == [1, 2, 3, 6, 15]
    assert area(np.array([1.0, 3]), np.array([0.5, 1])) == 1
    order = ranking(np.array([1.0, 3, np.nan, -1, 1]), np.array([0.5, 0, 0, 0, 0.1]))
    assert order.tolist() == [1, 4, 0, 2, 3]


def test_measures_by_brute_force() -> None:
    model = toys.loaded("llama")
    bench = bench_of(work_of(model, targets="7:9"))
    scores = np.random.default_rng(0).normal(size=7)
    for number, target in enumerate((7, 8)):
        (found,) = end_of(bench.measure(number, [scores]))
        own = scores[: target - 1]
        order = 1 + np.argsort(-own)

        def chance(kept: Any, target: int = target) -> float:
            return float(predictions(model, target, kept)[TRACE.ids[target]])

        kept = np.array([chance(order[:k]) for k in range(target)])
        without = np.array([chance(order[k:]) for k in range(target)])
        measures = {name: float(m.own[0]) for name, m in found.measures.items()}
        assert measures["insertion"] == pytest.approx(((kept[1:] + kept[:-1]) / 2).mean())
        assert measures["deletion"] == pytest.approx(((without[1:] + without[:-1]) / 2).mean())
        tops = [max(1, int(np.ceil(s * (target - 1)))) for s in (0.01, 0.05, 0.1, 0.2, 0.5)]
        gone = kept[-1] - without[tops]
        assert measures["sufficiency"] == pytest.approx(np.mean(kept[-1] - kept[tops]), abs=1e-8)
        assert measures["comprehensiveness"] == pytest.approx(np.mean(gone), abs=1e-8)
        assert found.measures["soft_ns"].own.shape == (4,)
        assert found.measures["soft_ns"].shuffled.shape == (4,)


def test_shuffles_of_random_scores_differ_by_nothing() -> None:
    """The baseline is the mean over all orders, which random scores have on average, too."""
    model = toys.loaded("llama")
    bench = bench_of(work_of(model, targets="5"), permutations=256, draws=1)
    every = [1.0 * np.argsort(order) for order in permutations(range(4))]
    found = end_of(bench.measure(0, every))
    for name in ("insertion", "deletion", "sufficiency", "comprehensiveness"):
        values = np.array([one.measures[name].own[0] for one in found])
        shuffled = found[0].measures[name].shuffled
        assert np.ptp(values) > 1e-3
        assert shuffled.mean() == pytest.approx(values.mean(), abs=0.2 * values.std())
        # Every method has the same random orders, and they are all among the possible ones.
        np.testing.assert_array_equal(shuffled, found[7].measures[name].shuffled)
        assert all(np.isclose(values, value, atol=1e-12).any() for value in shuffled[:8])
    low, high = interval([one.measures["insertion"] for one in found], 0)
    assert low < 0 < high


def test_intervals() -> None:
    """Of what does not vary it is the difference itself; more variation makes it wider."""
    same = Measured(np.array([0.7]), np.full(8, 0.5))
    assert interval([same], 0) == (pytest.approx(0.2), pytest.approx(0.2))
    draws = np.random.default_rng(0).normal(0, 0.1, 8)
    low, high = interval([Measured(np.array([0.7]), 0.5 + draws)], 0)
    assert low < 0.2 - draws.mean() < high
    assert interval([Measured(np.array([0.7]), 0.5 + draws)], 0) == (low, high)
    wide = interval([Measured(np.array([0.7]), 0.5 + draws), same, same], 0)
    two = [Measured(np.array([a]), np.zeros(8)) for a in (0.0, 1.0)]
    assert interval(two, 0) == (0, 1)
    assert wide[1] - wide[0] < high - low


def test_verdicts_by_hand() -> None:
    rows = verdicts(
        {
            "good": {"a": Standing(0.5, 1), "b": Standing(0.2, 0), "c": Standing(0.1, 0)},
            "bad": {"a": Standing(-0.5, -1), "b": Standing(-0.1, -1)},
            "same": {"a": Standing(0.5002, 1), "b": Standing(0.1, 0), "c": Standing(0.3, 1)},
            "flat": {},
        }
    )
    assert [r["method"] for r in rows] == ["good", "same", "bad", "flat"]
    assert [r["rank"] for r in rows] == [1, 1, 3, None]
    assert [r["standing"] for r in rows] == [pytest.approx(1.5), pytest.approx(1.5), 3.0, None]
    assert rows[2]["why"] == "Clearly worse than its own scores shuffled in 2 of 2 measures."
    assert rows[0]["why"] == "Better than its own scores shuffled in 3 of 3 measures, clearly in 1."
    assert "order nothing" in rows[3]["why"]


def test_agreements() -> None:
    one = np.array([[3.0, 1, 2, 0, 9], [0.0, 1, 2, 9, 9]])
    applies = np.array([[True] * 4 + [False], [True, True, False, False, False]])
    scores = {"one": one, "cubed": one**3, "flipped": -one, "flat": np.zeros((2, 5))}
    rows = {(r["method"], r["other"]): r for r in agreements(scores, applies, 2)}
    # The second target has too few sources to be ordered.
    assert all(r["targets"] == (0 if "flat" in pair else 1) for pair, r in rows.items())
    assert (
        rows["one", "cubed"] | {"spearman": 1, "kendall": 1, "overlap": 1} == rows["one", "cubed"]
    )
    flipped = rows["one", "flipped"]
    assert (flipped["spearman"], flipped["kendall"], flipped["overlap"]) == (-1, -1, 0)
    assert flipped["by_chance"] == 0.5
    assert rows["one", "flat"]["spearman"] is None


@pytest.fixture(scope="module")
def additive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All logits are 0 but that of ".", which is linear in the embeddings and rather likely."""
    model = copy.deepcopy(toys.linear())
    with torch.no_grad():
        word = model.lm_head.weight[ord(".")].clone()
        model.lm_head.weight.zero_()
        model.lm_head.weight[ord(".")] = 12 * word
    folder: Path = tmp_path_factory.mktemp("models") / "additive"
    model.float().save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


@pytest.fixture
def extra() -> Iterator[None]:
    """Occlusion with its sign turned, a method that says nothing, and one that refuses."""
    registry.analyses()

    def register(name: str, scores: Any) -> None:
        @analysis(
            f"attribution.{name}",
            version=1,
            subject=Trace,
            models=MODELS,
            optional_models=("other",),
            params=RemovalParams,
            tables=TABLES,
            title="",
        )
        def method(ctx: Any) -> Iterator[Any]:
            work = Work(ctx)
            yield work.tables((yield from scores(work)))

    def flipped(work: Work) -> Any:
        values = yield from work.kept(~np.eye(len(work.sources), dtype=bool))
        return values.T - work.base[:, None]

    def flat(work: Work) -> Any:
        yield from ()
        return np.ones(work.applies.shape)

    def refusing(_: Work) -> Any:
        yield from ()
        raise UserError("This model is too small.")

    for name, scores in (("flipped", flipped), ("flat", flat), ("refusing", refusing)):
        register(name, scores)
    yield
    for name in ("flipped", "flat", "refusing"):
        del registry._registry[f"attribution.{name}"]


def judge(workspace: Workspace, model: str, trace: Trace = TRACE, **params: Any) -> Result:
    asked = Request("attribution.faithfulness", trace, model, SHUFFLES | params)
    return run(asked, workspace=workspace)[0]


def test_a_method_and_its_opposite(workspace: Workspace, additive: str, extra: None) -> None:
    """On an additive model occlusion is right; with its sign turned it is wrong."""
    settings = {"targets": "10", "removal": "zero", "permutations": 16, "top": 3}
    names = "occlusion, flipped, flat,refusing"
    found = judge(workspace, additive, methods=names, **settings)
    rows = {(r["method"], r["metric"]): r for r in found.table("faithfulness").to_pylist()}
    for metric, better in BETTER.items():
        sign = 1 if better == "up" else -1
        right, wrong = rows["occlusion", metric], rows["flipped", metric]
        assert sign * right["difference"] > 0
        assert right["difference"] == pytest.approx(right["value"] - right["baseline"])
        assert right["low"] <= right["difference"] <= right["high"]
        assert right["better"] == better
        if not metric.startswith("soft"):
            assert sign * wrong["difference"] < 0
            assert wrong["baseline"] == pytest.approx(right["baseline"])
        assert rows["flat", metric]["value"] is None
    first, second, last = found.table("verdict").to_pylist()
    assert (first["method"], first["rank"], first["better"]) == ("occlusion", 1, 6)
    assert (second["method"], second["rank"]) == ("flipped", 2)
    assert second["clearly_worse"] >= 3
    assert (last["method"], last["rank"]) == ("flat", None)
    pairs = {(r["method"], r["other"]): r for r in found.table("agreement").to_pylist()}
    assert pairs["occlusion", "flipped"]["spearman"] == pytest.approx(-1)
    reasons = [note["reason"] for note in found.notes.to_pylist()]
    assert "refusing was left out: This model is too small." in reasons
    assert any("flat gives all sources the same score" in reason for reason in reasons)
    cost = run(
        Request("attribution.occlusion", TRACE, additive, {"targets": "10", "removal": "zero"}),
        workspace=workspace,
    )[0].table("cost")
    assert rows["occlusion", "deletion"]["forwards"] == cost["forwards"][0].as_py()
    # Curves: from the empty text to the whole one and back, above the shuffled one.
    curves = [r for r in found.table("curves").to_pylist() if r["method"] == "occlusion"]
    inside = [r for r in curves if r["metric"] == "insertion"]
    outside = [r for r in curves if r["metric"] == "deletion"]
    assert inside[0]["value"] == pytest.approx(outside[-1]["value"])
    assert inside[-1]["value"] == pytest.approx(outside[0]["value"])
    under = area(np.array([r["value"] for r in inside]))
    assert under == pytest.approx(rows["occlusion", "insertion"]["value"], abs=0.02)


def test_targets_contrast_and_lifting(workspace: Workspace, llama: str) -> None:
    """Averages over targets; a contrast and a kl have measures too; names as a list or a text."""
    methods = ("integrated_gradients", "attention")
    found = judge(workspace, llama, methods=methods, targets="8:10")
    rows = found.table("by_target").to_pylist()
    for row in found.table("faithfulness").to_pylist():
        mine = [r for r in rows if (r["method"], r["metric"]) == (row["method"], row["metric"])]
        if row["metric"] == "completeness":
            assert row["baseline"] is None
            continue
        assert row["targets"] == 2
        assert [r["target_position"] for r in mine] == [8, 9]
        assert row["value"] == pytest.approx(np.mean([r["value"] for r in mine]))
        assert row["baseline"] == pytest.approx(np.mean([r["baseline"] for r in mine]))
    asked = Request("attribution.integrated_gradients", TRACE, llama, {"targets": "8:10"})
    gradients = run(asked, workspace=workspace)[0].table("targets").to_pylist()
    parts = [abs(r["residual"] / (r["value"] - r["baseline"])) for r in gradients]
    rows = {r["method"]: r for r in found.table("faithfulness").to_pylist() if not r["baseline"]}
    assert rows["integrated_gradients"]["value"] == pytest.approx(np.mean(parts))
    assert rows["attention"]["value"] is None
    again = judge(workspace, llama, methods=", ".join(methods), targets="8:10")
    assert again.key == found.key
    for other in ({"contrast": "abc"}, {"explain": "entropy"}, {"removal": "delete"}):
        more = judge(workspace, llama, methods=methods, targets="9", **other)
        values = more.table("faithfulness").to_pylist()
        assert all(r["value"] is not None for r in values if r["metric"] != "completeness")


def test_methods_run_at_their_defaults(workspace: Workspace, llama: str) -> None:
    """ReAGent only explains a probability; GrAInS needs a contrast and is left out without one."""
    ctx: Any = SimpleNamespace(plan=SimpleNamespace(models={}))
    shared = RemovalParams(explain="logit", removal="zero", memory=99).model_dump()
    asked = {m: request(ctx, m, TRACE, shared)[1].params for m in ("reagent", "occlusion")}
    assert "explain" not in asked["reagent"]
    assert asked["reagent"]["memory"] == 99
    assert asked["occlusion"] == shared
    found = judge(workspace, llama, methods="grains,attention", targets="5")
    (reason,) = (n["reason"] for n in found.notes.to_pylist() if "left out" in n["reason"])
    assert reason.startswith("grains was left out: ")
    assert "contrast" in reason


def test_small_batches_give_the_same(
    workspace: Workspace, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"methods": "saliency,attention", "targets": "7:9"}
    whole = judge(workspace, llama, **settings)
    monkeypatch.setattr("engine.attribution.reading.Reader.batch_size", lambda *_, **__: 3)
    parts = judge(workspace, llama, memory=16, **settings)
    assert parts.origin == "computed"
    for name in ("value", "baseline", "low", "high"):
        columns = [r.table("faithfulness")[name].to_pylist() for r in (whole, parts)]
        one, other = (np.array(c, float) for c in columns)
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_half_precision() -> None:
    work = work_of(toys.loaded("qwen2", torch.bfloat16), targets="7:9")
    found = end_of(bench_of(work).measure(1, [np.arange(7.0)]))[0]
    for measured in found.measures.values():
        assert np.isfinite(measured.own).all()
        assert np.isfinite(measured.shuffled).all()
    model = work.model
    for name in ("eagle", "value_zeroing", "attention_rollout"):
        scores = toys.run(f"attribution.{name}", model, TRACE, targets="7").matrix()
        assert np.isfinite(scores).all()
        assert np.ptp(scores) > 0


def test_bad_input_is_a_sentence(workspace: Workspace, llama: str, extra: None) -> None:
    with pytest.raises(UserError, match="no attribution method 'oclusion': choose from attention,"):
        judge(workspace, llama, methods="oclusion")
    with pytest.raises(UserError, match="Name the methods to compare"):
        judge(workspace, llama, methods=" ,")
    with pytest.raises(UserError, match="None of the methods can explain this text"):
        judge(workspace, llama, methods="refusing")
    with pytest.raises(UserError, match="permutations: Input should be greater than or equal to 2"):
        judge(workspace, llama, permutations=1)
