"""Question, reasoning and answer, found by the format of the text.

Rules are tried in order of how explicit they are; what no rule finds stays absent, it is never
guessed. A person can correct the spans in the strip.
"""

from __future__ import annotations

import re

from engine.subjects import Span, Trace

# The last match counts: models restate an answer. Bytes, so that offsets are exact.
_ANSWERS = (
    re.compile(rb"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}"),
    re.compile(rb"####[ \t]*([^\r\n<]+)"),
    re.compile(rb"(?im)^[ \t*#]*(?:final[ \t]+)?answer[ \t]*(?:is[ \t]*)?[:=][ \t*]*([^\r\n<*]+)"),
    re.compile(rb"(?i)\bthe[ \t]+(?:final[ \t]+)?answer[ \t]+is:?[ \t]+([^\r\n<]+)"),
)
_QUESTION = re.compile(rb"(?is)\bquestion[ \t]*:[ \t]*(.*)\Z")
_THINK_END = re.compile(rb"</think(?:ing)?>")


def find_spans(trace: Trace) -> dict[str, Span]:
    """Named spans of a trace.

    ``answer`` is the text of the last ``\\boxed{}``, ``####``, ``Answer:`` or "the answer is" in
    the response; ``reasoning`` the response before the mark that announces it (without one: up to
    ``</think>``); ``question`` the prompt's own text, after ``Question:`` where that is written.
    Special tokens belong to none of them.
    """
    offsets = trace.offsets
    cut = offsets[trace.response_start][0] if trace.response_start < len(trace) else None
    text = trace.text_bytes
    prompt = text if cut is None else text[:cut]
    spans: dict[str, Span] = {}

    match = _QUESTION.search(prompt)
    start, end = (match.start(1), match.end(1)) if match else (0, len(prompt))
    start, end = _strip(prompt, start, end)
    if end > start:
        spans["question"] = _without_special(trace, trace.positions_of(start, end))

    if cut is not None:
        response = text[cut:]
        for rule in _ANSWERS:
            found = list(rule.finditer(response))
            if not found:
                continue
            mark = found[-1]
            a, b = _strip(response, mark.start(1), mark.end(1), also=b".,;:!$")
            if b > a:
                spans["answer"] = _without_special(trace, trace.positions_of(cut + a, cut + b))
                reasoning = mark.start()
                break
        else:
            think = list(_THINK_END.finditer(response))
            reasoning = think[-1].start() if think else len(response)
        a, b = _strip(response, 0, reasoning)
        if b > a:
            spans["reasoning"] = _without_special(trace, trace.positions_of(cut + a, cut + b))
    return {name: span for name, span in spans.items() if len(span)}


def _strip(data: bytes, start: int, end: int, also: bytes = b"") -> tuple[int, int]:
    blank = b" \t\r\n"
    while start < end and data[start : start + 1] in {blank[i : i + 1] for i in range(4)}:
        start += 1
    tail = blank + also
    while end > start and data[end - 1] in tail:
        end -= 1
    return start, end


def _without_special(trace: Trace, span: Span) -> Span:
    special = set(trace.special)
    start, end = span.start, span.end
    while start < end and start in special:
        start += 1
    while end > start and end - 1 in special:
        end -= 1
    return Span(start=start, end=end)
