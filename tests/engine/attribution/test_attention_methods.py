"""Attention, its rollout, value zeroing: by eager attention and by brute force, in ten families."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.attribution import zeroing
from engine.errors import UserError
from tests.engine.attribution import toys
from tests.engine.tiny import FAMILIES, tiny_model

TRACE = toys.text("Who, 3?", " Me.")
SPECIAL = {"targets": "9:11", "special": True}


def eager(model: Any, ids: Any) -> np.ndarray:
    """Attention weights of all layers and heads, [L, H, T, T]."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            found = model(torch.tensor([list(ids)]), output_attentions=True).attentions
    finally:
        model.set_attn_implementation(before)
    return torch.cat(found).numpy()


def brute_mixing(family: str, model: Any, ids: Any) -> list[np.ndarray]:
    """Value zeroing by hooks on the value projection of one layer, in whole forwards.

    Sequence *t* of the batch misses the value of token *t*, the last one misses none.
    """
    ends = {"gpt2": "c_attn", "gpt_neox": "query_key_value"}.get(family, "v_proj")
    values = [m for n, m in model.named_modules() if n.endswith(ends)]
    layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 3)
    every, heads = range(len(ids)), model.config.num_attention_heads
    seen: list[Any] = []

    def zero(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        output = output.clone()
        for token in every:
            if family == "gpt2":
                output[token, token, 2 * output.shape[-1] // 3 :] = 0
            elif family == "gpt_neox":
                output.view(*output.shape[:2], heads, 3, -1)[token, token, :, 2] = 0
            else:
                output[token, token] = 0
        return output

    made = []
    for value, layer in zip(values, layers, strict=True):
        handles = [
            value.register_forward_hook(zero),
            layer.register_forward_hook(lambda _, __, out: seen.append(out)),
        ]
        with torch.no_grad():
            model(torch.tensor([list(ids)] * (len(ids) + 1)), use_cache=False)
        for handle in handles:
            handle.remove()
        output = seen.pop()
        output = (output[0] if isinstance(output, tuple) else output).double()
        turned = 1 - nn.functional.cosine_similarity(output[:-1], output[-1:], -1).T.numpy()
        made.append(turned / turned.sum(1, keepdims=True))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_families(family: str) -> None:
    """Grouped queries, sliding windows, soft-caps, fused values; rows 8 and 9 predict 9 and 10."""
    model = toys.loaded(family, torch.float32)
    ids = TRACE.ids[:10]
    weights = eager(model.model, ids)
    attention = toys.run("attribution.attention", model, TRACE, **SPECIAL)
    found = np.nan_to_num(attention.matrix())
    np.testing.assert_allclose(found, weights.mean((0, 1))[8:10], atol=1e-5)
    one = toys.run("attribution.attention", model, TRACE, layer=-1, **SPECIAL)
    np.testing.assert_allclose(np.nan_to_num(one.matrix()), weights[-1].mean(0)[8:10], atol=1e-5)

    rolled = np.eye(10)
    for layer in weights.mean(1):
        rolled = (layer + np.eye(10)) / 2 @ rolled
    rollout = toys.run("attribution.attention_rollout", model, TRACE, **SPECIAL).matrix()
    np.testing.assert_allclose(np.nan_to_num(rollout), rolled[8:10], atol=1e-5)
    np.testing.assert_allclose(np.nansum(rollout, 1), 1, atol=1e-6)

    first, second, third = brute_mixing(family, model.model, ids)
    zeroed = toys.run("attribution.value_zeroing", model, TRACE, **SPECIAL).matrix()
    np.testing.assert_allclose(np.nan_to_num(zeroed), (third @ second @ first)[8:10], atol=2e-4)
    np.testing.assert_allclose(np.nansum(zeroed, 1), 1, atol=1e-6)


def test_value_zeroing_in_closed_form() -> None:
    """Uniform attention over one layer: output i without token j misses v_j / (i + 1)."""
    model = toys.loaded(toys.linear())
    network, ids = model.model.model, list(TRACE.ids[:9])
    attention = network.layers[0].self_attn
    with torch.no_grad():
        embedded = network.embed_tokens.weight[ids]
        moved = embedded @ (attention.o_proj.weight @ attention.v_proj.weight).T / 9
        whole = embedded[8] + moved.sum(0)
        turned = 1 - nn.functional.cosine_similarity(whole[None], whole - moved).numpy()
    found = toys.run("attribution.value_zeroing", model, TRACE, targets="9", special=True)
    np.testing.assert_allclose(found.matrix()[0], turned / turned.sum(), rtol=1e-6)
    # The special token is read but not scored: the others keep their part.
    without = toys.run("attribution.value_zeroing", model, TRACE, targets="9")
    np.testing.assert_allclose(without.matrix()[0], found.matrix()[0][1:], rtol=1e-9)


def test_models_that_mix_nothing() -> None:
    """Each position is made of its own token alone: the one before the target."""
    narrow = tiny_model("mistral")
    narrow.config.sliding_window = 1  # every position attends to itself
    for network in (narrow, toys.deaf()):
        model = toys.loaded(network)
        found = toys.run("attribution.value_zeroing", model, TRACE, targets="9").matrix()[0]
        np.testing.assert_array_equal(found, np.eye(8)[-1])
    rollout = toys.run("attribution.attention_rollout", toys.loaded(narrow), TRACE, targets="9")
    np.testing.assert_allclose(rollout.matrix()[0], np.eye(8)[-1], atol=1e-12)


def test_segments_and_tokens_as_one() -> None:
    model = toys.loaded("llama", torch.float32)
    for name in ("attention", "attention_rollout", "value_zeroing"):
        method = f"attribution.{name}"
        tokens = toys.run(method, model, TRACE, targets="9:11").matrix()
        spans = {"granularity": "spans", "spans": "1:3,5:6"}
        parts = toys.run(method, model, TRACE, targets="9:11", **spans).matrix()
        wanted = np.stack([tokens[:, :2].sum(1), tokens[:, 4]], 1)
        np.testing.assert_allclose(parts, wanted, atol=1e-9)
        both = toys.run(method, model, TRACE, targets="9:11", together=True).matrix()
        np.testing.assert_allclose(both[0], tokens[:, :8].mean(0), atol=1e-9)
        # With a contrast of several tokens, too, the row is that of the text as it is.
        other = toys.run(method, model, TRACE, targets="9:11", contrast="abc").matrix()
        np.testing.assert_allclose(other, both, atol=1e-9)


def test_memory_and_a_failure_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toys.loaded("llama", torch.float32)
    whole = toys.run("attribution.value_zeroing", model, TRACE, targets="9")
    sizes = []
    real = zeroing._run

    def small(model: Any, layer: Any, states: Any, args: Any, named: Any, tokens: Any) -> Tensor:
        sizes.append(0 if tokens is None else len(tokens))
        if len(sizes) > 20:
            raise RuntimeError("stop")
        return real(model, layer, states, args, named, tokens)

    monkeypatch.setattr(zeroing, "_run", small)
    monkeypatch.setattr("engine.attribution.reading.Reader.batch_size", lambda *_, **__: 4)
    parts = toys.run("attribution.value_zeroing", model, TRACE, targets="9")
    assert max(sizes) == 4
    np.testing.assert_allclose(parts.matrix(), whole.matrix(), atol=1e-7)
    with pytest.raises(RuntimeError, match="stop"):
        toys.run("attribution.value_zeroing", model, TRACE, targets="9")
    network = zeroing._network(model)
    assert not toys.left_behind(network, model.model)
    assert zeroing._zeroed.get() is None
    assert model.model.config._attn_implementation == "sdpa"


def test_what_cannot_be_read_is_a_sentence() -> None:
    with pytest.raises(UserError, match="cannot be read: choose another model"):
        toys.run("attribution.value_zeroing", toys.loaded("gptj", torch.float32), TRACE)
    with pytest.raises(UserError, match="There is no layer 3: choose 0 to 2"):
        toys.run("attribution.attention", toys.loaded("llama", torch.float32), TRACE, layer=3)
