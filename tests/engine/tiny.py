"""Tiny random models of every supported family, built from configs without any download.

``tiny_model("llama")`` builds one in memory; ``tiny_folder("llama")`` saves one as a safetensors
folder with a byte-level tokenizer, once per process; the folders go when the process ends.
Weights are drawn wide enough that predictions are far from uniform.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

FAMILIES = (
    "gpt2",
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma",
    "gemma2",
    "gpt_neox",
    "phi",
    "opt",
)
"""The families that tests walk through; ``gemma2`` has soft-caps, ``opt`` a projection out."""


def walked(*quick: str) -> list[Any]:
    """All families as parameters of a test; those not named here with ``pytest -m slow``."""
    marks = {family: [] if family in quick else [pytest.mark.slow] for family in FAMILIES}
    return [pytest.param(family, marks=marks[family]) for family in FAMILIES]


VOCABULARY = 259
"""256 bytes, then ``<bos>``, ``<eos>``, ``<pad>``."""

BOS, EOS, PAD = 256, 257, 258
CONTEXT = 256
WINDOW = 8
"""Sliding window of the tiny Mistral, Gemma 2 and (one layer of) Qwen2, in tokens."""

_GROUPED: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT},
    "llama": _GROUPED,
    "qwen2": {
        **_GROUPED,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 2,
    },
    "qwen3": {**_GROUPED, "head_dim": 8},
    "mistral": {**_GROUPED, "sliding_window": WINDOW, "head_dim": 8},
    "gemma": {**_GROUPED, "num_key_value_heads": 1, "head_dim": 16},
    "gemma2": {
        **_GROUPED,
        "head_dim": 8,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 6.0,
    },
    "gpt_neox": {**_GROUPED, "num_key_value_heads": None, "rotary_pct": 0.5},
    "phi": {**_GROUPED, "num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 16,
        "max_position_embeddings": CONTEXT,
    },
    "cohere": {**_GROUPED, "logit_scale": 0.25},
    "granite": {**_GROUPED, "logits_scaling": 4.0},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "rotary_dim": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}


def tiny_model(
    family: str, *, vocab: int = VOCABULARY, seed: int = 0, path: Path | None = None
) -> PreTrainedModel:
    """Return a random causal model of ``family`` in evaluation mode.

    Args:
        family: One of :data:`FAMILIES`, ``cohere`` or ``granite`` (scaled logits),
            ``gptj`` (attention outside transformers' interface) or ``mamba`` (no attention).
        vocab: Rows of the embedding; at least 259 when saved with its tokenizer.
        seed: Of the weights; the global generator is left as it was.
        path: Where to save it as a folder, if anywhere.
    """
    values = {k: v for k, v in _CONFIGS[family].items() if v is not None}
    special = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    if vocab < VOCABULARY:
        special = {"bos_token_id": 0, "eos_token_id": vocab - 1, "pad_token_id": vocab - 2}
    config = AutoConfig.for_model(family, vocab_size=vocab, **special, **values)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            norm = "norm" in name.lower() or ".ln_" in name
            if weight.ndim == 1 and norm and name.endswith("weight"):
                centre = 0.0 if family.startswith("gemma") else 1.0
                weight.normal_(centre, 0.1, generator=generator)
            elif "embed" in name or "wte" in name or "wpe" in name or "lm_head" in name:
                weight.normal_(0.0, 0.4, generator=generator)
            else:
                spread = 0.2 if weight.ndim == 1 else 1.2 / min(weight.shape) ** 0.5
                weight.normal_(0.0, spread, generator=generator)
    model.eval()
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(path)
        save_tokenizer(path)
    return model


def save_tokenizer(path: Path) -> None:
    """Write a byte-level tokenizer.json: id = byte, then the specials; BOS is put in front."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE

    alphabet = byte_alphabet()
    vocabulary = {symbol: byte for byte, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>", "<pad>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def byte_alphabet() -> list[str]:
    """Return GPT-2's printable character for each of the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}
    return [table[byte] for byte in range(256)]


@functools.cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="tokenscope-tiny-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


@functools.cache
def tiny_folder(family: str, seed: int = 0) -> Path:
    """Return a saved tiny model's folder, built once per process; never write into it."""
    path = _root() / f"{family}-{seed}"
    tiny_model(family, seed=seed, path=path)
    return path


def tiny_ids(length: int = 24, seed: int = 0) -> list[int]:
    """Return ``length`` reproducible ids: BOS, then bytes."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return [BOS, *torch.randint(0, 256, (length - 1,), generator=generator).tolist()]
