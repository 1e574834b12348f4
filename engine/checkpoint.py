"""Read a model's folder without torch: its config, its weight files, their size and digest.

Only ``config.json`` and the JSON header of each safetensors file are read, and the bytes of the
weights once for their digest. Pickles are never opened.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from engine.errors import UserError
from engine.modelref import shown

_LARGEST_HEADER = 100 * 2**20
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.pt", "model.pth")
# Causal masks and rotary tables that old checkpoints store beside the weights.
_MASKS = re.compile(r"\.(attn|attention)\.(masked_)?bias$")
_BIDIRECTIONAL = {"albert", "bert", "camembert", "electra", "ernie", "roberta", "xlm-roberta"}
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


WEIGHTS_MEMO = "weights"
"""Name of the memo that holds size, time of change and SHA-256 of weight files by path."""


class Memo(Protocol):
    """Where digests of large files are remembered between runs; ``cache.Store`` is one."""

    def recall(self, name: str) -> dict[str, Any]:
        """Return what was remembered under ``name``, empty when there is nothing."""

    def remember(self, name: str, mapping: Mapping[str, Any]) -> None:
        """Merge ``mapping`` into what is remembered under ``name``."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises:
        UserError: The file is missing, unreadable or holds no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{shown(str(path))} cannot be read ({error.strerror or 'unreadable'}): check the path."
        ) from error
    except ValueError as error:
        raise UserError(f"{shown(str(path))} is not valid JSON: save the model again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{shown(str(path))} holds no JSON object: save the model again.")
    return value


def weight_files(folder: Path, stem: str = "model") -> tuple[Path, ...]:
    """Return the safetensors files of ``folder``, shards in the order of their names.

    Args:
        folder: A model's or adapter's folder.
        stem: ``model`` or ``adapter_model``.

    Raises:
        UserError: There are none, only pickles, or a shard named in the index is missing.
    """
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if single.is_file():
        return (single,)
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise UserError(f"{shown(str(index))} lists no weights: save the model again.")
        shards = sorted({str(name) for name in names.values()})
        for name in shards:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(
                    f"The index of {shown(folder.name)} names {shown(name)}, which is no "
                    "safetensors file beside it: save the model again."
                )
            if not (folder / name).is_file():
                raise UserError(
                    f"{shown(folder.name)} lacks the weight file {shown(name)}: copy all shards."
                )
        return tuple(folder / name for name in shards)
    if any((folder / name).exists() for name in _PICKLES) or (folder / f"{stem}.bin").exists():
        raise UserError(
            f"{shown(folder.name)} holds pickled weights only, which can run code: save it again "
            "with save_pretrained, which writes safetensors."
        )
    raise UserError(f"{shown(folder.name)} holds no {stem}.safetensors: add the weights.")


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a safetensors file, from its header alone.

    Raises:
        UserError: The file is no safetensors file or is cut short.
    """
    broken = f"{shown(path.name)} is damaged or not a safetensors file: copy or save it again."
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_LARGEST_HEADER, size - 8):
                raise UserError(broken)
            header = json.loads(file.read(length))
        tensors = {k: v for k, v in header.items() if k != "__metadata__"}
        shapes = {k: tuple(int(n) for n in v["shape"]) for k, v in tensors.items()}
        end = max((int(v["data_offsets"][1]) for v in tensors.values()), default=0)
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise UserError(broken) from error
    if any(n < 0 for shape in shapes.values() for n in shape):
        raise UserError(broken)
    if 8 + length + end != size:
        raise UserError(
            f"{shown(path.name)} should hold {8 + length + end:,} bytes and holds {size:,}: "
            "copy it again."
        )
    return shapes


def count_parameters(files: Iterable[Path]) -> int:
    """Return how many parameters the safetensors ``files`` hold, stored masks left out."""
    total = 0
    for path in files:
        for name, shape in tensor_shapes(path).items():
            mask = len(shape) != 1 and _MASKS.search(name)
            if not mask and not name.endswith(".inv_freq"):
                total += math.prod(shape)
    return total


@cache
def _auto_names() -> tuple[frozenset[str], frozenset[str]]:
    """Return the architectures this transformers knows: causal ones, all (read as text)."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return frozenset(), frozenset()
    folder = Path(spec.submodule_search_locations[0]) / "models" / "auto"
    try:
        modelling = (folder / "modeling_auto.py").read_text("utf-8")
        known = "".join(path.read_text("utf-8") for path in sorted(folder.glob("*.py")))
    except OSError:
        return frozenset(), frozenset()
    _, _, causal = modelling.partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = ")
    pairs = re.compile(r'\(\s*"([\w.-]+)",\s*"\w+"')
    return (
        frozenset(pairs.findall(causal[: causal.find("\n)")])),
        frozenset(pairs.findall(known)),
    )


def check_architecture(config: Mapping[str, Any], name: str) -> None:
    """Refuse what is no plain causal language model that transformers itself can build.

    Raises:
        UserError: Remote code would be needed, or the model is no causal language model.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise UserError(
            f"The config.json of {name} has no model_type: it is no transformers model."
        )
    causal, known = _auto_names()
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    if kind not in known and known:
        if config.get("auto_map"):
            raise UserError(
                f"{name} ({shown(kind)}) needs code from its author, which is never run here: "
                "choose a model of an architecture that transformers includes."
            )
        raise UserError(
            f"{name} has the architecture {shown(kind)}, unknown to the installed transformers: "
            "update transformers or choose another model."
        )
    headed = str(first).endswith(("ForCausalLM", "LMHeadModel"))
    two_sided = kind in _BIDIRECTIONAL and not config.get("is_decoder")
    if (
        config.get("is_encoder_decoder")
        or two_sided
        or (causal and kind not in causal)
        or (first and not headed)
    ):
        raise UserError(
            f"{name} is no causal language model ({shown(str(first or kind))}): choose one that "
            "predicts the next token, such as GPT-2, Llama or Qwen."
        )
    if config.get("quantization_config"):
        raise UserError(
            f"{name} is stored quantised, which cannot be analysed here: choose the original."
        )


def context_length(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens the model reads at most, or ``None`` when it does not say."""
    for key in _CONTEXT_KEYS:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def file_digest(path: Path, memo: Memo | None) -> str:
    """Return the SHA-256 of ``path``, remembered by path, size and time of change."""
    stat = path.stat()
    entry = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    held = memo.recall(WEIGHTS_MEMO).get(str(path)) if memo is not None else None
    if isinstance(held, dict) and {key: held.get(key) for key in entry} == entry:
        digest = held.get("sha256")
        if isinstance(digest, str):
            return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if memo is not None:
        memo.remember(WEIGHTS_MEMO, {str(path): {**entry, "sha256": digest}})
    return digest
