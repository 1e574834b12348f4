"""Which tokens are selected: one value for all views, changed by pure functions only.

Views in the browser (strip, curve, scatter) stamp their choices with the time; what is chosen
through Python (a row of the table, a link) counts on from the newest stamp, so that clocks of two
machines never decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Selection:
    """Selected positions of one text.

    Attributes:
        signature: the text they belong to.
        first: where the selection began.
        last: where it ends (may be before ``first``).
        stamp: when a person chose it, browser milliseconds; 0 for the page's own choice.
        source: the view it was chosen in.
    """

    signature: str
    first: int
    last: int
    stamp: int = 0
    source: str = ""

    def message(self) -> dict[str, Any]:
        """What the bus tells every view."""
        return {
            "signature": self.signature,
            "selection": [self.first, self.last],
            "stamp": self.stamp,
        }

    @property
    def span(self) -> tuple[int, int]:
        """The positions from left to right."""
        return min(self.first, self.last), max(self.first, self.last)


def next_selection(
    previous: Selection | None,
    signature: str,
    length: int,
    start: int,
    events: Mapping[str, Any],
) -> Selection:
    """The selection after what the views reported; the newest choice wins.

    Args:
        previous: the selection so far.
        signature: the text shown now; reports about another text are ignored.
        length: its number of tokens; positions outside are ignored.
        start: position selected when nobody chose yet.
        events: last report of each view: ``signature``, ``first``, ``last``, ``stamp``. They come
            from the browser and stay there between runs, so they may be old or malformed.
    """
    current = previous
    if current is None or current.signature != signature:
        current = Selection(signature, start, start)
    for source, event in events.items():
        if not isinstance(event, Mapping) or event.get("signature") != signature:
            continue
        first, last, stamp = (event.get(name) for name in ("first", "last", "stamp"))
        if not all(type(v) is int for v in (first, last, stamp)):
            continue
        if 0 <= first < length and 0 <= last < length and stamp > current.stamp:
            current = Selection(signature, first, last, stamp, source)
    return current


def choose(
    previous: Selection | None,
    signature: str,
    length: int,
    first: int,
    last: int | None = None,
    *,
    source: str,
) -> Selection | None:
    """The selection after a choice that carries no time of its own: a row, a link, a button.

    Args:
        previous: the selection so far.
        signature: the text the positions belong to.
        length: its number of tokens; a choice outside changes nothing.
        first: one end.
        last: the other, None for a single token.
        source: where it was made.
    """
    last = first if last is None else last
    if not (type(first) is type(last) is int and 0 <= first < length and 0 <= last < length):
        return previous
    stamp = previous.stamp if previous is not None and previous.signature == signature else 0
    return Selection(signature, first, last, stamp + 1, source)


def chosen_row(state: Any) -> int | None:
    """The one row selected in a table's state, None for none or anything malformed."""
    try:
        rows = state["selection"]["rows"]
    except (KeyError, TypeError):
        return None
    one = rows[0] if isinstance(rows, list | tuple) and len(rows) == 1 else None
    return one if type(one) is int and one >= 0 else None
