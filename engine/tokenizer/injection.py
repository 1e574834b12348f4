"""Whether special tokens in a user's message become control tokens through the chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError
from engine.subjects import TokenizerRef
from engine.tokenization import Tokenizer
from engine.tokenizer.spec import TokenizerSpec

MOST = 256
"""Special tokens tried."""

MOST_TEMPLATE = 100_000
"""Longest template in characters."""


def injectable(spec: TokenizerSpec, template: str, ids: Sequence[int]) -> dict[int, bool]:
    """For each special token whether a message with it has more of its id than one without.

    The rendered conversation is encoded with special tokens parsed, as serving programs do. An id
    is left out when the template refuses the message.

    Args:
        spec: the tokenizer.
        template: Jinja source, rendered in transformers' sandbox.
        ids: special tokens.
    """
    if not ids:
        return {}
    settings = {"chat_template": template}
    names = {raw: raw for raw in spec.specials.values()}
    settings.update({"bos_token": next(iter(names), ""), "eos_token": ""})
    tokenizer = Tokenizer(_ANY, name=spec.name, settings=settings)
    found: dict[int, bool] = {}
    for i in ids[:MOST]:
        try:
            bare, with_it = (
                tokenizer.render_chat([{"role": "user", "content": content}], ask=True)
                for content in ("ab", f"a{spec.specials[i]}b")
            )
        except UserError:
            continue
        counts = [row.count(i) for row in spec.encode_ids([bare, with_it], "parse")]
        found[i] = counts[1] > counts[0]
    return found


_ANY = '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}'
"""Only the template of this tokenizer is used."""


def template_of(ref: TokenizerRef | None) -> str | None:
    """The chat template beside a tokenizer's file, for whoever fills the form; None without."""
    if ref is None or not Path(ref.path).exists():
        return None
    try:
        return Tokenizer.load(ref.path).chat_template
    except UserError:  # no tokenizer.json: rank files and SentencePiece bring no template
        return None
