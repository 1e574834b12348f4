"""The same word with and without a space before it, in small and capital letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import regex  # type: ignore[import-untyped]

from engine.tokenizer.looked import Finding, Looked, alone, some
from engine.tokenizer.spec import TokenizerSpec

MOST = 500
"""Different words looked at."""
_WORD = regex.compile(r"[\p{L}\p{M}]{2,}")
VARIANTS = ("bare", "spaced", "capital", "spaced_capital", "upper", "spaced_upper")


@dataclass(frozen=True, slots=True)
class Variants:
    """A word's token counts by variant; see ``VARIANTS``."""

    word: str
    occurrences: int
    place: int
    counts: Mapping[str, int]


def variants(spec: TokenizerSpec, text: str) -> list[Variants]:
    """Token counts of each different word of a text in its variants, as words of their own."""
    places: dict[str, int] = {}
    seen: Counter[str] = Counter()
    for match in _WORD.finditer(text):
        word = match.group().lower()
        seen[word] += 1
        places.setdefault(word, match.start())
    words = list(places)[:MOST]
    texts = [form for word in words for form in _forms(word)]
    rows = alone(spec, texts)
    found: list[Variants] = []
    for at, word in enumerate(words):
        mine = rows[at * len(VARIANTS) : (at + 1) * len(VARIANTS)]
        counts = dict(zip(VARIANTS, map(len, mine), strict=True))
        found.append(Variants(word, seen[word], places[word], counts))
    return found


def _forms(word: str) -> tuple[str, ...]:
    capital, upper = word[:1].upper() + word[1:], word.upper()
    return word, " " + word, capital, " " + capital, upper, " " + upper


def word_variants(look: Looked) -> Iterator[Finding]:
    """Words that cost two tokens or more above their cheapest variant, once as they are written."""
    known = {found.word: found for found in variants(look.spec, look.text)}
    done: set[str] = set()
    for match in _WORD.finditer(look.text):
        word = match.group()
        found = known.get(word.lower())
        if found is None or word in done:
            continue
        done.add(word)
        start, end = look.span(*match.span())
        covering = look.covering(start, end)
        best = min(found.counts, key=found.counts.__getitem__)
        if len(covering) - found.counts[best] < 2:
            continue
        form = _forms(found.word)[VARIANTS.index(best)]
        sizes = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in found.counts.items())
        yield Finding(
            "word_variants",
            start,
            end,
            "note",
            f"{word!r} has {some(len(covering), 'token')} here, {form!r} only "
            f"{found.counts[best]}: {sizes}.",
            look.tokens(covering),
            look.shown(alone(look.spec, [form])[0]),
        )
