"""Curve and scatter as data: what the two linked pictures beside the token strip draw.

Both payloads are constant for one text and one choice of values: what changes (selection, pointer)
travels between the components in the browser and over the bus.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.render import palette
from engine.render.axes import Quantity, Scale, axis
from engine.render.signals import Signal
from engine.render.strip import asset

Values: TypeAlias = Sequence[float | None] | npt.NDArray[Any] | pa.Array | pa.ChunkedArray
Pieces: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray

CURVE_HTML = (
    '<div class="ts-view ts-curve" role="slider" tabindex="0"><div class="head">'
    '<span class="name"></span><span class="aside"></span></div><div class="plot"></div>'
    '<div class="tip" role="tooltip" hidden></div></div>'
)
SCATTER_HTML = (
    '<div class="ts-view ts-scatter" role="slider" tabindex="0"><div class="head">'
    '<span class="name"></span><span class="aside"></span></div>'
    '<div class="plot"><canvas></canvas><canvas class="above"></canvas></div>'
    '<div class="tip" role="tooltip" hidden></div></div>'
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A dot on the curve with a text beside it.

    Attributes:
        position: token it belongs to.
        text: said in the accent colour.
        note: a quieter second line.
        before: the dot sits where the token begins, at the value before it: the edge of a fall.
    """

    position: int
    text: str
    note: str = ""
    before: bool = False


def curve_data(
    values: Values,
    *,
    pieces: Pieces,
    signal: Signal | Quantity,
    start: int,
    text: str,
    channel: str,
    low: Values | None = None,
    high: Values | None = None,
    band: str = "95 % interval",
    second: tuple[Values, str] | None = None,
    marks: Sequence[Mark] = (),
    title: str = "",
    note: str = "",
    offset: int = 0,
    ticks: Sequence[tuple[int, str]] | None = None,
    height: int = 150,
    reveal: bool = False,
) -> dict[str, Any]:
    """A value along the tokens, as the component ``curve`` draws it.

    Args:
        values: one number per token drawn [N]; null or NaN leaves a gap.
        pieces: the same tokens as ``engine.render.strip.pieces`` writes them [N].
        signal: what is measured: title, unit, range.
        start: first position of the response; what comes before is drawn quietly.
        text: name of the text the positions belong to (``trace.digest[:24]``).
        channel: name shared with the strip of the same text.
        low: lower bound per token [N]; drawn as a band together with ``high``. Where only bounds
            are known, ``values`` may be all null.
        high: upper bound per token [N].
        band: what the bounds are, for the tooltip.
        second: another line and its name, such as a running mean; it is drawn over the values.
        marks: dots with texts.
        title: heading; the signal's title and unit without it.
        note: quieter words after the heading.
        offset: position of the first token drawn: a curve may show a part of the text.
        ticks: labels below the tokens, positions in order; the last one is set at the right end.
        height: pixels.
        reveal: draw the curve in from the left once.

    Raises:
        ValueError: when the columns differ in length.
    """
    quantity = Quantity.of(signal)
    columns = {"value": _floats(values)}
    if (low is None) != (high is None):
        raise ValueError("a band needs both bounds")
    if low is not None and high is not None:
        columns |= {"low": _floats(low), "high": _floats(high)}
    if second is not None:
        columns["second"] = _floats(second[0])
    table = _table(columns, pieces)
    last = offset + table.num_rows - 1
    rest = {
        "axis": axis(np.concatenate(list(columns.values())), quantity).json(),
        "name": quantity.title,
        "unit": quantity.unit,
        "whole": quantity.whole,
        "title": title or _heading(quantity),
        "note": note,
        "band": band,
        "second": second[1] if second else "",
        "start": start,
        "offset": offset,
        "ticks": [list(t) for t in (_ticks(offset, start, last) if ticks is None else ticks)],
        "marks": [asdict(m) for m in marks if offset <= m.position <= last],
        "height": height,
        "reveal": reveal,
    }
    return _payload(table, text, channel, rest)


def scatter_data(
    x_values: Values,
    y_values: Values,
    *,
    x: Signal | Quantity,
    y: Signal | Quantity,
    pieces: Pieces,
    start: int,
    text: str,
    channel: str,
    title: str = "",
    note: str = "",
    scale: Scale | None = "sqrt",
    offset: int = 0,
    height: int = 260,
) -> dict[str, Any]:
    """Two values of every token against each other, as the component ``scatter`` draws them.

    Args:
        x_values: to the right, one per token [N]; a token that lacks either value is not drawn.
        y_values: upwards [N].
        x, y: what they measure.
        pieces, start, text, channel, title, note, offset, height: as in ``curve_data``.
        scale: of both axes; ``sqrt`` spreads what is crowded near 0. None keeps each quantity's.

    Raises:
        ValueError: when the columns differ in length.
    """
    columns = {"x": _floats(x_values), "y": _floats(y_values)}
    table = _table(columns, pieces)
    both = {"x": _rescaled(Quantity.of(x), scale), "y": _rescaled(Quantity.of(y), scale)}
    rest: dict[str, Any] = {
        name: {
            **axis(columns[name], quantity).json(),
            "title": quantity.title,
            "unit": quantity.unit,
            "label": quantity.title + (f", {quantity.unit}" if quantity.unit else ""),
        }
        for name, quantity in both.items()
    }
    names = [quantity.title for quantity in both.values()]
    rest |= {
        "title": title or f"{names[0][:1].upper()}{names[0][1:]} × {names[1]}",
        "note": note or ("square-root axes" if scale == "sqrt" else ""),
        "start": start,
        "offset": offset,
        "height": height,
    }
    return {**_payload(table, text, channel, rest), "colors": _colors()}


@cache
def views_css() -> str:
    """Style of both pictures; every colour comes from the palette."""
    rules = []
    for theme, colors in _colors().items():
        where = ".ts-view" if theme == "light" else f'.ts-view[data-theme="{theme}"]'
        names = "".join(f"--{name}: {value}; " for name, value in colors.items())
        rules.append(f"{where} {{ {names}}}")
    return "\n".join(rules) + "\n" + asset("views.css")


def _colors() -> dict[str, dict[str, str]]:
    return {
        theme: {
            "text": palette.TEXT[theme],
            "background": palette.BACKGROUND[theme],
            "muted": palette.MUTED[theme],
            "line": palette.LINE[theme],
            "accent": palette.ACCENT[theme],
        }
        for theme in palette.THEMES
    }


def _floats(values: Values) -> npt.NDArray[np.float32]:
    """Float32 with NaN for null."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return values.cast(pa.float32()).to_numpy(zero_copy_only=False)
    return np.array([math.nan if v is None else v for v in values], np.float32)


def _table(columns: dict[str, npt.NDArray[np.float32]], pieces: Pieces) -> pa.Table:
    if isinstance(pieces, pa.ChunkedArray):
        pieces = pieces.combine_chunks()
    shown = pieces if isinstance(pieces, pa.Array) else pa.array(list(pieces), pa.string())
    lengths = {len(shown), *(len(c) for c in columns.values())}
    if len(lengths) > 1:
        raise ValueError(f"columns of different lengths: {sorted(lengths)}")
    # NaN and no nulls: the browser then takes the buffer as it is.
    return pa.table({"piece": shown, **{name: pa.array(c) for name, c in columns.items()}})


def _payload(table: pa.Table, text: str, channel: str, rest: dict[str, Any]) -> dict[str, Any]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    named = repr((channel, text, sorted(rest.items()))).encode()
    signature = hashlib.sha256(named + sink.getvalue()).hexdigest()[:24]
    return {"channel": channel, "text": text, "signature": signature, "columns": table, **rest}


def _rescaled(quantity: Quantity, scale: Scale | None) -> Quantity:
    if scale is None or quantity.scale == "log" or (quantity.low or 0) < 0:
        return quantity
    return replace(quantity, scale=scale)


def _heading(quantity: Quantity) -> str:
    title = quantity.title[:1].upper() + quantity.title[1:]
    return f"{title}, {quantity.unit}" if quantity.unit else title


def _ticks(offset: int, start: int, last: int) -> list[tuple[int, str]]:
    """Where prompt and response begin, and the last position."""
    if last <= offset:
        return [(offset, f"{offset:,}")]
    if start <= offset:
        return [(offset, "response" if offset == start else f"{offset:,}"), (last, f"{last:,}")]
    both = [(offset, "prompt"), (start, "response")] if start <= last else [(offset, "prompt")]
    return [*both, (last, f"{last:,}")]
