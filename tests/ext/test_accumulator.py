"""States that merge: blocks, threads and shards give the same numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import tokenkernel as tk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenkernel import reference

from tests.ext.rows import close, exact, hostile, largest

Z, TARGET = hostile(5003)
OWN = Z.gather(1, TARGET[:, None])[:, 0]
K = 6
WANTED = exact(Z, TARGET, K)
KINDS = [tk.Accumulator, reference.Accumulator]


def fill(kind: type, cuts: list[int], *, threads: int = 1) -> object:
    state = kind(len(Z), K)
    for first, end in pairwise(cuts):
        if end > first:
            state.update(Z[:, first:end], first, TARGET, OWN, threads=threads)
    return state


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 5003), max_size=6),
    threads=st.integers(1, 3),
    order=st.randoms(use_true_random=False),
)
def test_any_split_in_any_order(kind: type, cuts: list[int], threads: int, order: object) -> None:
    bounds = sorted({0, 5003, *cuts})
    shards = [fill(kind, [first, end], threads=threads) for first, end in pairwise(bounds)]
    order.shuffle(shards)  # type: ignore[attr-defined]
    whole = shards[0]
    for shard in shards[1:]:
        whole.merge(shard)  # type: ignore[attr-defined]
    close(whole.finish(), WANTED, scale=largest(Z), factor=3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_one_after_the_other(kind: type) -> None:
    state = fill(kind, [0, 1, 2, 700, 2048, 4097, 5003])
    close(state.finish(), WANTED, scale=largest(Z), factor=3)  # type: ignore[attr-defined]


def test_each_instruction_set(isa: str) -> None:
    close(fill(tk.Accumulator, [0, 999, 5003]).finish(), WANTED, scale=largest(Z), factor=3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_added_yet(kind: type) -> None:
    found = kind(2, 1).finish()
    assert found.logz.tolist() == [-torch.inf] * 2
    assert found.rank.tolist() == [-1, -1]
    assert bool(found.entropy.isnan().all())


def test_the_target_itself_is_not_counted() -> None:
    """Its logit may come from another sum: one bit more must not make it larger than itself."""
    z = torch.tensor([[1.0, 5.0, 3.0]])
    for nudge in (-1e-6, 0.0, 1e-6):
        state = tk.Accumulator(1, 1)
        state.update(z, 0, torch.tensor([1]), torch.tensor([5.0 + nudge]))
        found = state.finish()
        assert (int(found.rank), int(found.ties)) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_said(kind: type) -> None:
    state = kind(2, 3)
    with pytest.raises(ValueError, match="into itself"):
        state.merge(state)
    with pytest.raises(ValueError, match="same rows and k"):
        state.merge(kind(3, 3))
    with pytest.raises(ValueError, match="row for each"):
        state.update(torch.zeros(3, 4), 0, torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    with pytest.raises(ValueError, match="negative"):
        state.update(torch.zeros(2, 4), -1, torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    with pytest.raises(ValueError, match="negative"):
        kind(-1, 0)
