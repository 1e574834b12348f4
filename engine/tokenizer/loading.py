"""From a file (or an installed package's file) to a ``TokenizerSpec``.

Read are ``tokenizer.json``, SentencePiece models, tiktoken rank files and Tekken files, told apart
by their content. Nothing of a stranger's file is run.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer as Library

from engine.errors import UserError
from engine.modelref import shown
from engine.subjects import INSTALLED, TokenizerRef
from engine.tokenizer.hfbuild import build
from engine.tokenizer.modeltree import vocabulary_of
from engine.tokenizer.ranks import (
    looks_like_ranks,
    read_ranks,
    rules_for,
    tree_of_ranks,
    tree_of_tekken,
)
from engine.tokenizer.sp import load_sentencepiece
from engine.tokenizer.spec import TokenizerSpec

MAX_BYTES = 256 * 1024 * 1024
"""Larger files are refused: the largest tokenizers known have a tenth of it."""

MAX_IDS = 4_000_000
"""More ids than any vocabulary has; ids far beyond the number of tokens would fill the memory."""

_NAMES = ("tokenizer.json", "tekken.json", "tokenizer.model")

_PACKAGED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "mistral_common": (
        ("tekken_240718", "data/tekken_240718.json"),
        ("tekken_240911", "data/tekken_240911.json"),
        ("mistral_v1", "data/tokenizer.model.v1"),
        ("mistral_v2", "data/mistral_instruct_tokenizer_240216.model.v2"),
        ("mistral_v3", "data/mistral_instruct_tokenizer_240323.model.v3"),
        ("mistral_v7", "data/mistral_instruct_tokenizer_241114.model.v7"),
    ),
    "litellm": (
        ("claude", "litellm_core_utils/tokenizers/anthropic_tokenizer.json"),
        ("deepseek", "litellm_core_utils/tokenizers/deepseek_tokenizer.json"),
        ("cl100k", "litellm_core_utils/tokenizers/9b5ad71b2ce5302211f9c61530b329a4922fc6a4"),
        ("o200k", "litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790"),
        ("p50k", "litellm_core_utils/tokenizers/ec7223a39ce59f226a68acc30dc1af2788490e15"),
    ),
    "dashscope": (("qwen", "resources/qwen.tiktoken"),),
    "llama_models": (
        ("llama3", "llama3/tokenizer.model"),
        ("llama4", "llama4/tokenizer.model"),
    ),
}


@dataclass(frozen=True, slots=True)
class Found:
    """A tokenizer that an installed package brings along.

    Attributes:
        name: what to call it.
        package: whose it is.
        path: its file.
    """

    name: str
    package: str
    path: Path


def installed() -> tuple[Found, ...]:
    """Tokenizers of installed packages; the packages are looked up, never imported."""
    found: list[Found] = []
    for package, files in _PACKAGED.items():
        spec = importlib.util.find_spec(package)
        roots = list(spec.submodule_search_locations or ()) if spec else []
        for name, inside in files:
            path = next((p for root in roots if (p := Path(root) / inside).is_file()), None)
            if path is not None:
                found.append(Found(name, package, path))
    return tuple(found)


def load_spec(path: str | Path) -> TokenizerSpec:
    """The tokenizer of a file, a folder that holds one, or ``installed:NAME``.

    ``FILE#RULES`` names the cutting rules of a rank file that is not known by its size.

    Raises:
        UserError: in one sentence, for whatever is no tokenizer.
    """
    file, rules = _file(str(path))
    given = str(path)
    name = given.removeprefix(INSTALLED) if given.startswith(INSTALLED) else _name(file)
    return _load(file, name, rules, _stamp(file))


def reference(path: str | Path) -> TokenizerRef:
    """A subject naming the tokenizer of a file, a folder or ``installed:NAME``.

    Raises:
        UserError: for whatever is no tokenizer.
    """
    spec = load_spec(path)
    return TokenizerRef(path=str(path), tokenizer=spec.digest, title=spec.name)


def _file(given: str) -> tuple[Path, str | None]:
    name = given.removeprefix(INSTALLED)
    if given.startswith(INSTALLED):
        found = {entry.name: entry.path for entry in installed()}
        if name not in found:
            known = ", ".join(found) or "none (pip install mistral-common brings some)"
            raise UserError(f"No tokenizer {shown(name)} is installed; there are: {known}.")
        return found[name], None
    path, rules = Path(given), None
    try:
        if not path.exists() and "#" in given:
            before, _, rules = given.rpartition("#")
            path = Path(before)
        if path.is_dir():
            path = next((p for n in _NAMES if (p := path / n).is_file()), path / _NAMES[0])
        there = path.is_file()
    except (OSError, ValueError):  # a name too long, or with a null in it
        there = False
    if not there:
        raise UserError(
            f"{shown(given)} holds no tokenizer.json: give a tokenizer's file or its folder."
        )
    return path.resolve(), rules


def _name(file: Path) -> str:
    return file.parent.name if file.name in _NAMES else file.name.removesuffix(".json")


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _load(file: Path, name: str, rules: str | None, stamp: tuple[int, int]) -> TokenizerSpec:
    if stamp[1] > MAX_BYTES:
        raise UserError(
            f"{file.name} has {stamp[1]:,} bytes; at most {MAX_BYTES:,} are read: "
            "give the tokenizer's own file."
        )
    try:
        data = file.read_bytes()
    except OSError:
        raise UserError(f"{file.name} cannot be read: check its permissions.") from None
    return parse_spec(data, name, rules)


def parse_spec(data: bytes, name: str, rules: str | None = None) -> TokenizerSpec:
    """The tokenizer in a file's bytes.

    Args:
        data: the whole file.
        name: what to call it.
        rules: cutting rules of a rank file.

    Raises:
        UserError: in one sentence, for whatever is no tokenizer.
    """
    if len(data) > MAX_BYTES:
        raise UserError(f"{name} has {len(data):,} bytes; at most {MAX_BYTES:,} are read.")
    if not data.strip():
        raise UserError(f"{name} is empty: give a tokenizer's file.")
    if data.lstrip()[:1] in (b"{", b"["):
        return _parse_json(data, name)
    if looks_like_ranks(data):
        ranks = read_ranks(data, name)
        chosen = rules_for(ranks, rules, name)
        _check_ids(ranks, name)
        tree = tree_of_ranks(ranks, chosen)
        return _of_tree(tree, name, _digest("ranks", data, chosen.pattern))
    return load_sentencepiece(data, name)


def _parse_json(data: bytes, name: str) -> TokenizerSpec:
    try:
        tree = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UserError(
            f"{name} is not valid JSON ({' '.join(str(error).split())[:80]}): "
            "give a whole tokenizer.json."
        ) from None
    if isinstance(tree, dict) and isinstance(tree.get("config"), dict) and "vocab" in tree:
        return _of_tree(tree_of_tekken(tree, name), name, _digest("tekken", data, ""))
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise UserError(
            f"{name} is JSON but no tokenizer: give a tokenizer.json of the tokenizers library, "
            "or a tekken.json."
        )
    digest = hashlib.sha256(orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return _of_tree(tree, name, digest)


def _digest(kind: str, data: bytes, pattern: str) -> str:
    return hashlib.sha256(f"{kind}\0{pattern}\0".encode() + data).hexdigest()


def _of_tree(tree: dict[str, Any], name: str, digest: str) -> TokenizerSpec:
    try:
        _check_ids(vocabulary_of(tree["model"]), name)
        library = Library.from_str(orjson.dumps(tree).decode())
        _check_ids(library.get_vocab(with_added_tokens=True), name)
        return build(name, digest, tree, library)
    except (UserError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library raises bare exceptions, and panics
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"{name} could not be read as a tokenizer ({reason}): "
            "save it again with the tokenizers library."
        ) from None


def _check_ids(ids: Mapping[Any, int], name: str) -> None:
    """Refuse ids that are negative, or so far apart that listing them would fill the memory."""
    if not ids:
        raise UserError(f"{name} has an empty vocabulary: give another tokenizer.")
    largest, smallest = max(ids.values()), min(ids.values())
    if smallest < 0 or largest >= MAX_IDS:
        wrong = smallest if smallest < 0 else largest
        raise UserError(
            f"{name} has a token with id {wrong:,}; ids must lie between 0 and {MAX_IDS - 1:,}."
        )
