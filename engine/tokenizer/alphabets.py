"""``tokenizer.languages``: which languages' letters a vocabulary is made of."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import TokenizerRef
from engine.tokenizer.resolve import spec_of
from engine.tokenizer.spec import TokenizerSpec

_I, _F, _S = pa.int64(), pa.float64(), pa.string()


class LanguagesParams(Params):
    """Settings of ``tokenizer.languages``."""

    speakers: int = Field(
        1_000_000,
        ge=0,
        le=10**10,
        title="Speakers",
        description="Only languages of at least so many people: a token is shared among them.",
    )


LANGUAGES = Table(
    {
        "language": Column(_S, "The language."),
        "code": Column(_S, "Its code and script."),
        "script": Column(_S, "Script of its alphabet (ISO 15924)."),
        "speakers": Column(_I, "How many people speak it, by the package's data."),
        "letters": Column(_I, "Letters of its alphabet, capitals not counted apart."),
        "single": Column(_F, "Share of them that have a token of their own.", "share"),
        "ids": Column(_I, "Tokens with letters, all of which are in its alphabet.", "ids"),
        "credit": Column(_F, "The same, a token of n languages counted as 1/n.", "ids"),
        "share": Column(_F, "credit as a share of the tokens with letters.", "share"),
    },
    doc="One row for each language, the largest credit first.",
)

SUMMARY = Table(
    {
        "ids": Column(_I, "Ids of the vocabulary.", "ids"),
        "lettered": Column(_I, "Tokens that hold letters and are whole characters.", "ids"),
        "fitting": Column(_I, "Of them, tokens that fit at least one of the languages.", "ids"),
        "languages": Column(_I, "Languages compared."),
    },
    doc="One row.",
)


@dataclass(frozen=True, slots=True)
class Alphabet:
    """A language's letters, small ones, with the marks it needs."""

    code: str
    name: str
    script: str
    speakers: int
    letters: frozenset[str]


def letters_of(text: str) -> set[str]:
    """Letters and combining marks of a text, in small form, composed."""
    small = unicodedata.normalize("NFC", text.casefold())
    return {c for c in small if unicodedata.category(c)[0] in "LM"}


@lru_cache(maxsize=1)
def alphabets() -> tuple[Alphabet, ...]:
    """All languages of the package gflanguages that have an alphabet, by code."""
    import gflanguages  # type: ignore[import-untyped]

    found = []
    for code, language in sorted(gflanguages.LoadLanguages().items()):
        letters = letters_of(language.exemplar_chars.base.replace("◌", ""))
        if letters:
            found.append(
                Alphabet(
                    code, language.name, language.script, language.population, frozenset(letters)
                )
            )
    return tuple(found)


@analysis(
    "tokenizer.languages",
    version=1,
    subject=TokenizerRef,
    models=(),
    params=LanguagesParams,
    tables={"languages": LANGUAGES, "summary": SUMMARY},
    title="Which languages is this vocabulary made for?",
    cite=(
        (
            "Chelombitko et al. 2024, Qtok, arXiv 2410.12989, section 3: a token of n languages "
            "is credited to each as 1/n"
        ),
        "Google Fonts, gflanguages: alphabets and numbers of speakers",
    ),
    caveats=(
        "Letters do not make a language: a token fits every language whose alphabet has them.",
        "A token of few letters fits many languages; only rare letters tell them apart.",
    ),
)
def languages(ctx: Context) -> Iterator[Progress | Tables]:
    """Tokens by the alphabets that hold all of their letters.

    Capitals count as small letters; tokens without letters, and those that end inside a character,
    are left out. Credits of all languages sum to the number of tokens that fit at least one.
    """
    yield Progress(None, "Reading the alphabets")
    spec = spec_of(ctx)
    chosen = [a for a in alphabets() if a.speakers >= ctx.params.speakers]
    tokens = _lettered(spec)
    yield Progress(0.5, "Comparing letters")
    fits = fitting(tokens, chosen)
    many = fits.sum(0)
    weight = np.divide(1.0, many, out=np.zeros(len(many)), where=many > 0)
    alone = {next(iter(t)) for t in tokens if len(t) == 1}
    rows: list[dict[str, Any]] = [
        {
            "language": a.name,
            "code": a.code,
            "script": a.script,
            "speakers": a.speakers,
            "letters": len(a.letters),
            "single": len(a.letters & alone) / len(a.letters),
            "ids": int(fit.sum()),
            "credit": float(weight[fit].sum()),
            "share": float(weight[fit].sum()) / len(tokens) if tokens else None,
        }
        for a, fit in zip(chosen, fits, strict=True)
    ]
    rows.sort(key=lambda row: (-row["credit"], row["code"]))
    if not tokens:
        ctx.note("languages", "share", "No token of this vocabulary holds letters.")
    summary = {
        "ids": spec.size,
        "lettered": len(tokens),
        "fitting": int((many > 0).sum()),
        "languages": len(chosen),
    }
    yield Tables(
        languages=pa.Table.from_pylist(rows, schema=LANGUAGES.schema()),
        summary=pa.Table.from_pylist([summary], schema=SUMMARY.schema()),
    )


def _lettered(spec: TokenizerSpec) -> list[set[str]]:
    """Letters of each token that is text and has some."""
    found = []
    for piece in spec.pieces:
        if piece.kind not in ("text", "byte", "added"):
            continue
        try:
            letters = letters_of(piece.data.decode("utf-8"))
        except UnicodeDecodeError:
            continue
        if letters:
            found.append(letters)
    return found


def fitting(tokens: list[set[str]], chosen: list[Alphabet]) -> npt.NDArray[np.bool_]:
    """[languages, tokens]: whether all letters of the token are in the alphabet."""
    known = sorted(set().union(*tokens)) if tokens else []
    number = {letter: i for i, letter in enumerate(known)}
    flat = np.array([number[c] for token in tokens for c in token], np.int64)
    starts = np.cumsum([0, *(len(t) for t in tokens)])[:-1]
    found = np.zeros((len(chosen), len(tokens)), bool)
    for row, alphabet in enumerate(chosen):
        inside = np.array([letter in alphabet.letters for letter in known], bool)
        if len(tokens) and inside.any():
            found[row] = np.logical_and.reduceat(inside[flat], starts)
    return found
