"""Tables of ``tokenizer.probe``."""

from __future__ import annotations

import pyarrow as pa

from engine.schema import Column, Table
from engine.tokenizer.puzzles import CHARACTER_TASKS, NUMBER_TASKS

_I, _F, _S, _B = pa.int64(), pa.float64(), pa.string(), pa.bool_()
_TASK = Column(_S, "What is asked: " + ", ".join((*CHARACTER_TASKS, *NUMBER_TASKS)) + ".")

TASKS = Table(
    {
        "task": _TASK,
        "by": Column(_S, "What its questions are grouped by; all for all of them together."),
        "group": Column(_S, "Which of the groups."),
        "n": Column(_I, "How many questions."),
        "correct": Column(_I, "How many the model answered rightly."),
        "accuracy": Column(_F, "Their share.", "probability"),
        "low": Column(_F, "Lower end of its exact 95 % interval.", "probability"),
        "high": Column(_F, "Upper end of its exact 95 % interval.", "probability"),
        "chance": Column(_F, "Share that guessing among the answers offered gets right; null for "
                         "answers that are written freely.", "probability"),
    },
    doc="How often the model is right, for all questions of a kind and by how words are cut.",
)  # fmt: skip

CASES = Table(
    {
        "task": _TASK,
        "prompt": Column(_S, "What the model read."),
        "expected": Column(_S, "The right answer."),
        "given": Column(_S, "The model's answer."),
        "correct": Column(_B, "Whether that is right."),
        "margin": Column(_F, "Log-probability of the right answer less that of the best wrong one.",
                         "nats"),
        "pieces": Column(pa.list_(_S), "The tokens of the word or the numbers asked about."),
        "tokens": Column(_I, "How many they are.", "tokens"),
        "token_length": Column(_I, "Letters in the token with the letter asked about; in the "
                               "longest token where none is.", "letters"),
        "cut": Column(_S, "whole (one token each), single (every letter or digit its own), or "
                      "pieces."),
        "digits": Column(_I, "Digits of the larger number."),
    },
    doc="Every question with its answer.",
)  # fmt: skip
