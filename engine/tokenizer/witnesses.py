"""Texts that may make an id come out: candidates, the likely ones first, each to be tried."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Sequence

import numpy as np

from engine.tokenizer.certificates import Prover
from engine.tokenizer.utf8bytes import heads, split, tails, wide

_LEFT = ("", "\u00ab", "!", "#", "a", "1", " ", "\n", "A", "'", "\ue000", "\u4e00", "x y")
_RIGHT = ("", "!", "a", " ", "\n", "1", "\u00bb", "re", "\ue000")
_CONTEXTS = sorted(
    itertools.product(_LEFT, _RIGHT), key=lambda c: (len(c[0] + c[1]), c != ("", ""))
)
_SPREAD = 97
"""Steps over a range of characters in which all of it is soon visited."""


def candidates(prover: Prover, token_id: int) -> Iterator[str]:
    """Texts to try for one id, each at most once."""
    seen: set[str] = set()
    for text in _texts(prover, token_id):
        if text and text not in seen and not any("\ud800" <= c <= "\udfff" for c in text):
            seen.add(text)
            yield text


def _texts(prover: Prover, token_id: int) -> Iterator[str]:
    spec = prover.spec
    piece = spec.pieces[token_id]
    if piece.kind == "byte":
        yield from _with_byte(piece.data[0], spec.by_raw)
        return
    if token_id == spec.unknown:
        yield from ("\U0010fffd", "\u2603", "\ue000", "\u4e00", "\u1234", "\x00", "~", "Q")
        return
    parts = split(piece.data)
    if parts is None:
        return
    if parts.tail or parts.head:
        for text in _completed(piece.data, spec.by_bytes):
            yield text
        for text in itertools.islice(_completed(piece.data, spec.by_bytes), 64):
            for left, right in _CONTEXTS[1:20]:
                yield left + text + right
        return
    text = parts.text
    if spec.kind == "wordpiece":
        yield from _in_words(prover, token_id, text)
        return
    forms = [text, text[1:]] if text.startswith(" ") and len(text) > 1 else [text]
    for left, right in _CONTEXTS[:12]:
        for form in forms:
            yield left + form + right
    yield from _guided(prover, text)
    for left, right in _CONTEXTS[12:]:
        for form in forms:
            yield left + form + right


def _in_words(prover: Prover, token_id: int, text: str) -> Iterator[str]:
    """Words the longest-match rule may cut at the token (WordPiece)."""
    if not prover.inner(token_id):
        bare = text.removeprefix(" ")
        yield bare
        yield from (bare + right for right in "aeiostxz1!")
        return
    own = prover.form(token_id) or ""
    starts = [raw for raw in prover.spec.by_raw if len(raw) == 1]
    starts += [raw for raw in prover.spec.by_raw if raw.isalpha() and 1 < len(raw) <= 4][:40]
    for right in ("", "a", "s", "1"):
        yield from (left + own + right for left in starts)


def _guided(prover: Prover, text: str) -> Iterator[str]:
    """The token inside pieces that the rules allow, found by walking their automaton."""
    automaton = prover.cuts.narrowest()
    if automaton is None:
        return
    data = text.encode()
    for path, states in automaton.ways_in():
        walk = automaton.after(states, data)
        if not walk:
            continue
        for out in automaton.ways_out(walk.states, longest=2, most=40):
            for nth in range(2):
                left = _written(automaton.representatives, path, nth)
                yield left + text + _written(automaton.representatives, out, nth)


def _written(representatives: Sequence[str], path: Sequence[int], nth: int) -> str:
    return "".join(representatives[a][nth % len(representatives[a])] for a in path)


def _completed(data: bytes, known: Container[bytes]) -> Iterator[str]:
    """The bytes with the characters at their ends made whole."""
    parts = split(data)
    assert parts is not None
    if not parts.text and not parts.head and parts.tail:
        yield from _around(parts.tail, known)
        return
    lefts = _characters(tails(parts.tail), known) if parts.tail else iter([""])
    rights = _characters(heads(parts.head), known) if parts.head else iter([""])
    if parts.tail and parts.head:
        first, second = list(itertools.islice(lefts, 32)), list(itertools.islice(rights, 32))
        for shift in range(32):
            for at, left in enumerate(first):
                yield left + parts.text + second[(at + shift) % len(second)]
        return
    for left in lefts:
        for right in rights if parts.head else [""]:
            yield left + parts.text + right
        if parts.head:
            return


def _around(tail: bytes, known: Container[bytes]) -> Iterator[str]:
    """Characters with these bytes at their end, or in their middle."""
    yield from itertools.islice(_characters(tails(tail), known), 2000)
    for lead in (0xE1, 0xE9, 0xF0, 0xF3):
        space = wide(lead) - 1 - len(tail)
        if space == 1:
            for last in range(0x80, 0xC0):
                yield from _decoded(bytes([lead]) + tail + bytes([last]))


def _decoded(data: bytes) -> Iterator[str]:
    try:
        yield data.decode()
    except UnicodeDecodeError:
        return


def _characters(places: Sequence[slice], known: Container[bytes]) -> Iterator[str]:
    """Characters of some ranges, spread over them; those that are tokens themselves come last."""
    found = np.concatenate([np.arange(p.start, p.stop, p.step or 1) for p in places])
    found = found[(found < 0xD800) | (found >= 0xE000)]
    if len(found) > 4096:
        found = found[:: len(found) // 4096]
    order = np.arange(len(found)) * _SPREAD % len(found) if len(found) % _SPREAD else ...
    late: list[str] = []
    for code_point in found[order]:
        character = chr(code_point)
        if character.encode() in known:
            late.append(character)
        else:
            yield character
    yield from late


def _with_byte(byte: int, known: Container[str]) -> Iterator[str]:
    """Characters without a token whose UTF-8 has the byte."""
    data = bytes([byte])
    if byte < 0x80:
        yield chr(byte)
        yield "a" + chr(byte)
        return
    found = _around(data, ()) if byte < 0xC0 else _characters(heads(data), ())
    yield from (c for c in itertools.islice(found, 4000) if c not in known)
