"""What the pieces of a pre-tokenizer can look like: one automaton for each of its rules.

A rule's pieces are its pattern's matches and the text between them, as its behaviour says. The
automata accept all of them and perhaps more, so that what one of them refuses never occurs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import regex  # type: ignore[import-untyped]

from engine.pieces import scheme_of, show
from engine.tokenizer import codepoints
from engine.tokenizer.aligning import SPACE_MARK
from engine.tokenizer.automaton import Automaton, Walk
from engine.tokenizer.codepoints import Members
from engine.tokenizer.cutting import component, flat, pattern_of
from engine.tokenizer.patterns import parse
from engine.tokenizer.patterntree import (
    EMPTY,
    Either,
    Loose,
    Node,
    One,
    Repeat,
    Seq,
    UnreadableError,
)
from engine.tokenizer.spec import TokenizerSpec
from engine.tokenizer.utf8bytes import split

_WORDS = r"\w+|[^\w\s]+"
"""What the rule ``Whitespace`` keeps (``pre_tokenizers/whitespace.rs``)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One rule: its name in the file, and what its pieces can look like."""

    label: str
    automaton: Automaton


@dataclass(frozen=True, slots=True)
class Cuts:
    """All rules of a pre-tokenizer.

    Attributes:
        stages: those that could be read, in order.
        unread: one reason for each of the others.
    """

    stages: tuple[Stage, ...]
    unread: tuple[str, ...]

    def refusal(self, data: bytes, *, inside: bool = False) -> str | None:
        """Why these bytes lie inside no piece; None when they may.

        Args:
            data: a token's bytes, in the alphabet the rules see.
            inside: another character must stand before them in the same piece.
        """
        for stage in self.stages:
            automaton = stage.automaton
            walk = automaton.follows(data) if inside else automaton.inside(data)
            if not walk:
                return f"{stage.label} cuts it: {_where(data, walk, inside)}."
        return None

    def whole(self, text: str) -> bool:
        """Whether a text may be a piece of its own."""
        if self.unread or not self.stages:
            return True
        return self.stages[-1].automaton.accepts(text)

    def narrowest(self) -> Automaton | None:
        """The rule with the most symbols: what surroundings of a token are looked for in."""
        found = [stage.automaton for stage in self.stages]
        return max(found, key=lambda a: len(a.representatives)) if found else None


def cuts_of(spec: TokenizerSpec) -> Cuts:
    """The rules of a tokenizer's pre-tokenizer as automata."""
    nodes = flat(spec.tree.get("pre_tokenizer"))
    marked = scheme_of(spec.tree) == "metaspace"
    stages: list[Stage] = []
    unread: list[str] = []
    for number, node in enumerate(nodes):
        kind = str(node.get("type"))
        before = [str(n.get("type")) for n in nodes[:number]]
        if "ByteLevel" in before:
            unread.append(f"the rule {kind} works on bytes written as characters")
            continue
        if marked and any(n.get("type") == "Metaspace" for n in nodes[number + 1 :]):
            unread.append(f"the rule {kind} sees spaces that are written otherwise later")
            continue
        try:
            language = _language(kind, node)
            if language is not None:
                stages.append(Stage(kind, Automaton(language)))
        except UnreadableError as error:
            unread.append(f"the rule {kind} has {error}, which the automaton cannot stand for")
        except RecursionError:
            unread.append(f"the rule {kind} has too many groups inside each other")
    return Cuts(tuple(stages), tuple(unread))


def _where(data: bytes, walk: Walk, inside: bool) -> str:
    parts = split(data)
    if parts is None or walk.stopped is None:
        return "no text has these bytes"
    symbols: list[bytes] = [parts.tail] if parts.tail else []
    symbols += [c.encode() for c in parts.text]
    symbols += [parts.head] if parts.head else []
    at = walk.stopped - inside
    if at <= 0:
        before = "another character" if inside else "anything"
        return (
            f"no piece holds {show(symbols[0])!r} after {before}"
            if inside
            else (f"no piece holds {show(symbols[0])!r}")
        )
    return f"no piece holds {show(symbols[at])!r} after {show(b''.join(symbols[:at]))!r}"


def _language(kind: str, node: Mapping[str, Any]) -> Node | None:
    """What the pieces of one rule can look like; None when it cuts nothing."""
    pattern = pattern_of(node)
    if kind == "ByteLevel":
        return _pieces(parse(pattern), "Isolated") if pattern else None
    if kind == "Metaspace":
        return _metaspace(node)
    if kind == "Split":
        behavior = str(node.get("behavior", "Isolated"))
        written = node.get("pattern")
        text = written.get("String") if isinstance(written, Mapping) else None
        if pattern is None and not text:
            raise UnreadableError("no pattern")
        source = pattern if pattern is not None else regex.escape(str(text))
        return _pieces(parse(source), behavior, bool(node.get("invert")))
    if kind == "Whitespace":
        return _pieces(parse(_WORDS), "Removed", inverted=True)
    if kind == "CharDelimiterSplit":
        delimiter = codepoints.listed([ord(str(node.get("delimiter") or " ")[0])])
        return _pieces(One(delimiter), "Removed")
    if kind == "Digits":
        digits = One(codepoints.of_rule(component("pre_tokenizer", node).pre_tokenize_str))
        alone = node.get("individual_digits")
        return _pieces(digits, "Isolated" if alone else "Contiguous")
    if kind == "WhitespaceSplit":
        return _pieces(One(_cutting(kind)), "Removed")
    if kind == "BertPreTokenizer":
        white, cut = _cutting("WhitespaceSplit"), _cutting(kind)
        kept = Repeat(One(codepoints.inverse(cut)), 1, None)
        return Either((One(cut & ~white), kept))
    if kind == "Punctuation":
        return _pieces(One(_cutting(kind)), str(node.get("behavior") or "Isolated"))
    raise UnreadableError("a type of its own")


def _cutting(kind: str) -> Members:
    """Characters a rule of this type cuts at."""
    rule = component("pre_tokenizer", {"type": kind, "behavior": "Isolated"})
    return codepoints.of_rule(rule.pre_tokenize_str)


def _metaspace(node: Mapping[str, Any]) -> Node | None:
    if node.get("split") is False:
        return None
    mark = codepoints.listed([ord(str(node.get("replacement") or SPACE_MARK)[0])])
    rest = One(codepoints.inverse(mark))
    return Seq((Repeat(One(mark), 0, 1), Repeat(rest, 0, None)))


def _pieces(match: Node, behavior: str, inverted: bool = False) -> Node:
    """Pieces a rule leaves (``NormalizedString::split`` of the library)."""
    left_over = _gap(match)
    gap: Node | None = Repeat(One(left_over), 1, None) if left_over.any() else None
    name = behavior.lower().replace("_", "")
    if name == "removed":
        kept = match if inverted else gap
        if kept is None:
            raise UnreadableError("nothing it leaves of a text")
        return kept
    if gap is None:
        gap_or_none: Node = EMPTY
        others: tuple[Node, ...] = ()
    else:
        gap_or_none, others = Repeat(gap, 0, 1), (gap,)
    if name == "isolated":
        return Either((match, *others))
    if name == "contiguous":
        return Either((Repeat(match, 1, None), *others))
    if inverted:
        raise UnreadableError(f"{behavior} the other way round")
    if name == "mergedwithprevious":
        return Either((Seq((gap_or_none, match)), *others))
    if name == "mergedwithnext":
        return Either((Seq((match, gap_or_none)), *others))
    raise UnreadableError(f"the behaviour {behavior}")


def _gap(match: Node) -> Members:
    """Characters that may be left over between matches.

    A character that alone is a match, whatever surrounds it, is none: where a match was looked for
    there was one. A pattern that may match nothing leaves anything over.
    """
    if _nullable(match):
        return codepoints.inverse(codepoints.none())
    return codepoints.inverse(_single(match))


def _nullable(node: Node) -> bool:
    """Whether a node may match nothing."""
    if isinstance(node, One):
        return False
    if isinstance(node, Seq):
        return all(map(_nullable, node.parts))
    if isinstance(node, Either):
        return any(map(_nullable, node.parts))
    if isinstance(node, Repeat):
        return node.least == 0 or _nullable(node.part)
    return _nullable(node.part)


def _surely_nullable(node: Node) -> bool:
    """Whether a node matches nothing everywhere."""
    if isinstance(node, Seq):
        return all(map(_surely_nullable, node.parts))
    if isinstance(node, Either):
        return any(map(_surely_nullable, node.parts))
    if isinstance(node, Repeat):
        return node.least == 0 or _surely_nullable(node.part)
    return False


def _single(node: Node) -> Members:
    """Characters that alone are a match of the node, whatever surrounds them."""
    members = codepoints.none()
    if isinstance(node, One):
        return node.members
    if isinstance(node, Either):
        for part in node.parts:
            members = members | _single(part)
    elif isinstance(node, Seq):
        for at, part in enumerate(node.parts):
            others = node.parts[:at] + node.parts[at + 1 :]
            if all(map(_surely_nullable, others)):
                members = members | _single(part)
    elif isinstance(node, Repeat) and (node.most is None or node.most > 0):
        if node.least <= 1 or _surely_nullable(node.part):
            return _single(node.part)
    elif isinstance(node, Loose):
        return members
    return members
