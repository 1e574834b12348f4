"""What a response says, and when two answers are one. The checkers are in ``engine.checkers``.

::

    check("Solution: 7*8=56.\\nAnswer: 56 dollars", "56.0")   # True

Needs no torch.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from engine.spans import _ANSWERS, _strip, find_spans
from engine.trace import Trace


def check(response: str | Trace, expected: str) -> bool | None:
    """The last answer in the response is the expected one; numbers are compared as numbers.

    Returns:
        None where there is nothing to judge: no answer was found, or nothing is expected.
    """
    said = answer_text(response)
    if said is None or not expected.strip():
        return None
    return same_answer(said, expected)


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


def boxed_text(text: str) -> str | None:
    r"""What stands in the last ``\boxed{}`` whose braces close; escaped braces do not count."""
    last: tuple[int, int] | None = None
    # Where each brace that is open began; None for one that is not a box's.
    opened: list[int | None] = []
    for mark in _BRACES.finditer(text):
        if mark[0].endswith("{") and mark[0] != r"\{":
            opened.append(mark.end() if mark["box"] else None)
        elif mark[0] == "}" and opened:
            start = opened.pop()
            if start is not None and (last is None or start > last[0]):
                last = (start, mark.start())
    return None if last is None else text[last[0] : last[1]]


def last_number(text: str) -> str | None:
    """The last number written in a text, with the word that scales it ("3 million"), or None.

    A sign counts where nothing stands right before it: "10-4" ends with 4, "= -4" with -4. Digits
    inside a word or in an exponent are no number of their own.
    """
    found = [mark[0] for mark in _IN_TEXT.finditer(_folded(text))]
    return found[-1] if found else None


def is_number(text: str) -> bool:
    """Whether ``same_answer`` takes the text for a number."""
    return isinstance(_canonical(text), Fraction)


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


_BRACES = re.compile(r"(?P<box>\\boxed\s*\{)|\\.|[{}]", re.DOTALL)
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
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,200})(?:\.\d{1,200})?|\.\d{1,200})"
_IN_TEXT = re.compile(
    rf"(?<![\w^.])(?:(?<![)\]}}])[-+])?(?:[{_CURRENCY}]-?)?"
    rf"(?:\d{{1,200}} \d{{1,200}}/\d{{1,200}}|{_DIGITS}(?:e[-+]?\d{{1,3}})?(?:/{_DIGITS})?)"
    rf"(?![\d/])(?: (?:{'|'.join(_SCALES)})\b)*"
)


@lru_cache(maxsize=4096)
def _canonical(text: str) -> Fraction | str:
    plain = plain_text(text)
    number = _number(plain) if len(plain) <= 400 else None
    return plain if number is None else number


def _folded(text: str) -> str:
    """Text in one form, case and spacing; its ends as they are."""
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    text = unicodedata.normalize("NFKC", "".join(map(_unfold, text)))
    return " ".join(text.translate(_SIGNS).casefold().split())


def plain_text(text: str) -> str:
    """Text without what does not matter: forms, case, spaces, invisible signs, wrapping."""
    text = _folded(text)
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
