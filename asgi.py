"""The app as one process: ``streamlit run asgi.py`` serves it and closes the store at the end."""

from __future__ import annotations

import importlib
import os
import pkgutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route
from streamlit import config, net_util
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.pages_manager import PagesManager

from engine.limits.profile import Profile
from pages import widgets

# Threads of torch that wait for each other sleep: spinning, they take the processor from those they
# wait for as soon as anything else runs beside them (measured: 94 s of processor time, then 17).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Whatever the configuration says, a site for strangers tells no internals and sends nothing out.
# What is typed may be larger than what may be uploaded: longer texts get a sentence, while above
# the limit set here the server hangs up.
HOSTED = {
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "browser.gatherUsageStats": False,
    "server.enableXsrfProtection": True,
    "server.enableAgentApi": False,
    "server.maxWidgetStateSize": 8,
}

IMPORTS = 256
"""Megabytes of a result file that one's own machine takes in (pages/widgets/importbox.py)."""

# Streamlit asks a server on the internet for this machine's address: at every start, and again for
# every connection from a foreign origin. Nothing here needs it.
net_util.get_external_ip = lambda: None


_request_rerun = AppSession.request_rerun


def request_rerun(session: AppSession, state: ClientState | None) -> None:
    """Whoever leaves a page leaves its fragments.

    A view that reports something while its page is being left asks for a run of its fragment, and
    Streamlit would make it after the new page, which the browser then takes for the old one: it
    stays blank (seen in one of sixty quick clicks).
    """
    leaves = state is not None and state.page_script_hash not in ("", session.page_script_hash)
    if leaves and not state.fragment_id:
        session._fragment_storage.clear()
    _request_rerun(session, state)


AppSession.request_rerun = request_rerun  # type: ignore[method-assign]


def hold(profile: Profile) -> None:
    """Hold the server to the profile."""
    # The server counts in whole megabytes, the readers in bytes.
    megabytes = max(1, profile.max_upload_bytes >> 20)
    hosted = profile.name == "hosted"
    # The drop zone keeps to its own limit; results that come back from elsewhere are larger.
    config.set_option("server.maxUploadSize", megabytes if hosted else max(megabytes, IMPORTS))
    if hosted:
        for name, value in HOSTED.items():
            config.set_option(name, value)
        os.environ["HF_HUB_OFFLINE"] = "1"


def ready() -> None:
    """Import what the first visitor would wait for: a second and a half, while a browser starts."""
    import engine

    engine.analyses()
    for module in pkgutil.iter_modules(widgets.__path__, f"{widgets.__name__}."):
        importlib.import_module(module.name)


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:
    """Apply the profile; close the workspace at the end, so that nothing queued is lost."""
    # Here and not above: only now has the server read the secrets that may name the profile.
    hold(Profile.from_env())
    # Otherwise the first visitor of all, following a link to a page, gets it without app.py.
    PagesManager.uses_pages_directory = False
    threading.Thread(target=ready, name="ready", daemon=True).start()
    yield
    from engine import default_workspace

    if default_workspace.cache_info().currsize:
        default_workspace().close()


def on_script_error(error: Exception) -> bool:
    """The last net under pages and callbacks: a sentence instead of a traceback."""
    from pages.widgets.notice import broken

    broken(error)
    return True


async def start(request: Request) -> RedirectResponse:
    """The page that opens first lives at the root: Streamlit gives it no name of its own."""
    # Relative, so that it holds behind a proxy that serves the app below a path.
    root = "../" if request.url.path.endswith("/") else "./"
    return RedirectResponse(root + (f"?{request.url.query}" if request.url.query else ""))


app = st.App(
    "app.py",
    lifespan=lifespan,
    on_script_error=on_script_error,
    routes=[Route(path, start) for path in ("/start", "/start/")],
)
