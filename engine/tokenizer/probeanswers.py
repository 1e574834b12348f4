"""What a model answers to puzzles: the likeliest of the answers offered, or what it writes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Generator, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from engine.context import Context
from engine.pieces import show
from engine.schema import Progress
from engine.tokenizer.puzzles import Puzzle
from engine.tokenizer.spec import TokenizerSpec
from engine.tokenizer.tails import Tail, Tails

Answer = tuple[str, bool, float | None]


def chosen(
    ctx: Context, spec: TokenizerSpec, puzzles: Sequence[Puzzle]
) -> Generator[Progress, None, list[Answer]]:
    """The offered answer of the highest log-probability; a tie with a wrong one is wrong."""
    logs = [np.empty(len(puzzle.options)) for puzzle in puzzles]
    groups: dict[tuple[str, int], list[tuple[int, int, Tail]]] = defaultdict(list)
    for n, puzzle in enumerate(puzzles):
        base = spec.around[0] + spec.encode(puzzle.prompt).ids
        for at, option in enumerate(spec.encode_ids(list(puzzle.options))):
            groups[puzzle.task, base[0]].append((n, at, (*base, *option)))
    done = 0
    for rows in groups.values():
        # What all questions of a task begin with (the worked ones) is read once.
        first, last = (end(ids for _, _, ids in rows) for end in (min, max))
        same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
        shared = max(1, sum(1 for _ in same))
        tails = Tails(ctx.models["model"], rows[0][2][:shared])
        yield Progress(
            done / sum(map(len, groups.values())), f"Questions: {puzzles[rows[0][0]].task}"
        )
        for batch in tails.read([ids[shared:] for _, _, ids in rows]):
            for place, log, _ in batch:
                n, at, _ = rows[place]
                logs[n][at] = log
            done += len(batch)
            yield Progress(
                done / sum(map(len, groups.values())), f"Questions: {puzzles[rows[0][0]].task}"
            )
    return [_best(puzzle, row) for puzzle, row in zip(puzzles, logs, strict=True)]


def _best(puzzle: Puzzle, logs: Any) -> Answer:
    best = int(logs.argmax())
    margin = float(logs[puzzle.answer] - np.delete(logs, puzzle.answer).max())
    return puzzle.options[best], margin > 0, margin


def written(
    ctx: Context, spec: TokenizerSpec, puzzles: Sequence[Puzzle]
) -> Generator[Progress, None, list[Answer]]:
    """What the model writes greedily, up to the first sign that is not of the answer's kind."""
    from engine.sampling.generation import Sampler

    answers: list[Answer] = []
    for n, puzzle in enumerate(puzzles):
        yield Progress(n / len(puzzles), f"Question {n + 1:,} of {len(puzzles):,}")
        base = spec.around[0] + spec.encode(puzzle.prompt).ids
        right = puzzle.options[puzzle.answer].strip()
        limit = len(spec.encode(f" {right}")) + 4
        sampler = Sampler.model_validate({"temperature": 0, "max_new_tokens": limit})
        text = ""
        for drawn in ctx.samples(base, sampler, 1):
            for one in drawn:
                ids = [i for i in one.ids if spec.piece(i).kind not in ("special", "unused")]
                text = show(spec.decode_bytes(ids))
        found = re.match(r"\s*([\w-]+)", text)
        given = found.group(1) if found else text.strip()
        answers.append((given, given == right, None))
    return answers
