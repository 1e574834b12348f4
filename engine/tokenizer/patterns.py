"""Regular expressions of pre-tokenizers, read into a tree an automaton is made of.

Read is what pre-tokenizers use: characters, classes, properties, repeats, alternatives, groups,
groups without case. What looks around (``(?!\\S)``, ``\\b``, ``$``) is read as nothing at all and
what holds on to its match (``++``, ``(?>…)``) as if it did not: the automaton then accepts more
than the pattern matches, never less. Everything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import regex  # type: ignore[import-untyped]

from engine.tokenizer import codepoints
from engine.tokenizer.codepoints import Members
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

MOST_SETS = 300
"""Each of them takes a megabyte while the automaton is built; real patterns have some thirty."""

MOST_COPIES = 64
"""Largest bound of a repeat: each copy takes states of its own."""

MOST_CHARACTERS = 10_000
"""Longer patterns are not read: real ones have a few hundred characters."""


def parse(pattern: str) -> Node:
    """The tree of a pattern in the library's syntax (Oniguruma's, Ruby's dialect).

    Raises:
        UnreadableError: naming what the automaton cannot stand for.
    """
    if len(pattern) > MOST_CHARACTERS:
        raise UnreadableError(f"a pattern of more than {MOST_CHARACTERS:,} characters")
    parser = _Parser(pattern)
    node = parser.either(folded=False)
    if parser.at < len(pattern):
        raise UnreadableError(f"an unmatched {pattern[parser.at]!r}")
    return node


_PLAIN = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
_AROUND = ("?=", "?!", "?<=", "?<!")
_POSIX = regex.compile(r"\[:\^?[a-z]+:\]")
_PROPERTY = regex.compile(r"[pP]\{\^?[A-Za-z0-9_ =:-]+\}")
_CODE = regex.compile(r"x\{([0-9A-Fa-f]{1,6})\}|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})")
_BOUNDS = regex.compile(r"\{(\d*)(,?)(\d*)\}")


@dataclass
class _Parser:
    pattern: str
    at: int = 0
    run: str = ""
    sets: int = 0

    def either(self, *, folded: bool) -> Node:
        parts = [self.sequence(folded=folded)]
        while self.peek("|"):
            self.at += 1
            parts.append(self.sequence(folded=folded))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def sequence(self, *, folded: bool) -> Node:
        parts: list[Node] = []
        literal = ""
        while self.at < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            start = self.at
            if self.pattern[start] == "(" and (inner := self.flags(folded)) is not None:
                folded = inner  # (?i) holds to the end of the group, alternatives included
                parts.append(self.either(folded=folded))
                break
            part = self.repeated(self.atom(folded=folded))
            parts.append(part)
            literal = literal + self.run if isinstance(part, One) and self.run else ""
            if folded:
                _check_folds(literal)
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def peek(self, character: str) -> bool:
        return self.pattern.startswith(character, self.at)

    def next(self) -> str:
        if self.at >= len(self.pattern):
            raise UnreadableError("an end in the middle")
        self.at += 1
        return self.pattern[self.at - 1]

    # -- repeats -----------------------------------------------------------------------------

    def repeated(self, part: Node) -> Node:
        while self.at < len(self.pattern):
            bounds = {"?": (0, 1), "*": (0, None), "+": (1, None)}.get(self.pattern[self.at])
            if bounds is not None:
                self.at += 1
            elif (match := _BOUNDS.match(self.pattern, self.at)) and match.group() != "{}":
                bounds = _bounds(*match.groups())
                if bounds is None:
                    return part
                self.at = match.end()
                # In this dialect a "+" behind bounds repeats once more; "?" makes two bounds
                # lazy, and a fixed number optional.
                if "," not in match.group() and self.peek("?"):
                    bounds, part = (0, 1), Repeat(part, *bounds)
            else:
                return part
            part = Repeat(part, *bounds)
            if self.peek("?"):
                self.at += 1
            elif self.peek("+") and self.pattern[self.at - 1] != "}":
                self.at += 1
                part = Loose(part)
        return part

    # -- one thing ---------------------------------------------------------------------------

    def atom(self, *, folded: bool) -> Node:
        self.run = ""
        character = self.next()
        if character == "(":
            return self.group(folded)
        if character == "[":
            return self.one(self.klass(folded))
        if character == ".":
            return self.one(codepoints.inverse(codepoints.listed([0x0A])))
        if character in "^$":
            return Loose(EMPTY)
        if character == "\\":
            return self.escape(folded)
        if character in "*+?":
            raise UnreadableError(f"a {character!r} with nothing to repeat")
        return self.literal(character, folded)

    def literal(self, character: str, folded: bool) -> Node:
        self.run = character
        return self.one(_literal(character, folded))

    def one(self, members: Members) -> One:
        self.sets += 1
        if self.sets > MOST_SETS:
            raise UnreadableError(f"more than {MOST_SETS} characters and classes")
        return One(members)

    def escape(self, folded: bool) -> Node:
        if self.at < len(self.pattern) and self.pattern[self.at] in "AbBzZG":
            self.at += 1
            return Loose(EMPTY)
        found = self.escaped()
        if len(found) == 1:
            return self.literal(found, folded)
        return self.one(_class(found, folded))

    def escaped(self) -> str:
        """What a backslash stands for: one character, or the source of a class."""
        match = _PROPERTY.match(self.pattern, self.at) or _CODE.match(self.pattern, self.at)
        if match:
            self.at = match.end()
            digits = next((g for g in match.groups() if g), None)
            if digits is None:
                return "\\" + match.group()
            if int(digits, 16) >= codepoints.SIZE:
                raise UnreadableError(f"\\{match.group()}")
            return chr(int(digits, 16))
        character = self.next()
        if character in _PLAIN:
            return _PLAIN[character]
        if character in "sSdDwWhH":
            return "\\" + character
        if character.isalnum():
            raise UnreadableError(f"\\{character}")
        return character

    def flags(self, folded: bool) -> bool | None:
        """Whether case counts from here on, if flags without a group come next."""
        match = regex.compile(r"\(\?(-?)i\)").match(self.pattern, self.at)
        if match is None:
            return None
        self.at = match.end()
        return not match.group(1)

    def group(self, folded: bool) -> Node:
        loose = around = False
        if self.peek("?"):
            kind = next((k for k in _AROUND if self.peek(k)), None)
            if kind is not None:
                self.at += len(kind)
                loose = around = True
            elif self.peek("?>"):
                self.at += 2
                loose = True
            elif match := regex.compile(r"\?(-?i)?:").match(self.pattern, self.at):
                self.at = match.end()
                folded = folded if match.group(1) is None else match.group(1) == "i"
            elif match := regex.compile(r"\?<[A-Za-z_]\w*>").match(self.pattern, self.at):
                self.at = match.end()
            else:
                raise UnreadableError(f"({self.pattern[self.at : self.at + 3]}")
        part = self.either(folded=folded)
        if self.at >= len(self.pattern):
            raise UnreadableError("a group without an end")
        self.at += 1
        self.run = ""
        if around:
            return Loose(EMPTY)
        return Loose(part) if loose else part

    # -- classes -----------------------------------------------------------------------------

    def klass(self, folded: bool) -> Members:
        negated = self.peek("^")
        self.at += negated
        members = codepoints.none()
        first = True
        while first or not self.peek("]"):
            first = False
            if self.peek("&&"):
                raise UnreadableError("&& in a class")
            posix = _POSIX.match(self.pattern, self.at)
            if posix:
                self.at = posix.end()
                members = members | _class(f"[{posix.group()}]", folded)
                continue
            character = self.next()
            if character == "[":
                members = members | self.klass(folded)
                continue
            if character == "\\":
                character = self.escaped()
                if len(character) > 1:
                    members = members | _class(character, folded)
                    continue
            members = members | self.ranged(character, folded)
        self.at += 1
        return codepoints.inverse(members) if negated else members

    def ranged(self, first: str, folded: bool) -> Members:
        """A character of a class, or the range it begins."""
        if not self.peek("-") or self.pattern[self.at + 1 : self.at + 2] in ("]", ""):
            if folded:
                _check_folds(first)
            return _literal(first, folded)
        self.at += 1
        last = self.next()
        if last == "\\":
            last = self.escaped()
        if len(last) > 1 or last == "[" or last < first:
            raise UnreadableError(f"the range {first}-{last}")
        if not folded:
            return codepoints.between(ord(first), ord(last))
        if not (first.isascii() and last.isascii()):
            raise UnreadableError(f"the range {first}-{last} without case")
        return _class(f"[{regex.escape(first)}-{regex.escape(last)}]", folded)


def _bounds(least: str, comma: str, most: str) -> tuple[int, int | None] | None:
    if not least and not most:
        return None  # "{" and "{,}" are plain characters
    low = int(least or 0)
    high = low if not comma else (int(most) if most else None)
    if low > MOST_COPIES or (high or 0) > MOST_COPIES:
        raise UnreadableError(f"a repeat of more than {MOST_COPIES} times")
    if high is not None and high < low:
        raise UnreadableError("a repeat whose bounds are the wrong way round")
    return low, high


def _literal(character: str, folded: bool) -> Members:
    if not folded or not (character.lower() != character or character.upper() != character):
        return codepoints.listed([ord(character)])
    return _class(regex.escape(character), folded)


def _class(source: str, folded: bool) -> Members:
    if folded and (source.startswith(("\\p", "\\P")) or "[:" in source):
        raise UnreadableError(f"{source} without case")
    try:
        if source.startswith("\\P"):
            return codepoints.inverse(codepoints.of_pattern(_positive(source)))
        if source in (r"\S", r"\D", r"\W", r"\H"):
            return codepoints.inverse(codepoints.of_pattern(source.lower()))
        if source.startswith(r"\p{^"):
            return codepoints.inverse(codepoints.of_pattern(source.replace("^", "")))
        return codepoints.of_pattern(source, folded=folded)
    except ValueError:
        raise UnreadableError(source) from None


def _positive(source: str) -> str:
    if "^" in source:
        raise UnreadableError(source)
    return r"\p" + source[2:]


def _check_folds(literal: str) -> None:
    """Without case some characters match several ("ß" and "ss"), which no set can say."""
    single, several = codepoints.multiple_folds()
    lowered = literal.casefold()
    if any(c in single for c in literal) or any(s in lowered for s in several if len(s) > 1):
        raise UnreadableError(f"{literal!r} without case")
