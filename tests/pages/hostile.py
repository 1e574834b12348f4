"""Tokens that would do something if any view took them for more than text."""

from __future__ import annotations

HOSTILE: tuple[str, ...] = (
    "<bos>",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![a](http://evil.example/a.png)",
    "[x](javascript:alert(1))",
    "https://evil.example/x",
    r"$\href{javascript:alert(1)}{x}$",
    "\x1b[31mred\x1b]8;;http://evil.example\x07x",
    "\u202eabc\u202c",
    "\u2066x\u2069",
    "a\u200bb",
    "z" + "\u0301" * 40 + "z",
    "\u0301",
    "e\ufe0f\U000e0101",
    "\U000e0041\U000e0042",
    "x" * 1000,
    "y z " * 400,
    " \n    if x:",
    "\r\n",
    "שלום",
    "漢字かな",
    "\u3164",
    "",
    "</span></div><style>*{display:none}</style>",
    "&lt;b&gt;",
    "{{constructor.constructor('alert(1)')()}}",
)
