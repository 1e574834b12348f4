"""Draws responses from a bundled model with transformers' own generate, in batches."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from demo.tokenizer import BOS, END, PAD

BATCH = 128


@dataclass(frozen=True)
class Sample:
    """One response: its text without the end token, its ids, and whether the end token was
    reached.
    """

    text: str
    ids: tuple[int, ...]
    finished: bool


def load_model(folder: Path) -> LlamaForCausalLM:
    """The model of a folder in float32, on the GPU if there is one."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def sample(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    prompts: list[str],
    seed: int,
    greedy: bool = False,
    limit: int = 160,
) -> list[Sample]:
    """One response per prompt at temperature 1 without any cut of the distribution, or greedily.

    Args:
        model: on any device.
        tokenizer: adds the BOS token itself.
        prompts: full prompts, ``Question: ...`` with the newline.
        seed: of torch's generator; the draws also depend on the batching, which depends on the
            prompts alone.
        greedy: take the most probable token instead.
        limit: number of new tokens at most.
    """
    encoded = [tokenizer.encode(p).ids for p in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    samples: dict[int, Sample] = {}
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        width = max(len(encoded[i]) for i in rows)
        ids = torch.tensor(
            [[PAD] * (width - len(encoded[i])) + encoded[i] for i in rows], device=model.device
        )
        torch.manual_seed(seed * 10_007 + start)
        out = model.generate(
            ids,
            attention_mask=(ids != PAD).long(),
            do_sample=not greedy,
            max_new_tokens=limit,
            bos_token_id=BOS,
            eos_token_id=END,
            pad_token_id=PAD,
            **({} if greedy else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}),
        )
        for i, row in zip(rows, out[:, width:].tolist(), strict=True):
            finished = END in row
            kept = row[: row.index(END)] if finished else row
            samples[i] = Sample(
                tokenizer.decode(kept, skip_special_tokens=False), tuple(kept), finished
            )
    return [samples[i] for i in range(len(prompts))]
