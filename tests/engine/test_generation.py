"""Samples: their number in the stream fixes them, their probabilities are the model's."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare, kstest
from torch import Tensor

from engine.catalogue import Profile, locate
from engine.errors import UserError
from engine.modelref import ModelRef
from engine.models import LoadedModel, load
from engine.sampling.generation import (
    Continuation,
    Sampler,
    from_table,
    inverse,
    kept,
    sample,
    to_table,
    uniforms,
)
from tests.engine.tiny import CONTEXT, EOS, FAMILIES, PAD, tiny_folder, tiny_ids, walked

PROMPT = tiny_ids(12)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def loaded(family: str, dtype: Any = "float32") -> LoadedModel:
    ref = ModelRef(source=str(tiny_folder(family)), dtype=dtype)
    return load(locate(ref, Profile()), family)


def draw(
    family: str, sampler: Sampler, indices: Sequence[int], prompt: Sequence[int] = PROMPT, **kw: Any
) -> dict[int, Continuation]:
    batches = sample(loaded(family), prompt, sampler, indices, **kw)
    return {c.index: c for batch in batches for c in batch}


def ids_of(drawn: dict[int, Continuation]) -> dict[int, tuple[int, ...]]:
    return {index: drawn[index].ids for index in sorted(drawn)}


@pytest.mark.parametrize("family", walked("llama", "gemma2", "opt"))
def test_greedy_equals_generate(family: str) -> None:
    model = loaded(family)
    wanted = model.model.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        do_sample=False,
        max_new_tokens=16,
        pad_token_id=PAD,
    )[0, len(PROMPT) :].tolist()
    drawn = draw(family, Sampler(temperature=0, max_new_tokens=16), [4, 2])
    assert ids_of(drawn) == {2: tuple(wanted), 4: tuple(wanted)}


@pytest.mark.parametrize("family", walked("llama", "mistral", "gemma2", "opt"))
def test_samples_depend_on_their_number_only(family: str) -> None:
    sampler = Sampler(max_new_tokens=8, seed=7)
    whole = draw(family, sampler, range(6))
    assert draw(family, sampler, range(2)) == {i: whole[i] for i in range(2)}
    for rows in (1, 5):
        # Their log-probabilities too: not a bit depends on the batch.
        assert draw(family, sampler, range(6), batch_rows=rows) == whole
    assert draw(family, sampler, [5, 3]) == {i: whole[i] for i in (3, 5)}
    assert len(set(ids_of(whole).values())) > 3
    other = draw(family, sampler.model_copy(update={"seed": 8}), range(4))
    assert ids_of(other) != {i: whole[i].ids for i in range(4)}


@pytest.mark.slow
def test_many_samples_depend_on_their_number_only() -> None:
    sampler = Sampler(max_new_tokens=60, seed=1)
    whole = draw("llama", sampler, range(300))
    for rows in (7, 33, 64):
        assert draw("llama", sampler, range(300), batch_rows=rows) == whole


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_the_plain_models(family: str) -> None:
    model = loaded(family)
    sampler = Sampler(temperature=0.7, top_k=20, max_new_tokens=10, seed=1)
    for drawn in draw(family, sampler, range(3)).values():
        plain = model.full_logits([*PROMPT, *drawn.ids]).log_softmax(-1)
        for step, (token, logprob) in enumerate(zip(drawn.ids, drawn.logprobs, strict=True)):
            # The logits of position t − 1 predict token t.
            assert logprob == pytest.approx(float(plain[len(PROMPT) - 1 + step, token]), abs=1e-4)


def test_first_tokens_follow_the_distribution() -> None:
    count = 4000
    sampler = Sampler(temperature=1.3, top_p=0.9, max_new_tokens=1, seed=11)
    drawn = draw("llama", sampler, range(count))
    observed = np.bincount([c.ids[0] for c in drawn.values()], minlength=259)
    logits = loaded("llama").full_logits(PROMPT)[-1].double()
    expected = torch.softmax(logits / 1.3, -1)[None]
    expected = expected * kept(expected, sampler)
    expected = (expected / expected.sum()).numpy()[0] * count
    assert observed[expected == 0].sum() == 0
    possible = expected > 0
    assert expected[possible].min() >= 5
    assert chisquare(observed[possible], expected[possible]).pvalue > 0.01


def test_stops_and_lengths() -> None:
    sampler = Sampler(max_new_tokens=20, seed=2, temperature=1.5)
    drawn = draw("qwen2", sampler, range(40))
    stopped = [c for c in drawn.values() if c.finish == "stop"]
    assert stopped
    assert all(c.ids[-1] == EOS and EOS not in c.ids[:-1] for c in stopped)
    cut = [c for c in drawn.values() if c.finish == "length"]
    assert all(len(c.ids) == 20 for c in cut)
    assert all(len(c.ids) == len(c.logprobs) for c in drawn.values())
    never = draw("qwen2", sampler.model_copy(update={"stop_ids": ()}), range(40))
    assert all(len(c.ids) == 20 and c.finish == "length" for c in never.values())
    # Until its stop, a sample is the same with and without the stop.
    assert all(never[c.index].ids[: len(c.ids)] == c.ids for c in drawn.values())


@pytest.mark.parametrize("family", ["llama", "mistral", "opt"])
def test_the_context_is_the_longest(family: str) -> None:
    long = tiny_ids(CONTEXT - 3)
    sampler = Sampler(max_new_tokens=10, stop_ids=())
    drawn = draw(family, sampler, range(2), prompt=long)
    assert {len(c.ids) for c in drawn.values()} == {3}
    assert {c.finish for c in drawn.values()} == {"length"}
    full = draw(family, sampler, range(2), prompt=tiny_ids(CONTEXT))
    assert full == {i: Continuation(i, (), (), "length") for i in range(2)}
    with pytest.raises(UserError, match="shorten it"):
        draw(family, sampler, range(2), prompt=tiny_ids(CONTEXT + 1))


def test_the_prompt_is_read_once_and_finished_rows_leave() -> None:
    model = loaded("llama")
    before = model.forwards
    drawn = draw("llama", Sampler(max_new_tokens=5, stop_ids=()), range(6), batch_rows=3)
    assert len(drawn) == 6
    # One for the prompt; the first tokens need none, then four steps for each batch.
    assert model.forwards - before == 1 + 2 * 4


def test_closing_leaves_the_model_usable() -> None:
    model = loaded("llama")
    sampler = Sampler(max_new_tokens=60, temperature=2.0, stop_ids=tuple(range(20)))
    batches = sample(model, PROMPT, sampler, range(50))
    first = next(batches)
    assert first
    assert torch.is_grad_enabled()
    assert model.lock.acquire(blocking=False)
    model.lock.release()
    batches.close()
    assert ids_of(draw("llama", sampler, [first[0].index])) == {first[0].index: first[0].ids}


def test_a_slow_model_still_yields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.sampling.generation.CANCEL_SECONDS", 0.0)
    batches = list(sample(loaded("llama"), PROMPT, Sampler(max_new_tokens=4, stop_ids=()), [0]))
    assert [len(batch) for batch in batches] == [0, 0, 0, 1]


def test_models_with_another_state_are_refused() -> None:
    with pytest.raises(UserError, match="attention only"):
        draw("mamba", Sampler(max_new_tokens=2), [0])


def test_padded_ids_are_never_drawn() -> None:
    model = loaded("gpt2")
    try:
        model.real_vocab = 40
        sampler = Sampler(max_new_tokens=8, temperature=3.0)
        drawn = draw("gpt2", sampler, range(20))
        assert max(max(c.ids) for c in drawn.values()) < 40
        plain = model.full_logits(PROMPT)[-1, :40].log_softmax(-1)
        assert drawn[0].logprobs[0] == pytest.approx(float(plain[drawn[0].ids[0]]), abs=1e-4)
    finally:
        model.real_vocab = model.vocab_size


def test_half_precision_samples() -> None:
    model = loaded("qwen3", "bfloat16")
    sampler = Sampler(max_new_tokens=12, seed=5)
    drawn = [c for batch in sample(model, PROMPT, sampler, range(6)) for c in batch]
    assert len(drawn) == 6
    for c in drawn:
        plain = model.full_logits([*PROMPT, *c.ids]).log_softmax(-1)
        for step, (token, logprob) in enumerate(zip(c.ids, c.logprobs, strict=True)):
            assert logprob == pytest.approx(float(plain[len(PROMPT) - 1 + step, token]), abs=0.3)


def reference(probabilities: Tensor, sampler: Sampler) -> list[bool]:
    """Say the filters again, slowly: sorted by probability, ties by id."""
    values = probabilities.tolist()
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[: sampler.top_k]
    if sampler.top_p is not None and sampler.top_p < 1:
        mass, total, chosen = 0.0, sum(values[i] for i in order), []
        for i in order:
            if mass >= sampler.top_p * total:
                break
            chosen.append(i)
            mass += values[i]
        order = chosen or order[:1]
    if sampler.min_p:
        order = [i for i in order if values[i] >= sampler.min_p * values[order[0]]]
    return [i in order for i in range(len(values))]


@given(
    weights=st.lists(st.integers(0, 16), min_size=1, max_size=12).filter(any),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.none() | st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    min_p=st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
@settings(deadline=None)
def test_filters(weights: list[int], top_k: Any, top_p: Any, min_p: Any) -> None:
    # Sixteenths add up exactly, so that a border is met or not without rounding.
    probabilities = torch.tensor([weights], dtype=torch.float64) / 16
    sampler = Sampler(top_k=top_k, top_p=top_p, min_p=min_p)
    assert kept(probabilities, sampler)[0].tolist() == reference(probabilities[0], sampler)


def test_filters_by_hand() -> None:
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64)
    assert kept(p, Sampler(top_k=2))[0].tolist() == [False, True, False, True]
    assert kept(p, Sampler(top_p=0.65))[0].tolist() == [False, True, False, True]
    assert kept(p, Sampler(top_p=0.75))[0].tolist() == [False, True, True, True]
    assert kept(p, Sampler(top_p=1e-9))[0].tolist() == [False, True, False, False]
    assert kept(p, Sampler(min_p=0.5))[0].tolist() == [False, True, True, True]
    # Top-p works on what top-k left, renormalised: 0.4 is already half of 0.7.
    assert kept(p, Sampler(top_k=2, top_p=0.55))[0].tolist() == [False, True, False, False]


def test_inverse_distribution_function() -> None:
    p = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]], dtype=torch.float64)
    draws = [0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53]
    found = inverse(p.expand(6, -1), torch.tensor(draws, dtype=torch.float64))
    assert found[:, 0].tolist() == [1, 1, 3, 3, 4, 4]


def test_uniforms_are_counted() -> None:
    whole = uniforms(3, PROMPT, range(50), 40)
    assert whole.shape == (50, 40)
    assert np.array_equal(uniforms(3, PROMPT, [17], 10)[0], whole[17, :10])
    assert not np.array_equal(uniforms(4, PROMPT, [17], 10)[0], whole[17, :10])
    assert not np.array_equal(uniforms(3, PROMPT[:-1], [17], 10)[0], whole[17, :10])
    assert len(np.unique(whole)) == whole.size
    assert kstest(whole.ravel(), "uniform").pvalue > 0.01
    # Written down once: stored samples must stay what they are.
    assert uniforms(0, [1, 2, 3], [0, 5], 2).tolist() == PINNED


PINNED = [[0.9420913741869217, 0.4687318942716392], [0.39525368018789064, 0.9107846074404963]]


def test_tables_round_trip() -> None:
    drawn = draw("llama", Sampler(max_new_tokens=6), range(4))
    drawn[9] = Continuation(9, (), (), "length")
    assert from_table(to_table(drawn.values())) == drawn
    assert from_table(to_table([])) == {}


def test_samplers_are_checked() -> None:
    for bad in (
        {"temperature": -1},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": 2},
        {"max_new_tokens": 0},
        {"seed": -1},
        {"beams": 4},
    ):
        with pytest.raises(ValidationError):
            Sampler(**bad)


@pytest.mark.cuda
def test_cuda_draws_the_same() -> None:
    ref = ModelRef(source=str(tiny_folder("llama")), device="cuda")
    model = load(locate(ref, Profile()), "cuda")
    sampler = Sampler(max_new_tokens=8, seed=7)
    drawn = {c.index: c.ids for batch in sample(model, PROMPT, sampler, range(8)) for c in batch}
    assert drawn == ids_of(draw("llama", sampler, range(8)))
