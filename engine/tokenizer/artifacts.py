"""Names for the regions where two spellings differ.

Two taxonomies: the eight artifact types of Ayoobi, Armstrong and Mukherjee 2026 ("Say Anything
but This", arXiv 2601.14658), which the paper gives by example (the rules here are ours), and nine
classes of our own that say what the differing boundaries lie between.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from engine.tokenizer.spec import TokenizerSpec

ARTIFACTS = (
    "whitespace-boundary shift",
    "whitespace detachment",
    "newline substitution",
    "intra-word resegmentation",
    "proper-noun segmentation",
    "morphological boundary",
    "acronym split",
    "plural or possessive tail",
)
"""The paper's eight types, in its order; type n is ``ARTIFACTS[n - 1]``."""

CLASSES = (
    "control or added token",
    "normalization",
    "character split",
    "digit regrouping",
    "whitespace regrouping",
    "whitespace-boundary shift",
    "punctuation attachment",
    "cross-pretoken merge",
    "intra-word resegmentation",
)
"""Our classes, in the order in which they are tried."""

TAILS = ("s", "es", "'s", "’s", "s'")
PREFIXES = ("re", "un", "in", "im", "dis", "pre", "non", "over", "mis", "sub", "inter")
SUFFIXES = ("ing", "ed", "er", "ly", "ness", "tion", "ment", "able")

_ACRONYM = re.compile(r"[A-Z0-9.]*[A-Z][A-Z0-9.]*[A-Z][A-Z0-9.]*\Z")
_SENTENCE_END = re.compile(r"(?:\A|[.!?:]|\n)[\s\"'“”‘’(\[]*\Z")


def artifacts(
    spec: TokenizerSpec, before: Sequence[bytes], after: Sequence[bytes], ahead: str
) -> tuple[str, ...]:
    """The paper's types of a region, the primary one first.

    Args:
        spec: whose vocabulary says whether a word is one of its tokens.
        before: the canonical (source) tokens.
        after: the given (output) tokens.
        ahead: the text before the region.
    """
    first, second = _texts(before), _texts(after)
    whitespace = _whitespace(first, second)
    a, b = ([t for piece in side if (t := piece.strip())] for side in (first, second))
    if a == b:
        return (whitespace,)
    split, whole = (a, b) if len(a) > len(b) else (b, a)
    core = "".join(split)
    found: list[str] = []
    if len(split) > len(whole) and split[-1] in TAILS:
        found.append(ARTIFACTS[7])
    if _ACRONYM.match(core):
        found.append(ARTIFACTS[6])
    elif _proper(spec, core, ahead):
        found.append(ARTIFACTS[4])
    if _morphological(split):
        found.append(ARTIFACTS[5])
    found = found or [ARTIFACTS[3]]
    moved = [whitespace] if _outer(first) != _outer(second) else []
    return (*found, *moved)


def _texts(pieces: Sequence[bytes]) -> list[str]:
    return [piece.decode("utf-8", "backslashreplace") for piece in pieces]


def _whitespace(a: Sequence[str], b: Sequence[str]) -> str:
    """Which of the types 1 to 3 a difference in white space is."""
    breaks = [any(c in "\n\t\r" for piece in side for c in piece) for side in (a, b)]
    if breaks[0] != breaks[1]:
        return ARTIFACTS[2]
    alone = [any(piece and not piece.strip() for piece in side) for side in (a, b)]
    return ARTIFACTS[1] if alone[0] != alone[1] else ARTIFACTS[0]


def _outer(pieces: Sequence[str]) -> tuple[str, str, bool]:
    """White space at both ends, and whether a token is nothing else."""
    text = "".join(pieces)
    bare = text.strip()
    start = text.find(bare) if bare else len(text)
    alone = any(piece and not piece.strip() for piece in pieces)
    return text[:start], text[start + len(bare) :], alone


def _proper(spec: TokenizerSpec, core: str, ahead: str) -> bool:
    """A capital that no sentence's start explains, or a word that is no token in lower case."""
    if not (core[:1].isupper() and core[1:].isalpha() and not core.isupper()):
        return False
    low = core.lower().encode()
    known = spec.by_bytes
    return not _SENTENCE_END.search(ahead) or not (low in known or b" " + low in known)


def _morphological(split: Sequence[str]) -> bool:
    """Two parts, one of them an affix, the other a stem of at least three letters."""
    if len(split) != 2:
        return False
    first, last = (piece.lower() for piece in split)
    stems = [last] * (first in PREFIXES) + [first] * (last in SUFFIXES)
    return any(stem.isalpha() and len(stem) >= 3 for stem in stems)


def region_class(
    spec: TokenizerSpec, given: Sequence[int], other: Sequence[int], crosses: bool
) -> tuple[str, str]:
    """Our class of a region, the first that fits, and how the given cutting relates to the other.

    Args:
        spec: whose ids.
        given: the given tokens of the region.
        other: the canonical ones.
        crosses: a given token spans a place where the pre-tokenizer cuts.

    Returns:
        The class; and ``finer``, ``coarser``, ``shifted`` or ``same`` (equal boundaries).
    """
    a, b = ([spec.pieces[i] for i in side] for side in (given, other))
    data, again = b"".join(p.data for p in a), b"".join(p.data for p in b)
    mine, theirs = _boundaries([p.data for p in a]), _boundaries([p.data for p in b])
    relation = _relation(mine, theirs)
    kinds = ("special", "added")
    if [i for i in given if spec.pieces[i].kind in kinds] != [
        i for i in other if spec.pieces[i].kind in kinds
    ]:
        return CLASSES[0], relation
    if data != again:
        return CLASSES[1], relation
    text = data.decode("utf-8", "replace")
    places = _characters(data)
    changed = mine ^ theirs
    halves = any(place not in places for place in changed)
    if halves or any(p.kind == "byte" for p in (*a, *b)):
        return CLASSES[2], relation
    sides = [(text[places[at] - 1], text[places[at]]) for at in sorted(changed)]
    return _by_sides(sides, crosses), relation


def _by_sides(sides: Sequence[tuple[str, str]], crosses: bool) -> str:
    """By what stands at the left and the right of the boundaries only one side has."""
    if sides and all(x.isdigit() and y.isdigit() for x, y in sides):
        return CLASSES[3]
    if sides and all(x.isspace() and y.isspace() for x, y in sides):
        return CLASSES[4]
    if sides and all(x.isspace() or y.isspace() for x, y in sides):
        return CLASSES[5]
    if sides and all(_punctuation(x) or _punctuation(y) for x, y in sides):
        return CLASSES[6]
    return CLASSES[7] if crosses else CLASSES[8]


def _punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def _boundaries(pieces: Sequence[bytes]) -> set[int]:
    """Bytes inside of the region at which a token ends."""
    found: set[int] = set()
    at = 0
    for piece in pieces:
        at += len(piece)
        found.add(at)
    return found - {0, at}


def _characters(data: bytes) -> dict[int, int]:
    """Number of the character that starts at each byte where one does."""
    starts = [at for at, byte in enumerate(data) if not 0x80 <= byte < 0xC0]
    return {at: number for number, at in enumerate(starts)}


def _relation(mine: set[int], theirs: set[int]) -> str:
    if mine == theirs:
        return "same"
    if mine > theirs:
        return "finer"
    return "coarser" if mine < theirs else "shifted"
