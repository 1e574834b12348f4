"""The flow graph as one SVG file, without a browser: the layout of flowlayout.js in Python.

A test in a browser compares what both write.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree as ET

from engine.render import palette
from engine.render.palette import Theme
from engine.render.text import BOX, DIM, END, number

ROW, CELL, DOT, HEAD, FOOT = 20, 8.4, 8, 30, 6
LEFT, RIGHT, NARROWEST, WIDEST, FEWEST_ROWS, LEAST = 58, 10, 64, 230, 14, 62
PARTS = ("question", "reasoning", "answer")
FAINTEST = 0.07
TITLE, KEY, SAID, LEAST_FILE = 46, 40, 18, 780
_DIRECTION = "flow runs to the right, and down inside a column"
_MONO = "'Source Code Pro', 'DejaVu Sans Mono', ui-monospace, monospace"
_SANS = "'Source Sans', 'Source Sans Pro', 'DejaVu Sans', sans-serif"
_RUN = re.compile(f"([{DIM}{BOX}])([^{END}]*){END}|([^{DIM}{BOX}{END}]+)")
# What XML cannot hold at all; tokens have none of it, titles might.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(slots=True)
class _Item:
    """A token, or a folded run of tokens, and its place."""

    first: int
    last: int
    part: int
    folded: bool
    label: str
    cells: int
    throughput: float
    column: int = 0
    row: int = 0
    x: float = 0.0
    y: float = 0.0
    r: float = 0.0
    right: float = 0.0


@dataclass(slots=True)
class _Ribbon:
    source: int
    target: int
    flow: float


@dataclass(slots=True)
class _Layout:
    items: list[_Item]
    most: float
    gap: float = 0.0
    rows: int = 0
    width: float = 0.0
    height: float = 0.0
    heads: list[tuple[int, float, float]] = field(default_factory=list)


def flowgraph_svg(
    payload: Mapping[str, Any], share: float = 0.8, theme: Theme = "light", width: float = 960
) -> str:
    """The graph as an SVG document that needs nothing else.

    Args:
        payload: of ``flowgraph_payload``.
        share: of flow kept; an edge is drawn if it needs less.
        theme: whose colours.
        width: pixels; the columns of tokens are as many as fit.
    """
    share = min(share, payload["most_share"])
    layout = _layout(_items(payload), width)
    needed = payload["edges"]["needed"].to_pylist()
    count = bisect_left(needed, share)
    offset = payload["offset"]
    everything = _ribbons(payload["edges"], layout, offset, len(needed))
    most = everything[-1].flow if everything else 1e-30
    ribbons = _ribbons(payload["edges"], layout, offset, count)
    percent = math.floor(100 * share + 0.5)
    said = f"share of flow kept {percent} %: {count:,} of {payload['total_edges']:,} edges"
    words = " · ".join(filter(None, (said, payload["note"])))
    root = _figure(payload["title"], words, layout, ribbons, most, theme)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode")


# -- layout -----------------------------------------------------------------------------------


def _items(payload: Mapping[str, Any]) -> list[_Item]:
    columns = {name: payload["columns"][name].to_pylist() for name in ("cells", "part")}
    throughput = payload["columns"]["throughput"].to_pylist()
    offset, labels = payload["offset"], payload["labels"]
    ends = dict(payload["folds"])
    items, at = [], 0
    while at < len(labels):
        end = ends.get(at + offset)
        stop = at + 1 if end is None else end - offset
        label = labels[at] if end is None else f"… {stop - at:,} tokens"
        width = columns["cells"][at] if end is None else len(label)
        first, last, part = at + offset, stop - 1 + offset, columns["part"][at]
        through = sum(throughput[at:stop])
        items.append(_Item(first, last, part, end is not None, label, width, through))
        at = stop
    return items


def _columns(items: Sequence[_Item], width: float) -> tuple[list[list[_Item]], list[float], float]:
    """Items in as few rows as leave room between the columns; widths; room."""
    parts = [[item for item in items if item.part == p] for p in range(len(PARTS))]
    longest = max(map(len, parts))
    rows = min(FEWEST_ROWS, longest)
    while True:
        columns = []
        for part in filter(None, parts):
            count = -(-len(part) // rows)
            each = -(-len(part) // count)
            columns += [part[c * each : (c + 1) * each] for c in range(count)]
        labels = [2 * DOT + 2 + CELL * max(item.cells for item in column) for column in columns]
        wide = [max(LEAST, label) for label in labels]
        free = width - LEFT - RIGHT - sum(wide)
        gap = free / (len(columns) - 1) if len(columns) > 1 else WIDEST
        if gap >= NARROWEST or rows >= longest:
            return columns, wide, max(min(gap, WIDEST), 24)
        rows += 1


def _layout(items: list[_Item], width: float) -> _Layout:
    columns, wide, gap = _columns(items, width)
    rows = max(map(len, columns))
    made = _Layout(items, max(max(item.throughput for item in items), 1e-30), gap, rows)
    left: float = LEFT
    for c, column in enumerate(columns):
        part = column[0].part
        top = HEAD + ((rows - len(column)) * ROW / 2 if part == 2 else 0)
        for row, item in enumerate(column):
            item.column, item.row = c, row
            item.x, item.y = left + DOT, top + row * ROW + ROW / 2
            item.r = max(1.2, DOT * math.sqrt(item.throughput / made.most))
            item.right = left + 2 * DOT + 2 + CELL * item.cells
        if made.heads and made.heads[-1][0] == part:
            made.heads[-1] = (part, made.heads[-1][1], left + wide[c])
        else:
            made.heads.append((part, left, left + wide[c]))
        left += wide[c] + gap
    made.width, made.height = max(left - gap + RIGHT, 200), HEAD + rows * ROW + FOOT
    return made


def _ribbons(edges: Any, layout: _Layout, offset: int, count: int) -> list[_Ribbon]:
    at: dict[int, int] = {}
    for n, item in enumerate(layout.items):
        at.update((position, n) for position in range(item.first, item.last + 1))
    found: dict[tuple[int, int], _Ribbon] = {}
    columns = (edges[name][:count].to_pylist() for name in ("source", "target", "flow"))
    for source, target, flow in zip(*columns, strict=True):
        pair = (at[source], at[target])
        if pair[0] != pair[1]:
            found.setdefault(pair, _Ribbon(*pair, 0.0)).flow += flow
    return sorted(found.values(), key=lambda r: (r.flow, -r.source, -r.target))


def _curve(a: _Item, b: _Item, layout: _Layout) -> tuple[float, ...]:
    if a.column == b.column:
        room = min(layout.gap, LEFT) - 8
        bend = (4 / 3) * (8 + (room - 8) * ((b.row - a.row) / layout.rows) ** 0.6)
        ax, bx = a.x - a.r, b.x - b.r
        return (ax - 1, a.y, ax - bend, a.y, bx - bend, b.y, bx - 1, b.y)
    start, end = a.right + 2, b.x - b.r - 2
    bend = max(0.45 * (end - start), 20)
    return (start, a.y, start + bend, a.y, end - bend, b.y, end, b.y)


# -- drawing ----------------------------------------------------------------------------------


def _figure(
    title: str, words: str, layout: _Layout, ribbons: list[_Ribbon], most: float, theme: Theme
) -> ET.Element:
    below = TITLE + layout.height + KEY + SAID
    width, tall = f"{max(layout.width, LEAST_FILE):.0f}", f"{below:.0f}"
    ink, muted, line = palette.TEXT[theme], palette.MUTED[theme], palette.LINE[theme]
    root = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", width=width, height=tall)
    root.attrib |= {"viewBox": f"0 0 {width} {tall}", "font-family": _SANS, "font-size": "12"}
    root.set("fill", muted)
    ET.SubElement(root, "title").text = _legal(title)
    ET.SubElement(root, "rect", width="100%", height="100%", fill=palette.BACKGROUND[theme])
    _text(root, 10, 20, title, {"font-size": "15", "font-weight": "600", "fill": ink})
    _text(root, 10, 38, words)
    body = ET.SubElement(root, "g", transform=f"translate(0 {TITLE})")
    for part, left, right in layout.heads:
        _text(body, left, 14, PARTS[part], {"fill": muted})
        ET.SubElement(body, "path", d=f"M{left:.1f} 20.5H{right:.1f}", stroke=line, fill="none")
    lines = ET.SubElement(body, "g", {"fill": "none", "stroke-linecap": "round"})
    for one in ribbons:
        places = _curve(layout.items[one.source], layout.items[one.target], layout)
        x, y, *rest = (f"{v:.1f}" for v in places)
        path = ET.SubElement(lines, "path", d=f"M{x} {y}C{' '.join(rest)}")
        path.set("stroke", _shade(one.flow, most, theme))
        path.set("stroke-width", f"{_stroke(one.flow, most):.2f}")
    _names(body, layout, {n for r in ribbons for n in (r.source, r.target)}, theme)
    _key(root, TITLE + layout.height, most, layout.most, theme)
    _text(root, 10, below - 12, _DIRECTION)
    return root


def _names(body: ET.Element, layout: _Layout, strong: set[int], theme: Theme) -> None:
    look = {"font-family": _MONO, "font-size": "14", "paint-order": "stroke", "stroke-width": "3"}
    names = ET.SubElement(body, "g", {**look, "stroke-linejoin": "round"})
    for n, item in enumerate(layout.items):
        x, y, r = item.x, item.y, item.r
        fill = _shade(item.throughput, layout.most, theme)
        dot = {"fill": fill, "stroke": palette.MUTED[theme], "stroke-width": "0.6"}
        if item.folded:
            size = f"{2 * r:.1f}"
            box = {"x": f"{x - r:.1f}", "y": f"{y - r:.1f}", "width": size, "height": size}
            ET.SubElement(names, "rect", {**box, **dot})
        else:
            place = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{r:.1f}"}
            ET.SubElement(names, "circle", {**place, **dot})
        shown = n in strong and not item.folded
        label = _text(names, x + DOT + 2, y + 4.5, "")
        label.set("fill", (palette.TEXT if shown else palette.MUTED)[theme])
        label.set("stroke", palette.BACKGROUND[theme])
        for mark, marked, bare in _RUN.findall(item.label):
            looks = {DIM: {"fill-opacity": "0.45"}, BOX: {"font-size": "10.5"}}.get(mark, {})
            ET.SubElement(label, "tspan", looks).text = _legal(marked or bare)


def _key(root: ET.Element, top: float, most_flow: float, most: float, theme: Theme) -> None:
    """What width, size and colour mean, in numbers."""
    key = ET.SubElement(root, "g", transform=f"translate(10 {top:.1f})")
    _text(key, 0, 24, "flow of an edge  0")
    for k in range(20):
        share = (k + 1) / 20
        tall = _stroke(share, 1)
        box = {"x": f"{104 + 4 * k}", "y": f"{20 - tall / 2:.2f}", "width": "4"}
        fill = _shade(share, 1, theme)
        ET.SubElement(key, "rect", {**box, "height": f"{tall:.2f}", "fill": fill})
    _text(key, 190, 24, number(most_flow))
    _text(key, 270, 24, "throughput of a token")
    for k, part in enumerate((0.25, 1.0)):
        dot = {"cx": f"{416 + 70 * k}", "cy": "20", "r": f"{DOT * math.sqrt(part):g}"}
        look = {"fill": _shade(part, 1, theme), "stroke": palette.MUTED[theme]}
        ET.SubElement(key, "circle", {**dot, **look, "stroke-width": "0.6"})
        _text(key, 430 + 70 * k, 24, number(part * most))
    _text(key, 570, 24, "all flow: 1")


def _text(
    parent: ET.Element, x: float, y: float, text: str, more: Mapping[str, str] | None = None
) -> ET.Element:
    node = ET.SubElement(parent, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", **(more or {})})
    node.text = _legal(text)
    return node


def _legal(text: str) -> str:
    return _ILLEGAL.sub("", text)


def _stroke(flow: float, most: float) -> float:
    return max(0.7, 9 * min(flow / most, 1))


def _shade(flow: float, most: float, theme: Theme) -> str:
    ramp = palette.sequential(theme)
    share = FAINTEST + (1 - FAINTEST) * min(flow / most, 1)
    return ramp[math.floor(share * (len(ramp) - 1) + 0.5)]
