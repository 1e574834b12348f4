"""The twin reads the attention that eager computes, cuts edges, and shares every weight."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from engine.errors import UserError
from engine.twin import Fold, Knockout, as_knockouts, folded, make_twin
from tests.engine.tiny import FAMILIES, tiny_ids, tiny_model

T = 24


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def pair(family: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return a twin, and an independent copy of its model that attends eagerly."""
    eager = tiny_model(family)
    eager.set_attn_implementation("eager")
    return make_twin(tiny_model(family)), eager


def eager_attention(family: str, ids: list[int], **inputs: Any) -> tuple[Tensor, Tensor]:
    """Return eager's attentions [L, H, T, T] and logits [T, V]."""
    with torch.no_grad():
        output = pair(family)[1](
            torch.tensor([ids]), output_attentions=True, use_cache=False, **inputs
        )
    return torch.stack([a[0] for a in output.attentions]), output.logits[0]


def run(family: str, ids: list[int], fold: Fold) -> Tensor:
    with torch.no_grad():
        return folded(pair(family)[0], {"input_ids": torch.tensor([ids])}, fold).logits[0]


def summed(attentions: Tensor) -> Tensor:
    """Add heads, then layers, in float32, as the fold does."""
    total = torch.zeros(attentions.shape[-2:])
    for layer in attentions:
        total += layer.sum(0)
    return total


@pytest.mark.parametrize("family", [*FAMILIES, "cohere", "granite"])
@pytest.mark.parametrize("length", [1, T, 100])
def test_equals_eager_bit_for_bit(family: str, length: int) -> None:
    ids = tiny_ids(length)
    attentions, logits = eager_attention(family, ids)
    fold = Fold(length)
    assert torch.equal(run(family, ids, fold), logits)
    layers, heads = attentions.shape[:2]
    assert torch.equal(fold.result(), summed(attentions) / (layers * heads))
    torch.testing.assert_close(fold.result(), attentions.mean((0, 1)), rtol=0, atol=2e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_block_size_does_not_matter(family: str) -> None:
    ids = tiny_ids(T)
    whole = Fold(T)
    logits = run(family, ids, whole)
    for rows in (1, 7, 16, 1000):
        fold = Fold(T, block_rows=rows)
        # Matrix products of other shapes round otherwise: one or two units in the last place.
        torch.testing.assert_close(run(family, ids, fold), logits, rtol=0, atol=2e-5)
        torch.testing.assert_close(fold.result(), whole.result(), rtol=0, atol=1e-6)


def test_chosen_layers_heads_and_reductions() -> None:
    ids = tiny_ids(T)
    attentions, _ = eager_attention("llama", ids)
    fold = Fold(T, layers=frozenset((0, 2)), heads=(1, 3))
    run("llama", ids, fold)
    chosen = attentions[[0, 2]][:, [1, 3]]
    assert torch.equal(fold.result(), summed(chosen) / 4)
    fold = Fold(T, layers=frozenset((0, 2)), reduce="max")
    run("llama", ids, fold)
    assert torch.equal(fold.result(), attentions[[0, 2]].amax((0, 1)))
    fold = Fold(T, reduce="sum", heads=(0,))
    run("llama", ids, fold)
    assert torch.equal(fold.result(), summed(attentions[:, :1]))
    fold = Fold(T, keep="heads", block_rows=7)
    run("llama", ids, fold)
    torch.testing.assert_close(fold.result(), attentions, rtol=0, atol=1e-6)
    fold = Fold(T, keep="layers", layers=frozenset((1,)))
    run("llama", ids, fold)
    torch.testing.assert_close(fold.result(), attentions[1:2].mean(1), rtol=0, atol=1e-7)


def test_blocks_are_visited_in_order_and_not_added_up() -> None:
    ids = tiny_ids(T)
    attentions, logits = eager_attention("llama", ids)
    seen: dict[int, list[Tensor]] = {}

    def visit(layer: int, start: int, weights: Tensor) -> None:
        blocks = seen.setdefault(layer, [])
        assert start == sum(block.shape[1] for block in blocks)
        blocks.append(weights)

    fold = Fold(T, layers=frozenset((0, 2)), heads=(1, 3), block_rows=7, visit=visit)
    torch.testing.assert_close(run("llama", ids, fold), logits, rtol=0, atol=2e-5)
    assert list(seen) == [0, 2]
    for layer, blocks in seen.items():
        wanted = attentions[layer][[1, 3]]
        torch.testing.assert_close(torch.cat(blocks, 1), wanted, rtol=0, atol=1e-6)
    assert fold.total is None


def test_orientation_is_query_then_key() -> None:
    fold = Fold(T)
    run("gpt2", tiny_ids(T), fold)
    weights = fold.result()
    assert torch.equal(weights, weights.tril())
    torch.testing.assert_close(weights.sum(1), torch.ones(T))
    assert float(weights[0, 0]) == 1.0


def test_sliding_window_is_seen() -> None:
    fold = Fold(T)
    run("mistral", tiny_ids(T), fold)
    weights = fold.result()
    assert float(weights[20, 20 - 8]) == 0.0
    assert float(weights[20, 20 - 7]) > 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_edge_is_out(family: str) -> None:
    ids = tiny_ids(T)
    plain = Fold(T)
    before = run(family, ids, plain)
    cut = Fold(T, cuts=as_knockouts([(10, 9), (T - 1, T - 2)], T), block_rows=7)
    after = run(family, ids, cut)
    assert float(cut.result()[10, 9]) == 0.0
    assert float(cut.result()[T - 1, T - 2]) == 0.0
    torch.testing.assert_close(cut.result().sum(1), torch.ones(T))
    assert not bool(after.isnan().any())
    # Nothing before the first cut row can know of it.
    torch.testing.assert_close(after[:10], before[:10], rtol=0, atol=2e-5)
    assert float((after[10] - before[10]).abs().max()) > 1e-4


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_cut_equals_eager_under_a_custom_mask(family: str) -> None:
    ids = tiny_ids(8)
    least = torch.finfo(torch.float32).min
    mask = torch.full((1, 1, 8, 8), least).triu(1)
    mask[..., 5, 3] = least
    mask[..., 7, 0] = least
    wanted, logits = eager_attention(family, ids, attention_mask=mask)
    fold = Fold(8, cuts=as_knockouts([(5, 3), (7, 0)], 8))
    assert torch.equal(run(family, ids, fold), logits)
    torch.testing.assert_close(fold.result(), wanted.mean((0, 1)), rtol=0, atol=1e-7)


def test_cuts_in_chosen_layers_and_heads() -> None:
    ids = tiny_ids(T)
    attentions, _ = eager_attention("llama", ids)
    fold = Fold(T, cuts=as_knockouts([(5, 2, 1, 3)], T), keep="heads")
    run("llama", ids, fold)
    kept = fold.result()
    assert float(kept[1, 3, 5, 2]) == 0.0
    assert bool((kept[1, :3, 5, 2] > 0).all())
    assert torch.equal(kept[0], attentions[0])
    assert torch.equal(kept[1, :3], attentions[1, :3])
    edges = torch.zeros(T, T, dtype=torch.bool)
    edges[5, 2] = True
    fold = Fold(T, cuts=as_knockouts(Knockout(edges, frozenset((2,))), T), keep="layers")
    run("llama", ids, fold)
    assert [float(x) == 0.0 for x in fold.result()[:, 5, 2]] == [False, False, True]


def test_a_row_without_edges_is_zero_and_no_nan() -> None:
    edges = torch.zeros(T, T, dtype=torch.bool)
    edges[4] = True
    edges[0, 0] = True
    fold = Fold(T, cuts=as_knockouts(edges, T))
    logits = run("llama", tiny_ids(T), fold)
    assert not bool(logits.isnan().any())
    sums = fold.result().sum(1)
    assert float(sums[4]) == float(sums[0]) == 0.0
    torch.testing.assert_close(sums[5:], torch.ones(T - 5))


def test_knockouts_are_checked() -> None:
    with pytest.raises(UserError, match="positions go from 0 to 3"):
        as_knockouts([(4, 0)], 4)
    with pytest.raises(UserError, match="4 by 4"):
        as_knockouts(torch.zeros(3, 4, dtype=torch.bool), 4)
    with pytest.raises(UserError, match="boolean"):
        as_knockouts(torch.zeros(4, 4), 4)
    assert as_knockouts(None, 4) == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_every_weight_and_leaves_the_model_alone(family: str) -> None:
    model = tiny_model(family).requires_grad_(False)
    implementation = model.config._attn_implementation
    config = model.config.to_dict()
    twin = make_twin(model)
    own = dict(model.named_parameters(remove_duplicate=False))
    shared = dict(twin.named_parameters(remove_duplicate=False))
    assert own.keys() == shared.keys()
    assert all(own[name] is shared[name] for name in own)
    assert not any(p.requires_grad for p in own.values())
    assert model.config._attn_implementation == implementation
    assert model.config.to_dict() == config
    assert type(twin) is type(model)
    assert not twin.training
    assert not any(t.is_meta for t in (*twin.buffers(), *twin.parameters()))


def test_half_precision_equals_eager() -> None:
    for family in FAMILIES:
        eager = tiny_model(family).to(torch.bfloat16)
        twin = make_twin(eager)
        eager.set_attn_implementation("eager")
        ids = torch.tensor([tiny_ids(T)])
        with torch.no_grad():
            wanted = eager(ids, output_attentions=True, use_cache=False)
            fold = Fold(T)
            logits = folded(twin, {"input_ids": ids}, fold).logits
        assert torch.equal(logits, wanted.logits), family
        total = torch.zeros(T, T)
        for layer in wanted.attentions:
            total += layer[0].float().sum(0)
        assert torch.equal(fold.result(), total / fold.added), family


class Largest(TorchDispatchMode):
    """Remembers the largest tensor any operation made, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // 4)
        return result


def test_memory_stays_at_one_map() -> None:
    length = 240
    twin, _ = pair("llama")
    fold = Fold(length, block_rows=16)
    with torch.no_grad(), Largest() as largest:
        # The decoder alone: logits over the vocabulary are no part of this.
        folded(twin.get_decoder(), {"input_ids": torch.tensor([tiny_ids(length)])}, fold)
    # Layers times heads times T times T would be twelve times as much.
    assert largest.elements <= length * length


def test_gradients_and_forward_mode_pass_through() -> None:
    twin, eager = pair("llama")
    ids = torch.tensor([tiny_ids(T)])
    embedded = twin.get_input_embeddings()(ids).detach()
    gradients = []
    for network in (twin, eager):
        leaf = embedded.clone().requires_grad_()
        network(inputs_embeds=leaf, use_cache=False).logits[0, -1, 5].backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    direction = torch.ones_like(embedded)

    def logit(values: Tensor) -> Tensor:
        return twin(inputs_embeds=values, use_cache=False).logits[0, -1, 5]

    _, change = torch.func.jvp(logit, (embedded,), (direction,))
    torch.testing.assert_close(change, (gradients[0] * direction).sum(), rtol=1e-4, atol=1e-5)


def test_a_watcher_gets_what_attention_is_given() -> None:
    """Scores of its queries and keys, its scaling and mask, are the weights that are folded."""
    seen: list[tuple[Any, ...]] = []
    fold = Fold(T, keep="heads", watch=lambda *given: seen.append(given))
    run("mistral", tiny_ids(T), fold)
    assert [module.layer_idx for module, *_ in seen] == [0, 1, 2]
    for (_, query, key, value, mask, scaling, softcap), weights in zip(
        seen, fold.result(), strict=True
    ):
        assert (query.shape[1], key.shape[1], value.shape[1], softcap) == (4, 2, 2, None)
        scores = query[0] @ key[0].repeat_interleave(2, 0).transpose(1, 2) * scaling + mask[0]
        torch.testing.assert_close(scores.softmax(-1), weights, rtol=0, atol=1e-6)
