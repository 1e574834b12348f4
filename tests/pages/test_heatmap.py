"""The heatmap as data: cells stay with their labels, the scale with its numbers."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from engine.render.heatmap import HEATMAP_HTML, Label, heatmap_css, heatmap_js, heatmap_payload
from engine.render.text import markup
from pages.widgets.heatmap import clicked_cell
from tests.pages.hostile import HOSTILE


def labels(count: int, start: int = 0) -> list[Label]:
    words = [HOSTILE[k] if k < len(HOSTILE) else f" w{k}" for k in range(start, start + count)]
    return [Label(markup(word), start + k) for k, word in enumerate(words)]


def heat(values: Any, **more: Any) -> dict[str, Any]:
    rows, columns = np.shape(values)
    given = {"text": "t" * 24, "title": "Why?", "unit": "nats", **more}
    return heatmap_payload(values, labels(rows, 40), labels(columns), **given)


def test_every_cell_is_where_its_labels_are():
    values = np.arange(12.0).reshape(3, 4)
    values[1, 2] = math.nan
    payload = heat(values)
    cells = payload["cells"]["value"].to_numpy().reshape(3, 4)
    assert np.isnan(cells[1, 2])
    assert np.nan_to_num(cells) == pytest.approx(np.nan_to_num(values))
    assert [row[2] for row in payload["rows"]] == [40, 41, 42]
    assert payload["columns"]["position"].to_pylist() == [0, 1, 2, 3]
    assert payload["columns"]["piece"].to_pylist() == [markup(w) for w in HOSTILE[:4]]
    assert payload["missing"]
    assert payload["cells"]["value"].null_count == 0
    assert heat([[1.0, None]])["missing"]
    assert not heat([[1.0, 2.0]])["missing"]


@pytest.mark.parametrize(
    ("values", "more", "signed", "limit", "ends"),
    [
        ([[0.5, -2.0]], {}, True, 2.0, ["−2.00", "0", "2.00"]),
        ([[0.5, 2.0]], {}, False, 2.0, ["0", "2.00"]),
        ([[0.5, 2.0]], {"limit": 1.0}, False, 1.0, ["0", "1.00 or more"]),
        ([[0.0, math.nan]], {}, False, 1.0, ["0", "1.00"]),
        ([[math.inf, -1.0]], {}, True, 1.0, ["−1.00", "0", "1.00"]),
    ],
)
def test_the_legend_says_what_the_strongest_colour_is(values, more, signed, limit, ends):
    payload = heat(values, **more)
    assert (payload["signed"], payload["limit"], payload["ends"]) == (signed, limit, ends)


def test_zero_is_the_background_in_both_maps_and_themes():
    for look in heat([[1.0]])["looks"].values():
        assert look["sequential"][0] == look["background"]
        assert look["diverging"][len(look["diverging"]) // 2] == look["background"]
        assert len(look["diverging"]) % 2 == 1


def test_other_shapes_and_sizes_are_refused():
    for shape in ((2, 3), (1, 0)):
        with pytest.raises(ValueError, match="labels"):
            heatmap_payload(np.zeros(shape), labels(3), labels(2), text="t", title="")
    for shape in ((65, 2), (2, 2001)):
        with pytest.raises(ValueError, match="at most"):
            heat(np.zeros(shape))
    assert heat(np.zeros((64, 2000)))["cells"].nbytes < 600_000


def test_the_signature_names_what_is_drawn():
    made = [
        heat([[1.0, 2.0]]),
        heat([[1.0, 2.0]]),
        heat([[2.0, 1.0]]),
        heat([[1.0, 2.0]], unit="bits"),
        heat([[1.0], [2.0]]),
    ]
    assert len({one["signature"] for one in made}) == 4


def test_scripts_write_no_html_and_colours_come_from_the_palette():
    script = heatmap_js()
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
        assert way not in script
    assert script.count("class Linked {") == script.count("class Heatmap ") == 1
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|#[0-9a-f]{6}\b", script)
    assert ".ts-heat" in heatmap_css()
    assert "{" not in HEATMAP_HTML


def test_only_cells_of_this_text_are_taken_from_the_browser():
    payload = heat(np.zeros((2, 3)))
    event = {"signature": payload["text"], "row": 1, "column": 2, "stamp": 5}
    assert clicked_cell(event, payload) == (1, 2)
    for wrong in (
        None,
        [1, 2],
        {**event, "signature": "x"},
        {**event, "row": 2},
        {**event, "column": 3},
        {**event, "row": -1},
        {**event, "row": True},
        {**event, "column": 1.0},
    ):
        assert clicked_cell(wrong, payload) is None


def _app() -> None:
    import numpy as np
    import streamlit as st

    from pages.widgets.heatmap import heatmap
    from tests.pages.test_heatmap import heat

    st.write(repr(heatmap(heat(np.eye(3)), key="heat")))


def test_the_component_stands_in_a_page():
    at = AppTest.from_function(_app, default_timeout=30).run()
    assert not at.exception
    assert at.markdown[0].value == "(None, None)"
