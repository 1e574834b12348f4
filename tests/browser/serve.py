"""The app over the tests' stand-in world: ``WORLD`` names its folder. Run by ``streamlit run``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import streamlit as st  # noqa: E402

from asgi import lifespan, on_script_error  # noqa: E402
from tests.pages import world  # noqa: E402

world.install(Path(os.environ["WORLD"]))
app = st.App(ROOT / "app.py", lifespan=lifespan, on_script_error=on_script_error)
