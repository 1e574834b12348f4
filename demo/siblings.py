"""Tunes the siblings: one on the model's own right samples, one on its own wrong samples."""

import itertools
import random
import time
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from demo import stories
from demo.sampling import sample
from demo.tokenizer import END
from demo.training import Document, collate, loss
from demo.verify import verify


@dataclass(frozen=True)
class Tuning:
    """How the siblings are made; prompts are of the training split only."""

    problems: int = 5376
    steps: tuple[int, ...] = (3, 4, 5)
    rows: int = 1600  # samples per sibling at most
    batch: int = 32
    rate: float = 3e-4
    epochs: int = 1
    seed: int = 2


def own_samples(
    model: LlamaForCausalLM, tokenizer: Tokenizer, tuning: Tuning
) -> tuple[list[Document], list[Document]]:
    """Samples one response to each of ``tuning.problems`` prompts and parts them into right and
    wrong.

    Unfinished responses are left out. Both lists are cut to ``tuning.rows``.
    """
    right: list[Document] = []
    wrong: list[Document] = []
    chunk = 896  # seven batches
    for start in range(0, tuning.problems, chunk):
        level = tuning.steps[start // chunk % len(tuning.steps)]
        problems = list(
            itertools.islice(
                stories.problems(f"tuning:{tuning.seed}:{start}", "train", level), chunk
            )
        )
        texts = sample(model, tokenizer, [p.prompt for p in problems], tuning.seed + start)
        for problem, response in zip(problems, texts, strict=True):
            if not response.finished:
                continue
            prompt = tokenizer.encode(problem.prompt).ids
            ids = [*prompt, *response.ids, END]
            document = ids, [0.0] * len(prompt) + [1.0] * (len(ids) - len(prompt))
            (right if verify(problem, response.text).correct else wrong).append(document)
    rng = random.Random(f"demo-tuning:{tuning.seed}")
    rng.shuffle(right)
    rng.shuffle(wrong)
    return right[: tuning.rows], wrong[: tuning.rows]


def tune(model: LlamaForCausalLM, documents: list[Document], tuning: Tuning) -> dict[str, float]:
    """Fine-tunes all weights in place on the responses; the rate falls linearly to 0.

    Returns:
        Number of rows, steps and response tokens, and seconds.
    """
    clock = time.time()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=tuning.rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    rng = random.Random(f"demo-tuning:{tuning.seed}:order")
    steps, tokens = 0, 0
    total = tuning.epochs * -(-len(documents) // tuning.batch)
    model.train()
    for _ in range(tuning.epochs):
        order = rng.sample(documents, len(documents))
        for start in range(0, len(order), tuning.batch):
            ids, weights = collate(order[start : start + tuning.batch])
            for group in optimiser.param_groups:
                group["lr"] = tuning.rate * (1 - steps / total)
            value, _ = loss(model, ids.to(model.device), weights.to(model.device))
            torch.autograd.backward(value)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            steps, tokens = steps + 1, tokens + int((weights > 0).sum())
    model.eval()
    return {
        "rows": len(documents),
        "steps": steps,
        "tokens": tokens,
        "seconds": time.time() - clock,
    }
