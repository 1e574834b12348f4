"""Answer checkers: is what a response says right? One registry, used wherever a reward is needed.

::

    check("Solution: 7*8=56.\\nAnswer: 56 dollars", "56.0")   # True
    checker("contains")("I cannot help.", "cannot")           # True

A checker answers True, False, or None where there is nothing to judge. Needs no torch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Protocol

from engine.errors import UserError
from engine.spans import _ANSWERS, _strip, find_spans
from engine.trace import Trace


class Checker(Protocol):
    """Judges one response.

    Args:
        response: the response's text, or a whole trace (its response is looked at).
        expected: what is right, as text.

    Returns:
        None where there is nothing to judge: no answer was found, or nothing is expected.
    """

    def __call__(self, response: str | Trace, expected: str) -> bool | None: ...


_CHECKERS: dict[str, Callable[..., bool | None]] = {}


def checker(name: str = "answer", **options: Any) -> Checker:
    """The checker called ``name``, with its options set.

    Raises:
        UserError: for an unknown name or option, with those there are.
    """
    import inspect

    found = _CHECKERS.get(name)
    if found is None:
        raise UserError(f"There is no answer checker {name!r}; use one of {', '.join(_CHECKERS)}.")
    known = list(inspect.signature(found).parameters)[2:]
    wrong = [option for option in options if option not in known]
    if wrong:
        has = ", ".join(known) or "none"
        raise UserError(f"The checker {name} has no option {wrong[0]!r}; it has: {has}.")
    return partial(found, **options) if options else found


def checkers() -> Mapping[str, str]:
    """Name and one-line description of every checker."""
    return MappingProxyType({n: (f.__doc__ or "").split("\n")[0] for n, f in _CHECKERS.items()})


def register(
    name: str,
) -> Callable[[Callable[..., bool | None]], Callable[..., bool | None]]:
    """Register a function ``(response, expected, **options)`` as a checker; its first line is
    the description people read."""

    def add(function: Callable[..., bool | None]) -> Callable[..., bool | None]:
        if name in _CHECKERS:
            raise ValueError(f"the checker {name!r} is registered twice")
        _CHECKERS[name] = function
        return function

    return add


@register("answer")
def check(response: str | Trace, expected: str) -> bool | None:
    """The last answer in the response is the expected one; numbers are compared as numbers."""
    said = answer_text(response)
    if said is None or not expected.strip():
        return None
    return same_answer(said, expected)


@register("contains")
def contains(response: str | Trace, expected: str, *, text: str | None = None) -> bool | None:
    """The expected words occur in the response, whatever their case."""
    wanted = _plain(expected if text is None else text)
    return wanted in _plain(response_text(response)) if wanted else None


def response_text(response: str | Trace) -> str:
    """A response's words: of a trace what follows the prompt, without special tokens.

    Bytes that are no UTF-8 become U+FFFD, which equals no answer.
    """
    if isinstance(response, str):
        return response
    return _words(response, response.response_start, len(response))


def answer_text(response: str | Trace) -> str | None:
    r"""What a response gives as its answer, or None where it gives none.

    Of a trace, its span ``answer`` (which a person may have corrected); of a text, what follows
    the last ``\boxed{}``, ``####``, ``Answer:`` or "the answer is", as ``engine.spans`` finds it.
    """
    if isinstance(response, Trace):
        span = response.spans.get("answer") or find_spans(response).get("answer")
        return (_words(response, span.start, span.end).strip() or None) if span else None
    data = response.encode("utf-8", "replace")
    for rule in _ANSWERS:
        marks = list(rule.finditer(data))
        if marks:
            start, end = _strip(data, marks[-1].start(1), marks[-1].end(1), also=b".,;:!$")
            if end > start:
                return data[start:end].decode("utf-8", "replace").strip() or None
    return None


def _words(trace: Trace, start: int, end: int) -> str:
    hidden = {*trace.special, *trace.added}
    kept = (trace.pieces[p] for p in range(start, end) if p not in hidden)
    return b"".join(kept).decode("utf-8", "replace")


def same_answer(said: str, expected: str) -> bool:
    r"""Whether two answers mean the same; an equivalence relation.

    Numbers are compared as numbers, exactly: ``1,250``, ``$1250``, ``1250.0``, ``2500/2``,
    ``\frac{2500}{2}``, ``1 1/4 thousand`` and ``1250 dollars`` are one answer (a unit or per cent
    sign at the end is left out, so ``50 %`` is 50). Everything else is compared as text without
    regard to case, spaces, quotes, closing punctuation, invisible characters and Unicode forms.
    """
    return _canonical(said) == _canonical(expected)


_SIGNS = str.maketrans({"−": "-", "–": "-", "‐": "-", "⁄": "/", "∕": "/"})
_LATEX = (
    (re.compile(r"\\(?:left|right|displaystyle|[!,;: ])"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\^\{?\\circ\}?"), "°"),
    (re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}"), r" \1/\2"),
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|boxed)\{([^{}]*)\}"), r"\1"),
)
_ENDS = " \t\n\"'`*_.,;:!?$“”‘’«»"
_BRACKETS = re.compile(r"[(\[{]([^()\[\]{},;]*)[)\]}]")

_CURRENCY = "$€£¥₹¢"
_NUMERAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,200})(?:\.\d{0,200})?|\.\d{1,200})(?:e[-+]?\d{1,3})?"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*[{_CURRENCY}]?\s*(?P<inner>[-+]?)\s*"
    rf"(?:(?P<whole>\d{{1,200}})\s+(?P<part>\d{{1,200}}/\d{{1,200}})"
    rf"|(?P<top>{_NUMERAL})(?:\s*/\s*(?P<bottom>{_NUMERAL}))?)"
    rf"(?P<unit>\s*[%°{_CURRENCY}].*|\s*[^\W\d_].*)?",
    re.DOTALL,
)
_WORD = re.compile(r"[^\W\d_]+")
_NO_UNIT = re.compile(r"[\d=+*^<>\\()]")
_LETTERS = frozenset("mglshcf")
_NO_UNITS = frozenset({
    "or", "and", "to", "of", "over", "times", "mod", "not",
    "pi", "sqrt", "log", "ln", "exp", "sin", "cos", "tan",
})  # fmt: skip
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6}
_SCALES |= {"billion": 10**9, "trillion": 10**12}


@lru_cache(maxsize=4096)
def _canonical(text: str) -> Fraction | str:
    plain = _plain(text)
    number = _number(plain) if len(plain) <= 400 else None
    return plain if number is None else number


def _plain(text: str) -> str:
    """Text without what does not matter: forms, case, spaces, invisible signs, wrapping."""
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    text = unicodedata.normalize("NFKC", "".join(map(_unfold, text)))
    text = " ".join(text.translate(_SIGNS).casefold().split())
    bare = text.lstrip(_ENDS.replace(".", "")).rstrip(_ENDS)
    inside = _BRACKETS.fullmatch(bare)
    bare = inside[1].strip() if inside else bare
    return bare or text


def _unfold(char: str) -> str:
    """One character, digits keeping their meaning ("1½" is not 11/2), invisible ones gone."""
    if char < "\x80":
        return char
    if unicodedata.category(char) == "Cf":
        return ""
    kind = unicodedata.decomposition(char).split(" ")[0]
    if kind == "<fraction>":
        return " " + unicodedata.normalize("NFKC", char)
    if kind == "<super>":
        return "^" + char
    return str(unicodedata.decimal(char, char))


def _number(plain: str) -> Fraction | None:
    found = _NUMBER.fullmatch(plain)
    if found is None:
        return None
    scale = _scale(found["unit"] or "")
    if scale is None:
        return None
    try:
        if found["whole"]:
            value = Fraction(found["whole"]) + Fraction(found["part"])
        else:
            value = _fraction(found["top"]) / _fraction(found["bottom"] or "1")
    except ZeroDivisionError:
        return None
    negative = (found["sign"] == "-") != (found["inner"] == "-")
    return scale * (-value if negative else value)


def _fraction(numeral: str) -> Fraction:
    return Fraction(numeral.replace(",", "").rstrip("."))


def _scale(unit: str) -> int | None:
    """What the words after a number multiply it with; None when they are no unit."""
    if _NO_UNIT.search(unit):
        return None
    scale = 1
    words = _WORD.findall(unit)
    while words and words[0] in _SCALES:
        scale *= _SCALES[words.pop(0)]
    if words and (words[0] in _NO_UNITS or (len(words[0]) == 1 and words[0] not in _LETTERS)):
        return None
    return scale
