"""The token strip as data: one payload for the app's component, web pages and notebooks."""

from __future__ import annotations

import hashlib
import html as html_escape
import json
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.render import palette
from engine.render.signals import Signal, signals_of, values_of
from engine.render.text import markup, plain

if TYPE_CHECKING:
    from engine.result import Result

PROMPT, ANSWER, SPECIAL = 1, 2, 4
HOVER_ALTERNATIVES = 3
HOVER = ("probability", "surprisal", "entropy", "rank")

STRIP_HTML = (
    '<div class="ts-strip"><div class="tokens" role="listbox" tabindex="0" '
    'aria-multiselectable="true" aria-label="Tokens: arrow keys move, Shift extends"></div>'
    '<div class="legend"></div><div class="tip" role="tooltip" hidden></div></div>'
)
DETAILS_HTML = '<div class="ts-details" aria-live="polite"></div>'


@cache
def asset(name: str) -> str:
    """The text of a file beside this module; scripts get the shared helpers in front."""
    folder = Path(__file__).parent
    text = (folder / name).read_text(encoding="utf-8")
    if not name.endswith(".js"):
        return text
    return (folder / "visible.js").read_text(encoding="utf-8") + "\n" + text


def payload(
    tables: Mapping[str, pa.Table],
    *,
    channel: str = "tokens",
    columns: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything the strip needs for one text; constant while signal and selection change.

    Args:
        tables: ``tokens`` and, for the hover, ``alternatives``.
        channel: name shared with the views that show the same text.
        columns: declared columns of ``tokens``: labels, units, definitions.
    """
    tokens = tables["tokens"]
    signals = signals_of(tokens, columns)
    data = _columns(tables, signals)
    hover = [s for name in HOVER for s in signals if s.name == name]
    return {
        "channel": channel,
        "signature": _signature(data, channel),
        "columns": data,
        "signals": [s.json() for s in signals],
        "hover": [s.json() for s in hover],
        "maps": _maps(),
    }


def plain_payload(
    pieces: Sequence[bytes], segments: Sequence[str], *, special: Collection[int] = ()
) -> dict[str, Any]:
    """A text without any numbers, for the time while they are computed."""
    tokens = pa.table(
        {
            "token_bytes": pa.array(pieces, pa.binary()),
            "special": [p in special for p in range(len(pieces))],
            "segment": list(segments),
        }
    )
    data = payload({"tokens": tokens}, channel="plain")
    return {**data, "view": {"channel": "plain"}}


def names(tables: Mapping[str, pa.Table]) -> list[str]:
    """Each token as readable plain text."""
    return [plain(t, special=special) for t, special in _pieces(tables["tokens"])]


def pieces(tables: Mapping[str, pa.Table]) -> list[str]:
    """Each token with its marks, as the JavaScript draws it."""
    return [markup(t, special=special) for t, special in _pieces(tables["tokens"])]


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
) -> str:
    """The strip as self-contained HTML, for notebooks and files; needs no server.

    Data travel as JSON in which ``<``, ``>`` and ``&`` are escapes: no token can end the script.
    """
    data = payload(tables, channel="page", columns=columns)
    table: pa.Table = data["columns"]
    data["columns"] = {name: _jsonable(table[name]) for name in table.column_names}
    start = most_striking(tables["tokens"])
    chosen = {"channel": "page", "signal": signal, "selection": [start, start]}
    data["view"] = {**chosen, "signature": data["signature"]}
    place = "ts-" + data["signature"][:12]
    text = html_escape.escape("".join(names(tables)))
    return (
        f'<div class="{place}"><template><style>{asset("strip.css")}</style>{STRIP_HTML}</template>'
        f"<noscript><pre>{text}</pre></noscript>"
        f'<script type="application/json">{_safe_json(data)}</script></div>'
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


def _columns(tables: Mapping[str, pa.Table], signals: list[Signal]) -> pa.Table:
    tokens = tables["tokens"]
    segments = tokens["segment"].to_pylist()
    flags = [
        (PROMPT if s == "prompt" else 0)
        | (ANSWER if s == "answer" else 0)
        | (SPECIAL if special else 0)
        for s, special in zip(segments, tokens["special"].to_pylist(), strict=True)
    ]
    data: dict[str, Any] = {
        "piece": pa.array(pieces(tables), pa.string()),
        "flags": pa.array(flags, pa.int8()),
    }
    for signal in signals:
        data[signal.name] = pa.array(values_of(tokens, signal.name), pa.float32(), from_pandas=True)
    if "alternatives" in tables:
        data |= _hover_alternatives(tables["alternatives"], len(segments))
    return pa.table(data)


def _hover_alternatives(alternatives: pa.Table, length: int) -> dict[str, pa.Array]:
    best = alternatives.filter(pc.less_equal(alternatives["alternative_rank"], HOVER_ALTERNATIVES))
    text: list[list[str | None]] = [[None] * length for _ in range(HOVER_ALTERNATIVES)]
    chance = np.full((HOVER_ALTERNATIVES, length), np.nan, np.float32)
    rows = zip(
        best["position"].to_pylist(),
        best["alternative_rank"].to_pylist(),
        best["alternative_bytes"].to_pylist(),
        np.exp(best["logprob"].to_numpy()),
        strict=True,
    )
    for position, rank, token, share in rows:
        text[rank - 1][position] = markup(token, special=True)
        chance[rank - 1, position] = share
    columns: dict[str, pa.Array] = {}
    for k in range(HOVER_ALTERNATIVES):
        columns[f"alternative_{k + 1}"] = pa.array(text[k], pa.string())
        columns[f"chance_{k + 1}"] = pa.array(chance[k], pa.float32(), from_pandas=True)
    return columns


def _pieces(tokens: pa.Table) -> list[tuple[bytes, bool]]:
    """Bytes of each token, and whether it is a special one."""
    data, special = tokens["token_bytes"].to_pylist(), tokens["special"].to_pylist()
    return [(piece or b"", bool(mark)) for piece, mark in zip(data, special, strict=True)]


@cache
def _maps() -> dict[str, dict[str, Any]]:
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


def _signature(table: pa.Table, channel: str) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(channel.encode() + sink.getvalue()).hexdigest()[:24]


def _jsonable(column: pa.ChunkedArray) -> list[Any]:
    def plain_value(v: Any) -> Any:
        if not isinstance(v, float):
            return v
        return float(f"{v:.6g}") if math.isfinite(v) else None

    return [plain_value(v) for v in column.to_pylist()]


def _safe_json(value: Any) -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
