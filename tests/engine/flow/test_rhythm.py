"""WAAD and FAI: closed forms, the definition head by head, marks, and the response's borders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.errors import UserError
from engine.flow.rhythm import Measuring, RhythmParams, kinds, marked, tokens
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Text
from engine.workspace import Workspace
from tests.engine.flow.test_backbone import attention, trace_of

LONG = Text(prompt="Question: why?\n", response="So that it is long enough. " * 3)


def measured(maps: np.ndarray, start: int, params: RhythmParams, block: int = 7):
    """Hand [L, H, T, T] over as a forward does, a few rows at a time."""
    length = maps.shape[-1]
    measuring = Measuring(length, start, params)
    for layer, heads in enumerate(torch.tensor(maps, dtype=torch.float32)):
        for first in range(0, length, block):
            measuring(layer, first, heads[:, first : first + block])
    return measuring.measured()


def test_identity_looks_nowhere() -> None:
    params = RhythmParams()
    _, found = measured(np.eye(30)[None, None], 10, params)
    waad, change, fai = tokens(found, [0], [0], 10, params)
    assert found.distance.tolist() == [0]
    assert np.isnan(waad[:10]).all()
    assert (waad[10:] == 0).all()
    assert (change[10:-1] == 0).all()
    assert (fai[10:20] == 0).all()
    # Nothing is 10 tokens behind the last 10.
    assert np.isnan(fai[20:]).all()


def test_uniform_attention_in_closed_form() -> None:
    """A[t, s] = 1 / (t + 1): WAAD is a sum of min(d, W), FAI a mean of 1 / (t + 1)."""
    n, start, w, low, high = 60, 5, 4, 3, 8
    uniform = np.tril(np.ones((n, n)))
    uniform /= uniform.sum(1, keepdims=True)
    params = RhythmParams(window=w, nearest=low, farthest=high)
    _, found = measured(uniform[None, None], start, params)
    waad, change, fai = tokens(found, [0], [0], start, params)
    for t in range(start, n):
        d = min(t, w)
        closed = (d * (d + 1) / 2 + max(t - w, 0) * w) / (t + 1)
        assert waad[t] == pytest.approx(closed, rel=1e-6)
    assert change[7] == pytest.approx(abs(waad[7] - waad[8]))
    assert found.distance[0] == pytest.approx(np.mean([t / 2 for t in range(start, n)]), rel=1e-6)
    for s in range(start, n):
        rows = range(s + low, min(n - 1, s + high) + 1)
        if not rows:
            assert np.isnan(fai[s])
        else:
            assert fai[s] == pytest.approx(np.mean([1 / (t + 1) for t in rows]), rel=1e-6)


def test_marks_and_kinds() -> None:
    values = np.array([np.nan, 3, 1, 3, 2, 0.0])
    assert np.flatnonzero(marked(values, 0.4)).tolist() == [1, 3]
    assert np.flatnonzero(marked(values, 0.41)).tolist() == [1, 3, 4]
    assert not marked(np.array([np.nan]), 1.0).any()
    near, far = kinds(np.arange(10.0)[::-1], 0.3)
    assert sorted(near.tolist()) == [7, 8, 9]
    assert sorted(far.tolist()) == [0, 1, 2]
    assert [x.tolist() for x in kinds(np.array([2.0]), 0.3)] == [[0], [0]]


def ask(workspace: Workspace, subject, model: str, **params) -> Result:
    return run(Request("flow.rhythm", subject, model, params), workspace=workspace)[0]


def test_by_definition(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama, LONG)
    result = ask(workspace, trace, llama)
    maps = attention(workspace, trace, llama, keep="heads")
    n, start = len(trace), trace.response_start
    back = np.maximum(np.arange(n)[:, None] - np.arange(n), 0)
    distance = (maps * back)[:, :, start:].sum((2, 3)) / (n - start)
    heads = result.to_pandas("heads")
    np.testing.assert_allclose(heads.distance, distance.ravel(), rtol=1e-5)
    order = np.argsort(distance.ravel())
    flat = maps.reshape(12, n, n)
    assert set(np.flatnonzero(heads.kind == "local")) == set(order[:4])
    assert set(np.flatnonzero(heads.kind == "global")) == set(order[-4:])
    near, far = flat[order[:4]].mean(0), flat[order[-4:]].mean(0)
    table = result.to_pandas("tokens")
    waad = (near * np.minimum(back, 10)).sum(1)
    np.testing.assert_allclose(table.waad[start:], waad[start:], rtol=1e-5)
    assert table.waad[:start].isna().all()
    for s in range(start, n):
        rows = [t for t in range(s + 10, s + 51) if t < n]
        if rows:
            assert table.fai[s] == pytest.approx(far[rows, s].mean(), rel=1e-4, abs=1e-9)
        else:
            assert np.isnan(table.fai[s])
    count = int(np.ceil(0.4 * (n - start - 1)))
    change = np.abs(np.diff(waad))[start:]
    marks = [p for p, mark in enumerate(table.preplan) if mark]
    assert marks == sorted(start + np.argsort(-change)[:count])
    assert table.preplan[n - 1] is None
    assert table.anchor[: start + 1].tolist() == [None] * start + [table.anchor[start]]
    assert workspace.load(workspace.plan_model(llama)).forwards == 2


def test_bad_input_is_a_sentence(workspace: Workspace, llama: str) -> None:
    with pytest.raises(UserError, match="has no response"):
        ask(workspace, trace_of(workspace, llama, Text(prompt="only")), llama)
    with pytest.raises(UserError, match="make farthest the larger one"):
        ask(workspace, trace_of(workspace, llama, LONG), llama, nearest=9, farthest=8)
