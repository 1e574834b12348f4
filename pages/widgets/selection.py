"""Which tokens are selected: one value for all views, changed by one pure function."""

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
