"""Characters that Unicode can write in several ways, and what each way costs in tokens."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator

import regex  # type: ignore[import-untyped]

from engine.tokenizer.looked import Finding, Looked, alone, named, some

FORMS = ("NFC", "NFD", "NFKC")
MOST = 200
_CLUSTER = regex.compile(r"\X")


def unicode_forms(look: Looked) -> Iterator[Finding]:
    """Grapheme clusters whose tokens depend on the Unicode form, once for each cluster.

    A cluster that is not in form NFC is a warning: the same text, typed elsewhere, gives other
    tokens. Forms are compared on the cluster alone.
    """
    if look.text.isascii():
        return
    places: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for match in _CLUSTER.finditer(look.text):
        cluster = match.group()
        if not cluster.isascii():
            counts[cluster] += 1
            places.setdefault(cluster, match.start())
    listed = 0
    for cluster, start in places.items():
        written = {form: unicodedata.normalize(form, cluster) for form in FORMS}  # type: ignore[arg-type]
        if all(w == cluster for w in written.values()):
            continue
        texts = [cluster, *written.values()]
        rows = alone(look.spec, texts)
        if all(row == rows[0] for row in rows):
            continue
        other = next(n for n, row in enumerate(rows) if row != rows[0])
        sizes = ", ".join(
            f"{form} {some(len(row), 'token')}" for form, row in zip(FORMS, rows[1:], strict=True)
        )
        own = [form for form in FORMS[:2] if written[form] == cluster]
        yield Finding(
            "unicode_forms",
            *look.span(start, start + len(cluster)),
            "note" if written["NFC"] == cluster else "warning",
            f"{cluster!r} ({named(cluster)}) is here in {own[0] if own else 'no normal form'}: "
            f"{some(len(rows[0]), 'token')}; {sizes}; it occurs {some(counts[cluster], 'time')}.",
            look.shown(rows[0]),
            look.shown(rows[other]),
        )
        listed += 1
        if listed == MOST:
            return
