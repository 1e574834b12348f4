"""What a person is told when something does not work: one calm sentence, never a traceback."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable
from typing import ParamSpec

import streamlit as st

from engine import UserError, __version__
from engine.errors import Cancelled

log = logging.getLogger("tokenscope")
P = ParamSpec("P")

ISSUES = "the project's issue tracker"


def problem(error: UserError | str, *, key: str) -> None:
    """One sentence a person can act on; shown as plain text."""
    with st.container(key=f"problem-{key}"):
        st.text(str(error))


def hint(text: str, *, key: str) -> None:
    """A quiet next step for an empty place."""
    with st.container(key=f"hint-{key}"):
        st.text(text)


def broken(error: BaseException) -> None:
    """A fault of TokenScope: what to do, with what a report needs in a closed box."""
    log.error("page failed", exc_info=error)
    place = traceback.extract_tb(error.__traceback__)[-1:] if error.__traceback__ else []
    where = "; ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in place)
    with st.container(key="problem-broken"):
        st.text(
            "Something went wrong inside TokenScope. Your texts are still there; reload the page "
            f"to go on. If it happens again, please report it at {ISSUES} with these lines:"
        )
        st.code(f"TokenScope {__version__} · {type(error).__name__} · {where}", language=None)


def guarded(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap a page or fragment: nobody sees a traceback."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except UserError as error:
            problem(error, key="page")
        except Cancelled:
            hint("Cancelled. Nothing was lost: start it again when you like.", key="cancelled")
        except Exception as error:  # anything else is our fault, and must look like it
            broken(error)

    return wrapper
