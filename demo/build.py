"""Builds the bundled models: ``python -m demo.build [demo] [demo-multidigit]``.

Stages, in order: train, tune (the two siblings), evaluate, card. Each can be repeated alone;
training resumes at its last checkpoint in ``demo/.build``, so delete that folder to train anew.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from demo import card, evaluate, sampling, siblings, training
from demo import tokenizer as tokenizers_of
from demo.training import Recipe

HERE = Path(__file__).parent
MODELS = HERE / "models"
BUILD = HERE / ".build"
BASES = ("demo", "demo-multidigit")
KINDS = ("positive", "negative")
STAGES = ("train", "tune", "evaluate", "card")


def make_tokenizer(name: str) -> Tokenizer:
    """Learns the tokenizer of a base model from the corpus."""
    tokenizer = tokenizers_of.train(tokenizers_of.corpus())
    return tokenizers_of.with_numbers(tokenizer) if name == "demo-multidigit" else tokenizer


def _facts(model: LlamaForCausalLM) -> dict[str, Any]:
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": model.config.vocab_size,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def train(
    name: str, models: Path = MODELS, build: Path = BUILD, recipe: Recipe | None = None
) -> dict[str, float]:
    """Trains a base model and writes its folder; returns what ``training.train`` measured."""
    recipe = recipe or Recipe()
    build.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(name)
    tokenizers_of.save(tokenizer, models / name, training.CONTEXT)
    # Another recipe is another run: it must not go on from this one's checkpoint.
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:8]
    model, meta = training.train(tokenizer, recipe, build / f"{name}-{digest}.safetensors")
    training.save(model, models / name)
    meta = {k: round(v, 4) for k, v in meta.items()} | {"steps": recipe.total, "seed": recipe.seed}
    card.update(
        models / name,
        **_facts(model),
        trained_length=int(meta["longest"]),
        training=meta,
        recipe=asdict(recipe),
    )
    return meta


def tune(name: str) -> None:
    """Makes both siblings of a trained base model."""
    tuning = siblings.Tuning()
    tokenizer = tokenizers_of.load(MODELS / name)
    clock = time.time()
    rows = siblings.own_samples(sampling.load_model(MODELS / name), tokenizer, tuning)
    took = time.time() - clock
    print(f"{name}: {len(rows[0])} right, {len(rows[1])} wrong rows in {took:.0f} s", flush=True)
    for kind, documents in zip(KINDS, rows, strict=True):
        model = sampling.load_model(MODELS / name)
        made = siblings.tune(model, documents, tuning)
        folder = MODELS / f"{name}-{kind}"
        training.save(model.cpu(), folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(MODELS / name / file, folder / file)
        length = max(
            card.read(MODELS / name)["trained_length"], *(len(ids) for ids, _ in documents)
        )
        made = {k: round(v, 4) for k, v in made.items()} | {"seed": tuning.seed}
        card.update(
            folder, **_facts(model), trained_length=length, training=made, recipe=asdict(tuning)
        )
        print(f"{folder.name}: {made}", flush=True)


def family(name: str) -> tuple[str, ...]:
    """A base model and its siblings."""
    return (name, *(f"{name}-{kind}" for kind in KINDS))


def measure(name: str, n: int) -> None:
    """Evaluates one model: a base model fully, a sibling briefly.

    Every figure is written as soon as it is there.
    """
    folder = MODELS / name
    model, tokenizer = sampling.load_model(folder), tokenizers_of.load(folder)
    card.update(folder, measured_on=card.sha256(folder / "model.safetensors"))
    results: dict[str, dict[str, evaluate.Rate]] = {}
    errors: Counter[str] = Counter()
    for split, levels in (evaluate.FULL if name in BASES else evaluate.BRIEF).items():
        for level in levels:
            found, kinds = evaluate.accuracy(model, tokenizer, split, level, n)
            results.setdefault(split, {})[str(level)] = found
            errors += kinds if split == "test" else Counter()
            print(f"{name} {split} {level}: {card.percent(found)}", flush=True)
            card.update(folder, results=results, first_errors=dict(errors.most_common()))
    if name not in BASES:
        return
    shares = []
    for level in (3, 4, 5):
        shares.append(evaluate.groups(model, tokenizer, level, 64))
        print(f"{name} groups {shares[-1]}", flush=True)
        card.update(folder, groups_by_level=shares)
    probed: dict[str, evaluate.Rate] = {}
    for key, cases in evaluate.probes().items():
        probed[key] = evaluate.probe(model, tokenizer, cases)
        print(f"{name} probe {key}: {card.percent(probed[key])}", flush=True)
        card.update(folder, probes=probed)


def smoke(name: str) -> int:
    """Trains for about a minute in a temporary folder; 0 if the mean loss gets below 4 nats."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = replace(Recipe(), steps=40, decay_start=30, second_steps=0)
        meta = train(name, Path(folder) / "models", Path(folder) / "build", recipe)
    print(
        f"{name}: {meta['final_loss']:.2f} nats per response token over 40 steps in"
        f" {meta['seconds']:.0f} s"
    )
    return 0 if meta["final_loss"] < 4.0 else 1


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo.build", description=__doc__)
    parser.add_argument(
        "names", nargs="*", default=list(BASES), help="base models, both by default"
    )
    parser.add_argument(
        "--only", nargs="+", choices=STAGES, default=list(STAGES), help="stages to run"
    )
    parser.add_argument("--n", type=int, default=500, help="problems per level in the evaluation")
    parser.add_argument("--threads", type=int, help="default: the cores shared among the models")
    parser.add_argument(
        "--smoke", action="store_true", help="one minute of training, nothing is kept"
    )
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BASES:
            parser.error(
                f"unknown model {name!r}; known: {', '.join(BASES)} (siblings come with their base)"
            )
    # A process per model and one thread per core is the fastest at this size.
    cores = os.cpu_count() or 1
    threads = options.threads or max(1, cores // len(options.names))
    torch.set_num_threads(threads)
    if options.smoke:
        return max(smoke(name) for name in options.names)
    if len(options.names) > 1 and cores > 1 and not torch.cuda.is_available():
        given = [a for a in (sys.argv[1:] if arguments is None else arguments) if a not in BASES]
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "demo.build", name, *given, "--threads", str(threads)],
                cwd=HERE.parent,
            )
            for name in options.names
        ]
        return max(process.wait() for process in running)
    for name in options.names:
        if "train" in options.only:
            print(f"{name}: {train(name)}", flush=True)
        if "tune" in options.only:
            tune(name)
        if "evaluate" in options.only:
            for each in family(name):
                measure(each, options.n)
        if "card" in options.only:
            for each in family(name):
                card.finish(MODELS / each)
    return 0


if __name__ == "__main__":
    sys.exit(main())
