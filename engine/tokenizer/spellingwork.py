"""Counts, lattice and best spellings of ``tokenizer.spellings``, as they are made."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from engine.context import Context
from engine.errors import UserError
from engine.pieces import show
from engine.schema import Progress
from engine.tokenizer.scoring import logprobs
from engine.tokenizer.spec import TokenizerSpec
from engine.tokenizer.spelled import Spelled, words

EXACT_BYTES = 4096
"""Longest string whose spellings are counted exactly; longer ones get the logarithm."""

SHORTEST_BYTES = 1_000_000
LATTICE_BYTES = 1024
BEST_BYTES = 100_000
CANDIDATES = 256
"""Spellings the model is asked about when they are ordered by its probability."""

MOST_WORDS = 100_000
WORDS_WITH_BEST = 200

NO_CONTEXT = (
    "The tokenizer puts nothing before a text, and there is no prompt: the model does not predict "
    "the first token. Give a prompt and the text as the response."
)


@dataclass
class Made:
    """The tables while they are made."""

    ctx: Context
    text: Spelled
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def spec(self) -> TokenizerSpec:
        return self.text.spec

    def add(self, table: str, **row: Any) -> None:
        self.rows.setdefault(table, []).append(row)

    def note(self, table: str, column: str | None, reason: str) -> None:
        self.ctx.note(table, column, reason)

    def tables(self) -> dict[str, pa.Table]:
        declared = self.ctx.plan.analysis.tables
        return {
            name: pa.Table.from_pylist(rows, schema=declared[name].schema())
            for name, rows in self.rows.items()
        }

    # -- counts ------------------------------------------------------------------------------

    def counts(self) -> Iterator[Progress]:
        if self.ctx.params.part == "text":
            self._count(self.text.data, self.text.ids, 1, self.text.known)
            return
        found = words(self.spec, self.text.text)
        if len(found) > MOST_WORDS:
            self.note("spellings", None, f"Only the first {MOST_WORDS:,} words are listed.")
        for at, word in enumerate(found[:MOST_WORDS]):
            if at % 500 == 0:
                yield Progress(at / len(found), f"Word {at:,} of {len(found):,}")
            self._count(word.data, word.ids, word.count, word.known)
            if at < WORDS_WITH_BEST:
                yield from self.best(word.data, word.ids, at)

    def _count(self, data: bytes, ids: Sequence[int], count: int, known: bool) -> None:
        trie = self.spec.trie
        log2 = trie.log2_count(data)
        exact = str(trie.count(data)) if len(data) <= EXACT_BYTES else None
        if exact is None:
            self.note(
                "spellings",
                "spellings",
                f"The string has more than {EXACT_BYTES:,} bytes: only the logarithm is given.",
            )
        there = math.isfinite(log2)
        if not there:
            self.note("spellings", "log2_spellings", "The vocabulary cannot spell the string.")
        shortest = None
        if there and len(data) <= SHORTEST_BYTES:
            shortest = int(trie.best(data, 1)[0].cost) if data else 0
        elif there:
            reason = f"Not searched for in more than {SHORTEST_BYTES:,} bytes."
            self.note("spellings", "shortest_length", reason)
        self.add(
            "spellings",
            text=show(data),
            spellings=exact,
            log2_spellings=log2 if there else None,
            bits_per_byte=log2 / len(data) if there and data else None,
            canonical_length=len(ids) if known else None,
            shortest_length=shortest,
            bytes=len(data),
            occurrences=count,
        )

    def lattice(self) -> None:
        data = self.text.data
        if len(data) > LATTICE_BYTES:
            reason = f"Not drawn for more than {LATTICE_BYTES:,} bytes."
            self.note("lattice", None, reason)
            return
        own = set(_path(self.spec, self.text.ids))
        for start, end, i in zip(*(x.tolist() for x in self.spec.trie.lattice(data)), strict=True):
            self.add(
                "lattice",
                start_byte=start,
                end_byte=end,
                token_id=i,
                token=self.spec.token(i),
                canonical=(start, end, i) in own,
            )

    # -- the best ----------------------------------------------------------------------------

    def best(self, data: bytes, ids: tuple[int, ...], part: int) -> Iterator[Progress]:
        params = self.ctx.params
        if not params.k or not data:
            return
        if len(data) > BEST_BYTES:
            self.note("best", None, f"Not searched for in more than {BEST_BYTES:,} bytes.")
            return
        found = self._candidates(data)
        known = self.spec.unknown not in ids
        if known and ids not in found:
            found.append(ids)
        logs = yield from self._logprobs(found, part)
        if params.order == "probability":
            places = sorted(range(len(found)), key=lambda at: -sum(logs[at] or [-math.inf]))
            found, logs = [found[at] for at in places], [logs[at] for at in places]
        listed = 0
        for spelling, log in zip(found, logs, strict=True):
            # The canonical one is listed even when it is not among the best.
            among = listed < params.k and (params.order == "probability" or self._placed(listed))
            if not among and spelling != ids:
                continue
            listed += among
            self.add(
                "best",
                part=part,
                place=listed if among else None,
                tokens=[self.spec.token(i) for i in spelling],
                ids=list(spelling),
                length=len(spelling),
                score=self._score(spelling),
                logprob=None if log is None else float(sum(log)),
                canonical=spelling == ids,
            )

    def _placed(self, listed: int) -> bool:
        return listed < self._found

    def _candidates(self, data: bytes) -> list[tuple[int, ...]]:
        """Spellings in the order asked for; by probability: the shortest, to be asked about."""
        params = self.ctx.params
        costs = None
        if params.order == "score":
            scores = self.spec.scores
            if scores is None:
                raise UserError(
                    f"{self.spec.name} has no scores: order its spellings by length instead."
                )
            costs = -np.array(scores)[self.spec.trie.order]
        if params.order == "probability" and not self.ctx.models:
            raise UserError(
                "Spellings are ordered by probability under a model: name one, or order by length."
            )
        k = max(params.k, CANDIDATES) if params.order == "probability" else params.k
        try:
            found = [spelling.ids for spelling in self.spec.trie.best(data, k, costs)]
        except ValueError:
            raise UserError(
                f"The {k:,} best spellings of {len(data):,} bytes take too much memory: list "
                "fewer, or shorten the text."
            ) from None
        if params.order == "probability" and len(found) == k:
            self.note(
                "best",
                "place",
                f"Ordered by probability are the {k:,} shortest spellings and the canonical one; "
                "a longer one may be more probable.",
            )
        self._found = len(found)
        return found

    _found: int = 0

    def _logprobs(
        self, rows: Sequence[Sequence[int]], part: int
    ) -> Generator[Progress, None, list[list[float] | None]]:
        empty: list[list[float] | None] = [None] * len(rows)
        if not self.ctx.models:
            if part == 0:
                self.note("best", "logprob", "No model was given.")
            return empty
        if not self.text.context:
            if part == 0:
                self.note("best", "logprob", NO_CONTEXT)
            return empty
        model = self.ctx.models["model"]
        return list((yield from logprobs(model, self.text.context, rows, "Asking the model")))

    def _score(self, ids: Sequence[int]) -> float | None:
        scores = self.spec.scores
        return None if scores is None else float(sum(scores[i] for i in ids))


def _path(spec: TokenizerSpec, ids: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first byte, byte after, id) of each token."""
    at = 0
    for i in ids:
        end = at + len(spec.piece(i).data)
        yield at, end, i
        at = end
