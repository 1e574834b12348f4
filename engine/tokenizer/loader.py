"""``tokenizer.loader``: whether transformers loads the tokenizer that lies in the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.modelref import shown
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import TokenizerRef
from engine.tokenizer.modeltree import vocabulary_of
from engine.tokenizer.resolve import load
from engine.tokenizer.spec import TokenizerSpec

PROBES = (
    "Hello world", "  two  spaces ", "2023 1234567", "don't DON'T I'll", "a\n\n\tb", "e\u0301 é ﬁ",
    "日本語 กำ 한국어", "🤗👨‍👩‍👧", "x.y!?# //", "\u00a0\u200b\ufeff", "foo_bar123", "▁a Ġb",
)  # fmt: skip
"""Texts that tell pre-tokenizers, normalizers and prefixes apart."""

_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
_SHORT = 200
_I, _S, _B = pa.int64(), pa.string(), pa.bool_()


class LoaderParams(Params):
    """Settings of ``tokenizer.loader``."""

    files: str | None = Field(
        None,
        title="Files",
        description="Digest of the settings beside the tokenizer (loader.files_digest): part of "
        "the key, so that a changed file is looked at again.",
    )
    texts: tuple[str, ...] = Field(
        (), max_length=100, title="Texts", description="More texts to try, beside the built-in."
    )


SUMMARY = Table(
    {
        "same": Column(_B, "Whether both gave the same ids for all texts tried."),
        "loaded_class": Column(_S, "The class transformers made."),
        "named_class": Column(_S, "The class tokenizer_config.json names."),
        "differences": Column(_I, "Settings that differ."),
        "probes": Column(_I, "Texts tried."),
        "different_probes": Column(_I, "Texts that gave other ids."),
        "transformers": Column(_S, "Version of transformers."),
    },
    doc="One row: the verdict.",
)
DIFFERENCES = Table(
    {
        "path": Column(_S, "Where in the tokenizer's tree."),
        "file": Column(_S, "What the file says, as JSON."),
        "loaded": Column(_S, "What the loaded tokenizer has, as JSON."),
    },
    doc="Settings of the loaded tokenizer that are not the file's.",
)
PROBED = Table(
    {
        "text": Column(_S, "The text."),
        "same": Column(_B, "Whether both gave the same ids."),
        "file_ids": Column(pa.list_(_I), "Ids by the file."),
        "loaded_ids": Column(pa.list_(_I), "Ids by the loaded tokenizer."),
        "file_tokens": Column(pa.list_(_S), "The file's tokens."),
        "loaded_tokens": Column(pa.list_(_S), "The loaded tokenizer's."),
    },
    doc="Texts tried with both.",
)


@analysis(
    "tokenizer.loader",
    version=1,
    subject=TokenizerRef,
    models=(),
    params=LoaderParams,
    tables={"summary": SUMMARY, "differences": DIFFERENCES, "probes": PROBED},
    title="Does transformers load the tokenizer that is in the folder?",
    cite=("huggingface/transformers issues 45812, 45920 and 45701",),
    caveats=(
        "Equal ids on the texts tried are no proof; a difference is one.",
        "It is what the installed version of transformers does.",
    ),
)
def loader(ctx: Context) -> Iterator[Progress | Tables]:
    """The file against what ``transformers.AutoTokenizer`` makes of its folder.

    Some classes replace the pre-tokenizer of the file without a word (a ``tokenizer_class`` that
    does not belong to it), and ids change. Compared are the two trees, vocabulary and merges
    included, and the ids of texts that tell tokenizers apart. Nothing of the folder is executed.
    """
    yield Progress(None, "Loading it with transformers")
    folder = _folder(ctx.subject)
    if ctx.params.files is not None and ctx.params.files != files_digest(folder):
        raise UserError("The files beside the tokenizer have changed: choose it again.")
    spec = load(ctx.subject)
    loaded, version = _load(folder)
    tree = orjson.loads(loaded.backend_tokenizer.to_str())
    different = list(differences(spec.tree, tree))
    yield Progress(0.7, "Trying texts")
    probes = [_probe(spec, loaded, text) for text in (*PROBES, *ctx.params.texts)]
    wrong = sum(not probe["same"] for probe in probes)
    summary = {
        "same": not wrong,
        "loaded_class": type(loaded).__name__,
        "named_class": _settings(folder).get("tokenizer_class"),
        "differences": len(different),
        "probes": len(probes),
        "different_probes": wrong,
        "transformers": version,
    }
    yield Tables(
        summary=pa.Table.from_pylist([summary], schema=SUMMARY.schema()),
        differences=pa.Table.from_pylist(different, schema=DIFFERENCES.schema()),
        probes=pa.Table.from_pylist(probes, schema=PROBED.schema()),
    )


def files_digest(folder: str | Path) -> str:
    """Digest of the settings beside a tokenizer's file, which decide how it is loaded."""
    found = hashlib.sha256()
    for name in _BESIDE:
        path = Path(folder) / name
        found.update(name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b"") + b"\0")
    return found.hexdigest()


def _folder(ref: TokenizerRef) -> Path:
    path = Path(ref.path)
    folder = path if path.is_dir() else path.parent
    if not (folder / "tokenizer.json").is_file() or path.name not in (folder.name, _FILE):
        raise UserError(
            f"{shown(ref.path)} is no local folder with a tokenizer.json, which transformers "
            "could load: give one."
        )
    return folder


_FILE = "tokenizer.json"


def _settings(folder: Path) -> Mapping[str, Any]:
    path = folder / "tokenizer_config.json"
    try:
        found = orjson.loads(path.read_bytes()) if path.is_file() else {}
    except orjson.JSONDecodeError:
        raise UserError("tokenizer_config.json beside the tokenizer is not valid JSON.") from None
    return found if isinstance(found, dict) else {}


def _load(folder: Path) -> tuple[Any, str]:
    import transformers

    if "auto_map" in _settings(folder):
        raise UserError("This tokenizer asks to run code of its folder, which is not done here.")
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(
            str(folder.resolve()), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # whatever a stranger's folder makes it raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"transformers cannot load this tokenizer ({reason}).") from None
    if getattr(loaded, "backend_tokenizer", None) is None:
        raise UserError("transformers loads this tokenizer without the tokenizers library.")
    return loaded, str(transformers.__version__)


def differences(file: Mapping[str, Any], loaded: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Where two trees differ; vocabularies and merges by number and first difference."""
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"):
        yield from _unlike(part, file.get(part) or None, loaded.get(part) or None)
    mine, theirs = dict(file.get("model") or {}), dict(loaded.get("model") or {})
    for part, read in (("vocab", vocabulary_of), ("merges", _merges)):
        a, b = read(mine), read(theirs)
        mine.pop(part, None)
        theirs.pop(part, None)
        if a != b:
            yield {"path": f"model.{part}", "file": _counted(a), "loaded": _counted(b)}
    for key in sorted(set(mine) & set(theirs)):
        yield from _unlike(f"model.{key}", mine[key], theirs[key])


def _merges(model: Mapping[str, Any]) -> list[tuple[str, ...]]:
    listed = model.get("merges") or ()
    return [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in listed]


def _counted(part: Any) -> str:
    return f"{len(part):,} entries"


def _unlike(path: str, a: Any, b: Any) -> Iterator[dict[str, str]]:
    if a == b:
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.get("type") == b.get("type"):
        # What a file leaves out has the library's default.
        for key in sorted(set(a) & set(b)):
            yield from _unlike(f"{path}.{key}", a[key], b[key])
        return
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for at, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _unlike(f"{path}[{at}]", one, other)
        return
    yield {"path": path, "file": _json(a), "loaded": _json(b)}


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHORT else text[:_SHORT] + "…"


def _probe(spec: TokenizerSpec, loaded: Any, text: str) -> dict[str, Any]:
    own = spec.encode_ids([text], "parse")[0]
    other = [int(i) for i in loaded(text, add_special_tokens=False)["input_ids"]]
    return {
        "text": text,
        "same": own == other,
        "file_ids": own,
        "loaded_ids": other,
        "file_tokens": [spec.token(i) for i in own],
        "loaded_tokens": [spec.token(i) for i in other],
    }
