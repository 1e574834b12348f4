"""Pre-tokenization step by step: where a text is cut, and which rule of the file did it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import regex  # type: ignore[import-untyped]
from tokenizers import PreTokenizedString
from tokenizers import Tokenizer as Library

from engine.tokenizer.spec import Bounds, Pretoken

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The rule inside ``ByteLevel`` (Radford et al. 2019, encoder.py)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One pre-tokenizer of the file's sequence.

    Attributes:
        label: its type, as the file writes it.
        run: the library's object.
        alternatives: the pattern's alternatives, in order, where it is a pattern.
    """

    label: str
    run: Any
    alternatives: tuple[tuple[str, Any], ...] = ()

    def name(self, piece: str, context: str, at: int) -> str:
        """The rule's name for a piece: with the alternative that matched it."""
        for source, pattern in self.alternatives:
            match = pattern.match(context, at)
            if match is not None and match.end() == at + len(piece):
                return f"{self.label}: {source}"
        return self.label


def rules_of(tree: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The pre-tokenizers of a parsed ``tokenizer.json``, in order."""
    return tuple(_rule(node) for node in flat(tree.get("pre_tokenizer")))


def flat(node: Any) -> list[dict[str, Any]]:
    """A tree of pre-tokenizers (or normalizers) as a list, sequences opened."""
    if not isinstance(node, Mapping):
        return []
    if node.get("type") == "Sequence":
        children = node.get("pretokenizers") or node.get("normalizers") or ()
        return [leaf for child in children for leaf in flat(child)]
    return [dict(node)]


def component(kind: str, node: Mapping[str, Any]) -> Any:
    """The library's object for one node (``pre_tokenizer`` or ``normalizer``)."""
    tree = {
        "version": "1.0",
        "added_tokens": [],
        kind: dict(node),
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    return getattr(Library.from_str(orjson.dumps(tree).decode()), kind)


def pattern_of(node: Mapping[str, Any]) -> str | None:
    """The regular expression of a pre-tokenizer, if it is one."""
    if node.get("type") == "Split" and isinstance(node.get("pattern"), Mapping):
        found = node["pattern"].get("Regex")
        return str(found) if found is not None else None
    if node.get("type") == "ByteLevel" and node.get("use_regex", True):
        return GPT2_PATTERN
    return None


def alternatives(pattern: str) -> list[str]:
    """The top-level alternatives of a regular expression."""
    found, depth, inside, start, at = [], 0, False, 0, 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif inside:
            inside = character != "]"
        elif character == "[":
            inside = True
            # A "]" right after the bracket is a literal.
            at += 1 if pattern[at + 1 : at + 2] == "]" else 0
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "|" and depth == 0:
            found.append(pattern[start:at])
            start = at + 1
        at += 1
    return [*found, pattern[start:]]


def _rule(node: Mapping[str, Any]) -> Rule:
    label = str(node.get("type"))
    pattern = pattern_of(node)
    compiled: list[tuple[str, Any]] = []
    for source in alternatives(pattern) if pattern else ():
        try:
            compiled.append((source, regex.compile(source)))
        except regex.error:  # Oniguruma's own syntax: the rule is named without its alternative
            continue
    if label == "Split" and not pattern:
        label = f"Split at {node.get('pattern', {}).get('String', '')!r}"
    return Rule(label, component("pre_tokenizer", node), tuple(compiled))


def cut(rules: tuple[Rule, ...], normalizer: Any, text: str, offset: int) -> list[Pretoken]:
    """Pre-tokens of a stretch without added tokens.

    Args:
        rules: in order.
        normalizer: the library's, or None.
        text: the stretch, before normalization.
        offset: its first byte in the whole text.
    """
    state = PreTokenizedString(text)
    if normalizer is not None:
        state.normalize(normalizer.normalize)
    before = _splits(state)
    named: dict[Bounds, str] = {}
    for rule in rules:
        rule.run.pre_tokenize(state)
        after = _splits(state)
        context = "".join(form for form, _ in before)
        whole = {span for _, span in before}
        places = _places(before)
        for form, span in after:
            if span not in whole:
                at = places.get(span[0])
                end = places.get(span[1], len(context))
                piece = context[at:end] if at is not None else form
                named[span] = rule.name(piece, context, at or 0)
            elif span not in named and rule.alternatives:
                # Nothing was cut here, but the rule matched all of it.
                at = places.get(span[0], 0)
                piece = context[at : places.get(span[1], len(context))]
                name = rule.name(piece, context, at)
                if name != rule.label:
                    named[span] = name
        before = after
    return [
        Pretoken(offset + start, offset + end, form, named.get((start, end), ""))
        for form, (start, end) in before
    ]


def _splits(state: Any) -> list[tuple[str, Bounds]]:
    return [
        (form, (start, end))
        for form, (start, end), _ in state.get_splits("original", "byte")
        if form
    ]


def _places(splits: list[tuple[str, Bounds]]) -> dict[int, int]:
    """Character of the joined forms at each original byte where a character starts.

    Exact while forms and original are the same text; else only the splits' own starts.
    """
    places: dict[int, int] = {}
    at = 0
    for form, (start, end) in splits:
        same = len(form.encode("utf-8", "surrogatepass")) == end - start
        places.setdefault(start, at)
        if same:
            byte = start
            for character in form:
                places[byte] = at
                byte += len(character.encode("utf-8", "surrogatepass"))
                at += 1
        else:
            at += len(form)
        places[end] = at
    return places
