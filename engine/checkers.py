r"""Answer checkers: is what a response says right? One registry, used wherever a reward is needed.

::

    checker("contains")("I cannot help.", "cannot")           # True
    judge("regex", r"4\d")("It is 42.")                       # True

A checker answers True, False, or None where there is nothing to judge. Needs no torch.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Protocol

from engine.answers import (
    boxed_text,
    check,
    is_number,
    last_number,
    plain_text,
    response_text,
    same_answer,
)
from engine.errors import UserError
from engine.modelref import shown
from engine.predicate import Predicate
from engine.trace import Trace

PATTERN_SECONDS = 0.5
"""Longest that a pattern may look at one response."""

_LONGEST_PATTERN = 1000


class Checker(Protocol):
    """Judges one response.

    Args:
        response: the response's text, or a whole trace (its response is looked at).
        expected: what is right, as text.

    Returns:
        None where there is nothing to judge: no answer was found, or nothing is expected.
    """

    def __call__(self, response: str | Trace, expected: str) -> bool | None: ...


_Function = Callable[..., bool | None]


@dataclass(frozen=True, slots=True)
class _Registered:
    """A checker and what is known about it.

    Attributes:
        hint: what ``expected`` means, for a form.
        validate: raises ``UserError`` for an ``expected`` that means nothing.
        code: whether ``expected`` is a program.
    """

    function: _Function
    hint: str
    validate: Callable[[str], object] | None = None
    code: bool = False


_CHECKERS: dict[str, _Registered] = {}


def checker(name: str = "answer", **options: Any) -> Checker:
    """The checker called ``name``, with its options set.

    Raises:
        UserError: for an unknown name or option, with those there are, and for one that runs a
            program where this installation allows none.
    """
    entry = _find(name)
    if entry.code:
        from engine.limits.profile import Profile

        check_allowed(name, Profile.from_env().allow_code)
    known = list(inspect.signature(entry.function).parameters)[2:]
    wrong = [option for option in options if option not in known]
    if wrong:
        has = ", ".join(known) or "none"
        raise UserError(f"The checker {name} has no option {wrong[0]!r}; it has: {has}.")
    return partial(entry.function, **options) if options else entry.function


def judge(name: str, expected: str) -> Callable[[str | Trace], bool | None]:
    """A checker for one right answer; what is wrong with that is said now, not at a response.

    Raises:
        UserError: as ``checker``, and for an ``expected`` that this checker cannot read.
    """
    found = checker(name)
    validate = _find(name).validate
    if validate is not None and expected.strip():
        validate(expected)
    return partial(found, expected=expected)


def expected_of(name: str, typed: str | None, logged: str | None) -> str:
    """What is right: what a person typed, else what came with the rollouts; blank if neither.

    Raises:
        UserError: when only a file could say it and the checker would run it as a program.
    """
    if typed is not None and typed.strip():
        return typed.strip()
    if _find(name).code:
        raise UserError(
            f"The checker {name} runs only what was typed as answer, never what a file expects."
        )
    return (logged or "").strip()


def check_allowed(name: str, allow_code: bool) -> None:
    """Refuse a checker that runs a program where none may be run.

    Raises:
        UserError: it is one.
    """
    entry = _CHECKERS.get(name)
    if entry is not None and entry.code and not allow_code:
        others = ", ".join(n for n, e in _CHECKERS.items() if not e.code)
        raise UserError(
            f"The checker {name} runs what was typed as a program, which is allowed on one's own "
            f"machine only: use one of {others}."
        )


def checkers() -> Mapping[str, str]:
    """Name and one-line description of every checker."""
    return MappingProxyType(
        {n: (e.function.__doc__ or "").split("\n")[0] for n, e in _CHECKERS.items()}
    )


def hints() -> Mapping[str, str]:
    """Name of every checker, and what it takes as the right answer."""
    return MappingProxyType({name: entry.hint for name, entry in _CHECKERS.items()})


def register(
    name: str,
    *,
    hint: str = "the right answer",
    validate: Callable[[str], object] | None = None,
    code: bool = False,
) -> Callable[[_Function], _Function]:
    """Register a function ``(response, expected, **options)`` as a checker; its first line is
    the description people read.

    Args:
        name: what params call it.
        hint: what ``expected`` means, for a form.
        validate: raises ``UserError`` for an ``expected`` that the checker cannot read.
        code: whether ``expected`` is run as a program; refused in the hosted profile.
    """

    def add(function: _Function) -> _Function:
        if name in _CHECKERS:
            raise ValueError(f"the checker {name!r} is registered twice")
        _CHECKERS[name] = _Registered(function, hint, validate, code)
        return function

    return add


def _find(name: str) -> _Registered:
    found = _CHECKERS.get(name)
    if found is None:
        raise UserError(f"There is no answer checker {name!r}; use one of {', '.join(_CHECKERS)}.")
    return found


register("answer", hint="the right answer: a number, a word, a choice")(check)


@register("contains", hint="words that a right response holds")
def contains(response: str | Trace, expected: str, *, text: str | None = None) -> bool | None:
    """The expected words occur in the response, whatever their case."""
    wanted = plain_text(expected if text is None else text)
    return wanted in plain_text(response_text(response)) if wanted else None


def _number(expected: str) -> None:
    if not is_number(expected):
        raise UserError(
            f"The checker last_number compares numbers and {shown(expected)} is none: give a "
            "number as answer, or use the checker answer."
        )


@register("last_number", hint="the right number", validate=_number)
def last_number_is(response: str | Trace, expected: str) -> bool | None:
    """The last number written in the response is the expected one, compared as numbers."""
    if not expected.strip():
        return None
    _number(expected)
    found = last_number(response_text(response))
    return None if found is None else same_answer(found, expected)


@register("exact", hint="the whole response, letter for letter")
def exact(response: str | Trace, expected: str) -> bool | None:
    """The whole response is the expected text; only spaces around it do not count."""
    return response_text(response).strip() == expected.strip() if expected.strip() else None


@register("boxed", hint=r"what a right \boxed{} holds")
def boxed(response: str | Trace, expected: str) -> bool | None:
    r"""The last \boxed{} of the response holds the expected answer."""
    found = boxed_text(response_text(response))
    if found is None or not expected.strip():
        return None
    return same_answer(found, expected)


@lru_cache(maxsize=64)
def _pattern(expected: str) -> Any:
    """The pattern, in an engine whose searches can be given up.

    Only what Python's ``re`` reads is taken: the engine's own recursion and fuzzy matching fill
    the memory faster than a time limit can help.

    Raises:
        UserError: it is none.
    """
    import regex  # type: ignore[import-untyped]

    if len(expected) > _LONGEST_PATTERN:
        raise UserError(
            f"The pattern has {len(expected):,} characters; at most {_LONGEST_PATTERN:,} are read."
        )
    try:
        re.compile(expected)
        return regex.compile(expected)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(
            f"{shown(expected)} is no regular expression ({reason}): correct it."
        ) from None


@register("regex", hint=r"a pattern (Python's re), such as \b4[0-9]\b", validate=_pattern)
def matches(response: str | Trace, expected: str) -> bool | None:
    """The expected pattern is found in the response."""
    if not expected:
        return None
    try:
        found = _pattern(expected).search(response_text(response), timeout=PATTERN_SECONDS)
    except TimeoutError:
        raise UserError(
            f"The pattern {shown(expected)} takes longer than {PATTERN_SECONDS} s on a response: "
            "leave out repeats inside repeats."
        ) from None
    return found is not None


@lru_cache(maxsize=64)
def _predicate(expected: str) -> Predicate:
    return Predicate(expected)


@register(
    "python",
    hint='an expression over response, such as "42" in response and len(response) < 300',
    validate=_predicate,
    code=True,
)
def holds(response: str | Trace, expected: str) -> bool | None:
    """The expected Python expression over response is true; on one's own machine only."""
    return _predicate(expected)(response_text(response)) if expected.strip() else None
