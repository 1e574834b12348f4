"""Curve and scatter as data: positions, ranges, gaps, and colours from the palette alone."""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
import pytest

from engine.render import palette
from engine.render.axes import Quantity, axis
from engine.render.signals import signals_of
from engine.render.strip import asset
from engine.render.views import Mark, curve_data, scatter_data, views_css

CHANCE = Quantity("chance", low=0, high=1)
COMMON = {"text": "t" * 24, "channel": "tokens"}
HOSTILE = "</script><img src=x onerror=alert(1)>"


def curve(values, **more):
    more = {"pieces": ["a"] * len(values), "signal": CHANCE, "start": 0, **more}
    return curve_data(values, **more, **COMMON)


def column(data, name):
    return data["columns"][name].to_numpy()


def test_a_value_stays_with_its_token():
    data = curve([None, 0.5, 0.25, 1.0], pieces=["a", "b", "c", HOSTILE], start=2)
    assert np.isnan(column(data, "value")[0])
    assert column(data, "value")[1:].tolist() == [0.5, 0.25, 1.0]
    assert data["columns"]["piece"].to_pylist() == ["a", "b", "c", HOSTILE]
    assert (data["start"], data["offset"], data["text"]) == (2, 0, "t" * 24)
    # The browser takes the buffer as it is: it must not hold numbers where there are none.
    assert data["columns"]["value"].null_count == 0


@pytest.mark.parametrize(
    "values",
    [
        pa.array([None, 1.5], pa.float64()),
        pa.chunked_array([[None], [1.5]], pa.float32()),
        np.array([math.nan, 1.5]),
        [None, 1.5],
    ],
)
def test_values_come_in_many_forms(values):
    got = column(curve(values), "value")
    assert got.dtype == np.float32
    assert np.isnan(got[0])
    assert got[1] == 1.5


def test_a_part_of_a_text_keeps_the_texts_own_positions():
    marks = [Mark(9, "outside"), Mark(10, "first"), Mark(12, "last", before=True), Mark(13, "out")]
    data = curve([1, 1, 0], offset=10, start=10, marks=marks)
    assert [m["position"] for m in data["marks"]] == [10, 12]
    assert data["ticks"] == [[10, "response"], [12, "12"]]


@pytest.mark.parametrize(
    ("start", "ticks"),
    [
        (0, [[0, "response"], [3, "3"]]),
        (2, [[0, "prompt"], [2, "response"], [3, "3"]]),
        (4, [[0, "prompt"], [3, "3"]]),
    ],
)
def test_prompt_and_response_are_named_below(start, ticks):
    assert curve([1, 1, 1, 1], start=start)["ticks"] == ticks


def test_one_token_has_one_label():
    assert curve([1])["ticks"] == [[0, "0"]]


def test_a_band_widens_the_axis_and_needs_both_ends():
    data = curve([1.0, 2.0], low=[0.5, None], high=[6.0, None], signal=Quantity("bits"))
    assert data["axis"]["high"] >= 6
    assert np.isnan(column(data, "low")[1])
    with pytest.raises(ValueError, match="both"):
        curve([1.0], low=[0.5])


def test_only_bounds_may_be_known():
    data = curve([None, None], low=[0.5, 1.0], high=[2.0, 3.0], signal=Quantity("entropy", "nats"))
    assert np.isnan(column(data, "value")).all()
    assert data["axis"]["high"] >= 3


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="lengths"):
        curve([1.0, 2.0], pieces=["a"])
    with pytest.raises(ValueError, match="lengths"):
        scatter_data([1.0], [1.0, 2.0], x=CHANCE, y=CHANCE, pieces=["a"], start=0, **COMMON)


def test_the_signature_names_everything_that_is_drawn():
    same = [curve([1.0, 0.5])["signature"], curve([1.0, 0.5])["signature"]]
    assert len(set(same)) == 1
    others = [
        curve([0.5, 1.0]),
        curve([1.0, 0.5], title="x"),
        curve([1.0, 0.5], pieces=["a", "b"]),
        curve([1.0, 0.5], marks=[Mark(1, "x")]),
        curve([1.0, 0.5], low=[1, 0], high=[1, 1]),
    ]
    assert len({same[0], *(o["signature"] for o in others)}) == 6


def numbers(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("values", "quantity", "low", "high", "ticks"),
    [
        ((0.2, 0.4), CHANCE, 0, 1, ["0.0", "0.5", "1.0"]),
        ((0.0, 5.82), Quantity("surprisal", low=0, high=6), 0, 6, ["0", "2", "4", "6"]),
        ((0.0, 11.3), Quantity("surprisal", low=0, high=6), 0, 15, ["0", "5", "10", "15"]),
        ((-2.0, 1.0), Quantity("thr", low=-2, high=2), -2, 2, ["−2", "−1", "0", "1", "2"]),
        ((-1e-6, 5.0), Quantity("surprisal", low=0, high=6), 0, 6, ["0", "2", "4", "6"]),
        ((-0.1, 1.0), CHANCE, -0.5, 1, ["−0.5", "0.0", "0.5", "1.0"]),
        ((90.0, 100.0), Quantity("x"), 90, 100, ["90", "95", "100"]),
        ((1.0, 830.0), Quantity("rank", scale="log"), 1, 1000, ["1", "10", "100", "1,000"]),
        ((0.0, 0.0), Quantity("x"), 0, 1, ["0.0", "0.5", "1.0"]),
        ((math.nan,), Quantity("x"), 0, 1, ["0.0", "0.5", "1.0"]),
        ((math.inf, 2.0, 0.0), Quantity("x"), 0, 2, ["0.0", "0.5", "1.0", "1.5", "2.0"]),
    ],
)
def test_axes_hold_all_values_and_label_few(values, quantity, low, high, ticks):
    one = axis(numbers(*values), quantity)
    assert (one.low, one.high) == pytest.approx((low, high))
    assert [text for _, text in one.ticks] == ticks


@pytest.mark.parametrize("scale", ["linear", "log", "sqrt"])
@pytest.mark.parametrize("power", [-9, -3, -1, 0, 1, 4, 9])
@pytest.mark.parametrize("spread", [1.0, 1.7, 9.99, 4321.0])
def test_axes_of_any_size(scale, power, spread):
    values = numbers(10.0**power, spread * 10.0**power)
    one = axis(values, Quantity("x", scale=scale))
    places = [v for v, _ in one.ticks]
    assert one.low <= values.min() * 1.000001
    assert one.high >= values.max() * 0.999999
    assert 2 <= len(places) <= 6
    assert places == sorted(set(places))
    assert one.low <= places[0]
    assert places[-1] <= one.high * 1.000001
    assert len({text for _, text in one.ticks}) == len(places)


def test_the_strips_signals_bring_their_range():
    tokens = pa.table(
        {
            "segment": ["prompt", "response", "response"],
            "surprisal": pa.array([None, 2.0, 3.0], pa.float32()),
            "logprob": pa.array([None, -2.0, -3.0], pa.float32()),
            "rank": pa.array([None, 4, 5000], pa.int64()),
        }
    )
    by_name = {s.name: Quantity.of(s) for s in signals_of(tokens)}
    assert (by_name["surprisal"].low, by_name["surprisal"].high) == (0, 6)
    # Probability is drawn with 1 on top although the ordinary 1 has no colour.
    assert (by_name["probability"].low, by_name["probability"].high) == (0, 1)
    assert (by_name["rank"].scale, by_name["rank"].whole) == ("log", True)
    assert axis(numbers(4, 5000), by_name["rank"]).high == 10_000


def test_the_scatter_spreads_what_is_crowded_at_zero():
    entropy, varentropy = Quantity("entropy", "nats"), Quantity("varentropy", "nats²")
    values = [None, 0.01, 4.0]
    pieces = ["a", "b", "c"]
    data = scatter_data(values, values, x=entropy, y=varentropy, pieces=pieces, start=1, **COMMON)
    assert data["x"]["scale"] == data["y"]["scale"] == "sqrt"
    assert data["x"]["label"] == "entropy, nats"
    assert data["note"] == "square-root axes"
    assert np.isnan(column(data, "x")[0])
    plain = scatter_data(
        values, values, x=entropy, y=varentropy, pieces=pieces, start=1, scale=None, **COMMON
    )
    assert plain["x"]["scale"] == "linear"
    assert plain["signature"] != data["signature"]


def test_all_colours_come_from_the_palette():
    css = views_css()
    known = {
        c[theme]
        for c in (palette.TEXT, palette.BACKGROUND, palette.MUTED, palette.LINE, palette.ACCENT)
        for theme in palette.THEMES
    }
    assert set(re.findall(r"#[0-9a-f]{3,8}\b", css)) == known
    for name in ("curve.js", "scatter.js", "linked.js"):
        assert not re.search(r"#[0-9a-f]{6}\b", asset(name))


def test_no_script_writes_html_or_asks_elsewhere():
    for name in ("curve.js", "scatter.js", "details.js"):
        script = asset(name)
        for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
            assert way not in script
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", script)
