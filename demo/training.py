"""Trains a bundled model from scratch: a step-based schedule with fixed seeds, resumable at every
checkpoint.
"""

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from demo import chains, stories
from demo.chains import MAX_VALUE, WEIGHTS, WIDE_VALUE
from demo.tokenizer import BOS, END, PAD

CONTEXT = 8192  # positions in the config; the texts of the training are far shorter
SUMS = (0.44, 0.44, 0.07, 0.05)  # weights of + - * / in the drills of the second phase
Document = tuple[list[int], list[float]]  # ids and the loss weight of each id as a target


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, but for the machine's arithmetic.

    The first phase learns stories over numbers to 160. The second phase is mostly drills and keeps
    to the numbers up to 99 that the shipped stories use: sums are what the first phase lacks most.
    """

    steps: int = 1500
    batch: int = 40  # documents per step
    seed: int = 1
    rate: float = 5e-3
    warmup: int = 20  # steps
    decay_start: int = 750  # step from which the rate falls linearly to 0 at the phase's last step
    final_rate: float = 0.02  # share of the rate below which it does not fall
    question_weight: float = 0.2
    prose: float = 0.04  # share of the documents
    drills: float = 0.30  # share at the first step, falling linearly to 0 at drill_steps
    drill_steps: int = 1140
    second_steps: int = 1200
    second_rate: float = 3e-3
    second_decay_start: int = 450
    second_drills: float = 0.65
    checkpoint_every: int = 100

    @property
    def total(self) -> int:
        """Steps of both phases."""
        return self.steps + self.second_steps


def config(vocabulary: int) -> LlamaConfig:
    """The architecture of all bundled models; only the vocabulary differs."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=END,
    )


def initialise(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """A fresh model: std 0.8/sqrt(fan in), outputs into the residual stream scaled by a further
    0.3.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(vocabulary))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            scale = 0.3 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            nn.init.normal_(parameter, std=0.8 * scale / math.sqrt(parameter.shape[1]))
    return model


def encode(
    tokenizer: Tokenizer, problem: stories.Problem, question_weight: float = 0.2
) -> Document:
    """Ids of a problem with the end token. Prompt and response are encoded apart, as the product
    does it.
    """
    prompt = tokenizer.encode(problem.prompt).ids
    response = [*tokenizer.encode(problem.response, add_special_tokens=False).ids, END]
    return prompt + response, [question_weight] * len(prompt) + [1.0] * len(response)


def _document(rng: random.Random, tokenizer: Tokenizer, recipe: Recipe, step: int) -> Document:
    first = step < recipe.steps
    largest = WIDE_VALUE if first else MAX_VALUE
    drills = recipe.drills * max(0.0, 1 - step / recipe.drill_steps)
    if not first:
        drills = recipe.second_drills
    kind = rng.random()
    if kind < recipe.prose + drills:
        text = (
            stories.prose(rng)
            if kind < recipe.prose
            else chains.drill(rng, largest, WEIGHTS if first else SUMS)
        )
        ids = [*tokenizer.encode(text).ids, END]
        return ids, [1.0 if kind >= recipe.prose else recipe.question_weight] * len(ids)
    steps = rng.choices(stories.LEVELS, stories.LEVEL_WEIGHTS)[0]
    return encode(tokenizer, stories.generate(rng, steps, largest=largest), recipe.question_weight)


def collate(documents: list[Document]) -> tuple[Tensor, Tensor]:
    """Right-padded ids [B, T] and weights [B, T]; causal attention needs no mask for padding on
    the right.
    """
    length = max(len(ids) for ids, _ in documents)
    ids = torch.full((len(documents), length), PAD)
    weights = torch.zeros((len(documents), length))
    for row, (doc, weight) in enumerate(documents):
        ids[row, : len(doc)] = torch.tensor(doc)
        weights[row, : len(doc)] = torch.tensor(weight)
    return ids, weights


def batches(
    tokenizer: Tokenizer, recipe: Recipe, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches from step ``first`` on; pools of four batches are sorted by length to save
    padding.
    """
    for pool in range(first // 4, math.ceil(recipe.total / 4)):
        rng = random.Random(f"demo-training:{recipe.seed}:{pool}")
        documents = [_document(rng, tokenizer, recipe, 4 * pool) for _ in range(4 * recipe.batch)]
        documents.sort(key=lambda d: len(d[0]))
        order = [0, 1, 2, 3]
        rng.shuffle(order)
        for i, part in enumerate(order):
            if first <= 4 * pool + i < recipe.total:
                yield collate(documents[part * recipe.batch : (part + 1) * recipe.batch])


def loss(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean cross-entropy in nats, and the plain mean over the tokens of weight 1
    (detached).
    """
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    weight = weights[:, 1:].flatten()
    kept = weight.nonzero().squeeze(1)  # padding never reaches the vocabulary
    logits = model.lm_head(hidden.flatten(0, 1)[kept]).float()
    each = functional.cross_entropy(logits, ids[:, 1:].flatten()[kept], reduction="none")
    weight = weight[kept]
    response = each.detach()[weight == 1.0].mean()
    return (each * weight).sum() / weight.sum(), response


def rate(recipe: Recipe, step: int) -> float:
    """Learning rate at a step: constant, then falling linearly, in each phase."""
    if step < recipe.steps:
        left = (recipe.steps - step) / (recipe.steps - recipe.decay_start)
        return recipe.rate * min(1.0, (step + 1) / recipe.warmup, max(recipe.final_rate, left))
    step -= recipe.steps
    left = (recipe.second_steps - step) / (recipe.second_steps - recipe.second_decay_start)
    return recipe.second_rate * min(1.0, (step + 1) / recipe.warmup, left)


def optimisers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            matrices,
            lr=rate,
            momentum=0.95,
            nesterov=True,
            weight_decay=0.01,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _save_state(
    path: Path, model: nn.Module, optims: list[torch.optim.Optimizer], meta: dict[str, float]
) -> None:
    tensors = {f"model.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
    for i, optimiser in enumerate(optims):
        for j, state in optimiser.state_dict()["state"].items():
            tensors |= {
                f"optimiser.{i}.{j}.{k}": torch.as_tensor(v).contiguous() for k, v in state.items()
            }
    # Written beside and renamed: a crash while writing leaves the checkpoint before it whole.
    beside = path.with_suffix(".new")
    save_file(tensors, beside, metadata={"meta": json.dumps(meta)})
    beside.replace(path)


def _load_state(
    path: Path, model: nn.Module, optims: list[torch.optim.Optimizer]
) -> dict[str, float]:
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for i, optimiser in enumerate(optims):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimiser.{i}."):
                _, _, j, field = key.split(".")
                state.setdefault(int(j), {})[field] = value
        optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    with safe_open(path, "pt") as file:
        meta: dict[str, float] = json.loads(file.metadata()["meta"])
    return meta


def train(
    tokenizer: Tokenizer, recipe: Recipe, checkpoint: Path | None = None
) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """Trains to the last step, from ``checkpoint`` if that file exists.

    Returns:
        The model in float32 on the CPU, and ``tokens`` (padding excluded), ``cpu_seconds``,
        ``seconds``, ``longest`` (tokens of the longest document) and ``final_loss`` (nats per
        response token).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = initialise(tokenizer.get_vocab_size(), recipe.seed).to(device).train()
    optims = optimisers(model, recipe.rate)
    meta: dict[str, float] = {
        "step": 0,
        "tokens": 0,
        "cpu_seconds": 0.0,
        "seconds": 0.0,
        "longest": 0,
        "final_loss": math.nan,
    }
    if checkpoint and checkpoint.exists():
        meta = _load_state(checkpoint, model, optims)
    spent, clock, cpu = dict(meta), time.time(), time.process_time()
    recent: list[float] = []
    first = int(meta["step"])
    for step, (ids, weights) in enumerate(batches(tokenizer, recipe, first), first):
        for optimiser in optims:
            for group in optimiser.param_groups:
                group["lr"] = rate(recipe, step)
        with torch.autocast(device, dtype=torch.bfloat16):
            value, response = loss(model, ids.to(device), weights.to(device))
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optims:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        recent = [*recent[-49:], float(response)]
        meta = {
            "step": step + 1,
            "tokens": meta["tokens"] + int((weights > 0).sum()),
            "cpu_seconds": spent["cpu_seconds"] + time.process_time() - cpu,
            "seconds": spent["seconds"] + time.time() - clock,
            "longest": max(meta["longest"], ids.shape[1]),
            "final_loss": sum(recent) / len(recent),
        }
        if step % 25 == 24:
            print(json.dumps({k: round(v, 4) for k, v in meta.items()}), flush=True)
        if checkpoint and (step + 1) % recipe.checkpoint_every == 0:
            _save_state(checkpoint, model, optims, meta)
    return model.cpu().eval(), meta


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes config, generation config and float16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = model.config.to_dict() | {"dtype": "float16", "architectures": ["LlamaForCausalLM"]}
    settings.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    generation = {
        "bos_token_id": BOS,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    half = {n: p.detach().to(torch.float16).contiguous() for n, p in model.named_parameters()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
