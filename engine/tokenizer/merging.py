"""The model's own steps on one pre-token: merges, longest matches, best path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from engine.tokenizer.spec import Step

Rank = Callable[[str, str], float | None]


def bpe_steps(parts: Sequence[str], rank: Rank, prefix: str = "") -> tuple[Step, ...]:
    """Byte-pair merges, lowest rank first, the leftmost of equal ones (Sennrich et al. 2016).

    Args:
        parts: the characters (or bytes) to start from.
        rank: place of a pair in the list of merges, None for pairs that never merge.
        prefix: what the vocabulary writes before a part inside a word.
    """
    current = list(parts)
    steps: list[Step] = []
    while True:
        ranked = [
            (found, at)
            for at in range(len(current) - 1)
            if (found := rank(current[at], current[at + 1])) is not None
        ]
        if not ranked:
            return tuple(steps)
        best, at = min(ranked)
        current[at : at + 2] = [current[at] + current[at + 1].removeprefix(prefix)]
        steps.append(Step("merge", at, current[at], best, tuple(current)))


def longest_steps(
    form: str, vocabulary: Mapping[str, int], prefix: str, unknown: str | None
) -> tuple[Step, ...]:
    """WordPiece's greedy longest match from the left."""
    steps: list[Step] = []
    parts: list[str] = []
    start = 0
    while start < len(form):
        end = len(form)
        while end > start:
            piece = form[start:end] if start == 0 else prefix + form[start:end]
            if piece in vocabulary:
                break
            end -= 1
        else:
            return (Step("longest", 0, unknown or "", None, (unknown or "",)),)
        parts.append(piece)
        steps.append(Step("longest", len(parts) - 1, piece, None, tuple(parts)))
        start = end
    return tuple(steps)


def path_steps(parts: Sequence[str], scores: Mapping[str, float]) -> tuple[Step, ...]:
    """The tokens of Unigram's best path, each with its score (Kudo 2018)."""
    done = tuple(parts)
    return tuple(Step("best", at, token, scores.get(token), done) for at, token in enumerate(done))
