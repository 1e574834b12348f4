"""Tables of ``tokenizer.text``."""

from __future__ import annotations

import pyarrow as pa

from engine.schema import Column, Table

_I, _S, _B = pa.int64(), pa.string(), pa.bool_()
_START = Column(_I, "First byte in the text.", "bytes")
_END = Column(_I, "Byte after the last one in the text.", "bytes")
_SHOWN = "bytes that are no UTF-8 as \\xNN"

TOKENS = Table(
    {
        "position": Column(_I, "Place among the text's tokens, from 0."),
        "token_id": Column(_I, "Its id."),
        "token": Column(_S, f"Its text; {_SHOWN}."),
        "token_bytes": Column(pa.binary(), "Its exact bytes."),
        "start_byte": _START,
        "end_byte": _END,
        "pretoken": Column(_I, "Number of the stretch it was cut from, from 0."),
        "rule": Column(_S, "The rule that set this stretch apart, as the file writes it."),
        "kind": Column(_S, "text, byte, special, added."),
    },
    doc="One row for each token of the text; nothing is put around it.",
)

FINDINGS = Table(
    {
        "finding": Column(_S, "What was found."),
        "start_byte": _START,
        "end_byte": _END,
        "severity": Column(_S, "note (a cost), warning (may mislead) or error (text is changed)."),
        "evidence": Column(_S, "What it is, with its numbers."),
        "before": Column(pa.list_(_S), "The tokens as they are."),
        "after": Column(pa.list_(_S), "The tokens of the alternative the evidence speaks of."),
    },
    doc="One row for each finding, in the order of the text.",
)

CUTS = Table(
    {
        "pretoken": Column(_I, "Number of the stretch of text, from 0."),
        "start_byte": _START,
        "end_byte": _END,
        "text": Column(_S, f"The stretch; {_SHOWN}."),
        "rule": Column(_S, "The rule that set it apart, as the file writes it."),
        "step": Column(_I, "Number of the step from 1; 0 for what the steps start from."),
        "action": Column(_S, "start, merge, whole, longest, best, lookup or added."),
        "left": Column(_S, "Left part of the merge."),
        "right": Column(_S, "Right part of the merge."),
        "rank": Column(pa.float64(), "The merge's place in the list (0 first), or its score."),
        "parts": Column(pa.list_(_S), "All parts after the step, as the vocabulary writes them."),
    },
    doc="Why it was cut here: each stretch with its rule, then the model's steps one by one.",
)

LETTERS = Table(
    {
        "letter": Column(_S, "A character (code point) of the text."),
        "start_byte": _START,
        "end_byte": _END,
        "first_token": Column(_I, "Position of the first token that holds bytes of it."),
        "last_token": Column(_I, "Position of the last one."),
        "place": Column(_I, "Which character of its first token it is, from 0; null when split."),
        "split": Column(_B, "Whether several tokens share it."),
    },
    doc="Which token holds which letter.",
)

WORDS = Table(
    {
        "word": Column(_S, "A word of the text, in small letters."),
        "occurrences": Column(_I, "How often it occurs, in any case."),
        "bare": Column(_I, "Tokens of word.", "tokens"),
        "spaced": Column(_I, "Tokens of ␠word.", "tokens"),
        "capital": Column(_I, "Tokens of Word.", "tokens"),
        "spaced_capital": Column(_I, "Tokens of ␠Word.", "tokens"),
        "upper": Column(_I, "Tokens of WORD.", "tokens"),
        "spaced_upper": Column(_I, "Tokens of ␠WORD.", "tokens"),
    },
    doc="Tokens of each word by case and space.",
)

SPECIALS = Table(
    {
        "token_id": Column(_I, "Id of a special token."),
        "special": Column(_S, "Its string."),
        "in_text": Column(_I, "How often the text contains it, where special tokens are parsed."),
        "through_template": Column(_B, "Whether a user's message that contains it gives its id "
                                   "through the chat template; null without a template."),
    },
    doc="Special tokens of the tokenizer, and whether user text can inject them.",
)  # fmt: skip
