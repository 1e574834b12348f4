"""All rollouts of one prompt under each other, coloured by one value: the group view."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.render import palette, words
from engine.render.signals import Map, Signal
from engine.render.strip import SPECIAL, asset, digest, floats, maps
from engine.render.text import number, one_line

SHADED = 8
"""Flag of a token outside the loss; the others are the strip's."""

DIMMING = 0.55
"""How much of its colour such a token keeps; the rest is the page's background."""

_PROMPT = 4_000
_VERDICTS = {True: "right", False: "wrong", None: "not judged"}

GROUP_HTML = """<div class="ts-strip ts-group"><div class="asked" hidden>
<button class="prompt" type="button" aria-expanded="false"></button></div>
<div class="above"><div class="legend"></div><button class="all" type="button"></button></div>
<div class="tokens" role="grid" tabindex="0" aria-label="Tokens of all rollouts: left and right
 move within one, up and down to the next, f folds"></div>
<div class="tip" role="tooltip" hidden></div></div>"""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One rollout as it is drawn.

    Attributes:
        number: of the rollout in its group; selections name it.
        label: what a person calls it, such as "Answer 3".
        right: whether its answer is right; None when it was not judged.
        reward: None when there is none.
        advantage: None when there is none.
        facts: more to say quietly: label and value.
        pieces: exact bytes of each token drawn.
        special: whether it is a special token.
        start: position in its trace of the first token drawn.
        values: the coloured value of each token drawn; None or NaN where there is none.
        shaded: tokens outside the loss, drawn dimmer; None for none.
    """

    number: int
    label: str
    right: bool | None
    reward: float | None
    advantage: float | None
    facts: tuple[tuple[str, str], ...]
    pieces: Sequence[bytes]
    special: Sequence[bool]
    start: int
    values: Sequence[float | None]
    shaded: Sequence[bool] | None = None


def group_data(
    rows: Sequence[RolloutRow],
    signal: Signal,
    *,
    text: str,
    channel: str,
    prompt: str = "",
    height: int | None = None,
    marks: Mapping[tuple[int, int], str] = {},
) -> dict[str, Any]:
    """What the component ``group`` draws.

    Args:
        rows: the rollouts, in the order they are shown.
        signal: what the colour says: title, unit, map, range and labels of the legend.
        text: the group's name: while it stays, selection, folds and scrolling stay.
        channel: name shared with the bus that selects from Python.
        prompt: shown above them in one line.
        height: of the box in px; None fits the window.
        marks: flagged tokens: (number of the rollout, position) and what the flag says; those of
            tokens that are not drawn are left out.

    Returns:
        ``signature`` names the tokens and their order, ``values`` the colours: tokens are built
        anew only when the first changes.

    Raises:
        ValueError: two rows have the same number, or a row's sequences differ in length.
    """
    _check(rows)
    lengths = [len(row.pieces) for row in rows]
    pieces = pa.array(itertools.chain.from_iterable(row.pieces for row in rows), pa.binary())
    special = _joined([row.special for row in rows], np.bool_)
    shades = [[False] * len(r.pieces) if r.shaded is None else r.shaded for r in rows]
    shaded = _joined(shades, np.bool_)
    known, (places,) = words.vocabulary([(pieces, special)])
    drawn = {"word": places, "flags": (special * SPECIAL + shaded * SHADED).astype(np.int8)}
    value = floats(_joined([row.values for row in rows], np.float32))
    shape = [[row.number, row.start, length] for row, length in zip(rows, lengths, strict=True)]
    tokens = pa.table({"piece": pieces, "flags": drawn["flags"]})
    signature = digest(tokens, channel, shape)
    firsts = [0, *itertools.accumulate(lengths)]
    return {
        "channel": channel,
        "text": text,
        "signature": signature,
        "values": digest(pa.table({"value": value}), signature, signal.json()),
        "rows": [_row(row, first) for row, first in zip(rows, firsts, strict=False)],
        "columns": pa.table({**drawn, "value": value}),
        "words": known,
        "signal": signal.json(),
        "maps": _maps(signal.map),
        "prompt": one_line(prompt, _PROMPT),
        "height": height,
        "marks": _marks(rows, marks),
    }


def _check(rows: Sequence[RolloutRow]) -> None:
    if len({row.number for row in rows}) != len(rows):
        raise ValueError("two rollouts have the same number")
    for row in rows:
        for name in ("special", "values", "shaded"):
            given = getattr(row, name)
            if given is not None and len(given) != len(row.pieces):
                raise ValueError(
                    f"rollout {row.number}: {len(given)} {name} for {len(row.pieces)} tokens"
                )


def _joined(parts: Sequence[Sequence[Any]], kind: Any) -> npt.NDArray[Any]:
    """The parts as one array; None among floats becomes NaN."""
    return np.concatenate([np.zeros(0, kind), *(np.asarray(part, kind) for part in parts)])


def _row(row: RolloutRow, first: int) -> dict[str, Any]:
    return {
        "number": row.number,
        "start": row.start,
        "first": first,
        "count": len(row.pieces),
        "label": one_line(row.label),
        "verdict": _VERDICTS[row.right],
        "facts": [
            *([["reward", number(row.reward)]] if row.reward is not None else []),
            *([["advantage", signed(row.advantage)]] if row.advantage is not None else []),
            *([one_line(label), one_line(value)] for label, value in row.facts),
        ],
    }


def signed(value: float) -> str:
    """A number whose sign matters: ``+`` before positive ones."""
    return ("+" if value > 0 else "") + number(float(value))


def _marks(rows: Sequence[RolloutRow], marks: Mapping[tuple[int, int], str]) -> list[list[Any]]:
    drawn = {row.number: range(row.start, row.start + len(row.pieces)) for row in rows}
    return [
        [rollout, position, one_line(text)]
        for (rollout, position), text in marks.items()
        if position in drawn.get(rollout, ())
    ]


@cache
def _maps(kind: Map) -> dict[str, dict[str, Any]]:
    """The map by theme, and how each of its colours looks on a token outside the loss."""
    found: dict[str, dict[str, Any]] = {}
    for theme in palette.THEMES:
        full = maps()[theme][kind]
        paper = palette.BACKGROUND[theme]
        dimmed = tuple(_mix(color, paper) for color in full["colors"])
        found[theme] = {
            **full,
            "dimmed": {"colors": dimmed, "inks": [_dim_ink(color, theme) for color in dimmed]},
        }
    return found


def _dim_ink(color: str, theme: palette.Theme) -> str:
    muted = palette.MUTED[theme]
    readable = palette.contrast(muted, color) >= palette.CONTRAST
    return muted if readable else palette.ink(color, theme)


def _mix(color: str, paper: str) -> str:
    pairs = zip(palette.rgb(color), palette.rgb(paper), strict=True)
    return "#" + "".join(f"{round(DIMMING * c + (1 - DIMMING) * p):02x}" for c, p in pairs)


@cache
def group_css() -> str:
    """Style of the group view; tokens, legend and tip are the strip's."""
    return asset("strip.css") + "\n" + asset("group.css")
