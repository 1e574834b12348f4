"""What a tokenizer does to a text, one detector a file; each yields ``Finding``s."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from engine.tokenizer.detectors.added import added_tokens
from engine.tokenizer.detectors.boundary import prompt_boundary
from engine.tokenizer.detectors.clusters import emoji
from engine.tokenizer.detectors.forms import unicode_forms
from engine.tokenizer.detectors.invisible import invisible, mixed_scripts
from engine.tokenizer.detectors.numbers import numbers
from engine.tokenizer.detectors.roundtrip import round_trip
from engine.tokenizer.detectors.specials import special_tokens
from engine.tokenizer.detectors.words import word_variants
from engine.tokenizer.looked import Finding, Looked

DETECTORS: Mapping[str, Callable[[Looked], Iterator[Finding]]] = {
    "round_trip": round_trip,
    "special_tokens": special_tokens,
    "added_tokens": added_tokens,
    "invisible": invisible,
    "mixed_scripts": mixed_scripts,
    "unicode_forms": unicode_forms,
    "emoji": emoji,
    "numbers": numbers,
    "word_variants": word_variants,
    "prompt_boundary": prompt_boundary,
}
"""Detectors by name, the graver ones first."""
