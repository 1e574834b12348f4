"""The selection: newest choice wins, old and foreign reports never come back."""

from __future__ import annotations

import pytest

from pages.widgets.selection import Selection, choose, chosen_row, next_selection

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


def test_a_choice_without_a_clock_counts_on_from_the_newest():
    now = Selection(TEXT, 5, 5, 300, "strip")
    picked = choose(now, TEXT, 10, 7, source="table")
    assert picked == Selection(TEXT, 7, 7, 301, "table")
    # What the strip reported before the row was picked is still in its state: it stays beaten.
    assert next_selection(picked, TEXT, 10, 0, {"strip": report(5, 5, 300)}) == picked
    # The next click carries a later time and wins again.
    later = next_selection(picked, TEXT, 10, 0, {"strip": report(1, 2, 302)})
    assert later.span == (1, 2)


def test_a_choice_in_another_text_starts_its_own_count():
    before = Selection("text-0", 9, 9, 500, "strip")
    assert choose(before, TEXT, 10, 3, 6, source="link") == Selection(TEXT, 3, 6, 1, "link")
    assert choose(None, TEXT, 10, 3, source="link") == Selection(TEXT, 3, 3, 1, "link")


@pytest.mark.parametrize(
    ("first", "last"), [(-1, None), (10, None), (0, 10), (True, None), (1.0, 2)]
)
def test_a_choice_outside_the_text_changes_nothing(first, last):
    now = Selection(TEXT, 5, 5, 1)
    assert choose(now, TEXT, 10, first, last, source="link") is now
    assert choose(None, TEXT, 10, first, last, source="link") is None


def test_it_carries_over_to_another_page_of_the_same_text():
    here = next_selection(None, TEXT, 10, 0, {"strip": report(7, 4, 100)})
    there = next_selection(here, TEXT, 10, 0, {"another strip": None})
    assert there == here
    assert there.span == (4, 7)
    assert there.message() == {"signature": TEXT, "selection": [7, 4], "stamp": 100}


def test_a_refused_report_does_not_hide_a_good_one():
    events = {"strip": {"signature": TEXT, "first": 2, "last": "3", "stamp": 900}}
    events["curve"] = report(4, 4, 5)
    assert next_selection(None, TEXT, 10, 0, events).source == "curve"


@pytest.mark.parametrize(
    ("state", "row"),
    [
        ({"selection": {"rows": [4], "columns": [], "cells": []}}, 4),
        ({"selection": {"rows": []}}, None),
        ({"selection": {"rows": [1, 2]}}, None),
        ({"selection": {"rows": [-1]}}, None),
        ({"selection": {"rows": [True]}}, None),
        ({"selection": {"rows": ["4"]}}, None),
        ({"selection": {"rows": 4}}, None),
        ({"selection": None}, None),
        ({}, None),
        (None, None),
        ("rows", None),
    ],
)
def test_only_one_whole_row_is_a_choice(state, row):
    assert chosen_row(state) == row
