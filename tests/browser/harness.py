"""Components without a server: a page that holds one, and payloads as JSON can carry them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page


def document(css: str, html: str, script: str) -> str:
    """A page with a component's markup in ``#host``; ``script`` defines ``window.mount``."""
    return f"""<!doctype html><meta charset="utf-8"><style>body {{ margin: 20px;
 background: #fcfcfa; }} @media (prefers-color-scheme: dark) {{ body {{ background: #15171a; }} }}
{css}</style><div id="host">{html}</div><script type="module">{script}</script>"""


def mounter(function: str, view: str) -> str:
    """Mounts a component and keeps what it reports, tells other views, and its own object.

    Args:
        function: that makes it.
        view: selector of the element that holds the object as ``view``.
    """
    return f"""
window.reports = [];
window.heard = [];
for (const name of ["tokenscope:select", "tokenscope:hover"]) {{
  addEventListener(name, (event) => heard.push([name.slice(11), event.detail]));
}}
window.mount = (data) => {{
  const setStateValue = (...told) => reports.push(told);
  {function}({{ data, parentElement: document.querySelector("#host"), setStateValue }});
  window.one = document.querySelector("{view}").view;
}};
"""


def plain(payload: dict[str, Any], *tables: str) -> dict[str, Any]:
    """A payload whose tables are lists, without NaN."""
    lists = {
        name: {
            column: [None if isinstance(v, float) and math.isnan(v) else v for v in values]
            for column, values in payload[name].to_pydict().items()
        }
        for name in tables
    }
    found: dict[str, Any] = json.loads(json.dumps({**payload, **lists}))
    return found


def mounted(page: Page, data: dict[str, Any]) -> Page:
    """The page with its component mounted."""
    page.wait_for_function("() => window.mount !== undefined")
    page.evaluate("data => mount(data)", data)
    return page
