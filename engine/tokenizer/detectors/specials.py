"""Special tokens that a text contains: programs that parse them read the user's text as control."""

from __future__ import annotations

from collections.abc import Iterator

from engine.tokenizer.looked import Finding, Looked

MOST = 200


def special_tokens(look: Looked) -> Iterator[Finding]:
    """Special tokens the tokenizer finds in the text, and strings that only normalization makes.

    The second are text to this tokenizer, but whoever decodes the tokens and encodes the result
    again gets the control token.
    """
    if not look.spec.specials or not look.text:
        return
    parsed = look.spec.encode(look.text, "parse")
    spans: list[tuple[int, int]] = []
    for i, (start, end) in zip(parsed.ids, parsed.bounds, strict=True):
        if look.spec.pieces[i].kind != "special" or i == look.spec.unknown or end <= start:
            continue
        spans.append((start, end))
        written = look.data[start:end].decode(errors="replace")
        name = look.spec.specials[i]
        seen = "" if written == name else f" (written {written!r})"
        yield Finding(
            "special_token",
            start,
            end,
            "error",
            f"The text contains the special token {name}{seen}: a program that parses special "
            f"tokens reads it as control id {i}.",
            look.tokens(look.covering(start, end)),
            (name,),
        )
        if len(spans) == MOST:
            return
    yield from _made(look, spans)


def _made(look: Looked, known: list[tuple[int, int]]) -> Iterator[Finding]:
    normal = look.spec.normalize(look.text)
    if normal.text == look.text:
        return
    for i, name in look.spec.specials.items():
        at = normal.text.find(name)
        while at >= 0:
            spans = normal.spans[at : at + len(name)]
            start, end = spans[0][0], max(last for _, last in spans)
            written = look.data[start:end].decode(errors="replace")
            if written != name and not any(a < end and start < b for a, b in known):
                yield Finding(
                    "special_lookalike",
                    start,
                    end,
                    "warning",
                    f"Normalization turns {written!r} into {name}: encoding the decoded text again "
                    f"gives control id {i}.",
                    look.tokens(look.covering(start, end)),
                    (name,),
                )
            at = normal.text.find(name, at + 1)
