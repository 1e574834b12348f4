"""What a person is told when something they asked for cannot be done."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend, said in one clear sentence that names the mend.

    Pages show the sentence, the command line prints it on stderr and exits with 2. Anything that
    is not a ``UserError`` is a fault of TokenScope.
    """


class Cancelled(Exception):
    """A job was cancelled; raised only at a yield, so hooks and contexts unwind as usual."""
