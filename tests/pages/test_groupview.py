"""The group view's data: colours, missing values, legends, names of what is drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.render import palette
from engine.render.group import (
    DIMMING,
    GROUP_HTML,
    SHADED,
    RolloutRow,
    group_css,
    group_data,
    signed,
)
from engine.render.signals import Signal
from engine.render.strip import SPECIAL, asset
from engine.render.text import markup
from pages.widgets import groupview
from tests.pages.hostile import HOSTILE

INFLUENCE = Signal("influence", "influence", "nats", "", "diverging", -2, 2, ("−2", "2"))
ENTROPY = Signal("entropy", "entropy", "nats", "", "sequential", 0, 3, ("0", "3"))


def row(number: int = 0, **changes: Any) -> RolloutRow:
    given = RolloutRow(
        number=number,
        label=f"Answer {number + 1}",
        right=True,
        reward=1.0,
        advantage=0.70711,
        facts=(("Σ influence", "0.3"),),
        pieces=[b" 4", b"\n", b"<eos>"],
        special=[False, False, True],
        start=12,
        values=[0.5, None, -1.5],
        shaded=None,
    )
    return dataclasses.replace(given, **changes)


def data_of(*rows: RolloutRow, signal: Signal = INFLUENCE, **options: Any) -> dict[str, Any]:
    return group_data(rows, signal, **{"text": "group", "channel": "rewards", **options})


def test_tokens_of_all_rollouts_stand_in_one_table():
    other = row(4, pieces=[b" 5"], special=[False], values=[1.0], shaded=[True], start=9)
    data = data_of(row(), row(2, pieces=[], special=[], values=[]), other)
    table: pa.Table = data["columns"]
    drawn = [data["words"][k] for k in table["word"].to_pylist()]
    assert drawn == [
        *(markup(b" 4"), markup(b"\n"), markup(b"<eos>", special=True)),
        markup(b" 5"),
    ]
    assert table["flags"].to_pylist() == [0, 0, SPECIAL, SHADED]
    assert table["value"].to_pylist() == [0.5, None, -1.5, 1.0]
    assert [(r["number"], r["first"], r["count"], r["start"]) for r in data["rows"]] == [
        (0, 0, 3, 12),
        (2, 3, 0, 12),
        (4, 3, 1, 9),
    ]


def test_no_value_is_null_and_never_zero():
    for missing in ([None] * 3, np.array([np.nan] * 3), [math.nan, None, math.nan]):
        assert data_of(row(values=missing))["columns"]["value"].to_pylist() == [None] * 3
    assert data_of(row(values=[0.0, None, 0]))["columns"]["value"].to_pylist() == [0, None, 0]
    assert data_of(row(values=np.zeros(3, np.float32)))["columns"]["value"].null_count == 0


def test_what_stands_above_a_rollout():
    facts = {r["number"]: r for r in data_of(row(), row(1, right=None, reward=None))["rows"]}
    assert facts[0]["verdict"] == "right"
    assert facts[0]["facts"] == [
        ["reward", "1.00"],
        ["advantage", "+0.707"],
        ["Σ influence", "0.3"],
    ]
    assert facts[1]["verdict"] == "not judged"
    assert facts[1]["facts"][0] == ["advantage", "+0.707"]
    wrong = data_of(row(right=False, reward=0.0, advantage=-0.70711))["rows"][0]
    assert (wrong["verdict"], wrong["facts"][:2]) == (
        "wrong",
        [["reward", "0"], ["advantage", "−0.707"]],
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.5, "+1.50"), (-1.5, "−1.50"), (0.0, "0"), (-0.0, "0"), (2, "+2.00"), (math.nan, "–"),
     (math.inf, "+∞"), (-math.inf, "−∞")],
)  # fmt: skip
def test_signed_numbers(value: float, shown: str):
    assert signed(value) == shown


def test_a_map_is_background_where_nothing_is_out_of_the_ordinary():
    for theme in palette.THEMES:
        diverging = data_of(row())["maps"][theme]
        assert diverging["colors"][len(diverging["colors"]) // 2] == palette.BACKGROUND[theme]
        sequential = data_of(row(), signal=ENTROPY)["maps"][theme]
        assert sequential["colors"][0] == sequential["background"] == palette.BACKGROUND[theme]


def test_dimmed_colours_lie_between_the_colour_and_the_page_and_stay_readable():
    for signal in (INFLUENCE, ENTROPY):
        for theme in palette.THEMES:
            full = data_of(row(), signal=signal)["maps"][theme]
            dimmed = full["dimmed"]
            for color, weak, ink in zip(
                full["colors"], dimmed["colors"], dimmed["inks"], strict=True
            ):
                assert palette.contrast(weak, ink) >= palette.CONTRAST
                pairs = zip(
                    palette.rgb(color),
                    palette.rgb(full["background"]),
                    palette.rgb(weak),
                    strict=True,
                )
                for strong, paper, mixed in pairs:
                    assert abs(paper + DIMMING * (strong - paper) - mixed) < 0.51
            calm = full["colors"].index(full["background"])
            assert dimmed["colors"][calm] == full["background"]
            assert dimmed["inks"][calm] == palette.MUTED[theme]


def names(**changes: Any) -> tuple[str, str]:
    options: Mapping[str, Any] = changes.pop("options", {})
    data = data_of(row(**changes), row(1), **options)
    return data["signature"], data["values"]


def test_the_signature_names_tokens_and_the_other_name_colours():
    drawn, coloured = names()
    # What stands above the tokens, marks and the group's name need no new tokens or colours.
    for change in ({"reward": 0.5}, {"label": "x"}, {"right": None}, {"facts": ()}):
        assert names(**change) == (drawn, coloured)
    assert names(options={"marks": {(0, 12): "x"}, "prompt": "x", "height": 9}) == (drawn, coloured)
    # Other values or another legend: the same tokens, new colours.
    for change in (
        {"values": [0.5, 0.0, -1.5]},
        {"options": {"signal": ENTROPY}},
        {"options": {"signal": dataclasses.replace(INFLUENCE, high=3, low=-3)}},
    ):
        new = names(**change)
        assert new[0] == drawn
        assert new[1] != coloured
    for change in (
        {"pieces": [b" 4", b"\n", b"<eox>"]},
        {"special": [False] * 3},
        {"shaded": [True, False, False]},
        {"start": 13},
        {"number": 7},
        {"options": {"channel": "other"}},
    ):
        new = names(**change)
        assert new[0] != drawn
        assert new[1] != coloured
    one, two = row(), row(1, pieces=[b" 4"], special=[False], values=[1.0])
    assert data_of(one, two)["signature"] != data_of(two, one)["signature"]
    # The same tokens, cut into rollouts elsewhere.
    half = [[[b"a", b"b"], [b"c"]], [[b"a"], [b"b", b"c"]]]
    cut = [
        data_of(
            *(
                row(n, pieces=p, special=[False] * len(p), values=[0.0] * len(p))
                for n, p in enumerate(parts)
            )
        )["signature"]
        for parts in half
    ]
    assert cut[0] != cut[1]


def test_marks_of_tokens_that_are_not_drawn_are_left_out():
    marks = {(0, 11): "before", (0, 12): "first", (0, 14): "last", (0, 15): "after", (5, 12): "?"}
    assert data_of(row(), marks=marks)["marks"] == [[0, 12, "first"], [0, 14, "last"]]


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="same number"):
        data_of(row(), row())
    for name, given in (("values", [1.0]), ("special", []), ("shaded", [True])):
        with pytest.raises(ValueError, match=f"rollout 0: {len(given)} {name} for 3 tokens"):
            data_of(row(**{name: given}))


def test_a_group_without_rollouts_or_tokens():
    assert data_of()["columns"].num_rows == 0
    assert data_of(row(pieces=[], special=[], values=[]))["columns"].num_rows == 0


def test_hostile_words_are_marked_and_names_show_what_is_invisible():
    pieces = [t.encode() for t in HOSTILE]
    n = len(pieces)
    data = data_of(
        row(pieces=pieces, special=[False] * n, values=[0.0] * n, label="a\u202eb\n"),
        prompt="x\u2066\n<img src=x>",
        marks={(0, 12): "\u202e"},
    )
    assert {markup(p, longest=2000) for p in pieces} == set(data["words"])
    assert data["rows"][0]["label"] == "aU+202Eb⏎"
    assert data["prompt"] == "xU+2066⏎<img src=x>"
    assert data["marks"][0][2] == "U+202E"
    assert not any("\u202e" in word for word in data["words"])


def test_the_script_has_all_its_parts_and_writes_no_html():
    script = asset("group.js")
    assert script.count("export default") == 1
    for name in ("class Blocks", "class Columns", "class GroupHands", "class Rollouts", "legendOf"):
        assert name in script
    for word in ("innerHTML", "insertAdjacentHTML", "outerHTML", "fetch(", "http:", "https:"):
        assert word not in script
    assert ".ts-group" in group_css()
    assert "url(" not in group_css()
    assert 'role="grid"' in GROUP_HTML


@pytest.mark.parametrize(
    ("state", "returned"),
    [
        ({}, None),
        ({"token": None}, None),
        ({"token": "x"}, None),
        ({"token": {"rollout": 1, "position": 2}}, None),
        ({"token": {"rollout": 1, "position": "2", "stamp": 3}}, None),
        ({"token": {"rollout": True, "position": 2, "stamp": 3}}, None),
        (
            {"token": {"rollout": 1, "position": 2, "stamp": 3, "more": 4}},
            {"rollout": 1, "position": 2, "stamp": 3},
        ),
    ],
)
def test_what_the_browser_reports_is_checked(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], returned: dict[str, int] | None
):
    sent: list[dict[str, Any]] = []

    def component(**given: Any) -> dict[str, Any]:
        sent.append(given)
        return state

    monkeypatch.setattr(groupview, "_GROUP", component)
    data = data_of(row())
    assert groupview.group_view(data, key="k")[0] == returned
    assert sent[0]["data"] == data
    assert sent[0]["key"] == "k"
