"""What adding tokens to a tokenizer would save on a corpus, by really adding them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from engine.errors import UserError
from engine.schema import Progress
from engine.tokenizer.spec import TokenizerSpec


@dataclass
class Saved:
    """What one added token (or all of them together) would change.

    Attributes:
        token: the string; None for all together.
        documents: documents that contain it.
        occurrences: how often they contain it.
        tokens: fewer tokens than without (negative when it costs some).
    """

    token: str | None
    documents: int = 0
    occurrences: int = 0
    tokens: int = 0


def savings(
    spec: TokenizerSpec, texts: Iterable[str], tokens: Sequence[str], found: list[Saved]
) -> Iterator[Progress]:
    """Encode the documents that contain the tokens again, with a copy that has them.

    Args:
        spec: the tokenizer; it is not changed.
        texts: the documents.
        tokens: strings to add, matched anywhere, as the library's ``add_tokens`` does.
        found: filled with one row for each token, and one for all together.

    Raises:
        UserError: for a tokenizer whose file cannot be copied with more tokens.
    """
    if not spec.tree:
        raise UserError(
            f"Tokens cannot be added to {spec.name}, which is a SentencePiece model: give a "
            "tokenizer.json."
        )
    copies = [_copy(spec, [token]) for token in tokens] + [_copy(spec, tokens)]
    found += [Saved(token) for token in tokens] + [Saved(None)]
    for number, text in enumerate(texts):
        if number % 100 == 0:
            yield Progress(None, f"Encoding with the added tokens: document {number:,}")
        here = [text.count(token) for token in tokens]
        if not any(here):
            continue
        before = len(spec.encode_ids([text])[0])
        for row, copy, times in zip(found, copies, [*here, sum(here)], strict=True):
            if times:
                after = len(copy.encode(text, add_special_tokens=False).ids)
                row.documents += 1
                row.occurrences += times
                row.tokens += before - after


def _copy(spec: TokenizerSpec, tokens: Sequence[str]):  # type: ignore[no-untyped-def]
    from tokenizers import AddedToken, Tokenizer

    copy = Tokenizer.from_str(orjson.dumps(spec.tree).decode())
    copy.no_truncation()
    copy.no_padding()
    copy.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    copy.encode_special_tokens = True
    return copy
