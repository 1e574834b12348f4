"""Detectors over the different pre-tokens of a corpus, each weighted by how often it occurs."""

from __future__ import annotations

import heapq
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import regex  # type: ignore[import-untyped]

from engine.pieces import show
from engine.tokenizer.categories import script_of
from engine.tokenizer.detectors.numbers import pattern
from engine.tokenizer.spec import TokenizerSpec

MOST_WORDS = 200

_DIGITS = regex.compile(r"\p{Nd}{2,}")
_HIDDEN = regex.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
_CLUSTER = regex.compile(r"\X")
_EMOJI = regex.compile(r"[\p{Extended_Pictographic}\p{Regional_Indicator}]")


@dataclass
class _Sum:
    occurrences: int = 0
    tokens: int = 0
    example: str = ""
    most: int = 0

    def add(self, text: str, tokens: int, count: int) -> None:
        self.occurrences += count
        self.tokens += tokens * count
        if count > self.most:
            self.example, self.most = text, count


@dataclass
class Findings:
    """Sums over pre-tokens; used as a visitor of ``counting.Reader``."""

    spec: TokenizerSpec
    sums: defaultdict[tuple[str, str], _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    costly: list[tuple[int, str, int, int]] = field(default_factory=list)

    def __call__(self, form: str, ids: tuple[int, ...], count: int) -> None:
        """Look at one pre-token; see ``counting.Visitor``."""
        size = len(ids)
        if size > 1:
            self._costly(form, size, count)
        if self.spec.unknown in ids:
            self._add("unknown", "", self._text(form), size, count)
        if form.isascii() and not any(map(str.isdigit, form)):
            return
        data = self.spec.form_bytes(form)
        text = show(data)
        for match in _DIGITS.finditer(text):
            self._number(text, match.span(), ids, data, count)
        if data.isascii():
            return
        if _HIDDEN.search(text):
            self._add("invisible", "", text, size, count)
        if _EMOJI.search(text):
            self._add("emoji", "", text, size, count)
        if script_of(text) == "mixed":
            self._add("mixed_scripts", "", text, size, count)

    def document(self, text: str) -> None:
        """Look at what pre-tokens do not show: an accent may be cut from its letter."""
        if text.isascii() or unicodedata.is_normalized("NFC", text):
            return
        for cluster in _CLUSTER.findall(text):
            if not cluster.isascii() and not unicodedata.is_normalized("NFC", cluster):
                self._add("unicode_forms", "not NFC", cluster, 0, 1)

    def _text(self, form: str) -> str:
        return show(self.spec.form_bytes(form))

    def _add(self, finding: str, detail: str, text: str, size: int, count: int) -> None:
        self.sums[finding, detail].add(text, size, count)

    def _number(
        self, text: str, span: tuple[int, int], ids: tuple[int, ...], data: bytes, count: int
    ) -> None:
        """How a run of digits inside a pre-token is cut."""
        if text.encode() != data:
            return
        start, end = (len(text[:at].encode()) for at in span)
        ends, at = [], 0
        for i in ids:
            at += len(self.spec.pieces[i].data)
            ends.append(at)
        inner = [e for e in ends if start < e < end]
        width = (end - start) // (span[1] - span[0])
        sizes, last = [], start
        for place in [*inner, end]:
            sizes.append((place - last) // width)
            last = place
        kind, group = pattern(sizes) if len(sizes) > 1 else ("whole", 0)
        digits = f"{span[1] - span[0]} digits"
        detail = f"{digits}, {kind}{f' in {group}s' if group > 1 else ''}"
        self._add("numbers", detail, text[slice(*span)], len(sizes), count)

    def _costly(self, form: str, size: int, count: int) -> None:
        row = ((size - 1) * count, form, size, count)
        if len(self.costly) < MOST_WORDS:
            heapq.heappush(self.costly, row)
        elif row[0] > self.costly[0][0]:
            heapq.heapreplace(self.costly, row)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the table ``findings``, the most frequent first."""
        found = sorted(self.sums.items(), key=lambda item: -item[1].occurrences)
        return [
            {
                "finding": finding,
                "detail": detail,
                "occurrences": total.occurrences,
                # Counted in the text, not in pre-tokens.
                "tokens": None if finding == "unicode_forms" else total.tokens,
                "example": total.example,
            }
            for (finding, detail), total in found
        ]

    def words(self) -> list[dict[str, Any]]:
        """Rows of the table ``words``: what costs most tokens above one each."""
        return [
            {"text": self._text(form), "count": count, "tokens": size, "above_one": above}
            for above, form, size, count in sorted(self.costly, reverse=True)
        ]
