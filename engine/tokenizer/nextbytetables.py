"""Tables of ``tokenizer.next_byte``."""

from __future__ import annotations

import pyarrow as pa

from engine.schema import Column, Table

_I, _F, _S = pa.int64(), pa.float64(), pa.string()
_P = "probability"

_KIND = Column(_S, "byte, end (the text ends here), or control (a token that is no text).")
_BYTE = Column(_I, "The next byte, 0 to 255; null when no byte of text follows.")
_TOKEN = Column(
    _S, "The byte as a character (\\xNN if it is none), or the control token; null for the end."
)

BYTES = Table(
    {
        "kind": _KIND,
        "byte": _BYTE,
        "token": _TOKEN,
        "token_id": Column(_I, "Id of a control token."),
        "probability": Column(_F, "Probability that it comes next, over all covers.", _P),
        "token_view": Column(_F, "Probability when the prompt's tokens are taken as they are.", _P),
        "difference": Column(_F, "probability less token_view."),
    },
    doc="All 256 bytes, the end, and each control token: together they sum to one.",
)

COVERS = Table(
    {
        "ids": Column(pa.list_(_I), "Its tokens, from the first one on in which covers differ."),
        "tokens": Column(pa.list_(_S), "The same as text; bytes that are no UTF-8 as \\xNN."),
        "share": Column(_F, "Its share of the prompt's probability.", _P),
        "logprob": Column(_F, "Log-probability of these tokens after what is before them.", "nats"),
        "leftover": Column(_S, "What its last token has beyond the prompt."),
        "leftover_bytes": Column(pa.binary(), "The same as bytes."),
    },
    doc="Token sequences that begin with the prompt and whose last token reaches its end.",
)

SUMMARY = Table(
    {
        "covers": Column(_S, "Which covers are counted: canonical, all, or beam."),
        "total_variation": Column(_F, "How much probability the prompt's last tokens misplace: "
                                  "half the summed differences of token view and exact.", _P),
        "healing_variation": Column(_F, "The same for token healing.", _P),
        "alignment_variation": Column(_F, "The same for token alignment.", _P),
        "logprob": Column(_F, "Log-probability of the prompt's bytes over the covers.", "nats"),
        "token_logprob": Column(_F, "Log-probability of the prompt's tokens as they are.", "nats"),
        "covers_found": Column(_I, "How many covers were counted."),
        "pruned": Column(_F, "Most of the prompt's probability that a beam may have lost.", _P),
        "unchecked": Column(_F, "Share on covers too small to be checked for being canonical.",
                            _P),
        "noncanonical": Column(_F, "Share of the probability looked at that lies on covers the "
                               "tokenizer would never give, and was left out.", _P),
        "bytes": Column(_I, "Bytes of text since the last control token.", "bytes"),
        "forwards": Column(_I, "Forward passes made."),
    },
    doc="How much the end of the prompt, which cuts a token short, changes what comes next.",
)  # fmt: skip

HEALING = Table(
    {
        "kind": _KIND,
        "byte": _BYTE,
        "token": _TOKEN,
        "healing": Column(_F, "Probability after token healing.", _P),
        "alignment": Column(_F, "Probability after token alignment.", _P),
    },
    doc="What two repairs of the boundary make of the next byte, row by row as in bytes.",
)
