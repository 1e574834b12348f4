"""Which model is meant: a value one can write, compare, hash and send in a link.

Nothing here looks at the disk or imports torch; :mod:`engine.catalogue` finds what a reference
names and :mod:`engine.models` loads it.
"""

from __future__ import annotations

import re
from typing import Literal, Self, get_args
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, field_validator

from engine.errors import UserError

DType = Literal["float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]

LONGEST = 1024
"""Longest accepted name, in characters."""

HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
"""The shape of a Hugging Face hub id, with or without its owner."""

_REVISION = re.compile(r"[\w][\w./-]{0,127}", re.ASCII)
_ESCAPES = {"%": "%25", "+": "%2B", "@": "%40", "?": "%3F"}


def shown(text: str, limit: int = 80) -> str:
    """Return ``text`` safe for a sentence: control characters escaped, long text cut."""
    clean = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)


def _unescape(text: str) -> str:
    for character, escaped in reversed(_ESCAPES.items()):
        text = text.replace(escaped, character)
    return text


class ModelRef(BaseModel):
    """One model as a person names it.

    Attributes:
        source: A bundled model's name, a folder, or a hub id.
        revision: Branch, tag or commit of a hub id.
        adapter: Folder or hub id of a PEFT adapter put on top of ``source``.
        dtype: Number type of the loaded weights.
        device: Where it runs; ``auto`` is the CPU for small models, else the best device found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    revision: str | None = None
    adapter: str | None = None
    dtype: DType = "float32"
    device: Device = "auto"

    @field_validator("source", "adapter")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is None:
            return None
        value = value.strip()
        if not value:
            raise UserError(
                "No model is named: give a bundled name such as demo, a folder or a hub id."
            )
        if any(not character.isprintable() for character in value):
            raise UserError(
                f"The model name {shown(value)} contains control characters: write a plain name."
            )
        if len(value) > LONGEST:
            raise UserError(
                f"The model name is longer than {LONGEST} characters: give a shorter path."
            )
        return value

    @field_validator("revision")
    @classmethod
    def _plain_revision(cls, value: str | None) -> str | None:
        if value is not None and (not _REVISION.fullmatch(value) or ".." in value):
            raise UserError(
                f"The revision {shown(value)} is not one: give a branch, a tag or a commit."
            )
        return value

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``name``, ``folder``, ``org/name@revision`` or ``base+adapter``.

        ``?dtype=bfloat16&device=cpu`` may follow. In a path that itself contains ``+``, ``@``,
        ``?`` or ``%`` these are written ``%2B``, ``%40``, ``%3F``, ``%25``, as ``str`` does.

        Raises:
            UserError: The text names no model.
        """
        text, _, query = text.strip().partition("?")
        base, plus, adapter = text.partition("+")
        source, at, revision = base.partition("@")
        options = dict(parse_qsl(query, keep_blank_values=True))
        dtype, device = options.pop("dtype", "float32"), options.pop("device", "auto")
        if dtype not in get_args(DType):
            raise UserError(f"The number type {shown(dtype)} is unknown: {_choices(DType)}.")
        if device not in get_args(Device):
            raise UserError(f"The device {shown(device)} is unknown: {_choices(Device)}.")
        if options:
            raise UserError(
                f"A model has no option {shown(next(iter(options)))}: "
                "only dtype and device may follow '?'."
            )
        return cls.model_validate(
            {
                "source": _unescape(source),
                "revision": _unescape(revision) if at else None,
                "adapter": _unescape(adapter) if plus else None,
                "dtype": dtype,
                "device": device,
            }
        )

    def __str__(self) -> str:
        """Return the text that :meth:`parse` reads back to the same reference."""
        text = _escape(self.source)
        if self.revision is not None:
            text += f"@{self.revision}"
        if self.adapter is not None:
            text += f"+{_escape(self.adapter)}"
        options = []
        if self.dtype != "float32":
            options.append(f"dtype={self.dtype}")
        if self.device != "auto":
            options.append(f"device={self.device}")
        return text + ("?" + "&".join(options) if options else "")


def _choices(literal: object) -> str:
    *first, last = get_args(literal)
    return f"use {', '.join(first)} or {last}"
