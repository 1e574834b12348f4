"""Prefixes of one sequence continued together: the same samples, whatever stands beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionMaskInterface

from engine.catalogue import Profile, locate
from engine.errors import UserError
from engine.loaded import LoadedModel
from engine.modelref import ModelRef
from engine.models import load
from engine.plan import PlannedModel
from engine.sampling import generation, prefixes, sharing, waves
from engine.sampling.draws import draw_rows
from engine.sampling.generation import (
    Continuation,
    Sampler,
    inverse,
    sample,
    sample_after,
    uniforms,
    weights,
)
from engine.workspace import Workspace
from tests.engine.test_generation import loaded
from tests.engine.tiny import CONTEXT, FAMILIES, PAD, tiny_folder, tiny_ids, walked

IDS = tiny_ids(30)
SAMPLER = Sampler(temperature=1.2, max_new_tokens=11, seed=3)
WANTED = {30: range(4), 1: range(4), 12: range(4, 8), 7: [2], 29: range(4)}
"""Coarse to fine, in no order; prefixes far longer than the tiny sliding windows, and one id."""

Drawn = dict[tuple[int, int], Continuation]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def together(
    model: LoadedModel,
    wanted: Mapping[int, Sequence[int]] = WANTED,
    sampler: Sampler = SAMPLER,
    ids: Sequence[int] = IDS,
    **kw: Any,
) -> Drawn:
    pairs = [p for batch in sample_after(model, ids, wanted, sampler, **kw) for p in batch]
    drawn = {(n, c.index): c for n, c in pairs}
    assert len(drawn) == len(pairs), "each sample once"
    return drawn


def one_by_one(
    model: LoadedModel,
    wanted: Mapping[int, Sequence[int]] = WANTED,
    sampler: Sampler = SAMPLER,
    ids: Sequence[int] = IDS,
) -> Drawn:
    return {
        (n, c.index): c
        for n, numbers in wanted.items()
        for batch in sample(model, ids[:n], sampler, numbers)
        for c in batch
    }


def same(
    model: LoadedModel, found: Drawn, right: Drawn, tolerance: float = 1e-4, **kw: Any
) -> None:
    """Assert equal samples; ids may part where a draw falls on the border between two of them."""
    assert found.keys() == right.keys()
    for key, c in right.items():
        pairs = list(zip(found[key].ids, c.ids, strict=False))
        upto = next((at for at, (a, b) in enumerate(pairs) if a != b), len(c.ids))
        if upto < len(c.ids):
            assert distance_to_border(model, key, c, upto, pairs[upto], **kw) < 1e-6, key
        else:
            assert found[key].ids == c.ids, key
            assert found[key].finish == c.finish, key
        assert found[key].logprobs[:upto] == pytest.approx(c.logprobs[:upto], abs=tolerance), key


def distance_to_border(
    model: LoadedModel,
    key: tuple[int, int],
    c: Continuation,
    at: int,
    chosen: tuple[int, int],
    sampler: Sampler = SAMPLER,
    ids: Sequence[int] = IDS,
) -> float:
    """How far the draw of the token at which two samples part is from where it would matter."""
    prefix = ids[: key[0]]
    logits = model.full_logits([*prefix, *c.ids[:at]])[-1:].double()
    ends = weights(logits.log_softmax(-1), sampler)[0].cumsum(0)
    draw = uniforms(sampler.seed, prefix, [key[1]], at + 1)[0, at]
    return abs(float(ends[min(chosen)] / ends[-1]) - draw)


@pytest.mark.parametrize("family", [*FAMILIES, "cohere", "granite"])
def test_samples_are_those_of_each_prefix_alone(family: str) -> None:
    model = loaded(family)
    assert prefixes.sharing_twin(model) is not None, "shared, not continued one by one"
    # More rows than places: waiting ones begin when others have ended.
    found = together(model, rows=8)
    same(model, found, one_by_one(model))
    assert len({c.ids for c in found.values()}) > 10


@pytest.mark.parametrize("family", walked("mistral", "gemma2"))
def test_neither_order_nor_number_of_rows_matters(family: str) -> None:
    model = loaded(family)
    wanted = {20: range(4), 1: range(4), 12: range(4, 8)}
    whole = together(model, wanted)
    for rows in (1, 5):
        same(model, together(model, wanted, rows=rows), whole)
    backwards = {n: list(reversed(wanted[n])) for n in reversed(wanted)}
    same(model, together(model, backwards), whole)
    same(model, together(model, {12: [5]}), {(12, 5): whole[12, 5]})


@pytest.mark.parametrize("family", walked("llama", "gemma2", "opt"))
def test_greedy_equals_generate(family: str) -> None:
    model = loaded(family)
    found = together(model, {5: [0, 3], 30: [1], 1: [0]}, Sampler(temperature=0, max_new_tokens=16))
    assert sorted(found) == [(1, 0), (5, 0), (5, 3), (30, 1)]
    assert found[5, 3].ids == found[5, 0].ids
    for (n, _), c in found.items():
        wanted = model.model.generate(
            torch.tensor([IDS[:n]]),
            attention_mask=torch.ones(1, n, dtype=torch.long),
            do_sample=False,
            max_new_tokens=16,
            pad_token_id=PAD,
        )[0, n:].tolist()
        assert list(c.ids) == wanted


def test_the_bundled_model_draws_the_same() -> None:
    from engine.gallery import gallery

    trace = next(item.trace for item in gallery() if item.name == "start" and item.trace)
    model = load(locate(ModelRef(source="demo"), Profile()), "demo")
    wanted = {n: range(6) for n in (trace.response_start, len(trace) - 1, trace.response_start + 9)}
    sampler = Sampler(max_new_tokens=60)
    found = together(model, wanted, sampler, trace.ids, rows=7)
    right = one_by_one(model, wanted, sampler, trace.ids)
    same(model, found, right, sampler=sampler, ids=trace.ids)
    assert all(c.finish == "stop" for c in found.values())


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 9}, {"top_p": 0.8}, {"min_p": 0.05}, {"top_k": 30, "top_p": 0.9}, {"stop_ids": ()}],
)
def test_samplers_mean_the_same(settings: dict[str, Any]) -> None:
    model = loaded("llama")
    sampler = SAMPLER.model_copy(update=settings)
    found = together(model, sampler=sampler, rows=6)
    same(model, found, one_by_one(model, sampler=sampler), sampler=sampler)


def test_logprobs_are_the_plain_models() -> None:
    model = loaded("mistral")
    for (n, _), c in together(model).items():
        plain = model.full_logits([*IDS[:n], *c.ids]).log_softmax(-1)
        for step, (token, logprob) in enumerate(zip(c.ids, c.logprobs, strict=True)):
            # The logits of position t − 1 predict token t.
            assert logprob == pytest.approx(float(plain[n - 1 + step, token]), abs=1e-4)


def test_long_suffixes_get_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "ROOM", 5)
    monkeypatch.setattr(sharing, "SCORE_BYTES", 4000)
    model = loaded("qwen2")
    wanted = {n: range(4) for n in (30, 2, 9)}
    same(model, together(model, wanted, rows=10), one_by_one(model, wanted))


def test_the_context_is_the_longest() -> None:
    ids = tiny_ids(CONTEXT)
    sampler = Sampler(max_new_tokens=10, stop_ids=())
    wanted = {CONTEXT: [0, 4], CONTEXT - 3: range(3), 20: [1]}
    for family in ("llama", "opt"):
        found = together(loaded(family), wanted, sampler, ids)
        assert {n: len(c.ids) for (n, _), c in found.items()} == {
            CONTEXT: 0,
            CONTEXT - 3: 3,
            20: 10,
        }
        assert found[CONTEXT, 4] == Continuation(4, (), (), "length")
        right = one_by_one(loaded(family), wanted, sampler, ids)
        same(loaded(family), found, right, sampler=sampler, ids=ids)


def test_nothing_wanted_and_nothing_there() -> None:
    model = loaded("llama")
    before = model.forwards
    assert together(model, {}) == together(model, {3: [], 9: []}) == {}
    assert model.forwards == before
    for n in (0, 31):
        with pytest.raises(UserError, match="between 1 and 30"):
            together(model, {n: [0]})


def test_the_sequence_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("llama")
    sampler = Sampler(max_new_tokens=5, stop_ids=())
    wanted = {n: range(3) for n in (4, 9, 20, 30)}
    whole = together(model, wanted, sampler)
    before = model.forwards
    together(model, wanted, sampler, rows=12)
    # The first tokens need no step, then four steps for all rows.
    assert model.forwards - before == 1 + 4
    before = model.forwards
    together(model, wanted, sampler, rows=6)
    assert model.forwards - before == 1 + 2 * 4
    # First predictions that do not fit in memory together are made when they are needed.
    monkeypatch.setattr(prefixes, "LOGITS_BYTES", 4 * model.vocab_size)
    before = model.forwards
    same(model, together(model, wanted, sampler, rows=12), whole, sampler=sampler)
    assert model.forwards - before == 4 + 4


def test_a_slow_model_still_yields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "CANCEL_SECONDS", 0.0)
    sampler = Sampler(max_new_tokens=4, stop_ids=())
    batches = list(sample_after(loaded("llama"), IDS, {9: [0], 5: [0]}, sampler))
    assert [len(batch) for batch in batches] == [0, 0, 2]


def test_closing_leaves_the_model_usable() -> None:
    model = loaded("llama")
    torch.set_num_threads(2)
    batches = sample_after(model, IDS, WANTED, SAMPLER, rows=6)
    next(batches)
    assert torch.get_num_threads() == 2, "one thread only while it works"
    torch.set_num_threads(1)
    assert torch.is_grad_enabled()
    assert sharing._active.get() is None
    assert model.lock.acquire(blocking=False)
    model.lock.release()
    batches.close()
    same(model, together(model), one_by_one(model))


@pytest.mark.parametrize("family", ["gptj", "mamba"])
def test_models_that_cannot_share(family: str) -> None:
    if family == "mamba":
        with pytest.raises(UserError, match="attention only"):
            together(loaded(family))
        return
    model = loaded(family)
    assert prefixes.sharing_twin(model) is None, "its attention cannot be replaced"
    wanted = {9: range(3), 4: range(3)}
    same(model, together(model, wanted), one_by_one(model, wanted))


def test_a_twin_that_predicts_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ModelRef(source=str(tiny_folder("mistral", seed=4)))
    model = load(locate(ref, Profile()), "mistral-4")
    # As if the model had not said that it sees eight tokens only.
    masks = AttentionMaskInterface._global_mapping
    monkeypatch.setitem(masks, sharing.SHARING, lambda **_: sharing.Reach(None))
    assert prefixes.sharing_twin(model) is None


def test_half_precision() -> None:
    model = loaded("qwen3", "bfloat16")
    assert prefixes.sharing_twin(model) is not None
    found = together(model, rows=9)
    assert len(found) == 17
    for (n, _), c in found.items():
        plain = model.full_logits([*IDS[:n], *c.ids]).log_softmax(-1)
        for step, (token, logprob) in enumerate(zip(c.ids, c.logprobs, strict=True)):
            assert logprob == pytest.approx(float(plain[n - 1 + step, token]), abs=0.3)


def test_memory_sets_the_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("llama")
    twin = prefixes.sharing_twin(model)
    assert twin is not None
    shared = prefixes.Shared(model, twin, tuple(IDS), [3])
    # Keys and values of 2 heads of 8, float32, 3 layers.
    assert shared.token_bytes == 2 * 2 * 8 * 4 * 3
    assert prefixes.fitting_rows(shared, 30, 100) == prefixes.MOST_ROWS
    monkeypatch.setattr(prefixes, "CACHE_BYTES", 384 * (30 + 100 * 20))
    assert prefixes.fitting_rows(shared, 30, 100) == 15
    monkeypatch.setattr(prefixes, "CACHE_BYTES", 0)
    assert prefixes.fitting_rows(shared, 30, 100) == 4


def test_suffixes_give_memory_back() -> None:
    held = sharing.Suffixes(np.array([5, 6, 7, 8]), 100, torch.device("cpu"))
    for step in range(3):
        new = torch.arange(4.0)[None, :, None] + 10 * step
        held.extend(0, new, -new)
        held.advance()
    assert held.keep(np.array([False, True, True, True])).tolist() == [3, 1, 2]
    assert held.lengths.tolist() == [8, 6, 7]
    assert held._layers[0][0].shape[0] == 3
    assert held.keep(np.array([True, False, True])).tolist() == [0, 2]
    keys, values = held.extend(0, torch.full((1, 2, 1), 99.0), torch.zeros(1, 2, 1))
    assert keys[:, 0, :, 0].tolist() == [[3, 13, 23, 99], [2, 12, 22, 99]]
    assert values[:, 0, :3, 0].tolist() == [[-3, -13, -23], [-2, -12, -22]]
    assert held._layers[0][0].shape[0] == 2


@pytest.mark.parametrize("vocab", [1, 2, 63, 64, 65, 1431])
def test_draws_invert_the_distribution_function(vocab: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = 6 * torch.randn(300, vocab, generator=generator)
    logits[:, ::7] = -200.0  # a probability that is 0 in float32
    logits[:, 0] = 0.0
    uniform = torch.rand(300, dtype=torch.float64, generator=generator).numpy()
    uniform[:3] = 0, 1 - 2**-53, 0.5
    plain = logits.double().log_softmax(-1)
    for sampler in (
        Sampler(),
        Sampler(temperature=0.6),
        Sampler(top_p=0.9),
        Sampler(temperature=0),
    ):
        ids, logs = draw_rows(logits, sampler, uniform)
        right = inverse(weights(plain, sampler), torch.as_tensor(uniform))[:, 0]
        agree = ids == right.numpy()
        assert agree[2:].all()
        assert plain[np.arange(300), ids].numpy() == pytest.approx(logs, abs=1e-6)
        # At the very ends rounding decides which id is the last possible one, never an impossible.
        assert (logs[:2] > -150).all()


# -- stored ------------------------------------------------------------------------------------


@pytest.fixture
def planned(workspace: Workspace, llama: str) -> PlannedModel:
    return workspace.plan_model(llama)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, list[int]]]:
    """What was drawn, call by call."""
    calls: list[dict[int, list[int]]] = []
    plain = generation.sample_after

    def counted(model: Any, ids: Any, wanted: Any, sampler: Any) -> Any:
        calls.append({n: list(numbers) for n, numbers in wanted.items()})
        return plain(model, ids, wanted, sampler)

    monkeypatch.setattr(generation, "sample_after", counted)
    return calls


def all_of(
    workspace: Workspace,
    planned: PlannedModel,
    wanted: Mapping[int, int],
    sampler: Sampler = SAMPLER,
) -> tuple[list[int], dict[int, list[Continuation]]]:
    counts, complete = [], {}
    for at_hand, done in workspace.samples_after(planned, IDS, wanted, sampler):
        counts.append(at_hand)
        assert not complete.keys() & done.keys(), "a prefix is complete once"
        complete.update(done)
    return counts, complete


def test_streams_are_those_of_samples(
    workspace: Workspace, planned: PlannedModel, asked: list[dict[int, list[int]]]
) -> None:
    alone = list(workspace.samples(planned, IDS[:9], SAMPLER, 4))[-1]
    counts, complete = all_of(workspace, planned, {9: 6, 30: 3, 1: 2, 5: 0})
    assert asked == [{9: [4, 5], 30: [0, 1, 2], 1: [0, 1]}]
    assert (counts[0], counts[-1]) == (4, 11)
    assert counts == sorted(counts)
    assert {n: [c.index for c in found] for n, found in complete.items()} == {
        5: [],
        9: [0, 1, 2, 3, 4, 5],
        30: [0, 1, 2],
        1: [0, 1],
    }
    assert complete[9][:4] == alone
    # All of it is there for whoever asks next, by either way.
    assert list(workspace.samples(planned, IDS[:30], SAMPLER, 3)) == [complete[30]]
    counts, again = all_of(workspace, planned, {1: 2, 9: 5})
    assert (counts, again) == ([7], {1: complete[1], 9: complete[9][:5]})
    assert len(asked) == 1


def test_a_closed_job_keeps_what_was_drawn(
    workspace: Workspace, planned: PlannedModel, asked: list[dict[int, list[int]]]
) -> None:
    # Many ids end a sample, so that they end one after the other.
    sampler = SAMPLER.model_copy(update={"stop_ids": tuple(range(20))})
    wanted = {30: 20, 9: 20}
    job = workspace.samples_after(planned, IDS, wanted, sampler)
    at_hand, done = next(job)
    while at_hand < 5:
        at_hand, done = next(job)
    assert not done
    job.close()
    counts, complete = all_of(workspace, planned, wanted, sampler)
    assert counts[0] == at_hand, "as many as were at hand"
    assert sum(map(len, asked[1].values())) == 40 - at_hand
    model = workspace.load(planned)
    right = one_by_one(model, {n: range(20) for n in wanted}, sampler)
    found = {(n, c.index): c for n, drawn in complete.items() for c in drawn}
    same(model, found, right, sampler=sampler)


def test_first_prefixes_are_complete_first(workspace: Workspace, planned: PlannedModel) -> None:
    model = workspace.load(planned)
    order = []
    wanted = {n: range(8) for n in (30, 4, 17, 9)}
    left = dict.fromkeys(wanted, 8)
    for batch in sample_after(model, IDS, wanted, SAMPLER, rows=waves.WAVE):
        for n, _ in batch:
            left[n] -= 1
            order += [n] if not left[n] else []
    assert order == list(wanted)


@pytest.mark.cuda
def test_cuda_draws_the_same() -> None:
    for family in ("llama", "mistral", "gemma2"):
        ref = ModelRef(source=str(tiny_folder(family)), device="cuda")
        model = load(locate(ref, Profile()), f"cuda-{family}")
        assert prefixes.sharing_twin(model) is not None
        same(loaded(family), together(model, rows=8), one_by_one(loaded(family)), 1e-3)
