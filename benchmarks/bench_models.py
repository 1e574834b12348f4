"""Sampling against transformers' generate, and attention against the plain forward.

Run alone: ``python -m benchmarks.bench_models [--quick]``. Both sides of each comparison run in
turn in one process on one thread, and the best of several rounds counts, in CPU seconds.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engine.catalogue import Profile, locate
from engine.modelref import ModelRef
from engine.models import LoadedModel, load
from engine.sampling.generation import Sampler, sample
from tests.engine.tiny import save_tokenizer

ROWS = 64
"""Continuations drawn at once, as ``num_return_sequences``."""


def bundled_shape(folder: Path) -> LoadedModel:
    """Return a random model of the bundled model's shape; weights do not matter for speed."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=1024,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        intermediate_size=512,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder)
    return load(locate(ModelRef(source=str(folder)), Profile()), "bench")


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds and result of one call."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def best_of(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, Any]]:
    """Return each work's fastest call, the works taking turns."""
    best: dict[str, tuple[float, Any]] = {}
    for _ in range(rounds):
        for name, work in works.items():
            took = seconds(work)
            if name not in best or took[0] < best[name][0]:
                best[name] = took
    return best


def sampling(model: LoadedModel, quick: bool) -> list[dict[str, Any]]:
    """Tokens per CPU second of :func:`engine.sampling.generation.sample` and of generate."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 1000, (64,), generator=generator).tolist()
    length = 32 if quick else 96
    sampler = Sampler(max_new_tokens=length, stop_ids=())

    def ours(rows: int) -> int:
        return sum(len(c.ids) for b in sample(model, prompt, sampler, range(rows)) for c in b)

    def theirs(rows: int) -> int:
        output = model.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=True,
            top_k=0,
            num_return_sequences=rows,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=0,
        )
        return int(output[:, len(prompt) :].numel())

    found = best_of(
        {
            "sample": lambda: ours(ROWS),
            "generate": lambda: theirs(ROWS),
            "sample 128": lambda: ours(2 * ROWS),
        },
        2 if quick else 4,
    )
    rates = {name: tokens / took for name, (took, tokens) in found.items()}
    ratio = rates["sample"] / rates["generate"]
    return [
        row("sampling", f"generate, {ROWS} rows, tokens per CPU second", "", rates["generate"]),
        row("sampling", f"sample, {ROWS} rows, tokens per CPU second", "", rates["sample"]),
        row("sampling", "sample, 128 rows, tokens per CPU second", "", rates["sample 128"]),
        row("sampling", "sample against generate", "> 1", ratio),
    ]


def attention(model: LoadedModel, quick: bool) -> list[dict[str, Any]]:
    """Compare reading all attention with a plain forward over the same text."""
    length = 1024 if quick else 4096
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 1000, (length,), generator=generator).tolist()
    inputs = {"input_ids": torch.tensor([ids]), "use_cache": False, "logits_to_keep": 1}
    model.attention(ids[:64])

    def plain() -> None:
        with torch.no_grad():
            model.forward(**inputs)

    plain()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.attention(ids)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    found = best_of({"plain": plain, "fold": lambda: model.attention(ids)}, 2 if quick else 3)
    all_maps = 4 * model.layers * model.attention_heads * length**2 / 2**20
    what = f"T = {length:,}"
    return [
        row("attention", f"plain forward, {what}, CPU seconds", "", found["plain"][0]),
        row("attention", f"attention, {what}, CPU seconds", "", found["fold"][0]),
        row(
            "attention",
            f"attention against forward, {what}",
            "< 10",
            found["fold"][0] / found["plain"][0],
        ),
        row("attention", f"peak memory added, {what}, MB", f"< {all_maps / 3:.0f}", grown),
        row("attention", f"all maps at once would be, {what}, MB", "", all_maps),
    ]


def row(part: str, what: str, target: str, measured: float) -> dict[str, Any]:
    """Return one line of the table, three significant digits."""
    return {"part": part, "what": what, "target": target, "measured": float(f"{measured:.3g}")}


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows (part, what, target, measured)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = bundled_shape(Path(folder))
            # Attention first: its memory is read as the growth of the process's peak.
            return [*attention(model, quick), *sampling(model, quick)]
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    for line in run("--quick" in sys.argv):
        print(f"{line['part']:10} {line['what']:55} {line['measured']:>10} {line['target']}")
