"""What the Tokenizer page draws of its results, built once and shared by all visitors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from engine import Result
from engine.render.signals import Signal
from engine.render.strip import payload
from engine.render.text import plain
from engine.schema import Column

CHANNEL = "tokenizer"
WORSE = ("error", "warning", "note")
PIECES = "pieces"


@dataclass(frozen=True, slots=True)
class View:
    """A text in tokens.

    Attributes:
        strip: the strip's payload.
        name: what selections call the text.
        length: its tokens.
        start: the token selected when nobody chose one.
        signal: what colours it.
    """

    strip: dict[str, Any]
    name: str
    length: int
    start: int
    signal: Signal


def shown(cut: Result, compared: Result | None = None) -> View:
    """The text as the tokenizer cuts it, coloured by how finely its words are cut.

    Args:
        cut: of ``tokenizer.text``.
        compared: of ``tokenizer.compare``: where another one cuts otherwise is outlined.
    """
    return _shown(cut.key, compared.key if compared else "", cut, compared)


@st.cache_resource(max_entries=32, show_spinner=False)
def _shown(key: str, other: str, _cut: Result, _compared: Result | None) -> View:
    tokens = _cut.table("tokens")
    n = tokens.num_rows
    table = pa.table(
        {
            "position": tokens["position"],
            "token_bytes": tokens["token_bytes"],
            "special": pc.is_in(tokens["kind"], pa.array(["special"])),
            "segment": pa.array(["text"] * n, pa.string()),
        }
    )
    stretches = tokens["pretoken"].to_pylist()
    sizes = Counter(stretches)
    parts = [sizes[s] for s in stretches]
    column = Column(
        pa.int64(), "Into how many tokens its word, or other stretch, was cut.", "tokens", "pieces"
    )
    strip = payload(
        {"tokens": table},
        channel=CHANNEL,
        text=key[:24],
        extra={PIECES: (parts, column)},
        marks=_marks(_cut, _compared),
    )
    signal = next(Signal(**s) for s in strip["signals"] if s["name"] == PIECES)
    listed = _cut.table("findings")
    first = listed["start_byte"][0].as_py() if listed.num_rows else 0
    return View(strip, key[:24], n, position_of(tokens, first), signal)


def position_of(tokens: pa.Table, byte: int) -> int:
    """The token that holds a byte of the text."""
    ends = tokens["end_byte"].to_pylist()
    return next((i for i, end in enumerate(ends) if end is not None and end > byte), 0)


def _marks(cut: Result, compared: Result | None) -> list[dict[str, Any]]:
    """Tokens with a finding that is more than a note, and where another tokenizer differs."""
    tokens = cut.table("tokens")
    marks: dict[int, str] = {}
    for row in compared.table("spans").to_pylist() if compared else ():
        first = position_of(tokens, row["start_byte"])
        for place in range(first, first + len(row["first"])):
            marks.setdefault(
                place, "|".join(plain(t) for t in row["other"]) if place == first else ""
            )
    for row in cut.table("findings").to_pylist():
        if row["severity"] != "note" and row["start_byte"] is not None:
            place = position_of(tokens, row["start_byte"])
            marks.setdefault(place, row["finding"].replace("_", " "))
    return [{"position": p, "kind": "finding", "text": t} for p, t in marks.items()]


def sentence(cut: Result) -> str:
    """The page's finding in one sentence."""
    tokens = cut.table("tokens")
    size = pc.sum(pc.binary_length(tokens["token_bytes"])).as_py() or 0
    said = (
        f"{size:,} byte{_s(size)} in {tokens.num_rows:,} token{_s(tokens.num_rows)}, "
        f"{size / max(tokens.num_rows, 1):.2f} each"
    )
    counts = Counter(cut.table("findings")["severity"].to_pylist())
    found = ", ".join(
        f"{counts[name]:,} {name}{_s(counts[name])}" for name in WORSE if counts[name]
    )
    return f"{said}; {found or 'nothing remarkable'}."


def steps(cut: Result, position: int) -> tuple[str, list[str]]:
    """Why a token was cut as it is: the rule, and the merges one by one."""
    (row,) = cut.table("tokens").slice(position, 1).to_pylist()
    cuts = cut.table("cuts")
    rows = cuts.filter(pc.equal(cuts["pretoken"], row["pretoken"])).to_pylist()
    lines = []
    for step in rows:
        parts = " ".join(step["parts"] or ())
        if step["action"] == "merge":
            rank = "" if step["rank"] is None else f", rule {step['rank']:,.0f}"
            lines.append(f"{step['left']} + {step['right']}{rank} → {parts}")
        else:
            lines.append(f"{step['action']}: {parts}")
    return row["rule"] or "", lines


def _s(count: int) -> str:
    return "" if count == 1 else "s"
