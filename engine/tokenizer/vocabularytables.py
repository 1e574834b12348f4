"""Tables of ``tokenizer.vocabulary``."""

from __future__ import annotations

import pyarrow as pa

from engine.schema import Column, Table

_I, _F, _S = pa.int64(), pa.float64(), pa.string()

IDS = Table(
    {
        "token_id": Column(_I, "The id."),
        "token": Column(_S, "Its text; bytes that are no UTF-8 as \\xNN."),
        "category": Column(_S, "What kind of string it is (Qtok's classes); one for each id."),
        "reachable": Column(_S, "Whether some text gives it: yes, no or undecided."),
        "proof": Column(_S, "The text that gives it, why none can, or why it stays open."),
        "proof_kind": Column(_S, "witness, certificate or reason: which of the three it is."),
        "script": Column(_S, "Script of its letters; mixed for several, empty without letters."),
        "utf8": Column(_S, "Whether its bytes are whole characters, or where they are not."),
        "token_bytes": Column(pa.binary(), "Its exact bytes."),
    },
    doc="One row for each id from 0 on; with a model also for rows of it without a token.",
)

SUMMARY = Table(
    {
        "group": Column(_S, "What is counted: category, reachable, utf8, certificate, all."),
        "name": Column(_S, "Which of the group."),
        "ids": Column(_I, "How many ids."),
        "share": Column(_F, "Their share of all ids.", "share"),
    },
    doc="Counts of the table ids.",
)

BIGRAMS = Table(
    {
        "text": Column(_S, "A text that is cut into just the two tokens."),
        "first_id": Column(_I, "First token: it ends inside a character."),
        "second_id": Column(_I, "Second token: it begins inside that character."),
        "first": Column(_S, "Its text; bytes that are no UTF-8 as \\xNN."),
        "second": Column(_S, "The second one's."),
        "first_script": Column(_S, "Script of the first token's letters."),
        "second_script": Column(_S, "Script of the second one's."),
    },
    doc="Pairs of tokens that share a character and belong to different scripts.",
)

SCRIPTS = Table(
    {
        "script": Column(_S, "Script, by the names Unicode gives its letters."),
        "ids": Column(_I, "Tokens with letters of this script only."),
        "share": Column(_F, "Their share of the tokens with letters.", "share"),
    },
    doc="Scripts of the vocabulary.",
)

DUPLICATES = Table(
    {
        "token": Column(_S, "The text; bytes that are no UTF-8 as \\xNN."),
        "ids": Column(pa.list_(_I), "The ids that stand for the same bytes."),
        "raw": Column(pa.list_(_S), "How the vocabulary writes each."),
    },
    doc="Ids that stand for the same bytes.",
)
