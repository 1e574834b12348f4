"""In which theme and width pages are driven: the dark one with ``pytest -m slow``."""

from __future__ import annotations

import pytest

THEMES = [("light", 1280), pytest.param("dark", 1920, marks=pytest.mark.slow)]
