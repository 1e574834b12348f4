"""The registry: one declaration per analysis serves page, command line, key, help and export.

A new method is one new file::

    @analysis("family.method", version=1, subject=Trace, params=Params, tables={…}, cite="…")
    def method(ctx: Context) -> Iterator[Progress | Tables]:
        yield Progress(0.5, "half way")
        yield Tables(tokens=ctx.per_token({"score": scores}))
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from engine.errors import UserError
from engine.schema import Progress, Table, Tables
from engine.subjects import Group, Rollouts, Subject, Text, Trace

if TYPE_CHECKING:
    from engine.context import Context


class Params(BaseModel):
    """Base of all params: immutable, unknown names refused, defaults filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Run = Callable[["Context"], Iterator[Progress | Tables]]
_R = TypeVar("_R", bound=Run)


@dataclass(frozen=True, slots=True)
class Analysis:
    """A registered analysis; see ``analysis`` for the fields."""

    name: str
    version: int
    subject: type[Any] | tuple[type[Any], ...]
    models: tuple[str, ...]
    params: type[Params]
    tables: Mapping[str, Table]
    title: str
    doc: str
    cite: tuple[str, ...]
    caveats: tuple[str, ...]
    run: Run
    optional_models: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[type[Any], ...]:
        """The types it looks at directly."""
        return self.subject if isinstance(self.subject, tuple) else (self.subject,)

    def accepts_type(self, kind: type[Any]) -> bool:
        """Whether subjects of this type are looked at, directly or one trace at a time."""
        lifted = Trace in self.subjects and kind in (Group, Rollouts)
        return kind in self.subjects or lifted

    def accepts(self, subject: Subject) -> bool:
        """Whether the subject fits, directly or by the lifting rules of ``engine.run``."""
        if isinstance(subject, self.subjects):
            return True
        if isinstance(subject, Text):
            return Trace in self.subjects and bool(self.models)
        return self.lifts(subject)

    def lifts(self, subject: Subject) -> bool:
        """Whether it looks at the traces of the subject one by one, not at all of them at once."""
        many = isinstance(subject, Group | Rollouts) and not isinstance(subject, self.subjects)
        return many and Trace in self.subjects

    def parse(self, params: Mapping[str, Any] | BaseModel | None) -> Params:
        """Validated params.

        Raises:
            UserError: for an unknown name or a value out of range, saying which are allowed.
        """
        from pydantic import ValidationError

        given = params.model_dump() if isinstance(params, BaseModel) else dict(params or {})
        for name, value in given.items():
            if _half_character(value):
                raise UserError(
                    f"{self.name}: {name} holds half of a character (a lone surrogate): remove it."
                )
        try:
            return self.params.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "params"
            known = ", ".join(self.params.model_fields) or "none"
            if first["type"] == "extra_forbidden":
                raise UserError(
                    f"{self.name} has no parameter {name!r}; it has: {known}."
                ) from None
            reason = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{self.name}: {name}: {reason}.") from None


def _half_character(value: Any) -> bool:
    """Whether a setting holds a lone surrogate, which no file and no key can carry."""
    if isinstance(value, str):
        return any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, Mapping):
        return any(map(_half_character, value.values()))
    return isinstance(value, list | tuple) and any(map(_half_character, value))


_registry: dict[str, Analysis] = {}
_loaded = False


def analysis(
    name: str,
    *,
    version: int,
    subject: type[Any] | tuple[type[Any], ...],
    tables: Mapping[str, Table],
    title: str,
    params: type[Params] = Params,
    models: tuple[str, ...] = ("model",),
    optional_models: tuple[str, ...] = (),
    cite: tuple[str, ...] = (),
    caveats: tuple[str, ...] = (),
) -> Callable[[_R], _R]:
    """Register a generator function as an analysis.

    Args:
        name: ``family.method``; the name in pages, command line, keys and exports.
        version: raised whenever the same request would give other numbers.
        subject: ``Trace`` (lifted over groups and rollouts), ``Group``, ``TokenizerRef``, …;
            several types for one that takes many traces as one population.
        tables: schemas by table name; the first is the main one.
        title: the question it answers, in plain words.
        params: a frozen pydantic class: page's form, command line's options, part of the key.
        models: roles of the models it needs; ``()`` for analyses of a tokenizer alone.
        optional_models: those of them it can do without: what they would have given is empty, or
            comes from what a log brought along.
        cite: sources, paper and section.
        caveats: what a reader must know before believing the numbers.
    """

    def register(function: _R) -> _R:
        if name in _registry:
            raise ValueError(f"analysis {name!r} is registered twice")
        if not set(optional_models) <= set(models):
            raise ValueError(f"analysis {name!r} can do without models it does not have")
        _registry[name] = Analysis(
            name=name,
            version=version,
            subject=subject,
            models=models,
            params=params,
            tables=MappingProxyType(dict(tables)),
            title=title,
            doc=inspect.getdoc(function) or "",
            cite=cite,
            caveats=caveats,
            run=function,
            optional_models=optional_models,
        )
        return function

    return register


_METHOD_MODULES = (
    "engine.statistics",
    "engine.logged",
    "engine.generate",
    "engine.kept",
    "engine.summary",
    "engine.grouped",
)
_METHOD_PACKAGES = ("attribution", "flow", "critical", "reward", "tokenizer")


def analyses() -> Mapping[str, Analysis]:
    """All analyses by name; imports the method files on first use (they import no torch)."""
    global _loaded
    if not _loaded:
        for module in _METHOD_MODULES:
            importlib.import_module(module)
        engine = importlib.import_module("engine")
        for family in pkgutil.iter_modules(engine.__path__):
            if family.ispkg and family.name in _METHOD_PACKAGES:
                package = importlib.import_module(f"engine.{family.name}")
                for method in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"engine.{family.name}.{method.name}")
        _loaded = True
    return MappingProxyType(_registry)


def find(name: str) -> Analysis:
    """The analysis called ``name``.

    Raises:
        UserError: if there is none, with the nearest names.
    """
    import difflib

    known = analyses()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:5]
    raise UserError(f"There is no analysis {name!r}; did you mean {', '.join(near)}?")


def check_tables(declared: Analysis, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """The tables in declared order, each cast to its schema; a mistake in a method stops here.

    Raises:
        TypeError: for an undeclared table or a column that is missing or of the wrong type.
    """
    unknown = set(tables) - set(declared.tables)
    if unknown:
        raise TypeError(f"{declared.name} yielded undeclared tables: {sorted(unknown)}")
    checked: dict[str, pa.Table] = {}
    for name, table in declared.tables.items():
        schema = table.schema()
        given = tables.get(name)
        if given is None:
            checked[name] = schema.empty_table()
            continue
        if list(given.column_names) != schema.names:
            raise TypeError(
                f"{declared.name}.{name}: columns are {given.column_names}, declared {schema.names}"
            )
        checked[name] = given.cast(schema)
    return checked
