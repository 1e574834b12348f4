"""Added tokens that are no control tokens and yet cut words, or swallow spaces."""

from __future__ import annotations

from collections.abc import Iterator

from engine.tokenizer.looked import Finding, Looked

MOST = 200


def added_tokens(look: Looked) -> Iterator[Finding]:
    """Matches of added tokens with a letter or digit next to them, or with swallowed spaces."""
    found = 0
    for cut in look.pretokens:
        if cut.added is None or look.spec.pieces[cut.added].kind != "added":
            continue
        before = look.data[: cut.start].decode(errors="ignore")[-1:]
        after = look.data[cut.end : cut.end + 4].decode(errors="ignore")[:1]
        written = look.data[cut.start : cut.end].decode(errors="replace")
        content = look.spec.pieces[cut.added].data.decode(errors="replace")
        said: list[str] = []
        edges = (
            content[:1].isalnum() and before.isalnum(),
            content[-1:].isalnum() and (after.isalnum()),
        )
        if any(edges):
            said.append(f"cuts the word it stands in ({before}|{content}|{after})")
        swallowed = len(written) - len(written.strip())
        if written != content and written.strip() == content.strip() and swallowed:
            said.append("swallows the white space next to it")
        if said:
            yield Finding(
                "added_token",
                cut.start,
                cut.end,
                "warning",
                f"The added token {content!r} (id {cut.added}) {' and '.join(said)}.",
                look.tokens(look.covering(cut.start, cut.end)),
            )
            found += 1
            if found == MOST:
                return
