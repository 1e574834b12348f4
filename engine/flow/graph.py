"""The token graph of one text: which attention, from which tokens, to which tokens.

A node is a token. The edge from token *i* to a later token *k* weighs what position *k* takes
from position *i*, aggregated over the chosen layers and heads. Graph nodes are the exception to
the rule that a value of token *t* is about its prediction: here the row of *k* is the attention
with which position *k* was built, unless ``answer_row`` says otherwise for the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.flow.recurrences import Floats, Marks, Rows
from engine.registry import Params
from engine.schema import Column
from engine.subjects import Span, Trace

if TYPE_CHECKING:
    from engine.models import LoadedModel

FLOWTRACER = (
    "Dong, Li et al. (2026), How does reasoning flow (FlowTracer), ICML 2026, arXiv 2606.10646: "
    "answer-targeted flow, §3."
)
NOT_CAUSAL = "Attention says what a position could take, not that it changed what the model said."
NODE_ROW = (
    "A row is about the position itself (its own attention row), not about the prediction of the "
    "token; answer_row 'predicting' gives answer tokens the row that predicts them."
)

AnswerRow = Literal["self", "predicting"]


class AnswerParams(Params):
    """Where the answer is."""

    answer: str = Field(
        "",
        max_length=40,
        title="Answer",
        description="Token positions start:end (end excluded); empty takes the trace's own span.",
    )
    answer_row: AnswerRow = Field(
        "self",
        title="Row of an answer token",
        description="Its own attention row, or the row before it, which predicts it.",
    )


class SpanParams(AnswerParams):
    """Where question and answer are."""

    question: str = Field(
        "",
        max_length=40,
        title="Question",
        description="Token positions start:end (end excluded); empty takes the trace's own span.",
    )


class HeadParams(Params):
    """Which attention is looked at."""

    layers: str = Field(
        "all",
        max_length=400,
        coerce_numbers_to_str=True,
        title="Layers",
        description="all, middle (the middle third), or numbers from 0 such as 1,2,5 or 3-7.",
    )
    heads: str = Field(
        "all",
        max_length=400,
        coerce_numbers_to_str=True,
        title="Heads",
        description="all, or numbers from 0 such as 1,2,5 or 3-7.",
    )


class GraphParams(SpanParams, HeadParams):
    """What makes the graph; every choice changes the flow and is stored with it."""

    layers: str = Field(
        "middle",
        max_length=400,
        coerce_numbers_to_str=True,
        title="Layers",
        description="middle (the middle third), all, or numbers from 0 such as 1,2,5 or 3-7.",
    )
    reduce: Literal["mean", "sum", "max"] = Field(
        "mean",
        title="Over layers and heads",
        description="How their weights become one; the flow is not the same for cW as for W.",
    )
    absorbing: bool = Field(
        True,
        title="Flow ends at the answer",
        description="At the first answer token it meets; otherwise it may go on to later ones.",
    )


CHOICES = {
    "layers": Column(pa.string(), "Layers whose attention was aggregated, from 0.", "", "layers"),
    "heads": Column(pa.string(), "Heads whose attention was aggregated.", "", "heads"),
    "reduce": Column(pa.string(), "How layers and heads became one number.", "", "aggregation"),
    "answer_row": Column(pa.string(), "Which row an answer token has.", "", "answer row"),
    "absorbing": Column(pa.bool_(), "Whether flow ends at the first answer token it meets."),
    "question_start": Column(pa.int64(), "First token of the question.", "", "question from"),
    "question_end": Column(pa.int64(), "Token after the question.", "", "question to"),
    "answer_start": Column(pa.int64(), "First token of the answer.", "", "answer from"),
    "answer_end": Column(pa.int64(), "Token after the answer.", "", "answer to"),
}
"""Columns of a summary that say how the graph was made."""

_PART = re.compile(r"(\d{1,6})(?:\s*-\s*(\d{1,6}))?")
_SPAN = re.compile(r"\s*(\d{1,9})\s*:\s*(\d{1,9})\s*")


@dataclass(frozen=True)
class Graph:
    """Weights of the edges up to the end of the answer.

    Attributes:
        rows: [n, n] float32, ``rows[k, i]`` the weight of the edge from *i* to *k*.
        questions: [n], which nodes are sources.
        answers: [n], which nodes are the answer.
        question, answer: the spans.
        layers, heads: what was aggregated.
        params: how.
    """

    rows: Rows
    questions: Marks
    answers: Marks
    question: Span
    answer: Span
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    params: GraphParams

    @property
    def source(self) -> Floats:
        """What is injected at each node; one in all."""
        return self.questions / self.questions.sum()

    def choices(self) -> dict[str, Any]:
        """One row's values of ``CHOICES``."""
        return {
            "layers": numbers(self.layers),
            "heads": numbers(self.heads),
            "reduce": self.params.reduce,
            "answer_row": self.params.answer_row,
            "absorbing": self.params.absorbing,
            "question_start": self.question.start,
            "question_end": self.question.end,
            "answer_start": self.answer.start,
            "answer_end": self.answer.end,
        }


def read_graph(ctx: Context) -> Graph:
    """The graph the params ask for, by one forward of the model's twin.

    Raises:
        UserError: question or answer are missing, empty or in the wrong order, a layer or head
            does not exist, or the model's attention cannot be read.
    """
    params: GraphParams = ctx.params
    question, answer = both_spans(ctx.subject, params)
    model = ctx.models["model"]
    layers, heads = chosen(params, model)
    n = answer.end
    rows = ctx.attention(layers=layers, heads=heads, reduce=params.reduce)
    weights = rows[:n, :n].cpu().numpy()
    place_answer_rows(weights, answer, params.answer_row)
    return Graph(
        weights,
        _marks(n, question, ctx.subject.special),
        _marks(n, answer),
        question,
        answer,
        layers,
        heads,
        params,
    )


def place_answer_rows(rows: Rows, answer: Span, answer_row: AnswerRow) -> None:
    """Give answer tokens the row that predicts them, in place, if that is asked for."""
    if answer_row == "predicting":
        for t in reversed(range(max(answer.start, 1), answer.end)):
            rows[t, :t] = rows[t - 1, :t]


def row_of(target: int, answer: Span | None, answer_row: AnswerRow) -> int:
    """The attention row that edges into ``target`` come from."""
    inside = answer is not None and target in answer
    return max(target - 1, 0) if inside and answer_row == "predicting" else target


def both_spans(trace: Trace, params: SpanParams) -> tuple[Span, Span]:
    """Question and answer, checked.

    Raises:
        UserError: one is missing, empty or outside the text, or they are in the wrong order.
    """
    question = one_span(trace, "question", params.question)
    answer = one_span(trace, "answer", params.answer)
    if question.start < answer.end and answer.start < question.end:
        raise UserError(
            f"Question ({_show(question)}) and answer ({_show(answer)}) share tokens: mark them "
            "apart."
        )
    if answer.start < question.start:
        raise UserError(
            f"The answer ({_show(answer)}) stands before the question ({_show(question)}): "
            "attention only looks back, so mark an answer after it."
        )
    if not set(range(question.start, question.end)) - set(trace.special):
        raise UserError(
            f"The question ({_show(question)}) has only special tokens: mark words of the text."
        )
    return question, answer


def one_span(trace: Trace, name: Literal["question", "answer"], given: str) -> Span:
    """The span of that name: the one given as ``start:end``, else the trace's own.

    Raises:
        UserError: there is none, it is empty, or it is outside the text.
    """
    if not given.strip():
        found = trace.spans.get(name)
        if found is None or not len(found):
            raise UserError(
                f"No {name} was found in this text: mark it, or give {name}=START:END as token "
                "positions."
            )
        return found
    match = _SPAN.fullmatch(given)
    if match is None:
        raise UserError(f"Write {name} as START:END in token positions, such as 3:7.")
    start, end = int(match[1]), int(match[2])
    if end <= start:
        raise UserError(f"The {name} {start}:{end} holds no token: its end must be larger.")
    if end > len(trace):
        raise UserError(f"The {name} {start}:{end} ends after the text's {len(trace):,} tokens.")
    return Span(start=start, end=end)


def chosen(params: HeadParams, model: LoadedModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Layers and heads that are asked for, ascending.

    Raises:
        UserError: the model has no such layer or head, or has no attention.
    """
    layers = selection("layers", params.layers, model.layers)
    return layers, selection("heads", params.heads, model.attention_heads)


def selection(what: str, text: str, count: int) -> tuple[int, ...]:
    """Numbers below ``count`` written as ``all``, ``middle``, ``1,2,5`` or ``3-7``.

    The middle is ⌊L/3⌋ to ⌈2L/3⌉ − 1.

    Raises:
        UserError: what is written is none of these, or there is no such number.
    """
    plain = text.strip().lower()
    if plain == "all":
        return tuple(range(count))
    if plain == "middle":
        return tuple(range(count // 3, max(-(-2 * count // 3), count // 3 + 1)))
    found: set[int] = set()
    for part in plain.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise UserError(f"Write {what} as all, middle, or numbers such as 1,2,5 or 3-7.")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if not first <= last < count:
            raise UserError(
                f"There are no {what} {part.strip()} here: the model has {count}, from 0 to "
                f"{count - 1}."
            )
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def numbers(values: tuple[int, ...]) -> str:
    """Numbers as ``selection`` reads them, runs of three or more as a range."""
    parts: list[str] = []
    at = 0
    while at < len(values):
        end = at
        while end + 1 < len(values) and values[end + 1] == values[end] + 1:
            end += 1
        run = values[at : end + 1]
        parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(v) for v in run]
        at = end + 1
    return ",".join(parts)


def _marks(n: int, span: Span, without: tuple[int, ...] = ()) -> Marks:
    marks = np.zeros(n, bool)
    marks[span.start : span.end] = True
    marks[[p for p in without if p < n]] = False
    return marks


def _show(span: Span) -> str:
    return f"tokens {span.start}:{span.end}"
