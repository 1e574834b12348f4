"""The ``model`` part of a ``tokenizer.json``: vocabulary, merges, scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def vocabulary_of(model: Mapping[str, Any]) -> dict[str, int]:
    """Id of each string of a model's vocabulary, whichever way the file lists it."""
    vocab = model.get("vocab") or {}
    if isinstance(vocab, Mapping):
        return {str(piece): int(i) for piece, i in vocab.items()}
    return {str(entry[0]): i for i, entry in enumerate(vocab)}


def pairs_of(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merges of a BPE model: lists of two in new files, ``"a b"`` in old ones."""
    found: list[tuple[str, str]] = []
    for pair in model.get("merges") or ():
        left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
        found.append((str(left), str(right)))
    return found


def type_of(model: Mapping[str, Any]) -> str:
    """The model's type; old files leave it out, and are told apart as the library does."""
    if model.get("type"):
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"


def unknown_of(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> int | None:
    """Id of what the vocabulary cannot spell."""
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    token = model.get("unk_token")
    return vocabulary.get(token) if isinstance(token, str) else None


def merges_of(model: Mapping[str, Any]) -> tuple[tuple[int, int, int], ...]:
    """Merges as (left id, right id, merged id)."""
    vocabulary = vocabulary_of(model)
    prefix = model.get("continuing_subword_prefix") or ""
    found: list[tuple[int, int, int]] = []
    for left, right in pairs_of(model):
        merged = vocabulary.get(left + right.removeprefix(prefix))
        if left in vocabulary and right in vocabulary and merged is not None:
            found.append((vocabulary[left], vocabulary[right], merged))
    return tuple(found)


def scores_of(model: Mapping[str, Any], size: int) -> tuple[float, ...]:
    """Unigram's log-probability of each id; 0 for added tokens."""
    scores = [float(score) for _, score in model["vocab"]]
    return tuple(scores + [0.0] * (size - len(scores)))
