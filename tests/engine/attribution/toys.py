"""Models whose answer is known in closed form, and analyses run on them without a workspace."""

from __future__ import annotations

import contextlib
import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from engine.catalogue import locate
from engine.encode import encode_text
from engine.limits.profile import Profile
from engine.loaded import LoadedModel
from engine.modelref import ModelRef
from engine.registry import check_tables, find
from engine.reward.wide import wide
from engine.schema import Progress
from engine.subjects import Text, Trace
from engine.tokenization import Tokenizer
from tests.engine.tiny import VOCABULARY, tiny_folder, tiny_model


@functools.cache
def tokenizer() -> Tokenizer:
    """The byte tokenizer of the tiny models: BOS is put in front of a prompt."""
    return Tokenizer.load(tiny_folder("llama") / "tokenizer.json")


def text(prompt: str = "One two, three.", response: str = " four", **fields: Any) -> Trace:
    """A trace of BOS, the prompt's and the response's bytes."""
    return encode_text(Text(prompt=prompt, response=response), tokenizer()).evolve(**fields)


def loaded(
    family: str | PreTrainedModel, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> LoadedModel:
    """A tiny model, in double precision unless said otherwise; a named one is made once."""
    return (
        _named(family, dtype, device) if isinstance(family, str) else _made(family, dtype, device)
    )


@functools.cache
def _named(family: str, dtype: torch.dtype, device: str) -> LoadedModel:
    return _made(tiny_model(family), dtype, device)


def _made(own: PreTrainedModel, dtype: torch.dtype, device: str) -> LoadedModel:
    located = locate(ModelRef(source=str(tiny_folder("llama"))), Profile())
    return LoadedModel(located, f"toy {id(own)}", own.to(device=device, dtype=dtype))


def left_behind(*networks: torch.nn.Module) -> list[Any]:
    """Hooks on any module; transformers keeps its own after it was asked for hidden states."""
    modules = [m for network in networks for m in network.modules()]
    hooks = [
        h for m in modules for d in (m._forward_hooks, m._forward_pre_hooks) for h in d.values()
    ]
    return [h for h in hooks if not getattr(h, "__module__", "").startswith("transformers")]


class Ran(SimpleNamespace):
    """What an analysis gave: ``tables``, ``notes`` (table, column, reason), ``progress``."""

    tables: dict[str, Any]
    notes: list[tuple[str, str | None, str]]
    progress: list[Progress]

    def matrix(self, column: str = "score") -> np.ndarray:
        """Scores [targets, sources], NaN where there is none."""
        rows = self.tables["attribution"].to_pylist()
        targets = sorted({r["target_position"] for r in rows})
        sources = sorted({r["source_position"] for r in rows})
        found = np.full((len(targets), len(sources)), np.nan)
        for r in rows:
            if r[column] is not None:
                place = targets.index(r["target_position"]), sources.index(r["source_position"])
                found[place] = r[column]
        return found

    def column(self, name: str, table: str = "targets") -> np.ndarray:
        """One column of a table, NaN where it is null."""
        values = self.tables[table][name].to_pylist()
        return np.array([np.nan if v is None else v for v in values])


def run(name: str, model: LoadedModel, trace: Trace, other: Any = None, **params: Any) -> Ran:
    """Run an analysis to its end; double precision stays double all the way."""
    declared = find(name)
    models = {"model": model} if other is None else {"model": model, "other": other}
    notes: list[tuple[str, str | None, str]] = []
    ctx: Any = SimpleNamespace(
        subject=trace,
        params=declared.parse(params),
        models=models,
        tokenizer=tokenizer(),
        resume=None,
        note=lambda table, column, reason, **_: notes.append((table, column, reason)),
        logits=lambda start, end: model.full_logits(trace.ids)[start:end, : model.real_vocab],
    )
    progress, tables = [], {}
    wider = wide() if model.dtype == torch.float64 else contextlib.nullcontext()
    with wider:
        for said in declared.run(ctx):
            assert not torch.is_inference_mode_enabled()
            if isinstance(said, Progress):
                progress.append(said)
            else:
                tables = dict(said)
    return Ran(tables=check_tables(declared, tables), notes=notes, progress=progress)


@functools.cache
def linear() -> LlamaForCausalLM:
    """A model whose logits are linear in the embeddings; see :func:`linear_scores`.

    Attention is uniform, the feed-forward layers give 0, and the norms divide by a constant so
    large that nothing of the text's own length is left (1e-9 relative).
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rms_norm_eps=1e8,
        tie_word_embeddings=False,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
    )
    model = LlamaForCausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.4, generator=generator)
        layer = model.model.layers[0]
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.down_proj):
            part.weight.zero_()
        for norm in (layer.input_layernorm, layer.post_attention_layernorm, model.model.norm):
            norm.weight.fill_(1e4)
    return model


def linear_scores(trace: Trace, target: int, label: int | None = None) -> np.ndarray:
    """What each token before ``target`` adds to the logit of its id in :func:`linear`, [target]."""
    model = linear()
    attention = model.model.layers[0].self_attn
    row = target - 1
    with torch.no_grad():
        word = model.lm_head.weight[trace.ids[target] if label is None else label]
        embedded = model.model.embed_tokens.weight[list(trace.ids[:target])]
        moved = attention.o_proj.weight @ attention.v_proj.weight
        found = embedded @ moved.T @ word / (row + 1)
        found[row] += embedded[row] @ word
    return found.numpy()


def deaf(family: str = "llama") -> PreTrainedModel:
    """A model that reads only the last token: its attention gives 0."""
    model = tiny_model(family)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    return model
