"""Can an id ever come out of a text: yes with a witness, no with a certificate, or undecided."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from typing import Literal, NamedTuple

from engine.schema import Progress
from engine.tokenizer.certificates import Prover
from engine.tokenizer.spec import TokenizerSpec
from engine.tokenizer.witnesses import candidates

Reachable = Literal["yes", "no", "undecided"]

ROUND = 16
"""Candidates tried for each open id before all others get their turn."""
SLICE = 16_384
"""Texts encoded between two reports of progress."""


class Verdict(NamedTuple):
    """What is known of one id.

    Attributes:
        reachable: yes, no, undecided.
        proof: the witness (a text), the certificate, or the reason why it stays open.
        kind: which of the three.
    """

    reachable: Reachable
    proof: str
    kind: Literal["witness", "certificate", "reason"]


def verdicts(
    spec: TokenizerSpec, prover: Prover, tries: int
) -> Generator[Progress, None, list[Verdict]]:
    """A verdict on every id.

    A witness is encoded before it counts. Special tokens written in a text count as themselves:
    that is what most programs do with them.

    Args:
        spec: the tokenizer.
        prover: its certificates.
        tries: texts tried for one id before it is left undecided.
    """
    found: dict[int, Verdict] = {}
    _given(spec, found)
    yield from _plain(spec, found)
    open_ids: list[int] = []
    left = [i for i in range(spec.size) if i not in found]
    for at, i in enumerate(left):
        if at % 1024 == 1023:
            yield Progress(0.6 + 0.2 * at / len(left), f"Proving: {at:,} of {len(left):,} ids")
        # The unknown token stands for what has no spelling, not for its own string.
        reason = prover.never(i) if i != spec.unknown else None
        if reason is None:
            open_ids.append(i)
        else:
            found[i] = Verdict("no", reason, "certificate")
    yield from _searched(spec, prover, open_ids, tries, found)
    return [found[i] for i in range(spec.size)]


def _given(spec: TokenizerSpec, found: dict[int, Verdict]) -> None:
    """Unused ids, special and added tokens."""
    listed = [i for i, p in enumerate(spec.pieces) if p.kind in ("special", "added")]
    texts = [spec.raw[i] or "" for i in listed]
    encoded = spec.encode_ids(texts, "parse") if texts else []
    for i, text, ids in zip(listed, texts, encoded, strict=True):
        if i in ids and i != spec.unknown:
            found[i] = Verdict("yes", text, "witness")
        elif i != spec.unknown:
            why = "An added token that its own text does not give."
            found[i] = Verdict("undecided", why, "reason")
    for i, piece in enumerate(spec.pieces):
        if piece.kind == "unused":
            found[i] = Verdict("no", "The tokenizer has no string for this id.", "certificate")


def _plain(spec: TokenizerSpec, found: dict[int, Verdict]) -> Iterator[Progress]:
    """Most tokens come out of their own text."""
    own: list[tuple[int, str]] = []
    for i in spec.segmenting:
        data = spec.pieces[i].data
        if i in found or spec.pieces[i].kind == "byte":
            continue
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        if spec.prefix_space and text.startswith(" ") and len(text) > 1:
            text = text[1:]
        own.append((i, text))
    for start in range(0, len(own), SLICE):
        yield Progress(0.6 * start / len(own), f"Encoding {start:,} of {len(own):,} tokens")
        part = own[start : start + SLICE]
        rows = spec.encode_ids([text for _, text in part])
        for (i, text), ids in zip(part, rows, strict=True):
            if i in ids:
                found[i] = Verdict("yes", text, "witness")


def _searched(
    spec: TokenizerSpec,
    prover: Prover,
    open_ids: Sequence[int],
    tries: int,
    found: dict[int, Verdict],
) -> Iterator[Progress]:
    """Try candidates for the ids nothing forbids, a few of each in turn."""
    sources = {i: candidates(prover, i) for i in open_ids}
    tried = dict.fromkeys(open_ids, 0)
    width = 4
    while sources:
        yield Progress(0.8, f"Looking for witnesses of {len(sources):,} ids")
        rows: list[tuple[int, str]] = []
        done: list[int] = []
        for i, source in sources.items():
            wanted = min(width, tries - tried[i])
            texts = list(itertools.islice(source, wanted))
            tried[i] += len(texts)
            rows += [(i, text) for text in texts]
            if len(texts) < width:
                done.append(i)
        for start in range(0, len(rows), SLICE):
            part = rows[start : start + SLICE]
            encoded = spec.encode_ids([text for _, text in part])
            for (i, text), ids in zip(part, encoded, strict=True):
                if i in ids and i not in found:
                    found[i] = Verdict("yes", text, "witness")
        for i in done:
            if i not in found:
                found[i] = Verdict("undecided", _open(prover, tried[i]), "reason")
        sources = {i: s for i, s in sources.items() if i not in found}
        width = min(ROUND * 4, width * 2)


def _open(prover: Prover, tried: int) -> str:
    said = f"Nothing forbids it, but none of {tried:,} texts tried gives it."
    unread = prover.cuts.unread
    return said if not unread else f"{said} Not all rules could be used: {unread[0]}."
