"""The token strip as data: one payload for the app's component, web pages and notebooks."""

from __future__ import annotations

import hashlib
import html as html_escape
import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from engine.render import palette, words
from engine.render.signals import signals_of, values_of

if TYPE_CHECKING:
    from engine.result import Result

PROMPT, ANSWER, SPECIAL = 1, 2, 4
HOVER_ALTERNATIVES = 3
HOVER = ("probability", "surprisal", "entropy", "rank")

STRIP_HTML = """<div class="ts-strip"><div class="body">
<div class="tokens" role="listbox" tabindex="0" aria-multiselectable="true"
 aria-label="Tokens: arrow keys move, Shift extends"></div>
<canvas class="map" aria-hidden="true" hidden></canvas></div>
<div class="legend"></div>
<div class="tools" role="search" aria-label="Find tokens" hidden>
<input class="find" type="text" placeholder="find text" aria-label="Find text"
 autocomplete="off" autocapitalize="off" spellcheck="false" maxlength="300">
<input class="jump" type="text" aria-label="Jump to tokens where"
 autocomplete="off" autocapitalize="off" spellcheck="false" maxlength="300">
<span class="found"><button class="previous" type="button" aria-label="Previous match">‹</button
><span class="count" role="status"></span
><button class="next" type="button" aria-label="Next match">›</button></span>
<button class="help" type="button" aria-label="Keys" aria-expanded="false">?</button>
<dl class="keys" hidden></dl><p class="refusal" role="alert" hidden></p></div>
<div class="tip" role="tooltip" hidden></div></div>"""
DETAILS_HTML = '<div class="ts-details" aria-live="polite"></div>'

# What a script is joined from, in order; visible.js comes before all of them.
_PARTS = {
    "strip.js": (
        "condition.js",
        "blocks.js",
        "minimap.js",
        "stripdata.js",
        "striptips.js",
        "striptools.js",
        "striphands.js",
        "strip.js",
    ),
    "group.js": (
        "blocks.js",
        "stripdata.js",
        "striptips.js",
        "grouprows.js",
        "groupkeys.js",
        "group.js",
    ),
    "curve.js": ("linked.js", "curve.js"),
    "scatter.js": ("linked.js", "scatter.js"),
}


@cache
def asset(name: str) -> str:
    """The text of a file beside this module; scripts get the helpers they share in front."""
    folder = Path(__file__).parent
    parts = ("visible.js", *_PARTS.get(name, (name,))) if name.endswith(".js") else (name,)
    return "\n".join((folder / part).read_text(encoding="utf-8") for part in parts)


def payload(
    tables: Mapping[str, pa.Table],
    *,
    channel: str = "tokens",
    columns: Mapping[str, Any] | None = None,
    text: str = "",
    extra: Mapping[str, tuple[Any, Any]] | None = None,
    marks: Sequence[Mapping[str, Any]] = (),
    tools: bool = True,
) -> dict[str, Any]:
    """Everything the strip needs for one text; constant while signal and selection change.

    Args:
        tables: ``tokens`` and, for the hover, ``alternatives``.
        channel: name shared with the views that show the same text.
        columns: declared columns of ``tokens``: labels, units, definitions.
        text: the trace's name in selections (start of its digest), so that they carry over from
            page to page; without it the payload's own signature.
        extra: further signals, from other analyses: per name one value per token (null or NaN
            where there is none) and its declared column.
        marks: flagged tokens: ``position``, ``kind`` (``culprit``, ``guess``, others are quiet)
            and ``text``.
        tools: whether find, jump and their keys are offered.

    Returns:
        ``signature`` names what is drawn, ``values`` the numbers: the strip is built anew only
        when the first changes.
    """
    tokens, declared = _with(tables["tokens"], columns or {}, extra or {})
    signals = signals_of(tokens, declared)
    listed = [s.json() for s in signals]
    alternatives = tables.get("alternatives")
    values = {s.name: floats(values_of(tokens, s.name)) for s in signals}
    pieces = words.tokens_of(tokens)
    best = (
        words.best(alternatives, HOVER_ALTERNATIVES, tokens.num_rows)
        if alternatives is not None
        else []
    )
    known, places = words.vocabulary([pieces, *((b.tokens, b.special) for b in best)])
    for k, (other, place) in enumerate(zip(best, places[1:], strict=True), start=1):
        values[f"alternative_{k}"] = pa.array(np.where(other.given, place, -1).astype(np.int32))
        values[f"chance_{k}"] = floats(other.chance)
    flags = _flags(tokens)
    spelled, start, stop = words.written(pieces[0])
    drawn = {"word": places[0], "flags": flags, "start": start, "stop": stop}
    signature = digest(
        pa.table({"piece": pieces[0], "special": pieces[1], "flags": flags}), channel
    )
    return {
        "channel": channel,
        "text": text or signature,
        "signature": signature,
        "values": digest(pa.table(values), signature, known, listed),
        "columns": pa.table({**drawn, **values}),
        "words": known,
        "written": spelled,
        "signals": listed,
        "hover": [s for name in HOVER for s in listed if s["name"] == name],
        "marks": [dict(mark) for mark in marks],
        "tools": tools,
        "maps": maps(),
    }


def plain_payload(
    pieces: Sequence[bytes],
    segments: Sequence[str],
    *,
    special: Collection[int] = (),
    text: str = "",
) -> dict[str, Any]:
    """A text without any numbers, for the time while they are computed."""
    tokens = pa.table(
        {
            "token_bytes": pa.array(pieces, pa.binary()),
            "special": pa.array(_marked(special, len(pieces))),
            "segment": list(segments),
        }
    )
    data = payload({"tokens": tokens}, channel="plain", text=text, tools=False)
    return {**data, "view": {"channel": "plain"}}


def names(tables: Mapping[str, pa.Table]) -> list[str]:
    """Each token as readable plain text."""
    return words.names(tables["tokens"])


def pieces(tables: Mapping[str, pa.Table]) -> list[str]:
    """Each token with its marks, as the JavaScript draws it."""
    return words.pieces(tables["tokens"])


def most_striking(tokens: pa.Table, column: str = "surprisal") -> int:
    """The position to select at first: the largest value outside the prompt."""
    values = values_of(tokens, column)
    answered = pc.not_equal(tokens["segment"], "prompt").to_numpy()
    values = np.where(answered, values, np.nan) if answered.any() else values
    if not np.isfinite(values).any():
        return 0
    return int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))


def html(
    tables: Mapping[str, pa.Table],
    signal: str = "surprisal",
    *,
    columns: Mapping[str, Any] | None = None,
    extra: Mapping[str, tuple[Any, Any]] | None = None,
    marks: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The strip as self-contained HTML, for notebooks and files; needs no server.

    Data travel as JSON in which ``<``, ``>`` and ``&`` are escapes: no token can end the script.
    """
    data = payload(tables, channel="page", columns=columns, extra=extra, marks=marks)
    numbers = {c: _array(data["columns"][c]) for c in data["columns"].column_names}
    start = most_striking(tables["tokens"])
    view = {"channel": "page", "signal": signal, "selection": [start, start]}
    data |= {"columns": {}, "view": {**view, "signature": data["text"]}}
    place = "ts-" + data["signature"][:12]
    text = html_escape.escape("".join(names(tables)))
    return (
        f'<div class="{place}"><template><style>{asset("strip.css")}</style>{STRIP_HTML}</template>'
        f"<noscript><pre>{text}</pre></noscript>"
        f'<script type="application/json">{_safe_json(data, numbers)}</script></div>'
        f'<script type="module">{asset("strip.js")}\n{_START.replace("PLACE", place)}</script>'
    )


def render_strip_html(result: Result, signal: str = "surprisal") -> str:
    """A result for a notebook: the strip where it has tokens, else its main table."""
    if "surprisal" in getattr(result.tables.get("tokens"), "column_names", ()):
        from engine.registry import find

        declared = find(result.analysis).tables["tokens"].columns
        return html(_first_rollout(result.tables), signal, columns=declared)
    table = result.table()
    shown = html_escape.escape(f"{result.analysis}: {table.num_rows:,} rows")
    return f"<p>{shown}</p>" + table.slice(0, 50).to_pandas().to_html(escape=True, index=False)


def _first_rollout(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    return {
        name: table.filter(pc.equal(table["rollout"], table["rollout"][0]))
        if "rollout" in table.column_names and table.num_rows
        else table
        for name, table in tables.items()
    }


# A shadow root keeps the page's styles and the strip's apart.
_START = """for (const place of document.querySelectorAll(".PLACE:not([data-drawn])")) {
  place.dataset.drawn = "yes";
  const data = JSON.parse(place.querySelector("script").textContent);
  data.channel = data.view.channel = String(Math.random());
  const root = place.attachShadow({ mode: "open" });
  root.append(place.querySelector("template").content.cloneNode(true));
  strip({ data, parentElement: root });
}"""


def _flags(tokens: pa.Table) -> npt.NDArray[np.int8]:
    def where(mask: Any, flag: int) -> Any:
        return np.where(mask.fill_null(False).to_numpy(), flag, 0)

    segment = tokens["segment"]
    total = where(pc.equal(segment, "prompt"), PROMPT) + where(pc.equal(segment, "answer"), ANSWER)
    return np.asarray(total + where(tokens["special"], SPECIAL), np.int8)


def _with(
    tokens: pa.Table, columns: Mapping[str, Any], extra: Mapping[str, tuple[Any, Any]]
) -> tuple[pa.Table, dict[str, Any]]:
    """The table with further signals, and the declarations of all columns."""
    for name, (values, _) in extra.items():
        if name in tokens.column_names:
            raise ValueError(f"the tokens have a column {name!r} already")
        if len(values) != tokens.num_rows:
            raise ValueError(f"{name!r}: {len(values)} values for {tokens.num_rows} tokens")
        column = values if isinstance(values, pa.ChunkedArray) else pa.array(values)
        tokens = tokens.append_column(name, column)
    return tokens, {**columns, **{name: column for name, (_, column) in extra.items()}}


def _marked(positions: Collection[int], length: int) -> npt.NDArray[np.bool_]:
    marks = np.zeros(length, np.bool_)
    marks[list(positions)] = True
    return marks


def floats(values: npt.NDArray[np.float32]) -> pa.Array:
    """Values as a column; NaN as null."""
    return pa.array(values, pa.float32(), from_pandas=True)


@cache
def maps() -> dict[str, dict[str, Any]]:
    """The colour maps by theme and kind: colours, the inks readable on them, the background."""
    kinds = {
        "sequential": palette.sequential,
        "diverging": palette.diverging,
        "buckets": palette.buckets,
    }
    return {
        theme: {
            kind: {
                "colors": make(theme),
                "inks": palette.inks(make(theme), theme),
                "background": palette.BACKGROUND[theme],
            }
            for kind, make in kinds.items()
        }
        for theme in palette.THEMES
    }


def digest(table: pa.Table, *more: Any) -> str:
    """A short name of a table's content and of what JSON can hold."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    whole = hashlib.sha256(json.dumps(more).encode())
    whole.update(sink.getvalue())
    return whole.hexdigest()[:24]


def _array(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    return np.ascontiguousarray(column.combine_chunks().to_numpy(zero_copy_only=False))


def _safe_json(value: Mapping[str, Any], columns: Mapping[str, npt.NDArray[Any]]) -> str:
    """``value`` with its numbers as ``columns``; what is not finite is null."""
    rest = json.dumps(value, allow_nan=False, separators=(",", ":"))
    numbers = orjson.dumps(columns, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    text = rest.replace('"columns":{}', f'"columns":{numbers}', 1)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
