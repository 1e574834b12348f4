"""The next byte beside its forward passes, at a vocabulary of 131,072 ids.

The vocabulary is Tekken's when it is there (``TOKENSCOPE_MISTRAL`` names its file or folder, or the
package is installed), else random words joined from syllables. The model's logits are made up, so
what is timed is all that comes on top of the forward passes: probabilities fall with the rank to
the power of 1.5 (about 2 nats of entropy), so some 250 covers hold more than 1e-4, a third of them
not ASCII. The rows without checking do not look whether covers are canonical. Processor time, the
best of many calls; words and rules that were met once are known from then on.
"""

from __future__ import annotations

import base64
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from engine.tokenizer import TokenizerSpec, load_spec
from engine.tokenizer.canonicalcovers import canonical_next
from engine.tokenizer.loading import parse_spec
from engine.tokenizer.next_byte import NextByteParams
from engine.tokenizer.outcomes import Row, outcomes_of, rows_of
from engine.tokenizer.tails import Tail

PROMPTS = ("def main(): return stri", "The capital of France is ", "The capital of France is")
LISTED = NextByteParams.model_fields["listed"].default
SYLLABLES = [a + b for a in "bcdfghklmnprstvw" for b in "aeiou"]


def _made_up(size: int) -> TokenizerSpec:
    rng = random.Random(0)
    ranks = [bytes([byte]) for byte in range(256)]
    seen = set(ranks)
    base = [s.encode() for s in SYLLABLES] + [b" " + s.encode() for s in SYLLABLES]
    for token in [*base, *(a + b for a, b in itertools.product(base, base[: len(SYLLABLES)]))]:
        if token not in seen and len(ranks) < size:
            seen.add(token)
            ranks.append(token)
    while len(ranks) < size:
        token = rng.choice(ranks[256:]) + rng.choice(SYLLABLES).encode()
        if token not in seen:
            seen.add(token)
            ranks.append(token)
    lines = (base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(ranks))
    return parse_spec(b"\n".join(lines), "made up", "gpt2")


def spec_of_size(size: int) -> TokenizerSpec:
    """Tekken, or a vocabulary of that many made-up words."""
    place = os.environ.get("TOKENSCOPE_MISTRAL")
    if place is not None:
        path = Path(place)
        found = [path] if path.is_file() else sorted(path.rglob("tekken*.json"))
        if found:
            return load_spec(str(found[-1]))
    return _made_up(size)


class Canned:
    """Predictions made beforehand, in the place of a model's."""

    def __init__(self, size: int) -> None:
        made = torch.Generator().manual_seed(0)
        ranks = torch.stack([torch.randperm(size, generator=made) for _ in range(16)])
        self.logits = -1.5 * (1.0 + ranks).log()
        self.base: Tail = (1,)

    def read(self, tails: Sequence[Tail]) -> Iterator[list[tuple[int, float, Row]]]:
        """As ``Tails.read``: a longer tail is less likely."""
        rows = rows_of(self.logits[: len(tails)])
        yield [
            (n, -1.0 * len(tail), row)
            for n, (tail, row) in enumerate(zip(tails, rows, strict=True))
        ]


def run(quick: bool) -> Iterator[dict[str, str]]:
    """All rows."""
    size = 20_000 if quick else 131_072
    spec = spec_of_size(size)
    start = time.perf_counter()
    outcomes = outcomes_of(spec, spec.size, (2,) if spec.piece(2).kind == "special" else ())
    yield _row(f"sorting {spec.size:,} ids, once", "", 1000 * (time.perf_counter() - start))
    canned = Canned(spec.size)
    own = rows_of(canned.logits[:1])[0]
    times = _best(lambda: outcomes.whole(own), 60)
    yield _row("a token distribution as one over bytes", "<= 3 ms", times)
    for prompt, threshold in itertools.product(PROMPTS, (0.9, 1e-3, 1e-4)):
        ids = spec.encode(prompt).ids

        def once(ids: Tail = ids, threshold: float = threshold) -> object:
            steps = canonical_next(
                lambda shared: canned,  # type: ignore[arg-type,return-value]
                outcomes,
                ids,
                0,
                threshold,
                own,
                LISTED,
            )
            while True:
                try:
                    next(steps)
                except StopIteration as stop:
                    return stop.value

        if (prompt, threshold) == (PROMPTS[0], 0.9):
            start = time.perf_counter()
            once()
            first = 1000 * (time.perf_counter() - start)
            yield _row(f"{prompt!r}, the very first time", "", first)
        how = "without checking" if threshold > 0.5 else f"checked above {threshold:g}"
        yield _row(f"{prompt!r}, {how}", "<= 3 ms", _best(once, 10 if quick else 60))


def _best(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1000 * float(np.min(times))


def _row(what: str, target: str, milliseconds: float) -> dict[str, str]:
    measured = f"{milliseconds:.2f} ms"
    return {"part": "next_byte", "what": what, "target": target, "measured": measured}
