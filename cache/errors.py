"""What can go wrong in the store, each as one sentence that says what to do."""

from __future__ import annotations

import errno
from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NOT_A_FOLDER = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EISDIR})


class StoreError(Exception):
    """The store cannot do what was asked; the text is one sentence for a person."""


class DamagedError(StoreError):
    """A file does not hold what it should: cut short, altered, or made to do harm."""


class NewerFormatError(StoreError):
    """A file was written by a newer TokenScope and is left alone."""


def explain(error: OSError, home: Path) -> StoreError:
    """Turn an error of the operating system into a sentence about the store's folder."""
    elsewhere = "set TOKENSCOPE_HOME to another folder"
    if error.errno in _FULL:
        return StoreError(
            f"The disk is full: the result could not be kept in {home}. Free space or {elsewhere}."
        )
    if error.errno == errno.EFBIG:
        return StoreError(
            f"The result is larger than a file may be in {home}. Raise the limit or {elsewhere}."
        )
    if error.errno in _DENIED:
        return StoreError(
            f"The folder {home} cannot be written to. Make it writable or {elsewhere}."
        )
    if error.errno in _NOT_A_FOLDER:
        return StoreError(f"{home} is not a folder, or a file stands in its way: {elsewhere}.")
    reason = error.strerror or type(error).__name__
    return StoreError(f"The folder {home} could not be used ({reason}): {elsewhere}.")
