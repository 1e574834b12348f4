"""The selection: newest choice wins, old and foreign reports never come back."""

from __future__ import annotations

import pytest

from pages.widgets.selection import Selection, next_selection

TEXT = "text-1"


def report(first: int, last: int, stamp: int, signature: str = TEXT) -> dict[str, object]:
    return {"signature": signature, "first": first, "last": last, "stamp": stamp}


def test_nobody_chose_yet():
    assert next_selection(None, TEXT, 10, 4, {"strip": None}) == Selection(TEXT, 4, 4)


def test_a_click_selects():
    selection = next_selection(None, TEXT, 10, 4, {"strip": report(7, 7, 100)})
    assert (selection.first, selection.last, selection.source) == (7, 7, "strip")


def test_the_newest_view_wins_in_any_order():
    old, new = report(1, 1, 100), report(2, 5, 200)
    for events in ({"strip": old, "table": new}, {"table": new, "strip": old}):
        assert next_selection(None, TEXT, 10, 0, events).first == 2


def test_an_old_report_does_not_override_a_newer_selection():
    now = Selection(TEXT, 5, 5, 300, "table")
    assert next_selection(now, TEXT, 10, 0, {"strip": report(1, 1, 100)}) == now


def test_another_text_starts_anew():
    before = Selection("text-0", 9, 9, 500, "strip")
    events = {"strip": report(9, 9, 500, "text-0")}
    assert next_selection(before, TEXT, 10, 3, events) == Selection(TEXT, 3, 3)


@pytest.mark.parametrize(
    "bad",
    [
        report(-1, 0, 9),
        report(0, 10, 9),
        report(True, 1, 9),
        {"signature": TEXT, "first": "0", "last": 1, "stamp": 9},
        {"signature": TEXT},
        [1, 2],
        "x",
        7,
    ],
)
def test_a_malformed_report_changes_nothing(bad):
    now = Selection(TEXT, 5, 5, 1)
    assert next_selection(now, TEXT, 10, 0, {"strip": bad}) == now


def test_it_ends_where_it_is_applied_again():
    events = {"strip": report(2, 4, 100)}
    once = next_selection(None, TEXT, 10, 0, events)
    assert next_selection(once, TEXT, 10, 0, events) == once
