"""The end of a prompt: tokens there that another continuation would have cut otherwise.

A model that continues such a prompt must write tokens it rarely saw after them. Trimming the
prompt, or backing up and forcing the bytes (token healing; guidance, Lundberg 2023), mends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.tokenizer.looked import Finding, Looked, some
from engine.tokenizer.spec import TokenizerSpec

TRIES = 256
"""Continuations tried."""
EACH = 48
"""Of them at most for one place to back up to."""
LAST = 2048
"""Characters of a long prompt that are encoded with each continuation."""
_PLAIN = ("a", "s", " ", "\n", "1", ".", "the", " the", "\n\n", "'", "/", "A")


@dataclass(frozen=True, slots=True)
class Boundary:
    """How the tokens at a prompt's end depend on what follows.

    Attributes:
        tried: continuations tried.
        moved: those after which the prompt's tokens are no beginning of all tokens.
        stable: tokens of the prompt that none of them changed.
        tokens: tokens of the prompt (of its looked-at end).
        example: one of those that moved, its tokens and the prompt's, from the first changed on.
    """

    tried: int
    moved: int
    stable: int
    tokens: int
    example: tuple[str, tuple[int, ...], tuple[int, ...]] | None


def prompt_boundary(look: Looked) -> Iterator[Finding]:
    """The tokens at the prompt's end that some continuation changes, and what to do about them."""
    prompt = look.text[: look.boundary]
    tail = prompt[-LAST:]
    found = boundary(look.spec, tail)
    if not found.moved or found.example is None:
        return
    encoded = look.spec.encode(tail)
    offset = len(prompt[: len(prompt) - len(tail)].encode())
    start = offset + encoded.bounds[found.stable][0]
    end = offset + len(tail.encode())
    continuation, other, own = found.example
    lost = prompt.encode()[start:end].decode(errors="replace")
    advice = (
        "leave the last space out of the prompt"
        if prompt.endswith(" ")
        else f"end the prompt before {lost!r} and let the model begin with these bytes (healing)"
    )
    yield Finding(
        "prompt_boundary",
        start,
        end,
        "warning",
        f"{found.moved} of {some(found.tried, 'continuation')} tried cut the prompt's end {lost!r} "
        f"otherwise, for example {continuation!r}: {advice}.",
        look.shown(own),
        look.shown(other),
    )


def boundary(spec: TokenizerSpec, prompt: str) -> Boundary:
    """Try continuations of a prompt: those that complete longer tokens, and some plain ones.

    A token may span the boundary only if some end of the prompt is a proper beginning of it, so
    these are looked up in the vocabulary; rules that look ahead can move cuts as well, which the
    plain continuations are for.
    """
    ids = spec.encode_ids([prompt])[0]
    tried = list(dict.fromkeys([*_completions(spec, prompt.encode()), *_PLAIN]))[:TRIES]
    rows = spec.encode_ids([prompt + text for text in tried])
    stable, moved = len(ids), 0
    example: tuple[str, tuple[int, ...], tuple[int, ...]] | None = None
    for text, row in zip(tried, rows, strict=True):
        if row[: len(ids)] == ids:
            continue
        moved += 1
        same = 0
        while same < min(len(ids), len(row)) and ids[same] == row[same]:
            same += 1
        if same < stable or example is None:
            stable = min(stable, same)
            example = (text, tuple(row[same : same + 8]), tuple(ids[same:]))
    return Boundary(len(tried), moved, stable, len(ids), example)


def _completions(spec: TokenizerSpec, data: bytes) -> Iterator[str]:
    """What completes the ends of the prompt to longer tokens, short ends first."""
    trie = spec.trie
    for length in range(1, min(len(data), trie.longest - 1) + 1):
        end = data[-length:]
        low, high = trie.range(end)
        for i in trie.order[low : high : max(1, (high - low) // EACH)]:
            rest = spec.pieces[int(i)].data[length:]
            try:
                text = rest.decode()
            except UnicodeDecodeError:
                continue
            if text:
                yield text
