"""The schema of the index, as the ordered steps that lead to it.

A step is never changed once it was released: a new version appends one.
"""

from __future__ import annotations

from collections.abc import Sequence

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        # One word each: the names of long tables always have an underscore and never meet these.
        """CREATE TABLE results (
            key VARCHAR PRIMARY KEY, analysis VARCHAR, version BIGINT, subject VARCHAR,
            status VARCHAR, title VARCHAR, created VARCHAR, bytes BIGINT NOT NULL,
            meta VARCHAR NOT NULL)""",
        # Every table of every result. `indexed` is how many of its `rows` the long table took.
        """CREATE TABLE contents (
            key VARCHAR NOT NULL, source VARCHAR NOT NULL, rows BIGINT NOT NULL,
            indexed BIGINT NOT NULL, longtable VARCHAR)""",
        """CREATE TABLE longtables (
            name VARCHAR NOT NULL, analysis VARCHAR NOT NULL, source VARCHAR NOT NULL,
            generation BIGINT NOT NULL)""",
    ),
)
