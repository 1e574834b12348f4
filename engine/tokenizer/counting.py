"""Counting a large text: split once, and do everything else once for each different pre-token.

Ids of a text are those of its pre-tokens, which repeat: eight megabytes of code have 1.6 million
pre-tokens and 30,000 different ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import regex  # type: ignore[import-untyped]

from engine.pieces import byte_symbols
from engine.tokenization import utf8
from engine.tokenizer.spec import TokenizerSpec
from engine.tokenizer.splitting import Splitter

MOST_FORMS = 1_000_000
"""Different pre-tokens held at once; then they are counted off and forgotten."""

_WORD = regex.compile(r"\S+")


@dataclass
class Counts:
    """What was counted.

    Attributes:
        ids: how often each id occurs, [size].
        documents, bytes, characters, words: of the texts; words are stretches without white space.
        forms: pre-tokens counted off, and how often they occurred in all.
    """

    ids: npt.NDArray[np.int64]
    documents: int = 0
    bytes: int = 0
    characters: int = 0
    words: int = 0
    forms: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return int(self.ids.sum())


Visitor = Callable[[str, tuple[int, ...], int], None]
"""Told of each different pre-token: its form, its ids, and how often it occurred."""


@dataclass
class Reader:
    """Counts texts of one tokenizer, a document at a time."""

    spec: TokenizerSpec
    visitors: tuple[Visitor, ...] = ()
    counts: Counts = field(init=False)

    def __post_init__(self) -> None:
        self.counts = Counts(np.zeros(self.spec.size, np.int64))
        self._forms: Counter[str] = Counter()
        self._texts: Counter[str] = Counter()
        self._splitter = Splitter.of(self.spec)
        self._added = any(piece.kind == "added" for piece in self.spec.pieces)

    def read(self, text: str) -> None:
        """Count one document.

        Raises:
            UserError: lone surrogates or too long a document.
        """
        data = utf8(text, name="document")
        counts = self.counts
        counts.documents += 1
        counts.bytes += len(data)
        counts.characters += len(text)
        counts.words += len(_WORD.findall(text))
        library = getattr(self.spec.backend, "_library", None)
        if library is None:
            self._whole(text)
        elif self._added:
            for part in self.spec.backend._parts(text, "text"):  # type: ignore[attr-defined]
                if part.token is not None:
                    counts.ids[part.token.id] += 1
                else:
                    self._split(text[part.start : part.end], library)
        else:
            self._split(text, library)
        if len(self._forms) + len(self._texts) > MOST_FORMS:
            self.flush()

    def _whole(self, text: str) -> None:
        """Nothing is cut before the model (SentencePiece): the whole document is encoded."""
        for i, count in Counter(self.spec.encode_ids([text])[0]).items():
            self.counts.ids[i] += count

    def _split(self, text: str, library: Any) -> None:
        if library.normalizer is not None:
            text = library.normalizer.normalize_str(text)
        pieces = self._splitter.pieces(text) if self._splitter is not None else None
        if pieces is not None:
            self._texts.update(pieces)
            return
        if library.pre_tokenizer is None:
            self._forms[text] += 1
            return
        self._forms.update([form for form, _ in library.pre_tokenizer.pre_tokenize_str(text)])

    def flush(self) -> None:
        """Count off the pre-tokens held: their ids, and whatever visitors want of them."""
        symbols = byte_symbols()
        for text, count in self._texts.items():
            self._forms["".join(map(symbols.__getitem__, text.encode()))] += count
        self._texts = Counter()
        ids = self.counts.ids
        tokenize = self.spec.form_ids
        for form, count in self._forms.items():
            if not form:
                continue
            own = tokenize(form)
            for i in own:
                ids[i] += count
            for visit in self.visitors:
                visit(form, own, count)
        self.counts.forms += len(self._forms)
        self._forms = Counter()


def count(spec: TokenizerSpec, texts: Iterable[str], *visitors: Visitor) -> Counts:
    """Count all of some texts."""
    reader = Reader(spec, visitors)
    for text in texts:
        reader.read(text)
    reader.flush()
    return reader.counts


def texts_of(subject: Any) -> Iterator[str]:
    """The documents of a corpus, or prompt and response of a text."""
    documents = getattr(subject, "documents", None)
    if documents is None:
        documents = (subject.prompt, subject.response)
    yield from (text for text in documents if text)
