"""Tables of ``tokenizer.spellings``."""

from __future__ import annotations

import pyarrow as pa

from engine.schema import Column, Table

_I, _F, _S, _B = pa.int64(), pa.float64(), pa.string(), pa.bool_()
_IDS = Column(pa.list_(_I), "Token ids.")
_TOKENS = Column(pa.list_(_S), "The tokens; bytes that are no UTF-8 as \\xNN.")
_PART = Column(_I, "Row of the table spellings it belongs to, from 0.")
_LENGTH = Column(_I, "How many tokens.", "tokens")
_CANONICAL = Column(_B, "Whether it is what the tokenizer itself gives.")

SPELLINGS = Table(
    {
        "text": Column(_S, "The string; bytes that are no UTF-8 as \\xNN."),
        "spellings": Column(_S, "How many token sequences spell it, exactly, as a whole number."),
        "log2_spellings": Column(_F, "Logarithm of that number to base 2.", "bits"),
        "bits_per_byte": Column(_F, "That logarithm for each byte of the string.", "bits"),
        "canonical_length": Column(_I, "Tokens the tokenizer itself gives.", "tokens"),
        "shortest_length": Column(_I, "Tokens of the shortest spelling.", "tokens"),
        "bytes": Column(_I, "Length of the string.", "bytes"),
        "occurrences": Column(_I, "How often it occurs in the text."),
    },
    doc="One row for the string, or one for each different word of it.",
)

BEST = Table(
    {
        "part": _PART,
        "place": Column(_I, "Place in the order asked for, from 1; null for the canonical one "
                        "when it is not among the k best."),
        "tokens": _TOKENS,
        "ids": _IDS,
        "length": _LENGTH,
        "score": Column(_F, "Sum of the tokens' scores, where the tokenizer has scores."),
        "logprob": Column(_F, "Log-probability under the model.", "nats"),
        "canonical": _CANONICAL,
    },
    doc="The best spellings, and the canonical one.",
)  # fmt: skip

DRAWS = Table(
    {
        "method": Column(_S, "bpe_dropout or stochastok."),
        "tokens": _TOKENS,
        "ids": _IDS,
        "length": _LENGTH,
        "draws": Column(_I, "How many of the draws gave it."),
        "share": Column(_F, "The share of the draws that gave it.", "probability"),
        "probability": Column(_F, "Its exact probability (BPE-dropout, short words).",
                              "probability"),
        "canonical": _CANONICAL,
    },
    doc="Spellings that training with random tokenization would see, the most frequent first.",
)  # fmt: skip

SHARE = Table(
    {
        "method": Column(_S, "exact (all spellings read) or sampled (importance sampling)."),
        "canonical_share": Column(_F, "Share of the string's probability that the canonical "
                                  "spelling holds.", "probability"),
        "low": Column(_F, "Lower end of its 95 % interval.", "probability"),
        "high": Column(_F, "Upper end of its 95 % interval.", "probability"),
        "logprob": Column(_F, "Log-probability of the string over all its spellings.", "nats"),
        "canonical_logprob": Column(_F, "Log-probability of the canonical spelling.", "nats"),
        "spellings": Column(_I, "Spellings that were read (exact) or drawn (sampled)."),
        "effective_samples": Column(_F, "Effective number of samples."),
    },
    doc="How much of the string's probability the model gives its canonical spelling.",
)  # fmt: skip

LATTICE = Table(
    {
        "start_byte": Column(_I, "First byte of the token in the string.", "bytes"),
        "end_byte": Column(_I, "Byte after its last one.", "bytes"),
        "token_id": Column(_I, "The token."),
        "token": Column(_S, "Its text; bytes that are no UTF-8 as \\xNN."),
        "canonical": Column(_B, "Whether it is part of the canonical spelling."),
    },
    doc="All tokens that are part of some spelling: every way from the first byte to the last.",
)
