"""Tokens made readable: visible spaces, codes for what the eye cannot see, bytes for non-text.

``markup`` marks parts with three control characters that cannot occur in its output otherwise:
``DIM`` starts a drawn sign (a space, a line end), ``BOX`` a code such as ``U+202E``, ``END`` ends
either. The JavaScript turns them into elements and writes everything as ``textContent``.
"""

from __future__ import annotations

import math
import re
import unicodedata

DIM, BOX, END = "\x01", "\x02", "\x03"

_SIGNS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
_HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}
# Letters, marks and symbols that draw nothing (Default_Ignorable_Code_Point and blanks; variation
# selectors among them, which can hide whole messages), and the replacement characters, which
# would look like ours.
_BLANK = {
    *"\u115f\u1160\u2800\u3164\uffa0\ufffc\ufffd\u034f\u17b4\u17b5\u180b\u180c\u180d\u180f",
    *map(chr, (0x16FE4, 0x1D159, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))),
}
# More marks on one letter than any script needs would be drawn over the lines around it.
_STACKED = 4
_SPECIAL = re.compile(r"<\|?([^<>|]{1,40})\|?>")
_LONGEST = 120
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def markup(token: bytes | str, *, special: bool = False, longest: int = _LONGEST) -> str:
    """``token`` as the strip draws it, cut after ``longest`` characters."""
    data = token if isinstance(token, bytes) else token.encode("utf-8", "surrogatepass")
    if not data:
        return f"{BOX}empty{END}"
    name = _SPECIAL.fullmatch(data.decode("utf-8", "replace")) if special else None
    if name and name[1].isprintable():
        return f"{DIM}⟨{name[1]}⟩{END}"
    text = data.decode("utf-8", "surrogateescape")
    room, parts = longest, []
    for kind, run in _runs(text[: longest + 1]):
        part = run if len(run) <= room else _cut(run, room, kind)
        if part:
            parts.append(part if not kind else f"{kind}{part}{END}")
        if part != run:
            parts.append(f"{BOX}… {len(data):,} bytes{END}")
            break
        room -= len(run)
    return "".join(parts)


def _cut(run: str, room: int, kind: str) -> str:
    """The start of a run; half a code would be another code."""
    return run[: max(0, run.rfind("\\x", 0, room + 1))] if kind == BOX else run[:room]


def plain(token: bytes | str, *, special: bool = False) -> str:
    """``markup`` without the marks, for tables and other places that draw a bare string."""
    return markup(token, special=special).translate({1: None, 2: None, 3: None})


def one_line(text: str, longest: int = 400) -> str:
    """A text on one line: spaces stay spaces, everything else invisible is shown."""
    shown = [
        " " if c == " " else "".join(run for _, run in _runs(c))
        for c in text[:longest].encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    ]
    return "".join(shown) + ("…" if len(text) > longest else "")


def beginning(text: str, most: int) -> str:
    """The first words of a text's first line, at most so many bytes; half a word if it is long."""
    line = text.split("\n")[0]
    cut = line.encode()[:most].decode("utf-8", "ignore")
    return cut if cut == line else cut.rpartition(" ")[0] or cut


def number(value: float | int | None, *, digits: int = 3) -> str:
    """``value`` for reading: significant digits, thousands set apart, powers of ten written out."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(power)
    if exponent < -4 or exponent >= 6:
        return f"{mantissa}·10{str(exponent).translate(_SUPERSCRIPT)}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")


def escape_markdown(text: str) -> str:
    """``text`` for a label that Streamlit reads as markdown: shown as it is, on one line."""
    flat = " ".join(plain(line) for line in text.splitlines()).replace("·", " ")
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", flat)


def _runs(text: str) -> list[tuple[str, str]]:
    runs: list[tuple[str, str]] = []
    stacked = 0
    for c in text:
        category = unicodedata.category(c)
        stacked = stacked + 1 if category.startswith("M") else 0
        if 0xDC80 <= ord(c) <= 0xDCFF:
            kind, shown = BOX, f"\\x{ord(c) - 0xDC00:02x}"
        elif c in _SIGNS:
            kind, shown = DIM, _SIGNS[c]
        elif c in _BLANK or category in _HIDDEN or stacked > _STACKED:
            kind, shown = BOX, f"U+{ord(c):04X}"
        elif stacked and not (runs and runs[-1][0] == ""):
            kind, shown = "", f"◌{c}"
        else:
            kind, shown = "", c
        if runs and runs[-1][0] == kind and not (kind == BOX and shown.startswith("U")):
            runs[-1] = (kind, runs[-1][1] + shown)
        else:
            runs.append((kind, shown))
    return runs
