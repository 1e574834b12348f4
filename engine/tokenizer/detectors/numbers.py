"""How numbers are cut: from the left, from the right, digit by digit, or anyhow.

Singh and Strouse 2024, Tokenization counts, arXiv 2402.14903: models count better when groups
follow place value (from the right, in threes).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import regex  # type: ignore[import-untyped]

from engine.tokenizer.looked import Finding, Looked, some

MOST = 200
_DIGITS = regex.compile(r"\p{Nd}{2,}")


def numbers(look: Looked) -> Iterator[Finding]:
    """Runs of digits in several tokens, once for each different run."""
    seen: Counter[str] = Counter(_DIGITS.findall(look.text))
    done: set[str] = set()
    for match in _DIGITS.finditer(look.text):
        digits = match.group()
        if digits in done:
            continue
        done.add(digits)
        start, end = look.span(*match.span())
        sizes = group_sizes(look, match.start(), match.end())
        if len(sizes) < 2:
            continue
        kind, group = pattern(sizes)
        right = agreement(sizes)
        wanted = "|".join(_groups(digits, threes(len(digits))))
        place = (
            ""
            if kind == "single"
            else f"; {right:.0%} of the cuts are where thousands end ({wanted})"
        )
        yield Finding(
            "numbers",
            start,
            end,
            "note" if right == 1 or kind == "single" else "warning",
            f"{digits} is cut {'|'.join(_groups(digits, sizes))}: {_SAID[kind].format(group)}"
            f"{place}; it occurs {some(seen[digits], 'time')}.",
            look.tokens(look.covering(start, end)),
        )
        if len(done) >= MOST:
            return


_SAID = {
    "single": "digit by digit",
    "left": "from the left in groups of {}",
    "right": "from the right in groups of {}",
    "both": "in equal groups of {}",
    "irregular": "in irregular groups",
}


def group_sizes(look: Looked, start: int, end: int) -> tuple[int, ...]:
    """Digits of each token over characters ``start`` to ``end``; parts of a digit count once."""
    cuts = {end}
    first, last = look.span(start, end)
    begins = {look.encoded.bounds[p][0] for p in look.covering(first, last)}
    cuts.update(c for c in range(start + 1, end) if look.byte_at[c] in begins)
    sizes: list[int] = []
    for cut in sorted(cuts):
        sizes.append(cut - start - sum(sizes))
    return tuple(sizes)


def pattern(sizes: Sequence[int]) -> tuple[str, int]:
    """How a run of digits is cut, and the size of its groups.

    ``left``: all groups but the last are equal and the last is not longer; ``right`` the mirror
    image; ``both`` when all are equal; ``single`` for groups of one; else ``irregular``.
    """
    if all(size == 1 for size in sizes):
        return "single", 1
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return "both", sizes[0]
    if len(set(sizes[:-1])) == 1 and sizes[-1] <= sizes[0]:
        return "left", sizes[0]
    if len(set(sizes[1:])) == 1 and sizes[0] <= sizes[-1]:
        return "right", sizes[-1]
    return "irregular", 0


def threes(length: int) -> tuple[int, ...]:
    """Groups by place value: threes from the right."""
    first = length % 3
    return ((first,) if first else ()) + (3,) * (length // 3)


def agreement(sizes: Sequence[int]) -> float:
    """Share of the inner cuts that lie a multiple of three digits from the right; 1 without any."""
    left, inside, good = sum(sizes), 0, 0
    for size in sizes[:-1]:
        left -= size
        inside += 1
        good += left % 3 == 0
    return good / inside if inside else 1.0


def _groups(digits: str, sizes: Sequence[int]) -> list[str]:
    found, at = [], 0
    for size in sizes:
        found.append(digits[at : at + size])
        at += size
    return found
