"""Characters nobody sees, and letters that look like others."""

from __future__ import annotations

from collections.abc import Iterator

import regex  # type: ignore[import-untyped]

from engine.tokenizer.categories import script_of
from engine.tokenizer.looked import Finding, Looked, alone, named, some

MOST = 200
WINDOW = 512
"""Characters on both sides that are encoded again without the finding."""

_HIDDEN = regex.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufe00-\ufe0f\U000e0000-\U000e007f]+"
)
_EMOJI = regex.compile(r"[\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}]")
_CLUSTER = regex.compile(r"\X")
_WORD = regex.compile(r"[\p{L}\p{M}]+")
_TOGETHER = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"})
"""Scripts that are written in one word (UTS 39, highly restrictive: Japanese, Chinese, Korean)."""

_LATIN = dict(
    zip(
        "аАВеЕЗіІјЈКМНоОрРсСТуУхХѕЅһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧοναρ",
        "aABeE3iIjJKMHoOpPcCTyYxXsShdqwABEZHIKMNOPTYXovap",
        strict=True,
    )
)
"""Letters that look like Latin ones (UTS 39, confusables.txt; the common ones)."""


def invisible(look: Looked) -> Iterator[Finding]:
    """Zero-width, direction and tag characters; those an emoji is made with are left out."""
    if look.text.isascii():
        return
    within = _emoji_parts(look.text)
    found = 0
    for match in _HIDDEN.finditer(look.text):
        start, end = match.span()
        if all(place in within for place in range(start, end)):
            continue
        text, characters = look.text, match.group()
        left, right = max(0, start - WINDOW), end + WINDOW
        rows = look.spec.encode_ids([text[left:right], text[left:start] + text[end:right]])
        first, last = look.span(start, end)
        yield Finding(
            "invisible",
            first,
            last,
            "warning",
            f"{some(len(characters), 'invisible character')} ({named(characters)}): "
            f"{len(rows[0]) - len(rows[1]):+d} tokens against the text without.",
            look.tokens(look.covering(first, last)),
        )
        found += 1
        if found == MOST:
            return


def _emoji_parts(text: str) -> set[int]:
    """Characters that belong to an emoji: joiners and selectors in it are meant."""
    places: set[int] = set()
    for match in _CLUSTER.finditer(text):
        if len(match.group()) > 1 and _EMOJI.search(match.group()):
            places.update(range(*match.span()))
    return places


def mixed_scripts(look: Looked) -> Iterator[Finding]:
    """Words with letters of several scripts: look-alikes give other tokens than the word meant."""
    if look.text.isascii():
        return
    found = 0
    for match in _WORD.finditer(look.text):
        word = match.group()
        if word.isascii() or script_of(word) != "mixed":
            continue
        scripts = {script_of(c) for c in word} - {None}
        if scripts <= _TOGETHER or scripts <= _TOGETHER | {"LATIN"}:
            continue
        plain = "".join(_LATIN.get(c, c) for c in word)
        changed = "".join(dict.fromkeys(c for c in word if c in _LATIN))
        seems = script_of(plain) != "mixed"
        start, end = look.span(*match.span())
        odd = f"; {changed!r} ({named(changed)}) looks like Latin" if seems else ""
        yield Finding(
            "mixed_scripts",
            start,
            end,
            "warning",
            f"The word {word!r} mixes {' and '.join(sorted(map(str, scripts)))}{odd}.",
            look.tokens(look.covering(start, end)),
            look.shown(alone(look.spec, [plain])[0]) if seems else (),
        )
        found += 1
        if found == MOST:
            return
