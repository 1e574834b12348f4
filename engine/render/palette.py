"""Colours of every picture: one place for strip, legend, heatmap and graph.

A sequential map starts at the page's own background, so what is ordinary stays calm; lightness
alone carries the order, so it survives print and colour-blind eyes. Text on any colour has a
contrast of at least 4.5 : 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = get_args(Theme)
Rgb = tuple[int, int, int]

STEPS = 64
"""Colours in one map."""

CONTRAST = 4.5
"""WCAG AA for body text."""

BACKGROUND: dict[Theme, str] = {"light": "#fcfcfa", "dark": "#15171a"}
TEXT: dict[Theme, str] = {"light": "#1b1d21", "dark": "#e9e8e4"}
MUTED: dict[Theme, str] = {"light": "#636871", "dark": "#979ca5"}
LINE: dict[Theme, str] = {"light": "#e3e2dc", "dark": "#2c2f35"}
PANEL: dict[Theme, str] = {"light": "#f5f4ef", "dark": "#1c1f23"}
ACCENT: dict[Theme, str] = {"light": "#a8321f", "dark": "#ff7a5c"}

_SEQUENTIAL: dict[Theme, tuple[str, ...]] = {
    "light": ("#fcfcfa", "#fae7be", "#f5c478", "#e89248", "#cd5c30", "#a02d26", "#681222"),
    "dark": ("#15171a", "#402820", "#703822", "#a65226", "#d67838", "#f2ac68", "#fce2b0"),
}
_NEGATIVE: dict[Theme, tuple[str, ...]] = {
    "light": ("#fcfcfa", "#d8e6f0", "#a9c9e2", "#70a3cc", "#3f79ac", "#225383", "#122f55"),
    "dark": ("#15171a", "#1d2f40", "#24496b", "#33689a", "#5590c2", "#8dbde2", "#c9e3f6"),
}
_INKS: dict[Theme, tuple[str, ...]] = {
    "light": (TEXT["light"], "#ffffff", "#000000"),
    "dark": (TEXT["dark"], "#14161a", "#ffffff", "#000000"),
}


def rgb(color: str) -> Rgb:
    """``#rrggbb`` as three numbers from 0 to 255."""
    value = color.removeprefix("#")
    return int(value[0:2], 16), int(value[2:4], 16), int(value[4:6], 16)


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2), 0 for black to 1 for white."""
    r, g, b = (_linear(c / 255) for c in rgb(color))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2), 1 to 21."""
    a, b = sorted((luminance(one), luminance(other)), reverse=True)
    return (a + 0.05) / (b + 0.05)


def lightness(color: str) -> float:
    """Perceived lightness: L of OKLab, 0 to 1."""
    return _oklab(color)[0]


@cache
def sequential(theme: Theme, steps: int = STEPS) -> tuple[str, ...]:
    """Colours from the background (ordinary) to the strongest (what matters)."""
    return _ramp(_SEQUENTIAL[theme], steps)


@cache
def diverging(theme: Theme, steps: int = STEPS + 1) -> tuple[str, ...]:
    """Blue for negative, background at 0, red-brown for positive; ``steps`` is odd."""
    if steps % 2 == 0:
        raise ValueError("a diverging map needs an odd number of steps: the middle is 0")
    half = steps // 2 + 1
    negative = _ramp(_NEGATIVE[theme], half)
    return tuple(reversed(negative)) + _ramp(_SEQUENTIAL[theme], half)[1:]


@cache
def buckets(theme: Theme, count: int = 5) -> tuple[str, ...]:
    """A few well separated steps of the sequential map; the first is the background."""
    ramp = _ramp(_SEQUENTIAL[theme], 101)
    return tuple(ramp[round(i * 88 / (count - 1))] for i in range(count))


def series(theme: Theme, count: int) -> list[tuple[str, str]]:
    """Colour and dash of ``count`` lines in one picture: told apart without colour too."""
    blue, brown = _NEGATIVE[theme][5 if theme == "light" else 4], ACCENT[theme]
    looks = [(color, dash) for dash in ("solid", "dash", "dot", "dashdot") for color in
             (brown, blue, MUTED[theme], TEXT[theme])]  # fmt: skip
    return [looks[i % len(looks)] for i in range(count)]


def ink(color: str, theme: Theme) -> str:
    """The text colour readable on ``color``: the theme's own where it will do."""
    for candidate in _INKS[theme]:
        if contrast(candidate, color) >= CONTRAST:
            return candidate
    raise AssertionError(f"neither black nor white is readable on {color}")


def inks(colors: Sequence[str], theme: Theme) -> tuple[str, ...]:
    """``ink`` of every colour."""
    return tuple(ink(c, theme) for c in colors)


def _ramp(anchors: Sequence[str], steps: int) -> tuple[str, ...]:
    """Anchors joined in OKLab with lightness linear in the step."""
    labs = [_oklab(a) for a in anchors]
    first, last = labs[0][0], labs[-1][0]
    where = [(lab[0] - first) / (last - first) for lab in labs]
    colors = []
    for step in range(steps):
        t = step / (steps - 1)
        k = max(i for i in range(len(where) - 1) if where[i] <= t or i == 0)
        u = (t - where[k]) / (where[k + 1] - where[k])
        low, high = labs[k], labs[k + 1]
        colors.append(_hex(*(a + (b - a) * u for a, b in zip(low, high, strict=True))))
    return (anchors[0], *colors[1:])


def _linear(c: float) -> float:
    return float(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)


def _oklab(color: str) -> tuple[float, float, float]:
    r, g, b = (_linear(c / 255) for c in rgb(color))
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    mid = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * mid - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * mid + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * mid - 0.8086757660 * short,
    )


def _hex(lightness: float, a: float, b: float) -> str:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    mid = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * mid + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * mid - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * mid + 1.7076147010 * short,
    )
    return "#" + "".join(f"{_encode(c):02x}" for c in linear)


def _encode(c: float) -> int:
    c = min(max(c, 0.0), 1.0)
    return round(255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055))
