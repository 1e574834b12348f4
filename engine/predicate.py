"""A typed Python expression over ``response``: a small part of Python, with a time limit.

It is the user's own program on the user's own machine. Still it is kept to an expression language:
words of Python that a judgement needs, methods of text and lists, a few functions. Nothing in it
reaches files, modules or the inside of objects, whoever may have typed it.
"""

from __future__ import annotations

import ast
import sys
import time
from types import CodeType, FrameType
from typing import Any

from engine.errors import UserError
from engine.modelref import shown

SECONDS = 1.0
"""Longest that an expression may look at one response; one call into C is not interrupted."""

_LONGEST = 2000

_FUNCTIONS = (
    abs, all, any, bool, enumerate, float, int, len, list, max, min, ord, reversed, round, set,
    sorted, str, sum, tuple, zip,
)  # fmt: skip
# str.format reads attributes by name, past every check of the expression.
_METHODS = frozenset(
    name
    for kind in (str, list, tuple, set)
    for name in dir(kind)
    if not name.startswith("_") and name not in ("format", "format_map")
)
_NODES = (
    ast.Expression, ast.Name, ast.Load, ast.Store, ast.Constant, ast.Attribute, ast.Call,
    ast.keyword, ast.Starred, ast.Subscript, ast.Slice, ast.List, ast.Tuple, ast.Set,
    ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop, ast.IfExp,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod,
    ast.BitAnd, ast.BitOr, ast.BitXor,
    ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.comprehension, ast.NamedExpr,
)  # fmt: skip


class Predicate:
    """An expression that is true of right responses.

    Args:
        source: its text.

    Raises:
        UserError: when it is no expression, or uses what is not offered.
    """

    def __init__(self, source: str) -> None:
        self._source = source.strip()
        self._code = _compiled(self._source)

    def __call__(self, response: str) -> bool:
        """Whether it holds.

        Raises:
            UserError: when it fails on this response, or takes too long.
        """
        names: dict[str, Any] = {f.__name__: f for f in _FUNCTIONS}
        names |= {"__builtins__": {}, "response": response}
        before = sys.gettrace()
        sys.settrace(_deadline(time.monotonic() + SECONDS, self._code.co_filename))
        try:
            # Every name and attribute in it was looked at by _compiled.
            return bool(eval(self._code, names))  # noqa: S307
        except _TooLong:
            problem = f"takes longer than {SECONDS:.0f} s on a response: make it simpler"
        except Exception as error:  # the user's program may raise anything
            problem = f"fails on a response ({type(error).__name__}: {error}): correct it"
        finally:
            sys.settrace(before)
        raise UserError(f"The expression {shown(self._source)} {problem}.")


class _TooLong(BaseException):
    """The expression's time is over; not an Exception, so that nothing in it catches it."""


def _deadline(end: float, filename: str) -> Any:
    def tell(frame: FrameType, event: str, arg: object) -> Any:
        del event, arg
        if frame.f_code.co_filename != filename:
            return None
        if time.monotonic() > end:
            raise _TooLong
        return tell

    return tell


def _compiled(source: str) -> CodeType:
    if len(source) > _LONGEST:
        raise UserError(f"The expression has {len(source):,} characters: at most {_LONGEST:,}.")
    try:
        tree = ast.parse(source, "<answer>", mode="eval")
        nodes = list(ast.walk(tree))
        names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        names |= {"response", *(f.__name__ for f in _FUNCTIONS)}
        for node in nodes:
            _look(node, names, source)
        return compile(tree, "<answer>", "eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or error
        raise UserError(
            f"{shown(source)} is no Python expression ({reason}): correct it."
        ) from None


def _look(node: ast.AST, names: set[str], source: str) -> None:
    if not isinstance(node, _NODES):
        raise UserError(f"The expression {shown(source)} uses {_named(node)}: leave it out.")
    if isinstance(node, ast.Attribute) and node.attr not in _METHODS:
        raise UserError(
            f"The expression {shown(source)} uses .{node.attr[:40]}, which is no method of text "
            "or lists: leave it out."
        )
    if isinstance(node, ast.Name) and (node.id not in names or node.id.startswith("_")):
        raise UserError(
            f"The expression {shown(source)} uses {node.id[:40]}, which is not offered: it may use "
            f"response and {', '.join(f.__name__ for f in _FUNCTIONS)}."
        )


def _named(node: ast.AST) -> str:
    names = {"Lambda": "lambda", "Pow": "a power", "LShift": "a shift", "Await": "await"}
    return names.get(type(node).__name__, f"{type(node).__name__}, which is not offered here")
