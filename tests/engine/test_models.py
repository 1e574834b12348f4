"""Loaded models: hidden states lead to the model's own logits, and nothing is left changed."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import engine.models
from engine.catalogue import Profile, fingerprint, locate
from engine.errors import UserError
from engine.hidden import HIDDEN, HiddenStore
from engine.modelref import ModelRef
from engine.models import LoadedModel, ModelPool, load
from engine.sampling.generation import Sampler, sample
from tests.engine.tiny import BOS, CONTEXT, EOS, FAMILIES, tiny_folder, tiny_ids

IDS = tiny_ids(30)
SCALED = {
    "gemma2": "soft-caps its logits at 6",
    "cohere": "multiplies its logits by 0.25",
    "granite": "divides its logits by 4",
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fresh(source: str | Path, **options: Any) -> LoadedModel:
    found = locate(ModelRef.parse(str(source)).model_copy(update=options), Profile())
    return load(found, fingerprint(found))


@functools.cache
def loaded(family: str) -> LoadedModel:
    return fresh(tiny_folder(family))


def own_logits(model: LoadedModel, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return model.model(torch.tensor([ids]), use_cache=False).logits[0].float()


def state(model: LoadedModel) -> tuple[Any, ...]:
    """Return what must not change: weights, buffers, hooks, config, switches, attributes."""
    digest = hashlib.sha256()
    network = model.model
    for name, tensor in sorted((*network.named_parameters(), *network.named_buffers())):
        digest.update(f"{name} {tensor.data_ptr()} {tensor.requires_grad}".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training)
        for m in network.modules()
    ]
    attributes = [sorted(vars(module)) for module in network.modules()]
    config = json.dumps(network.config.to_dict(), default=str, sort_keys=True)
    forward = [module.__dict__.get("forward") for module in network.modules()]
    implementation = network.config._attn_implementation
    return digest.hexdigest(), hooks, attributes, config, forward, implementation


@pytest.mark.parametrize("family", [*FAMILIES, "cohere", "granite"])
def test_hidden_states_lead_to_the_logits(family: str) -> None:
    model = loaded(family)
    assert model.head_route
    hidden = model.hidden(IDS)
    assert hidden.shape == (len(IDS), model.head_weight.shape[1])
    own = own_logits(model, IDS)
    torch.testing.assert_close(model.logits(hidden), own, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.logits(hidden[3:5]), own[3:5], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.full_logits(IDS), own, rtol=0, atol=1e-5)
    # A shift by one position would be seen.
    assert float((model.logits(hidden)[1:] - own[:-1]).abs().max()) > 0.1
    assert model.vocab_size == own.shape[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_hidden_states_of_the_library(family: str) -> None:
    model = loaded(family)
    with torch.no_grad():
        wanted = model.model(torch.tensor([IDS]), output_hidden_states=True).hidden_states[-1][0]
    torch.testing.assert_close(model.hidden(IDS), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_changed(family: str) -> None:
    model = loaded(family)
    before = state(model)
    ids = [*IDS, 5]
    model.hidden(ids)
    model.logits(model.hidden(ids))
    model.full_logits(ids)
    model.attention(ids, layers=[1], knockout=[(3, 2)])
    model.hidden(ids, knockout=[(3, 2)])
    assert len(list(sample(model, ids, Sampler(max_new_tokens=2), range(2)))) > 0
    assert state(model) == before


def test_an_exception_inside_leaves_nothing() -> None:
    model = fresh(tiny_folder("llama"))
    before = state(model)
    attention = model.model.get_decoder().layers[1]

    def fail(module: nn.Module, inputs: Any) -> None:
        raise RuntimeError("inside")

    for call in (model.hidden, model.attention, model.full_logits):
        target = model.twin.get_decoder().layers[1] if call == model.attention else attention
        handle = target.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="inside"):
            call([9, 8, 7])
        handle.remove()
    assert state(model) == before
    assert not model.twin.get_output_embeddings()._forward_pre_hooks
    assert model.hidden([9, 8, 7]).shape[0] == 3


def test_one_forward_serves_several_requests() -> None:
    model = fresh(tiny_folder("qwen2"))
    assert model.forwards == 0
    first = model.hidden(IDS)
    assert model.hidden(tuple(IDS)) is first
    model.logits(first)
    assert model.forwards == 1
    model.hidden(IDS[:-1])
    assert model.forwards == 2
    model.attention(IDS)
    assert model.forwards == 3
    model.forward(input_ids=torch.tensor([IDS]))
    assert model.forwards == 4


def test_hidden_states_are_kept_by_bytes() -> None:
    store = HiddenStore(capacity=1000)
    for i in range(5):
        store.put((0, (i,)), torch.zeros(75))
        store.get((0, (0,)))
    assert [store.get((0, (i,))) is not None for i in range(5)] == [True, False, False, True, True]
    store.put((1, (0,)), torch.zeros(1000))
    assert store.get((1, (0,))) is None
    store.drop(0)
    assert store.get((0, (4,))) is None
    store.put((1, (1,)), torch.zeros(250))
    assert store.get((1, (1,))) is not None


def test_hidden_states_leave_with_their_model() -> None:
    model = fresh(tiny_folder("gpt2"))
    model.hidden(IDS)
    key = (model._serial, tuple(IDS))
    assert HIDDEN.get(key) is not None
    del model
    assert HIDDEN.get(key) is None


@pytest.mark.parametrize("family", sorted(SCALED))
def test_scaled_heads_are_named(family: str) -> None:
    with pytest.raises(UserError, match=SCALED[family]):
        loaded(family).require_plain_head()
    loaded("llama").require_plain_head()


def test_an_unknown_head_has_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.heads._SETTINGS", ())
    model = fresh(tiny_folder("gemma2"))
    assert not model.head_route
    with pytest.raises(UserError, match="choose another model"):
        model.logits(model.hidden(IDS))
    with pytest.raises(UserError, match="choose another model"):
        model.require_plain_head()
    torch.testing.assert_close(model.full_logits(IDS), own_logits(model, IDS))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str) -> None:
    for family in FAMILIES if dtype == "bfloat16" else ("llama", "gpt2"):
        model = fresh(tiny_folder(family), dtype=dtype)
        hidden = model.hidden(IDS)
        assert hidden.dtype == model.dtype == getattr(torch, dtype)
        logits = model.logits(hidden)
        assert logits.dtype == torch.float32
        # The same products in the same dtype: equal, not only close.
        torch.testing.assert_close(logits, own_logits(model, IDS), rtol=0, atol=0)
        # Rounded weights move logits of size 5 by a few hundredths.
        reference = own_logits(loaded(family), IDS)
        assert float((logits - reference).abs().mean()) < 0.1
        weights = model.attention(IDS)
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.sum(1), torch.ones(len(IDS)), rtol=0, atol=5e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_through_the_model(family: str) -> None:
    model = loaded(family)
    weights = model.attention(IDS)
    apart = model.attention(IDS, keep="heads")
    assert apart.shape == (model.layers, model.attention_heads, len(IDS), len(IDS))
    torch.testing.assert_close(apart.mean((0, 1)), weights, rtol=0, atol=1e-6)
    cut = model.hidden(IDS, knockout=[(9, 4)])
    torch.testing.assert_close(cut[:9], model.hidden(IDS)[:9], rtol=0, atol=2e-5)
    assert float((cut[9] - model.hidden(IDS)[9]).abs().max()) > 1e-4


def test_what_does_not_fit_is_refused() -> None:
    model = loaded("llama")
    reasons = {
        f"has 300 tokens; llama-0 reads at most {CONTEXT}": [5] * 300,
        "has no tokens": [],
        "id 259 is not in the vocabulary": [5, 259],
        "id -1 is not in the vocabulary": [5, -1],
    }
    for reason, ids in reasons.items():
        for call in (model.hidden, model.attention, model.full_logits):
            with pytest.raises(UserError, match=reason):
                call(ids)
    with pytest.raises(UserError, match="Choose layers between 0 and 2"):
        model.attention(IDS, layers=[3])
    with pytest.raises(UserError, match="Choose heads between 0 and 3"):
        model.attention(IDS, heads=[])


def test_keeping_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.twin.KEEP_BYTES", 1000)
    with pytest.raises(UserError, match="12 attention maps of 30 tokens"):
        loaded("llama").attention(IDS, keep="heads")


@pytest.mark.parametrize("family", ["gptj", "mamba"])
def test_attention_that_cannot_be_read_is_refused(family: str) -> None:
    model = loaded(family)
    own = own_logits(model, IDS)
    torch.testing.assert_close(model.logits(model.hidden(IDS)), own, rtol=0, atol=1e-5)
    for call in (lambda: model.attention(IDS), lambda: model.hidden(IDS, knockout=[(2, 1)])):
        with pytest.raises(UserError, match="choose another model"):
            call()


def test_loading_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    fresh(tiny_folder("opt"))
    assert capfd.readouterr() == ("", "")


def test_stop_ids() -> None:
    assert loaded("llama").eos_ids == (EOS,)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    for change in ({"num_hidden_layers": 4}, {"hidden_size": 64}, {"num_attention_heads": "x"}):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match="copy"):
            fresh(folder)


def test_missing_devices_are_refused() -> None:
    for device in ("cuda", "mps"):
        found = locate(ModelRef(source=str(tiny_folder("llama")), device=device), Profile())
        present = torch.cuda.is_available() if device == "cuda" else False
        if not present:
            with pytest.raises(UserError, match=f"no {device} device"):
                load(found, "x")


@functools.cache
def adapter_folder() -> Path:
    """Save a LoRA adapter of the tiny Llama with weights that matter."""
    from peft import LoraConfig, get_peft_model

    base = tiny_folder("llama")
    model = fresh(base).model
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    config.base_model_name_or_path = str(base)
    torch.manual_seed(0)
    adapted = get_peft_model(model, config)
    path = base.parent / "adapter"
    adapted.save_pretrained(path)
    with torch.no_grad():
        wanted = adapted.eval()(torch.tensor([IDS])).logits[0]
    save_file({"wanted": wanted.contiguous()}, path / "wanted.safetensors")
    return path


def test_adapter() -> None:
    path = adapter_folder()
    base = tiny_folder("llama")
    wanted = load_file(path / "wanted.safetensors")["wanted"]
    prints = {fingerprint(loaded("llama").located)}
    for source in (str(path), f"{base}+{path}"):
        model = fresh(source)
        assert type(model.model) is type(loaded("llama").model)
        assert not any("lora" in name for name, _ in model.model.named_modules())
        torch.testing.assert_close(model.full_logits(IDS), wanted, rtol=0, atol=2e-5)
        assert float((wanted - loaded("llama").full_logits(IDS)).abs().max()) > 0.05
        torch.testing.assert_close(model.attention(IDS).sum(1), torch.ones(len(IDS)))
        prints.add(model.fingerprint)
    assert len(prints) == 2
    assert fresh(f"{base}+{path}").name == "llama-0+adapter"


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name the base"):
        fresh(f"{tiny_folder('gpt2')}+{adapter_folder()}")
    other = Path(shutil.copytree(adapter_folder(), tmp_path / "other"))
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PROMPT_TUNING"}))
    with pytest.raises(UserError, match="cannot be merged"):
        fresh(other)


def test_pool_loads_once_and_lets_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    def counted(located: Any, name: str) -> LoadedModel:
        loads.append(name)
        return load(located, name)

    monkeypatch.setattr(engine.models, "load", counted)
    pool = ModelPool(max_models=2)
    found = {f: locate(ModelRef(source=str(tiny_folder(f))), Profile()) for f in FAMILIES[:3]}
    seen: list[LoadedModel] = []
    threads = [
        threading.Thread(target=lambda: seen.append(pool.get(found["gpt2"], "gpt2")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["gpt2"]
    assert all(model is seen[0] for model in seen)
    pool.get(found["llama"], "llama")
    pool.get(found["gpt2"], "gpt2")
    pool.get(found["qwen2"], "qwen2")
    assert len(pool) == 2
    assert pool.get(found["gpt2"], "gpt2") is seen[0]
    pool.get(found["llama"], "llama")
    assert loads == ["gpt2", "llama", "qwen2", "llama"]
    pool.clear()
    assert len(pool) == 0


def test_threads_do_not_mix() -> None:
    model = fresh(tiny_folder("llama"))
    texts = [tiny_ids(20, seed=i) for i in range(40)]
    wanted = [own_logits(model, ids) for ids in texts]
    right: list[int] = []

    def work(start: int) -> None:
        for i in range(start, len(texts), 8):
            weights = model.attention(texts[i], layers=[i % 3])
            # Takes the head's product outside the lock, beside another thread's hook on the head.
            logits = model.logits(model.hidden(texts[i]))
            assert torch.allclose(logits, wanted[i], atol=1e-5)
            assert torch.allclose(weights.sum(1), torch.ones(20))
            right.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(right) == list(range(40))


@pytest.mark.cuda
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_agrees_with_the_cpu(family: str) -> None:
    model = fresh(tiny_folder(family), device="cuda")
    logits = model.logits(model.hidden(IDS)).cpu()
    torch.testing.assert_close(logits, own_logits(loaded(family), IDS), rtol=1e-3, atol=1e-3)
    weights = model.attention(IDS, knockout=[(9, 4)]).cpu()
    wanted = loaded(family).attention(IDS, knockout=[(9, 4)])
    torch.testing.assert_close(weights, wanted, rtol=1e-3, atol=1e-4)


def test_tokenizer_puts_bos_in_front() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_folder("llama") / "tokenizer.json"))
    assert tokenizer.encode("hé\n").ids == [BOS, *"hé\n".encode()]
    assert tokenizer.get_vocab_size() == 259
