"""Shape of the hidden states: each measure by brute force, then all of them on a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.encode import encode_text
from engine.errors import UserError
from engine.flow import shape
from engine.records import open_rollouts, write_rollouts
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group, Text
from engine.workspace import Workspace
from tests.engine.tiny import tiny_folder

WORDS = ("The cat sat on the mat and slept.", "A dog, two birds; 17 fish!", "Why not? Because.")


def draw(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def test_intrinsic_dimension_of_a_known_cloud() -> None:
    """Five Gaussian dimensions turned into 64; moved, scaled and doubled they are the same."""
    flat = draw(1200, 5)
    turned = flat @ np.linalg.qr(draw(64, 5, 1))[0].T
    found = shape.two_nn(turned)
    assert found == pytest.approx(5, abs=0.5)
    assert shape.two_nn(1e3 + 7 * turned) == pytest.approx(found, rel=1e-6)
    assert shape.two_nn(np.concatenate([turned, turned[:100]])) == pytest.approx(found, rel=1e-9)
    assert shape.two_nn(flat[:, :1]) == pytest.approx(1, abs=0.2)
    assert shape.two_nn(np.repeat(flat[:20], 10, 0)) is None


def test_two_nn_by_hand() -> None:
    points = draw(60, 3)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
    gaps = np.sort(gaps, 1)[:, 1:3]
    ratios = np.sort(gaps[:, 1] / gaps[:, 0])
    top = sum(np.log(m) * -np.log(1 - (i + 1) / 60) for i, m in enumerate(ratios[:12]))
    assert shape.two_nn(points) == pytest.approx(top / sum(np.log(ratios[:12]) ** 2))


def test_linearity_by_least_squares() -> None:
    before, after = draw(50, 6), draw(50, 4, 1) + draw(50, 6) @ draw(6, 4, 2)
    basis = shape.Basis.of(before + 5)
    x, y = before - before.mean(0), after - after.mean(0)
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    for ridge in (0.0, 0.3):
        best = np.linalg.solve(x.T @ x + ridge * np.eye(6), x.T @ y)
        missed = np.linalg.norm(x @ best - y, axis=1)
        score, tokens = shape.linearity(basis, after - 3, ridge)
        assert score == pytest.approx(1 - (missed**2).sum())
        np.testing.assert_allclose(tokens, missed * np.sqrt(50))
        assert (tokens**2).mean() == pytest.approx(1 - score)
    assert shape.linearity(basis, before @ draw(6, 6, 3))[0] == pytest.approx(1)
    assert shape.linearity(basis, np.ones((50, 2))) == (None, None)


def test_anisotropy_and_residual_by_hand() -> None:
    points = draw(40, 3) * [5, 1, 1]
    values = np.linalg.eigvalsh(np.cov(points.T))
    basis = shape.Basis.of(points)
    assert shape.anisotropy(basis) == pytest.approx(values[-1] / values.sum())
    assert shape.anisotropy(shape.Basis.of(np.outer(np.arange(9), [1, 2]))) == pytest.approx(1)
    target = points @ [1.0, -2, 0.5] + 7 + draw(40, 1, 5)[:, 0]
    design = np.column_stack([points, np.ones(40)])
    fit = design @ np.linalg.lstsq(design, target, rcond=None)[0]
    wanted = ((target - fit) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    assert shape.prediction_residual(basis, target) == pytest.approx(wanted)
    assert shape.prediction_residual(basis, np.ones(40)) is None


def test_overlap_by_sets_and_its_control() -> None:
    one, other = draw(300, 4), draw(300, 4) + 0.4 * draw(300, 4, 7)
    gaps = [np.linalg.norm(c[:, None] - c[None], axis=-1) for c in (one, other)]
    near = [np.argsort(g, 1)[:, 1:6] for g in gaps]
    found = [shape.nearest(c + 9, 5) for c in (one, other)]
    for mine, wanted in zip(found, near, strict=True):
        np.testing.assert_array_equal(mine, wanted)
    share = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(*near, strict=True)])
    assert 0.1 < share < 0.9
    assert shape.overlap(*found) == pytest.approx(share)
    assert shape.overlap(found[0], found[0]) == 1
    control = [shape.shuffled_overlap(found[0], found[0], seed) for seed in range(40)]
    assert np.mean(control) == pytest.approx(5 / 299, rel=0.15)
    # Renamed, a point's neighbours are the neighbours' new names.
    order = np.random.default_rng(3).permutation(300)
    moved = np.empty_like(other)
    moved[order] = other
    wanted = shape.overlap(found[0], shape.nearest(moved, 5))
    assert shape.shuffled_overlap(found[0], found[1], 3) == pytest.approx(wanted)


def test_the_law_of_an_exact_decay() -> None:
    layers = [1, 2, 3, 4]
    fitted = shape.law(layers, [0.9 * 0.8**layer for layer in layers])
    assert (fitted.rho, fitted.correlation) == (pytest.approx(0.8), pytest.approx(-1))
    np.testing.assert_allclose(fitted.fitted, [0.9 * 0.8**layer for layer in layers])
    bent = shape.law(layers, [0.5, 0.4, 0.45, 0.2])
    logs = np.log([0.5, 0.4, 0.45, 0.2])
    assert bent.rho == pytest.approx(np.exp(np.polyfit(layers, logs, 1)[0]))
    assert bent.correlation == pytest.approx(np.corrcoef(layers, logs)[0, 1])
    assert shape.law([1, 2], [0.5, 0.4]) is None
    assert shape.law([1, 2, 3], [0.5, 0.4, 0.0]) is None
    assert shape.law([1, 2, 3], [0.5, 0.5, 0.5]) is None


def look(workspace: Workspace, subject: object, **params: object) -> Result:
    folder = str(tiny_folder("llama"))
    return run(Request("flow.geometry", subject, folder, params), workspace=workspace)[0]


def traces(workspace: Workspace) -> list:
    tokenizer = workspace.plan_model(str(tiny_folder("llama"))).tokenizer
    return [encode_text(Text(prompt="Say\n", response=w), tokenizer) for w in WORDS]


def states(texts: list[tuple[int, ...]]) -> list[list[np.ndarray]]:
    """Streams of all layers of each text in float64, the last one before the norm."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder("llama"), dtype=torch.float64).eval()
    last = []
    model.model.layers[-1].register_forward_hook(lambda m, a, out: last.append(out))
    found = []
    for ids in texts:
        with torch.no_grad():
            output = model(torch.tensor([ids]), output_hidden_states=True)
        end = last.pop()
        kept = [*output.hidden_states[:-1], end[0] if isinstance(end, tuple) else end]
        found.append([k.reshape(len(ids), -1).numpy() for k in kept])
    return found


def test_a_group_is_one_population(workspace: Workspace, tmp_path: Path) -> None:
    members = traces(workspace)
    group = Group(rollouts=tuple(members))
    result = look(workspace, group, neighbours=4)
    # The state of BOS predicts token 1; it is a special token's. What all begin with counts once.
    places = [list(range(6 if i else 2, len(t))) for i, t in enumerate(members)]
    assert members[0].response_start == 5
    by_trace = states([t.ids for t in members])
    clouds = [
        np.concatenate([s[layer][np.array(p) - 1] for s, p in zip(by_trace, places, strict=True)])
        for layer in range(4)
    ]
    targets = np.array([t.ids[p] for t, ps in zip(members, places, strict=True) for p in ps], float)
    rows = result.table("layers").to_pylist()
    missed = []
    for layer, (row, cloud) in enumerate(zip(rows, clouds, strict=True)):
        design = np.column_stack([cloud, np.ones(len(cloud))])
        fit = design @ np.linalg.lstsq(design, targets, rcond=None)[0]
        wanted = ((targets - fit) ** 2).sum() / ((targets - targets.mean()) ** 2).sum()
        assert row["residual"] == pytest.approx(wanted, rel=1e-3)
        values = np.linalg.svd(cloud - cloud.mean(0), compute_uv=False) ** 2
        assert row["anisotropy"] == pytest.approx(values[0] / values.sum(), rel=1e-4)
        if layer:
            x, y = (c - c.mean(0) for c in clouds[layer - 1 : layer + 1])
            off = x @ np.linalg.lstsq(x, y, rcond=None)[0] - y
            missed.append(np.linalg.norm(off, axis=1) / np.linalg.norm(y) * np.sqrt(len(y)))
            assert row["linearity"] == pytest.approx(1 - (missed[-1] ** 2).mean(), abs=1e-4)
            step = y - x
            off = x @ np.linalg.lstsq(x, step, rcond=None)[0] - step
            wanted = 1 - (off**2).sum() / (step**2).sum()
            assert row["linearity_increment"] == pytest.approx(wanted, abs=1e-4)
            near = [
                np.argsort(np.linalg.norm(c[:, None] - c[None], axis=-1), 1)[:, 1:5] for c in (x, y)
            ]
            share = np.mean([len(set(a) & set(b)) / 4 for a, b in zip(*near, strict=True)])
            assert row["overlap"] == pytest.approx(share, abs=0.02)
    summary = result.table("summary").to_pylist()[0]
    assert (summary["tokens"], summary["traces"], summary["width"]) == (len(targets), 3, 32)
    logs = np.log([row["residual"] for row in rows[1:]])
    assert summary["rho"] == pytest.approx(np.exp(np.polyfit([1, 2, 3], logs, 1)[0]))
    assert summary["correlation"] == pytest.approx(np.corrcoef([1, 2, 3], logs)[0, 1])
    assert summary["overlap_chance"] == pytest.approx(4 / (len(targets) - 1))
    tokens = result.table("tokens").to_pylist()
    found = [t["nonlinearity"] for t in tokens if t["nonlinearity"] is not None]
    np.testing.assert_allclose(found, np.mean(missed, 0), atol=1e-4)
    assert [t["nonlinearity"] is None for t in tokens if t["rollout"] == 1][:7] == [*[1] * 6, 0]
    worst = [t["nonlinear_layer"] for t in tokens if t["nonlinearity"] is not None]
    np.testing.assert_array_equal(worst, 1 + np.argmax(missed, 0))
    # A file of rollouts is the same population, and so is a group that says everything twice.
    twice = look(workspace, Group(rollouts=tuple(members + members)), neighbours=4)
    assert twice.table("layers").equals(result.table("layers"))
    write_rollouts(tmp_path / "log.jsonl", [group])
    again = look(workspace, open_rollouts(tmp_path / "log.jsonl"), neighbours=4)
    assert again.table("layers").equals(result.table("layers"))


def test_too_few_tokens_are_null_with_a_reason(workspace: Workspace) -> None:
    one = traces(workspace)[2]
    result = look(workspace, one)
    rows = result.table("layers").to_pylist()
    empty = ("linearity", "linearity_increment", "residual", "intrinsic_dimension")
    assert all(row[name] is None for row in rows for name in empty)
    assert all(row["anisotropy"] is not None for row in rows)
    notes = {(r["table"], r["column"]): r["reason"] for r in result.notes.to_pylist()}
    assert "too few for a linear fit of width 32" in notes["layers", "linearity"]
    assert "fewer than 50 distinct" in notes["layers", "intrinsic_dimension"]
    assert {("summary", "rho"), ("tokens", "nonlinearity")} <= set(notes)
    ridge = look(workspace, one, ridge=0.01).table("layers").to_pylist()
    assert all(0 < row["linearity"] < 1 for row in ridge[1:])
    assert all(row["residual"] is None for row in ridge)


def test_most_and_parts(workspace: Workspace) -> None:
    group = Group(rollouts=tuple(traces(workspace)))
    result = look(workspace, group, most=40, segment="response")
    summary = result.table("summary").to_pylist()[0]
    assert (summary["tokens"], summary["traces"]) == (40, 2)
    assert any("only the first 40 tokens" in r["reason"] for r in result.notes.to_pylist())
    with pytest.raises(UserError, match="needs at least two tokens"):
        look(workspace, traces(workspace)[0].evolve(response_start=0), segment="prompt")
