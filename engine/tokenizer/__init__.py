"""What a tokenizer does to a text: its specification, and one analysis per file."""

from engine.tokenizer.loading import Found, installed, load_spec, reference
from engine.tokenizer.resolve import spec_of
from engine.tokenizer.spec import Encoded, Normalized, Pretoken, Step, TokenizerSpec

__all__ = [
    "Encoded",
    "Found",
    "Normalized",
    "Pretoken",
    "Step",
    "TokenizerSpec",
    "installed",
    "load_spec",
    "reference",
    "spec_of",
]
