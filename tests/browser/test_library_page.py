"""The Library in a real browser: import, find, rename, pin, export, delete, ask."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.workspace import Workspace
from tests.browser.conftest import serve
from tests.browser.themes import THEMES
from tests.engine.elsewhere import bundle, result_file

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)> ![a](http://evil.example/a) =1+1 \u202eabc"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An app of its own: the store must be empty at first."""
    with serve(tmp_path_factory.mktemp("library")) as made, made.watched() as address:
        yield address


@pytest.fixture
def visit(watched: Callable[..., Page]) -> Callable[..., Page]:
    """Open the Library and wait for its table."""

    def open_page(**how: Any) -> Page:
        page = watched("/library", height=900, **how)
        page.set_default_timeout(15_000)
        table(page).wait_for()
        return page

    return open_page


def table(page: Page):
    return page.locator("[class*='st-key-library-table-'] canvas").first


def mark(page: Page, row: int) -> None:
    """Click the box at the left of a row, and wait until the buttons follow."""
    box = table(page).bounding_box()
    page.mouse.click(box["x"] + 14, box["y"] + 36 + 28 * row + 12)
    page.locator(".st-key-library-export button:not([disabled])").first.wait_for()


def button(page: Page, key: str):
    return page.locator(f"[class*='st-key-{key}'] button").first


def said(page: Page, text: str) -> None:
    page.locator("[class*='st-key-hint-library']", has_text=text).first.wait_for()


def bring(page: Page, name: str, data: bytes) -> None:
    field = page.locator(".st-key-library-upload input[type=file]")
    if not button(page, "library-import-go").is_visible():
        page.locator(".st-key-library-bring summary").click()
    field.set_input_files({"name": name, "mimeType": "application/zip", "buffer": data})
    page.locator(".st-key-library-upload", has_text=".zip").wait_for()
    button(page, "library-import-go").click()


@pytest.mark.parametrize(("scheme", "width"), THEMES)
def test_first_visit(visit, tmp_path: Path, scheme: str, width: int):
    page = visit(scheme=scheme, width=width)
    assert page.locator("h1").inner_text() == "What has been computed?"
    said(page, "Nothing of your own")
    page.locator(".st-key-sql-box summary").click()
    page.locator(".st-key-sql-columns canvas").first.wait_for()
    assert "statistics_tokens" in page.locator(".st-key-sql textarea").input_value()
    button(page, "sql-ask").click()
    page.locator(".st-key-sql-answer canvas").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"library-{scheme}-{width}.png", full_page=True)


def test_a_result_comes_in_is_named_leaves_and_comes_back(visit, tmp_path: Path):
    page = visit()
    bring(page, "broken.zip", result_file(17)[:-40])
    page.locator("[class*='st-key-problem-library-report']", has_text="broken.zip").wait_for()
    data = bundle({"a.zip": result_file(17, HOSTILE), "b.zip": result_file(18, "Second")})
    bring(page, "two.zip", data)
    said(page, "Imported 2 results")
    page.locator(".st-key-library-search input").fill("second")
    page.locator(".st-key-library-search input").press("Enter")
    # The table that a screen reader gets has a row more, for the header.
    page.locator("[class*='st-key-library-table-'] [role=grid][aria-rowcount='2']").wait_for(
        state="attached"
    )
    mark(page, 0)
    button(page, "library-rename-").click()
    title = page.locator("[class*='st-key-library-new-title'] input")
    assert title.input_value() == "Second"
    title.fill("The Second, renamed")
    button(page, "library-rename-save").click()
    said(page, "Renamed")
    button(page, "library-pin").click()
    said(page, "Pinned")
    page.locator(".st-key-library-pin button", has_text="Unpin").wait_for()
    button(page, "library-export").click()
    button(page, "library-make").click()
    with page.expect_download() as waiting:
        page.locator(".st-key-library-download button").click()
    file = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(file)
    assert file.suffix == ".zip"
    page.keyboard.press("Escape")
    page.screenshot(path=tmp_path / "library-actions.png", full_page=True)
    button(page, "library-delete-").click()
    button(page, "library-delete-sure").click()
    said(page, "1 result deleted")
    bring(page, file.name, file.read_bytes())
    said(page, "Imported 1 result: The Second, renamed")
    with Workspace(tmp_path / "elsewhere", role="client") as elsewhere:
        from engine.shelves.library import Library

        report = Library(elsewhere).bring(file.name, file.read_bytes())
        assert report.added == ("The Second, renamed",)
    page.locator(".st-key-sql-box summary").click()
    page.locator(".st-key-sql textarea").fill(
        "SELECT title, origin FROM results WHERE origin = 'imported' ORDER BY title"
    )
    page.locator(".st-key-sql textarea").press("Tab")
    button(page, "sql-ask").click()
    page.locator(".st-key-sql-answer canvas").first.wait_for()
    with page.expect_download() as waiting:
        page.locator(".st-key-download-sql-csv button").click()
    answer = tmp_path / "answer.csv"
    waiting.value.save_as(answer)
    rows = list(csv.DictReader(answer.open(encoding="utf-8")))
    assert [row["title"] for row in rows] == [HOSTILE, "The Second, renamed"]
    page.locator(".st-key-sql textarea").fill("SELECT * FROM read_csv('/etc/passwd')")
    page.locator(".st-key-sql textarea").press("Tab")
    button(page, "sql-ask").click()
    page.locator(".st-key-problem-sql", has_text="read_csv").wait_for()
    page.screenshot(path=tmp_path / "library-sql.png", full_page=True)


@pytest.mark.slow  # by keyboard it is opened below
def test_open_turns_to_the_tokens(visit):
    page = visit()
    bring(page, "opened.zip", result_file(31, "Opened"))
    said(page, "Imported 1 result")
    mark(page, 0)
    button(page, "library-open").click()
    page.locator(".t").first.wait_for()
    assert page.locator("h1").inner_text() == "What did the model think of every token?"


def test_marking_and_every_action_by_keyboard_alone(visit, tmp_path: Path):
    page = visit()
    data = bundle({"a.zip": result_file(27, "Quokka one"), "b.zip": result_file(28, "Quokka two")})
    bring(page, "keys.zip", data)
    said(page, "Imported 2 results")
    press = page.keyboard.press

    def rows(count: int) -> None:
        named = f"[class*='st-key-library-table-'] [role=grid][aria-rowcount='{count + 1}']"
        page.locator(named).wait_for(state="attached")

    def marked(count: int) -> None:
        page.wait_for_function(
            """(count) => document.querySelectorAll(
              "[class*='st-key-library-table-'] [role=row][aria-selected=true]"
            ).length === count""",
            arg=count,
        )

    def tab_to(label: str, most: int = 14) -> None:
        # The server has heard of the mark: until then nothing can be done and Tab goes past.
        page.locator("[class*='st-key-library-open'] button:enabled").wait_for()
        for _ in range(most):
            press("Tab")
            if page.evaluate("document.activeElement.textContent").startswith(label):
                return
        raise AssertionError(f"no way to {label} by Tab")

    def into_the_table() -> None:
        page.locator(".st-key-library-search input").focus()
        for _ in range(8):
            press("Tab")
            if page.evaluate("document.activeElement.tagName") == "CANVAS":
                return
        raise AssertionError("no way into the table by Tab")

    def tab_into(key: str, kind: str = "button") -> None:
        wanted = page.locator(f"[class*='st-key-{key}'] {kind}").last
        wanted.wait_for()
        for _ in range(6):
            if wanted.evaluate("node => node === document.activeElement"):
                return
            press("Tab")
        raise AssertionError(f"no way into {key} by Tab")

    def to_the_buttons() -> None:
        """The marks stay after an action; without any the table is marked again."""
        into_the_table()
        if button(page, "library-open").is_disabled():
            press("Shift+Space")
        marked(1)
        press("End")

    assert "Shift+Space" in page.locator(".st-key-hint-library-choose").inner_text()
    page.locator(".st-key-library-search input").focus()
    page.keyboard.type("quokka")
    press("Enter")
    rows(2)
    into_the_table()
    press("Shift+Space")
    marked(1)
    press("ArrowDown")
    press("Shift+Space")
    marked(2)
    press("Shift+Space")
    marked(1)
    press("End")
    tab_to("Rename")
    press("Enter")
    # Where a box opens, the keyboard goes with it.
    tab_into("library-new-title", "input")
    press("Control+a")
    page.keyboard.type("A quokka by keys alone")
    press("Enter")
    said(page, "Renamed")
    for label, word in (("Pin", "Pinned"), ("Unpin", "No longer pinned")):
        to_the_buttons()
        tab_to(label)
        press("Enter")
        said(page, word)
    to_the_buttons()
    tab_to("Export")
    press("Enter")
    tab_into("library-make")
    press("Enter")
    tab_into("library-download")
    with page.expect_download() as waiting:
        press("Enter")
    assert waiting.value.suggested_filename.endswith(".zip")
    press("Escape")
    to_the_buttons()
    tab_to("Delete")
    press("Enter")
    tab_into("library-delete-sure")
    press("Enter")
    said(page, "1 result deleted")
    rows(1)
    into_the_table()
    press("Shift+Space")
    marked(1)
    press("End")
    tab_to("Open")
    press("Enter")
    page.get_by_role("heading", name="What did the model think of every token?").wait_for()
