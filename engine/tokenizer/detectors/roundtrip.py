"""Text that does not come back from its tokens, and the stage of the tokenizer that lost it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from engine.pieces import show
from engine.tokenizer.aligning import SPACE_MARK
from engine.tokenizer.cutting import flat
from engine.tokenizer.looked import Finding, Looked, named

MOST = 200


def round_trip(look: Looked) -> Iterator[Finding]:
    """Where decoding the tokens gives another text: one finding for each place and stage.

    Stages are replayed in their order: normalization, the pre-tokenizer (white space it drops),
    the model (unknown tokens), the decoder.
    """
    if not look.text:
        return
    decoded = look.spec.backend.decode([look.encoded.ids])[0]
    if decoded == look.text:
        return
    found = list(itertools.islice(_stages(look), MOST))
    yield from found
    if not found:
        yield Finding(
            "round_trip",
            0,
            len(look.data),
            "error",
            f"The decoder gives another text back: {_difference(look.text, decoded)}.",
            look.tokens(range(min(8, len(look.encoded)))),
        )


def _stages(look: Looked) -> Iterator[Finding]:
    yield from _normalized(look)
    yield from _dropped(look)
    yield from _unknown(look)


def _normalized(look: Looked) -> Iterator[Finding]:
    """Characters that normalization changes; a mark for a space is not a change."""
    normal = look.spec.normalize(look.text)
    rules = ", ".join(str(n.get("type")) for n in flat(look.spec.tree.get("normalizer")))
    stage = f"normalization ({rules})" if rules else "normalization"
    done = 0
    at = 0
    while at < len(normal.spans):
        start, end = normal.spans[at]
        last = at + 1
        # All characters that share bytes of the original belong together.
        while last < len(normal.spans) and normal.spans[last][0] < end:
            end = max(end, normal.spans[last][1])
            last += 1
        if start > done:
            yield _changed(look, done, start, "", stage)
        form = normal.text[at:last]
        original = look.data[start:end].decode(errors="replace")
        if end > start and original not in (form, form.replace(SPACE_MARK, " ")):
            yield _changed(look, start, end, form, stage)
        done, at = max(done, end), last
    if done < len(look.data):
        yield _changed(look, done, len(look.data), "", stage)


def _changed(look: Looked, start: int, end: int, form: str, stage: str) -> Finding:
    original = look.data[start:end].decode(errors="replace")
    into = f"into {form!r} ({named(form)})" if form else "into nothing"
    return Finding(
        "round_trip",
        start,
        end,
        "error",
        f"Lost in {stage}: {original!r} ({named(original)}) is turned {into}.",
        look.tokens(look.covering(start, end)),
    )


def _dropped(look: Looked) -> Iterator[Finding]:
    """Bytes between the pre-tokens."""
    done = 0
    ends = [(cut.start, cut.end) for cut in look.pretokens] + [(len(look.data),) * 2]
    for start, end in ends:
        if start > done and look.data[done:start].isspace():
            yield Finding(
                "round_trip",
                done,
                start,
                "warning" if look.spec.lossy else "error",
                f"The pre-tokenizer drops {show(look.data[done:start])!r}: no token holds it.",
            )
        done = max(done, end)


def _unknown(look: Looked) -> Iterator[Finding]:
    for place, (i, (start, end)) in enumerate(
        zip(look.encoded.ids, look.encoded.bounds, strict=True)
    ):
        if i == look.spec.unknown and end > start:
            original = look.data[start:end].decode(errors="replace")
            yield Finding(
                "round_trip",
                start,
                end,
                "error",
                f"The vocabulary cannot spell {original!r} ({named(original)}): it becomes the "
                "unknown token.",
                look.tokens([place]),
            )


def _difference(text: str, decoded: str) -> str:
    at = next(
        (n for n, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b),
        min(len(text), len(decoded)),
    )
    return f"{decoded[at : at + 12]!r} instead of {text[at : at + 12]!r} at character {at}"
