"""What a tokenizer would give for the bytes some ids stand for, and where that differs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from tokenkernel import differences

from engine.errors import UserError
from engine.tokenizer.spec import TokenizerSpec

MOST_COMPARED = 20_000
"""Longest lists that are compared when they spell different texts (quadratic at worst)."""


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch where two lists of ids differ.

    Attributes:
        start, end: its bytes in what the given ids stand for.
        given: positions (from, to) in the given list.
        other: positions (from, to) in the list it is compared with.
    """

    start: int
    end: int
    given: tuple[int, int]
    other: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Canonical:
    """Ids re-encoded from their bytes.

    Attributes:
        ids: what the tokenizer gives.
        ends: for each the byte after it, in the bytes of the given ids.
        broken: stretches (first, after) of the given list whose bytes are no text; they stand in
            ``ids`` as they were given.
    """

    ids: tuple[int, ...]
    ends: tuple[int, ...]
    broken: tuple[tuple[int, int], ...]


def ends_of(spec: TokenizerSpec, ids: Sequence[int]) -> list[int]:
    """Byte after each token in the joined bytes."""
    ends: list[int] = []
    at = 0
    for i in ids:
        at += len(spec.pieces[i].data)
        ends.append(at)
    return ends


def canonical(spec: TokenizerSpec, ids: Sequence[int], cuts: Sequence[int] = ()) -> Canonical:
    """Decode and encode again: E(D(ids)).

    Special tokens stand for themselves, so the text between them is encoded on its own, as it is
    after each of ``cuts`` (positions, where prompt and response were joined). A special token that
    is spelled out in the text becomes its id, as it does when ids are made from text again.

    Raises:
        UserError: for ids the tokenizer does not have.
    """
    spec.check_ids(ids)
    made: list[int] = []
    ends: list[int] = []
    broken: list[tuple[int, int]] = []
    at = byte = 0
    for end in _runs(spec, ids, frozenset(cuts)):
        run = ids[at:end]
        if end - at == 1 and spec.pieces[run[0]].kind == "special":
            made.append(run[0])
            byte += len(spec.pieces[run[0]].data)
            ends.append(byte)
            at = end
            continue
        for first, last, whole in _valid(spec, run):
            part = run[first:last]
            data = b"".join(spec.pieces[i].data for i in part)
            if whole:
                again, places = _again(spec, data)
            else:
                again, places = tuple(part), ends_of(spec, part)
                broken.append((at + first, at + last))
            made += again
            ends += [byte + place for place in places]
            byte += len(data)
        at = end
    return Canonical(tuple(made), tuple(ends), tuple(broken))


def is_canonical(spec: TokenizerSpec, ids: Sequence[int]) -> bool:
    """Whether encoding the ids' bytes gives the same ids."""
    again = canonical(spec, ids)
    return again.ids == tuple(ids) and not again.broken


def _runs(spec: TokenizerSpec, ids: Sequence[int], cuts: frozenset[int]) -> list[int]:
    """Ends of the stretches that are encoded on their own."""
    ends: set[int] = {len(ids)} if ids else set()
    for at, i in enumerate(ids):
        if spec.pieces[i].kind == "special":
            ends |= {at, at + 1}
    return sorted((ends | {cut for cut in cuts if cut < len(ids)}) - {0})


def _valid(spec: TokenizerSpec, run: Sequence[int]) -> list[tuple[int, int, bool]]:
    """A run as stretches of tokens that are text, and of tokens that end inside a character."""
    data = b"".join(spec.pieces[i].data for i in run)
    wrong = _invalid(data)
    if not wrong:
        return [(0, len(run), True)]
    found: list[tuple[int, int, bool]] = []
    at = 0
    for place, i in enumerate(run):
        end = at + len(spec.pieces[i].data)
        good = not any(first < end and at < last for first, last in wrong)
        # A character that is cut by the border of a wrong stretch belongs to it.
        if found and found[-1][2] == good:
            found[-1] = (found[-1][0], place + 1, good)
        else:
            found.append((place, place + 1, good))
        at = end
    joined = [b"".join(spec.pieces[i].data for i in run[a:b]) for a, b, good in found if good]
    if any(_invalid(piece) for piece in joined):
        return [(0, len(run), False)]
    return found


def _invalid(data: bytes) -> list[tuple[int, int]]:
    """Stretches of bytes that are no UTF-8."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < len(data):
        try:
            data[at:].decode("utf-8")
            break
        except UnicodeDecodeError as error:
            found.append((at + error.start, at + error.end))
            at += error.end
    return found


def _again(spec: TokenizerSpec, data: bytes) -> tuple[tuple[int, ...], list[int]]:
    """Ids of some bytes and the byte after each, the space a tokenizer puts first counted."""
    text = data.decode("utf-8")
    bare = text[1:] if spec.prefix_space and text.startswith(" ") else text
    for candidate in dict.fromkeys((bare, text)):
        encoded = spec.encode(candidate, "parse")
        if b"".join(spec.pieces[i].data for i in encoded.ids) == data:
            break
    else:
        # Normalized on the way, or a token in front that lacks the prefix space.
        candidate = bare
        encoded = spec.encode(candidate, "parse")
    shift = len(data) - len(candidate.encode())
    return encoded.ids, [end + shift for _, end in encoded.bounds]


def regions(
    spec: TokenizerSpec, given: Sequence[int], other: Sequence[int], ends: Sequence[int]
) -> list[Region]:
    """Where two lists that stand for the same bytes differ, between boundaries both have.

    A token without a byte of its own belongs to the one before it.

    Args:
        spec: whose ids.
        given: the given ids.
        other: what they are compared with.
        ends: byte after each of ``other``, in the bytes of ``given``.
    """
    if tuple(given) == tuple(other):
        return []
    names: dict[tuple[int, ...], int] = {}
    a, b = _Groups(given, ends_of(spec, given), names), _Groups(other, ends, names)
    if not a.ends or not b.ends:
        return [Region(0, max([0, *a.ends, *b.ends]), (0, len(given)), (0, len(other)))]
    return [
        Region(
            d.start,
            d.end,
            (a.starts[d.a_from], a.starts[d.a_to]),
            (b.starts[d.b_from], b.starts[d.b_to]),
        )
        for d in differences(a.ends, a.names, b.ends, b.names)
    ]


class _Groups:
    """Tokens joined to groups of at least a byte; equal groups have equal names."""

    def __init__(
        self, ids: Sequence[int], ends: Sequence[int], names: dict[tuple[int, ...], int]
    ) -> None:
        self.ends: list[int] = []
        self.starts: list[int] = []
        last = 0
        for place, end in enumerate(ends):
            if end > last:
                self.starts.append(place if self.ends else 0)
                self.ends.append(end)
                last = end
        self.starts.append(len(ids))
        spans = itertools.pairwise(self.starts)
        self.names = [names.setdefault(tuple(ids[a:b]), len(names)) for a, b in spans]


def edits(
    spec: TokenizerSpec, given: Sequence[int], other: Sequence[int]
) -> tuple[list[Region], int]:
    """Where two lists of ids differ though they spell the same, white space apart.

    Returns:
        The phantom edits, and the number of stretches where the texts themselves differ.

    Raises:
        UserError: when different texts are too long to be compared.
    """
    if spec.decode_bytes(given) == spec.decode_bytes(other):
        return regions(spec, given, other, ends_of(spec, other)), 0
    if max(len(given), len(other)) > MOST_COMPARED:
        raise UserError(
            f"The two lists spell different texts; at most {MOST_COMPARED:,} ids of such are "
            "compared: give shorter ones."
        )
    ends = [0, *ends_of(spec, given)]
    found: list[Region] = []
    replaced = 0
    for tag, a, b, c, d in SequenceMatcher(None, other, given, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        if _bare(spec, other[a:b]) == _bare(spec, given[c:d]):
            found.append(Region(ends[c], ends[d], (c, d), (a, b)))
        else:
            replaced += 1
    return found, replaced


def _bare(spec: TokenizerSpec, ids: Sequence[int]) -> bytes:
    return re.sub(rb"\s+", b"", b"".join(spec.pieces[i].data for i in ids))
