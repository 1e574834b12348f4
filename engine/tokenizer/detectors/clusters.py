"""Emoji: one character to the eye, many tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import regex  # type: ignore[import-untyped]

from engine.tokenizer.looked import Finding, Looked, named, some

MOST = 200
_CLUSTER = regex.compile(r"\X")
_EMOJI = regex.compile(r"[\p{Extended_Pictographic}\p{Regional_Indicator}]|\uFE0F?\u20E3")


def emoji(look: Looked) -> Iterator[Finding]:
    """Extended grapheme clusters (UAX 29) that are emoji and have several tokens, once each."""
    if look.text.isascii():
        return
    places: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for match in _CLUSTER.finditer(look.text):
        cluster = match.group()
        if not cluster.isascii() and _EMOJI.search(cluster):
            counts[cluster] += 1
            places.setdefault(cluster, match.start())
    for cluster, place in list(places.items())[:MOST]:
        start, end = look.span(place, place + len(cluster))
        covering = look.covering(start, end)
        if len(covering) > 1:
            yield Finding(
                "emoji",
                start,
                end,
                "note",
                f"{cluster} ({named(cluster, 12)}) is one character to the eye, "
                f"{some(len(cluster), 'code point')} and {some(len(covering), 'token')}; "
                f"it occurs {some(counts[cluster], 'time')}.",
                look.tokens(covering),
            )
