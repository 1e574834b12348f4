"""What Attribution, Flow and Tokenizer open on: stored results for the gallery's texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine import Request, Text, Trace
from engine.render.text import beginning
from engine.subjects import TokenizerRef

FAMILIES = ("attribution", "flow", "tokenizer")
"""Analyses that this file asks for."""

OVER_CAUSES = ("attribution.precision", "flow.causal")
"""Asked of right answers whose true causes are known."""

COMPARED = (
    "occlusion",
    "input_x_gradient",
    "integrated_gradients",
    "saliency",
    "attention_rollout",
)
"""Methods whose scores of the answer are stored for the first text."""

FLOWING = ("start", "solved", "solved-multidigit")
"""Texts whose larger results are stored, such as the backbone."""

LONGEST = 256
"""Tokens of a text up to which it is explained in advance."""


def of_model(model: str, tokenizer: TokenizerRef) -> Iterator[Request]:
    """Results of a model, and of its tokenizer, that belong to no text."""
    yield Request("tokenizer.probe", Text(prompt=""), model)
    yield Request("tokenizer.vocabulary", tokenizer)
    yield Request("tokenizer.languages", tokenizer)


def requests(name: str, trace: Trace, model: str, expected: str | None) -> Iterator[Request]:
    """Results of one text, cheap ones for all, everything for the first.

    Args:
        name: of the gallery's item.
        trace: its text.
        model: the bundled model it belongs to.
        expected: the right answer, if there is one.
    """
    if len(trace) > LONGEST or trace.response_start >= len(trace):
        return
    yield Request("attribution.occlusion", trace, model, {"targets": "response"})
    if name in FLOWING:
        yield Request("flow.backbone", trace, model, {"share": 0.5})
        # What the page's fields hold at first.
        text = trace.spelled.decode()
        yield Request("tokenizer.spellings", Text(prompt=beginning(text, 48)), model)
        yield Request("tokenizer.next_byte", Text(prompt=text[:200]), model)
        yield Request("tokenizer.ids", trace, model)
    if name != "start":
        return
    answer = trace.spans["answer"]
    target: dict[str, Any] = {"targets": f"{answer.start}:{answer.start + 1}", "together": True}
    yield Request("attribution.faithfulness", trace, model, target)
    for method in COMPARED:
        yield Request(f"attribution.{method}", trace, model, target)
    yield Request("attribution.eagle", trace, model, {"targets": "answer", "granularity": "word"})
    yield Request("flow.paths", trace, model)
    yield Request("flow.lens", trace, model)
    yield Request("flow.rollout", trace, model)
    yield Request("flow.rhythm", trace, model)
    yield Request("flow.geometry", trace, model)
    yield Request("flow.routes", trace, model)
    yield Request("flow.causal", trace, model, {"answer": expected} if expected else {})
