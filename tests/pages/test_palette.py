"""Colours: order in lightness, readable text, the page's own background as zero."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from engine.render import palette

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("theme", palette.THEMES)
@pytest.mark.parametrize("ramp", [palette.sequential, palette.buckets])
def test_a_sequential_map_starts_at_the_background_and_only_goes_one_way(theme, ramp):
    colors = ramp(theme)
    assert colors[0] == palette.BACKGROUND[theme]
    away = -1 if theme == "light" else 1
    steps = [away * (palette.lightness(b) - palette.lightness(a)) for a, b in pairwise(colors)]
    assert all(step > 0 for step in steps)


@pytest.mark.parametrize("theme", palette.THEMES)
def test_equal_steps_in_value_are_equal_steps_in_lightness(theme):
    levels = [palette.lightness(c) for c in palette.sequential(theme)]
    steps = [abs(b - a) for a, b in pairwise(levels)]
    assert max(steps) < 1.6 * min(steps)


@pytest.mark.parametrize("theme", palette.THEMES)
def test_zero_of_a_diverging_map_is_the_background(theme):
    colors = palette.diverging(theme)
    assert len(colors) % 2 == 1
    assert colors[len(colors) // 2] == palette.BACKGROUND[theme]
    ends = [palette.lightness(colors[0]), palette.lightness(colors[-1])]
    assert abs(ends[0] - ends[1]) < 0.06


@pytest.mark.parametrize("theme", palette.THEMES)
@pytest.mark.parametrize("ramp", [palette.sequential, palette.buckets, palette.diverging])
def test_text_is_readable_on_every_colour(theme, ramp):
    colors = ramp(theme)
    for color, ink in zip(colors, palette.inks(colors, theme), strict=True):
        assert palette.contrast(color, ink) >= 4.5, color


@pytest.mark.parametrize("theme", palette.THEMES)
def test_quiet_text_is_readable_too(theme):
    for ground in (palette.BACKGROUND[theme], palette.PANEL[theme]):
        assert palette.contrast(palette.MUTED[theme], ground) >= 4.5
        assert palette.contrast(palette.ACCENT[theme], ground) >= 3


@pytest.mark.parametrize("theme", palette.THEMES)
def test_streamlit_uses_the_same_colours(theme):
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text("utf-8"))
    given = config["theme"][theme]
    assert given["backgroundColor"] == palette.BACKGROUND[theme]
    assert given["textColor"] == palette.TEXT[theme]
    assert given["borderColor"] == palette.LINE[theme]
    assert given["grayTextColor"] == palette.MUTED[theme]
    assert given["sidebar"]["backgroundColor"] == palette.PANEL[theme]


def test_an_even_diverging_map_has_no_middle():
    with pytest.raises(ValueError, match="odd"):
        palette.diverging("light", 64)
