"""Requests and results: what goes into ``run`` and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from engine.subjects import Subject

if TYPE_CHECKING:
    import pandas as pd

    from engine.modelref import ModelRef


@dataclass(frozen=True, slots=True)
class Request:
    """One computation that is wanted.

    Attributes:
        analysis: name in the registry.
        subject: what to look at.
        models: by role; a plain name or ``ModelRef`` means the role ``model``.
        params: by name; what is left out gets its default.
    """

    analysis: str
    subject: Subject
    models: Mapping[str, str | ModelRef] | str | ModelRef | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A finished computation.

    Attributes:
        key: 64 hex characters naming the computation.
        analysis: its name.
        status: ``partial`` when it was cancelled after its first tables.
        origin: ``computed`` now, or read from the ``cache``.
        tables: by name, in declared order; the first is the main one.
        notes: why values are empty: table, column, position, rollout, reason.
        provenance: everything needed to get the same numbers again.
        stored: None, or one sentence saying why the result could not be kept.
    """

    key: str
    analysis: str
    status: Literal["complete", "partial"]
    origin: Literal["computed", "cache"]
    tables: Mapping[str, pa.Table]
    notes: pa.Table
    provenance: Mapping[str, Any]
    not_stored: str | None = None

    def table(self, name: str | None = None) -> pa.Table:
        """A table by name (``notes`` too); the main one without a name.

        Raises:
            UserError: when there is no such table.
        """
        from engine.errors import UserError

        if name is None:
            return next(iter(self.tables.values()))
        if name == "notes":
            return self.notes
        if name not in self.tables:
            known = ", ".join([*self.tables, "notes"])
            raise UserError(f"{self.analysis} has no table {name!r}; it has: {known}.")
        return self.tables[name]

    def to_pandas(self, name: str | None = None) -> pd.DataFrame:
        """A table as a pandas frame."""
        return self.table(name).to_pandas()

    def _repr_html_(self) -> str:
        from engine.render.strip import render_strip_html

        return render_strip_html(self)
