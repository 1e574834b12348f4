"""The box that takes in result files of another machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from engine import UserError
from engine.render.text import one_line
from engine.shelves.library import Library, Report
from pages.widgets import state
from pages.widgets.notice import hint, problem

MAX_UPLOAD = 256
"""Megabytes of a file."""

MAX_LINES = 20


def box(library: Library) -> None:
    """Upload, and what became of it."""
    with st.expander("Import results from another machine", key="library-bring"):
        with st.form("library-import", clear_on_submit=True, border=False):
            uploads = st.file_uploader(
                "Result files, or a ZIP of them as Export makes it",
                type="zip",
                accept_multiple_files=True,
                key="library-upload",
                max_upload_size=MAX_UPLOAD,
            )
            sent = st.form_submit_button("Import", key="library-import-go")
        if sent:
            state.remember("library.report", reports(library, uploads or []))
            for name in ("library.said", "library.error"):
                state.remember(name, None)
            st.rerun()
        for n, (text, wrong) in enumerate(state.recall("library.report", ())):
            if wrong:
                problem(text, key=f"library-report-{n}")
            else:
                hint(text, key=f"library-report-{n}")


def reports(library: Library, uploads: Sequence[Any]) -> list[tuple[str, bool]]:
    """Sentences on what became of the files, and whether each is about something refused."""
    if not uploads:
        return [("No file was chosen: drop one on the field, then press Import.", True)]
    lines: list[tuple[str, bool]] = []
    for upload in uploads:
        try:
            lines += _report(library.bring(upload.name, upload.getvalue()))
        except UserError as error:
            lines.append((str(error), True))
    shown = lines[:MAX_LINES]
    if len(lines) > len(shown):
        shown.append((f"And {len(lines) - len(shown):,} more.", False))
    return shown


def _report(report: Report) -> list[tuple[str, bool]]:
    lines: list[tuple[str, bool]] = []
    if report.added:
        lines.append((f"Imported {count(len(report.added))}: {_few(report.added)}.", False))
    if report.present:
        lines.append((f"Here already: {_few(report.present)}.", False))
    lines += [(text, True) for text in (*report.unshown, *report.refused)]
    return lines


def _few(titles: Sequence[str]) -> str:
    shown = ", ".join(one_line(title, 80) for title in titles[:3])
    return shown + (f" and {len(titles) - 3:,} more" if len(titles) > 3 else "")


def count(number: int) -> str:
    """So many results, in words."""
    return "1 result" if number == 1 else f"{number:,} results"
